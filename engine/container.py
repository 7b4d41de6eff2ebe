"""A bundle of kernels as one string of bytes: what a node carries in its ``kernels`` attribute.

The plugin library reads it (``native/core/bundle.cpp``).  Little-endian; texts and lists start with their length.
The body is compressed (raw DEFLATE), because TensorRT stores the kernels of every layer several times.  A header holds
a magic word with the format's version, lengths and a CRC-32, so that damage is found when an engine is built and not
when it runs.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from ..kernels.launch.description import Argument, Condition, Description, Extent, Kernel

MAGIC = b"ALIBIK\0\2"
"""Seven letters and the version of the format."""

HEADER = struct.Struct("<8sQQI")
"""Magic word, length of the compressed body, its length when decompressed, CRC-32 of the compressed body."""


class _Writer:
    """Appends values in the format's own encodings."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def int64(self, value: int) -> None:
        self.parts.append(struct.pack("<q", value))

    def count(self, value: int) -> None:
        self.parts.append(struct.pack("<I", value))

    def flag(self, value: bool) -> None:
        self.parts.append(struct.pack("<B", value))

    def text(self, value: str) -> None:
        encoded = value.encode()
        self.count(len(encoded))
        self.parts.append(encoded)

    def optional(self, value: int | None) -> None:
        self.flag(value is not None)
        if value is not None:
            self.int64(value)

    def extent(self, extent: Extent) -> None:
        self.count(len(extent.factors))
        for factor in extent.factors:
            self.count(len(factor.names))
            for name in factor.names:
                self.text(name)
            self.int64(factor.divisor)
        self.flag(extent.at_most is not None)
        if extent.at_most is not None:
            self.text(extent.at_most)

    def condition(self, condition: Condition) -> None:
        self.text(condition.size)
        self.optional(condition.at_least)
        self.optional(condition.at_most)

    def argument(self, argument: Argument) -> None:
        self.text(argument.kind)
        self.text(argument.name)
        self.int64(argument.multiple_of)
        if argument.tensor_map is not None:
            for extent in argument.tensor_map.box:
                self.int64(extent)
            self.int64(argument.tensor_map.swizzle_bytes)


class _Images:
    """The images in the order of first use, each once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs: dict[str, bytes] = {}

    def index(self, name: str, sha256: str, *, text: bool) -> int:
        if sha256 not in self.blobs:
            content = (self.directory / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ValueError(f"'{self.directory / name}' is not the image that the description names")
            # The driver reads PTX up to a NUL.
            self.blobs[sha256] = content + b"\0" if text else content
        return list(self.blobs).index(sha256)


def encode(description: Description, directory: Path, *, machine_code: Sequence[int], ptx: Sequence[int] = ()) -> bytes:
    """A bundle as bytes.

    Args:
        description: What was compiled.
        directory: Where its images are.
        machine_code: Architectures (compute capability times ten) whose CUBIN is included.
        ptx: Architectures whose PTX is included, for devices that no CUBIN serves.

    Raises:
        ValueError: An image is not the one that the description names.
        OSError: An image cannot be read.
    """
    request = description.request
    writer, images = _Writer(), _Images(directory)
    writer.text(request.op_type)
    writer.text(request.dtype)
    writer.int64(request.head_dim)
    writer.int64(request.value_dim)
    writer.text(request.mask_dtype or "")
    selection = description.selection
    for number in (selection.decode_rows, selection.min_keys, selection.max_splits):
        writer.int64(number)
    writer.count(len(description.workspace))
    for buffer in description.workspace:
        writer.text(buffer.name)
        writer.int64(buffer.element_bytes)
        writer.extent(buffer.extent)
    kept = [kernel for kernel in description.kernels if kernel.arch in machine_code or kernel.arch in ptx]
    writer.count(len(kept))
    for kernel in kept:
        _kernel(writer, images, kernel, code=kernel.arch in machine_code, ptx=kernel.arch in ptx)
    writer.count(len(images.blobs))
    for sha256, content in images.blobs.items():
        writer.parts.append(bytes.fromhex(sha256))
        writer.parts.append(struct.pack("<Q", len(content)))
        writer.parts.append(content)
    body = b"".join(writer.parts)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    compressed = compressor.compress(body) + compressor.flush()
    return HEADER.pack(MAGIC, len(compressed), len(body), zlib.crc32(compressed)) + compressed


def _kernel(writer: _Writer, images: _Images, kernel: Kernel, *, code: bool, ptx: bool) -> None:
    writer.text(kernel.name)
    writer.text(kernel.role)
    writer.int64(kernel.arch)
    writer.flag(kernel.exact_arch)
    writer.flag(kernel.layout.contiguous)
    writer.flag(kernel.layout.mask_rows)
    writer.flag(kernel.layout.mask_dense)
    writer.count(len(kernel.conditions))
    for condition in kernel.conditions:
        writer.condition(condition)
    writer.text(kernel.entry)
    writer.int64(kernel.threads)
    writer.int64(kernel.shared_bytes)
    writer.int64(kernel.programs)
    for extent in kernel.grid:
        writer.extent(extent)
    writer.count(len(kernel.arguments))
    for argument in kernel.arguments:
        writer.argument(argument)
    image = kernel.image
    writer.flag(code)
    if code:
        writer.count(images.index(image.cubin, image.cubin_sha256, text=False))
    writer.flag(ptx)
    if ptx:
        writer.count(images.index(image.ptx, image.ptx_sha256, text=True))
