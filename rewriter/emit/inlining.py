"""Files without local functions.  The bodies of the fused nodes take the place of the nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import onnx.inliner
from onnx import ModelProto

from ...fused.family import DOMAIN
from ...verify import Verification, VerifyOptions, verify


def inline_functions(model: ModelProto) -> ModelProto:
    """A copy in which every local function is inlined and the domain of the fused nodes is not imported."""
    inlined: ModelProto = onnx.inliner.inline_local_functions(model)
    kept = [entry for entry in inlined.opset_import if entry.domain != DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined


def verify_inlined(fused: Path, inlined: Path, data_dir: Path | None, seed: int) -> Verification:
    """Compares a rewritten file with its inlined form.

    Args:
        fused: The file with functions.
        inlined: The one without.
        data_dir: Where the external data of both are.
        seed: Of the drawn inputs.
    """
    options = VerifyOptions(seed=seed, power=False)
    return verify(fused, inlined, options=options, data_dir=data_dir, original_dir=data_dir)


def beside(first: Verification, second: Verification) -> Verification:
    """The verification of the file with functions, and what the inlined one adds to it."""
    if second.status == "skipped":
        note = f"the inlined file was not run, the one that it was made of was: {second.skipped_reason}"
        return replace(first, notes=(*first.notes, note))
    sets = tuple(replace(one, name=f"{one.name}, bodies inlined") for one in second.sets)
    return replace(first, sets=(*first.sets, *sets))
