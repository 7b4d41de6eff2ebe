"""Random attentions of every form on a CUDA device, against float64: a command, and what ``test_gpu_random`` runs.

    python tests/kernels/random_driver.py --cases 1000 --jobs 16     # compiles with 16 processes first
    python tests/kernels/random_driver.py --first 137 --cases 1      # one of them again

A case is a number: everything about it follows from that.  The oracle is written from docs/specification.md, in float64
on the device.  Buffers have guard zones; every seventh case runs twice and has to give the same bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alibi_rewriter.kernels.compile.cache import cached_bundle
from alibi_rewriter.kernels.compile.compiler import Worker
from alibi_rewriter.kernels.launch.launcher import Bundle
from alibi_rewriter.kernels.launch.plan import Call, Tensor
from alibi_rewriter.kernels.requests import BufferLayout, KernelRequest
from cases import MARGIN, ROW_MASKS, row_mask

LAYOUTS = (BufferLayout(False, False), BufferLayout(False, True))
"""Any strides; a mask that differs by key only, or by row and head too."""
FORMS = ((False, True, False), (True, False, False), (False, False, False), (False, True, True), (False, False, True))
"""Symmetric, causal, positions."""
HEAD_DIMS = (64, 128, 32, 80, 64, 256, 128, 96)
ROWS = (1, 1, 2, 5, 17, 63, 64, 65, 100, 128, 129, 200, 333, 512, 700, 1030)
MORE_KEYS = (0, 0, 0, 1, 17, 64, 100, 300, 1000, -20)
GUARD = 512
LOWEST = float(torch.finfo(torch.float32).min)
LARGEST = float(torch.finfo(torch.float32).max)
TWICE = 7


def requests() -> tuple[KernelRequest, ...]:
    """Every form with every kind of mask in both 16-bit types, head sizes in turn; float32 for every third."""
    found = []
    kinds: tuple[str | None, ...] = (None, "bool", "additive")
    for number, ((symmetric, causal, positions), kind) in enumerate(itertools.product(FORMS, kinds)):
        for place, dtype in enumerate(("bfloat16", "float16", "float32")):
            if dtype == "float32" and number % 3:
                continue
            mask = ("float32" if number % 2 else dtype) if kind == "additive" else kind
            head_dim = HEAD_DIMS[(number + 3 * place) % len(HEAD_DIMS)]
            one = KernelRequest.of(
                symmetric=symmetric, causal=causal, positions=positions, mask_dtype=mask, dtype=dtype, head_dim=head_dim
            )
            found.append(one)
    more: tuple[tuple[str, str, int, str | None], ...] = (
        ("CausalWindow", "bfloat16", 128, None), ("SymmetricWindowBooleanMask", "float16", 64, "bool"),
        ("LinearWindowAdditiveMask", "bfloat16", 80, "bfloat16"), ("CausalKeyBias", "bfloat16", 64, None),
        ("SymmetricKeyBias", "float16", 128, None), ("LinearPositionsKeyBias", "bfloat16", 64, None),
        ("CausalKeyBiasWindowAdditiveMask", "float16", 64, "float32"), ("CausalPositionsWindow", "float32", 64, None),
    )  # fmt: skip
    found += [KernelRequest(f"AlibiAttention{name}", dtype, size, size, mask) for name, dtype, size, mask in more]
    return tuple(found)


@dataclass(frozen=True)
class Drawn:
    """One random attention on the device, [B, H, S, D] by any strides."""

    name: str
    request: KernelRequest
    query: Any
    key: Any
    value: Any
    slopes: Any
    mask: Any
    positions: Any
    empty_mean: bool
    key_bias: Any = None
    window: tuple[int, int] = (-1, -1)
    spoilt: Any = None
    """Which keys, [B, H_kv, S_kv], hold NaN, and so do their values; None: none."""

    @property
    def scale(self) -> float:
        """What the products are multiplied by."""
        return float(self.query.shape[3]) ** -0.5


def _strided(values: Any, how: str) -> Any:
    """A copy of [B, H, S, D] in another layout; gaps hold NaN."""
    batch, heads, rows, width = values.shape
    if how == "BSHD":
        return values.transpose(1, 2).contiguous().transpose(1, 2)
    if how == "gaps":
        wide = torch.full((batch, heads, rows, width + 8), float("nan"), dtype=values.dtype, device=values.device)
        wide[..., :width] = values
        return wide[..., :width]
    return values.contiguous()


def _kept(kind: str, shape: tuple[int, ...], dice: random.Random) -> Any:
    """Which keys a mask keeps."""
    keep = torch.ones(shape, dtype=torch.bool, device="cuda")
    keys = shape[3]
    for entry in range(shape[0]):
        length = dice.randint(1, keys)
        if kind == "left":
            keep[entry, ..., : keys - length] = False
        elif kind == "right":
            keep[entry, ..., length:] = False
        elif kind == "some":
            keep[entry] = torch.rand(shape[1:], device="cuda") > dice.choice((0.1, 0.5, 0.95))
        elif kind == "middle":
            keep[entry, ..., length // 3 : length] = False
    if kind == "none of one":
        keep[0] = False
    return keep


def _mask(request: KernelRequest, sizes: tuple[int, int, int, int], dice: random.Random) -> tuple[Any, str]:
    if request.mask_dtype is None:
        return None, "no mask"
    batch, heads, s_q, s_kv = sizes
    by_key = ((batch, 1, 1, s_kv), (1, 1, 1, s_kv))
    by_row = ((batch, 1, s_q, s_kv), (1, heads, s_q, s_kv), (batch, heads, 1, s_kv), (batch, 1, s_q, 1))
    shape = dice.choice(by_key if dice.random() < 0.7 else by_row)
    kind = dice.choice(("left", "right", "some", "middle", "all", "none of one"))
    keep = _kept(kind, shape, dice)
    if dice.random() < 0.35:
        kind = dice.choice(ROW_MASKS)
        keep = torch.from_numpy(row_mask(kind, sizes, np.random.default_rng(dice.randrange(1 << 30)))).cuda()
        shape = tuple(keep.shape)
    name = f"{kind} {list(shape)}"
    if request.mask_dtype == "bool":
        found = keep
    else:
        dtype = getattr(torch, request.mask_dtype)
        lowest = float(torch.finfo(dtype).min)
        hiding = dice.choice((float("-inf"), lowest, lowest, -1e4, -50.0, -80.0))
        soft = dice.choice((0.0, 0.0, 1.0, 4.0))
        values = soft * torch.randn(shape, device="cuda") + dice.choice((0.0, 0.0, 0.0, 30.0, -1e4))
        found = torch.where(keep, values, hiding).to(dtype)
        name += f" {hiding:.3g} {soft:g}"
        if dice.random() < 0.05:
            found[..., -1] = float("inf")
            name += " +inf"
    if dice.random() < 0.2:
        found = found.repeat_interleave(2, dim=3)[..., ::2]
    return found, name


def draw(number: int, all_requests: Sequence[KernelRequest]) -> Drawn:
    """The numbered case."""
    dice = random.Random(number)
    torch.manual_seed(number)
    request = all_requests[number % len(all_requests)]
    dtype = getattr(torch, request.dtype)
    kv_heads, group, batch = dice.randint(1, 3), dice.choice((1, 1, 2, 4)), dice.randint(1, 3)
    heads, s_q = kv_heads * group, dice.choice(ROWS)
    s_kv = max(1, s_q + dice.choice(MORE_KEYS))
    if s_q <= 5 and dice.random() < 0.7:
        s_kv = dice.choice((37, 255, 1000, 2048, 5000))
    depth = request.head_dim
    sharp = dice.choice((1.0, 1.0, 1.0, 3.0, 10.0, 30.0))
    hows = [dice.choice(("BHSD", "BHSD", "BSHD", "gaps")) for _ in range(3)]
    query, key, value = (
        _strided((torch.randn(shape, device="cuda") * factor).to(dtype), how)
        for shape, factor, how in (
            ((batch, heads, s_q, depth), sharp, hows[0]),
            ((batch, kv_heads, s_kv, depth), 1.0, hows[1]),
            ((batch, kv_heads, s_kv, depth), 1.0, hows[2]),
        )
    )
    if dice.random() < 0.1:
        key[:, :, 0] *= 4.0  # a sink
    factor = dice.choice((1.0, 1.0, 1.0, 0.0, -0.3, 1e-3, 4.0))
    slopes = torch.tensor([factor * 2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)], device="cuda")
    mask, name = _mask(request, (batch, heads, s_q, s_kv), dice)
    positions = None
    if request.variant.positions:
        step = torch.randint(0, 3, (dice.choice((1, batch)), s_kv), device="cuda")
        positions = step.cumsum(1).float()
    bias, window = None, (-1, -1)
    if request.variant.key_bias:
        bias = 3.0 * torch.randn(dice.choice((1, batch)), dice.choice((1, heads)), s_kv, device="cuda")
        hidden = torch.rand(bias.shape, device="cuda") < dice.choice((0.0, 0.3, 0.9))
        bias[hidden] = dice.choice((float("-inf"), LOWEST, -1e4))
    if request.variant.window:
        window = dice.choice(((100, -1), (-1, 30), (0, 0), (17, 200), (700, 64)))
    title = (
        f"{number}: {request.op_type} {request.dtype} mask {request.mask_dtype} {batch}x{heads}/{kv_heads} "
        f"{s_q}x{s_kv} D{depth} {'/'.join(hows)} query x{sharp:g} slopes x{factor:g} {name} window {window}"
    )
    drawn = Drawn(title, request, query, key, value, slopes, mask, positions, dice.random() < 0.7, bias, window)
    return spoil(drawn) if dice.random() < 0.4 and hides_by_key(drawn) else drawn


def hides_by_key(case: Drawn) -> bool:
    """Whether a boolean mask by key is all that hides keys, beside causality: all kernels promise the same then."""
    by_key = case.mask is not None and case.mask.dtype == torch.bool and case.mask.shape[1:3] == (1, 1)
    return by_key and case.key_bias is None and not case.request.variant.window


def spoil(case: Drawn) -> Drawn:
    """The case with NaN in every key, and in its value, that the mask hides."""
    batch, kv_heads, s_kv, _ = case.key.shape
    seen = _shown(case)[0].expand(batch, case.query.shape[1], case.query.shape[2], s_kv)
    spoilt = ~seen.reshape(batch, kv_heads, -1, s_kv).any(2)
    for tensor in (case.key, case.value):
        tensor.masked_fill_(spoilt[..., None], float("nan"))
    return dataclasses.replace(case, name=f"{case.name} spoilt", spoilt=spoilt)


def _shown(case: Drawn) -> tuple[Any, Any]:
    """Which keys mask, key bias and window show, and what they add."""
    s_q, s_kv = case.query.shape[2], case.key.shape[2]
    row = torch.arange(s_q, device="cuda") + s_kv - s_q
    seen = torch.ones((1, 1, s_q, s_kv), dtype=torch.bool, device="cuda")
    before = row[:, None] - torch.arange(s_kv, device="cuda")[None, :]
    for apart, most in zip((before, -before), case.window, strict=True):
        if most >= 0:
            seen = seen & (apart <= most)
    total = torch.zeros((), dtype=torch.float64, device="cuda")
    if case.mask is not None:
        if case.mask.dtype == torch.bool:
            seen = seen & case.mask
        else:
            seen = seen & (case.mask.double() > LOWEST)
            total = case.mask.double().clamp(LOWEST, LARGEST)
    if case.key_bias is not None:
        bias = case.key_bias.double()[:, :, None, :]
        total = total + bias.clamp(LOWEST, LARGEST)
        seen = seen & (bias > LOWEST) & (total > LOWEST)
    return seen, total


def attend(case: Drawn) -> tuple[Any, Any]:
    """The output in float64, and how much each row may be off because its scores are large, [B, H, S_q, 1].

    Of rows that see no key nothing is known if there is NaN among the values: they may be infinitely far off.
    """
    variant = case.request.variant
    s_q, s_kv = case.query.shape[2], case.key.shape[2]
    group = case.query.shape[1] // case.key.shape[1]
    clean = (case.key, case.value)
    if case.spoilt is not None:
        clean = tuple(x.masked_fill(case.spoilt[..., None], 0.0) for x in clean)
    key, value = (x.double().repeat_interleave(group, 1) for x in clean)
    row = torch.arange(s_q, device="cuda") + s_kv - s_q
    column = torch.arange(s_kv, device="cuda")
    if case.positions is not None:
        position = case.positions.double()
        own = position[:, row.clamp(0, s_kv - 1)]
        distance = (position[:, None, :] - own[:, :, None])[:, None]
    else:
        distance = (column[None, :] - row[:, None]).double()[None, None]
        distance = -distance.abs() if variant.form == "symmetric" else distance
    scores = case.scale * (case.query.double() @ key.transpose(2, 3))
    scores = scores + case.slopes.double()[None, :, None, None] * distance
    seen, added = _shown(case)
    if variant.causal:
        seen = seen & (column[None, :] <= row[:, None])
    scores = scores + added
    scores = scores.masked_fill(~seen, -torch.inf)
    peak = scores.amax(3, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, 0.0)
    weights = (scores - peak).exp()
    total = weights.sum(3, keepdim=True)
    found = (weights @ value) / torch.where(total > 0, total, 1.0)
    empty = value.mean(2, keepdim=True) if case.empty_mean else torch.zeros_like(value[:, :, :1])
    most = float(value.abs().max())
    # Where scores are large, float32 tells them apart to 2^-22 of their size only.
    slack = MARGIN[case.request.dtype] * max(1.0, most) + (2.0**-22 * peak.abs()).clamp(max=2.0) * most
    if case.spoilt is not None:
        slack = torch.where(total > 0, slack, torch.inf)
    return torch.where(total > 0, found, empty), slack


def launch(bundle: Bundle, case: Drawn) -> Any:
    """The output; raises if anything around it was written."""
    shape = (*case.query.shape[:3], case.value.shape[3])
    count = math.prod(shape)
    whole = torch.full((count + 2 * GUARD,), float("nan"), dtype=case.query.dtype, device="cuda")
    output = whole[GUARD : GUARD + count].view(shape)
    parts = (case.query, case.key, case.value, output, case.slopes)
    extras = (None if x is None else Tensor.of(x) for x in (case.mask, case.positions, case.key_bias))
    plan = bundle.plan(Call(*(Tensor.of(x) for x in parts), case.scale, case.empty_mean, *extras, *case.window))
    workspace = torch.full((plan.workspace_bytes + 512,), 0xFF, dtype=torch.uint8, device="cuda")
    start = -(-workspace.data_ptr() // 256) * 256
    bundle.run(plan, start, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    used = start - workspace.data_ptr() + plan.workspace_bytes
    touched = not (torch.isnan(whole[:GUARD]).all() and torch.isnan(whole[-GUARD:]).all())
    if touched or not (workspace[used:] == 0xFF).all():
        raise AssertionError("wrote around the output or beyond the workspace")
    return output, [one.kernel.name for one in plan.launches]


def check(
    number: int, bundles: dict[KernelRequest, Bundle], all_requests: Sequence[KernelRequest]
) -> tuple[str, float]:
    """What was checked, and the largest error as a share of what is accepted; infinite for NaN."""
    case = draw(number, all_requests)
    wanted, slack = attend(case)
    try:
        output, names = launch(bundles[case.request], case)
        again = launch(bundles[case.request], case)[0] if number % TWICE == 0 else output
        if not ((again == output) | (again.isnan() & output.isnan())).all():
            raise AssertionError("another result the second time")
    except (AssertionError, LookupError, ValueError) as error:
        return f"{case.name}: {error}", float("inf")
    share = float(torch.where(slack < torch.inf, (output.double() - wanted).abs() / slack, 0.0).max())
    return f"{case.name} by {names}", share if math.isfinite(share) else float("inf")


def compiled(
    all_requests: Sequence[KernelRequest], root: Path, arch: int, jobs: int
) -> Iterator[tuple[KernelRequest, Path]]:
    """Their bundles, compiled side by side if need be."""

    def one(request: KernelRequest) -> Path:
        layouts = LAYOUTS if request.mask_dtype else LAYOUTS[:1]
        with Worker() as worker:
            return cached_bundle(request, root, [arch], layouts=layouts, worker=worker)

    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(all_requests, pool.map(one, all_requests), strict=True)


def run(first: int, count: int, root: Path, jobs: int, only: str = "") -> list[tuple[str, float]]:
    """Cases ``first .. first + count - 1``; of the requests whose op_type holds ``only``."""
    torch.zeros(1, device="cuda")  # makes PyTorch's context current
    major, minor = torch.cuda.get_device_capability()
    everything = requests()
    numbers = [number for number in range(first, first + count) if only in everything[number % len(everything)].op_type]
    needed = {everything[number % len(everything)] for number in numbers}
    chosen = [request for request in everything if request in needed]
    paths = compiled(chosen, root, 10 * major + minor, jobs)
    bundles = {request: Bundle(path) for request, path in paths}
    return [check(number, bundles, everything) for number in numbers]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Random attentions on a CUDA device against float64.")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--only", default="", help="requests whose op_type holds this")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=4, help="compiling processes")
    parser.add_argument("--bundles", type=Path, default=Path("build/kernels"))
    options = parser.parse_args(arguments)
    results = run(options.first, options.cases, options.bundles, options.jobs, options.only)
    failures = [(name, share) for name, share in results if not share <= 1.0]
    for name, share in failures:
        sys.stdout.write(f"FAILED {name}: {share:.2f} of what is accepted\n")
    worst = max((share for _, share in results), default=0.0)
    sys.stdout.write(f"{len(results)} checks, {len(failures)} failed, worst {worst:.2f} of accepted\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
