"""Measures the forms that exports of real models have, next to the plain form and to peers, in one run.

    python benchmarks/kernels/exported.py --output results/                  # compiles what is missing, 8 at a time
    python benchmarks/kernels/exported.py --no-flex --bundles build/kernels

Times are replays of CUDA graphs, all competitors in every round, buffers rotating.  Every result of ours is compared
with float32.  FlashAttention-3 is measured where ``fa3_fwd_interface`` can be imported; an unpacked wheel of fa3-fwd on
PYTHONPATH will do.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from alibi_rewriter.kernels.compile.cache import cached_bundle
from alibi_rewriter.kernels.compile.compiler import Worker
from alibi_rewriter.kernels.launch.launcher import Bundle
from bench import environment
from inputs import Buffers, Run, extras_of, inputs_of, key_bias_of, slopes
from replay import captured, replayed_ms
from shapes import Shape
from timing import ACCEPTED, attend
from torch.nn.attention import SDPBackend, sdpa_kernel

ROWS: tuple[tuple[str, Shape], ...] = (
    ("Jina, MosaicBERT", Shape(64, 12, 12, 512, 512, 64, False, extra="additive keys")),
    ("Jina, MosaicBERT", Shape(1, 12, 12, 8192, 8192, 64, False, extra="additive keys")),
    ("Jina, MosaicBERT", Shape(1, 12, 12, 2048, 2048, 64, False, extra="additive keys")),
    ("Jina, MosaicBERT", Shape(1, 12, 12, 512, 512, 64, False, extra="additive keys")),
    ("Jina, MosaicBERT", Shape(64, 12, 12, 256, 256, 64, False, extra="additive keys")),
    ("Jina, MosaicBERT", Shape(8, 12, 12, 512, 512, 64, False, extra="additive keys")),
    ("Jina, boolean", Shape(64, 12, 12, 512, 512, 64, False, extra="right padding")),
    ("Jina, boolean", Shape(8, 12, 12, 512, 512, 64, False, extra="right padding")),
    ("Jina, boolean", Shape(8, 12, 12, 2048, 2048, 64, False, extra="right padding")),
    ("Jina, boolean", Shape(1, 12, 12, 8192, 8192, 64, False, extra="right padding")),
    ("BLOOM-560m, positions", Shape(8, 16, 16, 2048, 2048, 64, True, extra="positions")),
    ("BLOOM-560m, positions and padding", Shape(8, 16, 16, 2048, 2048, 64, True, extra="positions and padding")),
    ("BLOOM-7b1, MPT-7B", Shape(4, 32, 32, 2048, 2048, 128, True, extra="key padding")),
    ("MPT-7B, ragged batch", Shape(8, 32, 32, 2048, 2048, 128, True, extra="ragged padding")),
    ("BLOOM-7b1, positions", Shape(4, 32, 32, 2048, 2048, 128, True, extra="positions")),
    ("Falcon-RW", Shape(8, 32, 32, 2048, 2048, 64, True, extra="key padding")),
    ("Falcon-RW, float16", Shape(8, 32, 32, 2048, 2048, 64, True, "float16", extra="key padding")),
    ("Falcon-RW, short, float16", Shape(8, 32, 32, 1024, 1024, 64, True, "float16", extra="key padding")),
    ("Baichuan, boolean rows", Shape(1, 40, 40, 2048, 2048, 128, True, extra="causal rows")),
    ("Baichuan, additive rows", Shape(1, 40, 40, 2048, 2048, 128, True, extra="additive causal rows")),
    ("Baichuan, padded rows", Shape(4, 40, 40, 2048, 2048, 128, True, extra="padded rows")),
    ("packed documents", Shape(1, 32, 32, 4096, 4096, 128, True, extra="document rows")),
    ("packed documents", Shape(4, 16, 16, 4096, 4096, 64, True, extra="document rows")),
    ("additive rows", Shape(1, 32, 32, 2048, 2048, 128, True, extra="additive rows")),
    ("key bias, symmetric", Shape(64, 12, 12, 512, 512, 64, False, extra="key bias")),
    ("key bias, causal", Shape(4, 32, 32, 2048, 2048, 128, True, extra="key bias")),
    ("window of 1024", Shape(1, 32, 32, 8192, 8192, 128, True, extra="window")),
    ("skipping, Jina", Shape(4, 12, 12, 8192, 8192, 64, False, "float16", extra="additive keys")),
    ("skipping, BLOOM", Shape(2, 16, 16, 8192, 8192, 64, True, extra="positions and padding")),
    ("skipping, MPT", Shape(1, 32, 32, 16384, 16384, 128, True, extra="key padding")),
    ("decode, MPT", Shape(4, 32, 32, 1, 4096, 128, True, extra="key padding")),
    ("decode, additive padding", Shape(4, 32, 32, 1, 4096, 128, True, extra="additive keys")),
    ("decode, BLOOM", Shape(1, 32, 32, 1, 4096, 128, True, extra="positions")),
    ("decode, BLOOM-560m", Shape(16, 16, 16, 1, 2048, 64, True, extra="positions")),
    ("decode, Baichuan", Shape(1, 40, 40, 1, 4096, 128, True, extra="boolean heads")),
    ("chunked prefill", Shape(1, 32, 32, 512, 32768, 128, True)),
    ("chunked prefill", Shape(1, 32, 32, 1000, 32768, 128, True)),
    ("chunked prefill", Shape(1, 32, 32, 128, 32768, 128, True)),
    ("chunked prefill", Shape(1, 32, 32, 64, 32768, 128, True)),
    ("chunked prefill", Shape(1, 32, 32, 17, 32768, 128, True)),
    ("speculative decoding", Shape(1, 32, 8, 8, 32768, 128, True)),
)
BIAS_BYTES = 4 << 30
"""Larger bias tensors are not made."""


def skips(family: str) -> bool:
    """Whether a row is measured with certified skipping, too."""
    return family.startswith("skipping")


def bundles(rows: Sequence[tuple[str, Shape]], root: Path, arch: int, jobs: int) -> dict[tuple[Shape, bool], Path]:
    """By shape, and whether with skipping: the bundle of every row and of its plain form, compiled side by side."""
    forms = {}
    for family, shape in rows:
        for form in (shape, dataclasses.replace(shape, extra="none")):
            for skip in (False, True) if skips(family) else (False,):
                forms[form, skip] = (form.request, form.layout, skip)

    def one(key: Any) -> Path:
        request, layout, skip = key
        with Worker() as worker:
            return cached_bundle(request, root, [arch], layouts=(layout,), skip=skip, worker=worker)

    wanted = list(dict.fromkeys(forms.values()))
    with ThreadPoolExecutor(jobs) as pool:
        paths = dict(zip(wanted, pool.map(one, wanted), strict=True))
    return {form: paths[key] for form, key in forms.items()}


def ours(path: Path, buffers: list[Buffers], stream: Any, kept: list[Any]) -> list[Run]:
    """One prepared run per set of buffers; they share a workspace."""
    bundle = Bundle(path)
    plans = [bundle.plan(each.call) for each in buffers]
    size = max(plan.workspace_bytes for plan in plans) + 256
    workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
    kept += [bundle, workspace, buffers]
    start = -(-workspace.data_ptr() // 256) * 256
    return [bundle.prepare(plan, start, stream.cuda_stream) for plan in plans]


def _sdpa(causal: bool, bias: Any, query: Any, key: Any, value: Any) -> object:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal)


def bias_of(shape: Shape, mask: Any, positions: Any, key_bias: Any) -> Any:
    """Bias and mask in one tensor of the type, [B or 1, H, S_q, S_kv]: what a graph without the fused node has."""
    kind = getattr(torch, shape.dtype)
    row = torch.arange(shape.s_q, device="cuda") + (shape.s_kv - shape.s_q)
    column = torch.arange(shape.s_kv, device="cuda")
    distance = (column[None, :] - row[:, None]).float()[None, None]
    if positions is not None:
        distance = (positions[:, None, :] - positions[:, row, None])[:, None]
    elif not shape.causal:
        distance = -distance.abs()
    bias = slopes(shape.heads)[None, :, None, None] * distance
    bias = (bias if key_bias is None else bias + key_bias[:, :, None]).to(kind)
    if shape.causal:
        bias = bias.masked_fill(column[None, :] > row[:, None], float("-inf"))
    if shape.window[0] >= 0:
        bias = bias.masked_fill(row[:, None] - column[None, :] > shape.window[0], float("-inf"))
    if mask is None:
        return bias
    lowest = torch.finfo(kind).min
    return torch.where(mask, bias, lowest) if mask.dtype == torch.bool else (bias + mask).clamp(min=lowest)


def _flex(shape: Shape, sets: list[tuple[Any, Any, Any]], mask: Any, positions: Any, key_bias: Any) -> list[Run]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    slope, offset = slopes(shape.heads), shape.s_kv - shape.s_q
    at = None if positions is None else positions[0].contiguous()
    wide = None if mask is None else mask.expand(shape.batch, shape.heads, *mask.shape[2:])

    def score(value: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        distance = j - i - offset if at is None else at[j] - at[i + offset]
        value = value + slope[h] * (distance if shape.causal else -distance.abs())
        value = value if key_bias is None else value + key_bias[b, 0, j]
        return value if wide is None or wide.dtype == torch.bool else value + wide[b, h, 0, j]

    def keep(b: Any, h: Any, i: Any, j: Any) -> Any:
        seen = i + offset >= j if shape.causal else j >= 0
        if shape.window[0] >= 0:
            seen = seen & (i + offset - j <= shape.window[0])
        if wide is not None and wide.dtype == torch.bool:
            seen = seen & wide[b, h, 0 if wide.shape[2] == 1 else i, j]
        return seen

    blocks = create_block_mask(keep, shape.batch, None, shape.s_q, shape.s_kv, device="cuda")
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    return [functools.partial(compiled, *each, score_mod=score, block_mask=blocks) for each in sets]


def _flash(shape: Shape, sets: list[tuple[Any, Any, Any]]) -> list[Run]:
    from fa3_fwd_interface import flash_attn_func

    # Its window of -1 is no window, and causality ends it at the row's own key.
    options = {"causal": shape.causal, "window_size": (shape.window[0], -1)}
    return [functools.partial(flash_attn_func, *(x.transpose(1, 2) for x in each), **options) for each in sets]


def competitors(
    family: str, shape: Shape, paths: dict[tuple[Shape, bool], Path], stream: Any, kept: list[Any], flex: bool
) -> Iterator[tuple[str, Callable[[], list[Run]]]]:
    """By name, what gives the runs of each; all use ``stream``."""
    sets, slope, (mask, positions) = inputs_of(shape), slopes(shape.heads), extras_of(shape)
    key_bias = key_bias_of(shape)
    buffers = [Buffers.of(each, slope, mask, positions, key_bias, shape.window) for each in sets]
    plain = [Buffers.of(each, slope) for each in sets]
    kept += [sets, buffers, plain]
    plain_shape = dataclasses.replace(shape, extra="none")
    yield "ours", lambda: ours(paths[shape, False], buffers, stream, kept)
    yield "ours, plain", lambda: ours(paths[plain_shape, False], plain, stream, kept)
    if skips(family):
        yield "ours, plain, skipping", lambda: ours(paths[plain_shape, True], plain, stream, kept)
        yield "ours, skipping", lambda: ours(paths[shape, True], buffers, stream, kept)
    square = shape.s_q == shape.s_kv
    grouped = shape.heads != shape.kv_heads
    if grouped:
        yield "FlashAttention-3, no bias", lambda: _flash(shape, sets)
        return
    if square or shape.s_q == 1 or not shape.causal:
        yield "cuDNN, no bias", lambda: [functools.partial(_sdpa, shape.causal and square, None, *x) for x in sets]
    if 2 * shape.heads * shape.s_q * shape.s_kv * (1 if mask is None else mask.shape[0]) <= BIAS_BYTES:
        bias = bias_of(shape, mask, positions, key_bias)
        kept.append(bias)
        yield "cuDNN, bias tensor", lambda: [functools.partial(_sdpa, False, bias, *x) for x in sets]
    yield "FlashAttention-3, no bias", lambda: _flash(shape, sets)
    if flex and shape.s_q > 1 and shape.extra != "additive rows":
        yield "FlexAttention", lambda: _flex(shape, sets, mask, positions, key_bias)


def measure(
    family: str, shape: Shape, paths: dict[tuple[Shape, bool], Path], rounds: int, flex: bool
) -> dict[str, Any]:
    """One row: milliseconds by competitor, or why there are none; how far ours is from float32."""
    stream, kept, graphs = torch.cuda.Stream(), [], {}  # type: ignore[var-annotated]
    row: dict[str, Any] = {"family": family, "shape": shape.title, "flops": shape.flops, "bytes": shape.cache_bytes}
    errors: dict[str, str] = {}
    with torch.cuda.stream(stream):
        for name, make in competitors(family, shape, paths, stream, kept, flex):
            try:
                runs = make()
                kept.append(runs)  # what a graph reads has to stay
                graphs[name] = captured(runs, stream)
            except Exception as error:  # noqa: BLE001 - a peer that cannot run is a result
                torch.cuda.synchronize()
                errors[name] = f"{type(error).__name__}: {[*str(error).splitlines(), ''][0][:160]}"
        first = kept[1][0]
        if "ours" in graphs:
            wanted = attend(first, causal=shape.causal)
            row["difference"] = float((first.output.float() - wanted).norm() / wanted.norm())
            row["right"] = row["difference"] <= ACCEPTED[shape.dtype]
            del wanted
        row["ms"] = replayed_ms(graphs, rounds, stream)
    row["errors"] = errors
    return row


def markdown(document: dict[str, Any]) -> str:
    """The table for people: microseconds of ours, and how much faster it is than the others."""
    lines = ["# The forms that exports have", ""]
    lines += [f"- {name}: {value}" for name, value in document["environment"].items()]
    lines += ["", "Microseconds; what follows is time of the other / our time: above 1 ours is faster.", ""]
    names = (
        "ours, plain",
        "ours, skipping",
        "ours, plain, skipping",
        "cuDNN, no bias",
        "cuDNN, bias tensor",
        "FlashAttention-3, no bias",
        "FlexAttention",
    )
    lines += [f"| export | B H S D | ours | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for row in document["rows"]:
        mine = row["ms"].get("ours")
        if mine is None:
            lines.append(f"| {row['family']} | {row['shape']} | {row['errors'].get('ours')} |" + " |" * len(names))
            continue
        wrong = "" if row["right"] else " (wrong)"
        ratios = (f"{row['ms'][name] / mine:.2f}" if name in row["ms"] else "-" for name in names)
        lines.append(f"| {row['family']} | {row['shape']} | {1e3 * mine:.1f}{wrong} | {' | '.join(ratios)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measures the forms that exports of real models have.")
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--bundles", type=Path, default=Path("build/kernels"))
    parser.add_argument("--no-flex", action="store_true")
    parser.add_argument("--only", default="", help="rows whose name or shape holds this, or one of these: a|b")
    parser.add_argument("--jobs", type=int, default=8, help="compiling processes")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.zeros(1, device="cuda")  # makes PyTorch's context current
    major, minor = torch.cuda.get_device_capability()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if any(part in f"{row[0]} {row[1].title}" for part in options.only.split("|"))]
    paths = bundles(rows, options.bundles, 10 * major + minor, options.jobs)
    document: dict[str, Any] = {"environment": environment(), "rows": []}
    for family, shape in rows:
        row = measure(family, shape, paths, options.rounds, not options.no_flex)
        torch.cuda.empty_cache()
        document["rows"].append(row)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
        (options.output / "exported.json").write_text(json.dumps(document, indent=1))
        (options.output / "exported.md").write_text(markdown(document))
    return 0 if all(row.get("right") for row in document["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
