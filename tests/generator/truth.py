"""The slopes that a proof has to find."""

from __future__ import annotations

import numpy as np

from .spelling import SCALE, Spelling, float_of


def press(count: int) -> np.ndarray:
    """The published slopes for a number of heads."""
    power = 2 ** int(np.floor(np.log2(count)))
    base = 2.0 ** (-8.0 / power)
    values = [base ** (k + 1) for k in range(power)]
    if power < count:
        base = 2.0 ** (-4.0 / power)
        values += [base ** (2 * k + 1) for k in range(count - power)]
    return np.array(values)


def slope_values(sp: Spelling) -> np.ndarray:
    """The magnitudes that the model is written with, before factors of layers and scale."""
    rng = np.random.default_rng(sp.seed)
    values = press(sp.heads)
    if sp.slopes in ("any", "input"):
        values = rng.uniform(0.02, 0.9, sp.heads)
    elif sp.slopes == "negative":
        values = -rng.uniform(0.02, 0.3, sp.heads)
    elif sp.slopes == "zeros":
        values = np.where(np.arange(sp.heads) % 2 == 0, values, 0.0)
    elif sp.slopes == "pow":
        values = 0.5 ** np.arange(1, sp.heads + 1)
    elif sp.slopes == "exp2":
        values = 2.0 ** (-8.0 / sp.heads * np.arange(1, sp.heads + 1))
    elif sp.slopes == "equal":
        values = np.full(sp.heads, 0.25)
    elif sp.slopes == "two-powers":
        half = (sp.heads + 1) // 2
        values = np.concatenate([0.5 ** np.arange(1, half + 1), 0.6 ** np.arange(1, sp.heads - half + 1)])
    elif sp.slopes == "log":
        values = -np.log(1.0 - 2.0 ** -(1.0 + np.arange(sp.heads)))
    elif sp.slopes == "clipped":
        values = np.where(np.arange(sp.heads) % 3 == 2, 0.0, values)
    return values.astype(float_of(sp, bias=True)).astype(np.float64)


def truth(sp: Spelling, layer: int = 0) -> np.ndarray:
    """Slope per head of a layer: the factor of the key position (linear) or of -|distance| (symmetric)."""
    values = slope_values(sp) * layer_factor(sp, layer) * (2.0 if sp.twice else 1.0)
    return values * SCALE if sp.scale.startswith("after") else values


def layer_factor(sp: Spelling, layer: int) -> float:
    """What the bias of a layer is multiplied by."""
    return sp.factor * (1.0 + 0.5 * layer) if sp.factor != 1.0 else 1.0
