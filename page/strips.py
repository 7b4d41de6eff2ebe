"""The bias as a heat strip: one row per head, one column per key, darker for a larger magnitude."""

from __future__ import annotations

from collections.abc import Sequence

from .markup import esc, numeral, svg, text

LEFT, RIGHT, CELL = 52.0, 56.0, 16.0
WIDTH = 640.0

Cells = Sequence[Sequence[float | None]]


def strip(cells: Cells, heads: Sequence[int], keys: Sequence[int], kind: str, label: str) -> str:
    """A heat strip; the largest magnitude of each head is drawn darkest, and stands behind its row.

    Args:
        cells: Values per head and key; None for a hidden key.
        heads: Names of the rows.
        keys: Names of the columns.
        kind: Class of the cells.
        label: For screen readers.
    """
    wide = (WIDTH - LEFT - RIGHT) / max(1, len(keys))
    parts = []
    for row, (head, values) in enumerate(zip(heads, cells, strict=True)):
        y = 4 + row * CELL
        largest = max((abs(v) for v in values if v is not None), default=0.0)
        parts.append(text(LEFT - 6, y + 12, f"head {head}", "tick", "end"))
        for column, value in enumerate(values):
            x = LEFT + column * wide
            place = f"head {head}, key {keys[column]}"
            if value is None:
                shape, title = "class='hidden'", f"{place}: hidden"
            else:
                share = min(1.0, abs(value) / largest) if largest else 0.0
                shape, title = f"class='{kind}' fill-opacity='{share:.3f}'", f"{place}: {value:.6g}"
            parts.append(
                f"<rect x='{x:.1f}' y='{y:.1f}' width='{wide - 0.6:.1f}' height='{CELL - 1:g}' {shape}>"
                f"<title>{esc(title)}</title></rect>"
            )
        parts.append(text(WIDTH - RIGHT + 6, y + 12, numeral(largest), "tick"))
    bottom = 4 + len(heads) * CELL
    every = max(1, len(keys) // 8)
    for column in range(0, len(keys), every):
        parts.append(text(LEFT + (column + 0.5) * wide, bottom + 14, keys[column], "tick", "middle"))
    return svg(WIDTH, bottom + 20, "".join(parts), label, "chart")
