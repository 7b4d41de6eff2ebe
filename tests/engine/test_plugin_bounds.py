"""What a file may make up about tensors and kernels: refused where it enters, and never computed with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from alibi_rewriter.plugin import library_path
from bundles import encoded
from plugin_host import Host, describe
from slow import BESIDE
from sources import sanitized

MASKED = "AlibiAttentionCausalBooleanMask"
WIDE = ((2, 4, 30, 64), (2, 4, 50, 64), (2, 4, 50, 64))

needs_library = pytest.mark.skipif(library_path() is None, reason="the plugin library was not built: no C++ compiler")


def refusal(host: Host, kernels: bytes, slopes: tuple[int, ...], mask: tuple[int, ...], query: str = "bfloat16") -> str:
    """What the plugin says about these shapes."""
    instance = host.instance(MASKED, kernels, scale=0.125, empty_mean=True)
    inputs = [describe(shape, dtype) for shape, dtype in zip(WIDE, (query, "bfloat16", "bfloat16"), strict=True)]
    try:
        instance.shape([*inputs, describe(slopes, "float32"), describe(mask, "bool")], describe(WIDE[0], "bfloat16"))
    except ValueError as error:
        return str(error)
    finally:
        instance.close()
    return ""


@needs_library
@pytest.mark.parametrize(
    ("slopes", "mask", "said"),
    [
        ((4,), (1, 1, 1, 1, 50), "mask has 5 dimensions instead of 4"),
        ((4,), (1, 1, 1, 1, 1, 1, 1, 50), "mask has 8 dimensions instead of 4"),
        ((4,), (50,), "mask has 1 dimensions instead of 4"),
        ((1, 1, 1, 1, 4), (1, 1, 1, 50), "slopes has 5 dimensions instead of 1"),
        ((4,), (1, 1, 1, 49), "mask is [1, 1, 1, 49], which does not fit [2, 4, 30, 50]"),
        ((4,), (-1, 1, 1, 50), "mask has a negative extent"),
        ((4,), (1, 1 << 40, 1 << 40, 50), "mask is larger than any memory"),
        ((3,), (1, 1, 1, 50), "slopes is [3] instead of [4]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    host_library: Path, tmp_path: Path, slopes: tuple[int, ...], mask: tuple[int, ...], said: str
) -> None:
    kernels = encoded(tmp_path, MASKED, "bool")
    assert said in refusal(Host(host_library), kernels, slopes, mask)


@needs_library
def test_types_that_do_not_fit_are_refused(host_library: Path, tmp_path: Path) -> None:
    said = refusal(Host(host_library), encoded(tmp_path, MASKED, "bool"), (4,), (1, 1, 1, 50), query="float16")
    assert "key is of type bfloat16 instead of float16" in said


@BESIDE
def test_made_up_kernels_and_tensors_under_the_sanitizers(tmp_path: Path, sanitized_library: Path) -> None:
    program = sanitized("fuzz.cpp", str(sanitized_library))
    for op_type, mask_dtype in (("AlibiAttentionCausal", None), (MASKED, "bool")):
        bundle = tmp_path / "kernels.bundle"
        bundle.write_bytes(encoded(tmp_path, op_type, mask_dtype))
        done = subprocess.run([str(program), str(bundle), "7", "300"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        refused, planned = (int(word) for word in done.stdout.split() if word.isdigit())
        assert refused > 300  # refusals were said
        assert planned > 10
