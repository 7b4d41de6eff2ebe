"""Lets TensorRT-RTX's parser find its core library.  Without this the process is aborted.

The wheel ships ``libtensorrt_rtx.so.1``, but the parser opens ``libtensorrt_rtx.so`` at run time and calls
``std::terminate`` if it is not there (seen with 1.7.1).  The cure writes nothing to disk.  It is an empty shared object
in memory that calls itself ``libtensorrt_rtx.so`` and needs ``libtensorrt_rtx.so.1``.  Once it is loaded, the dynamic
linker answers the parser's request with it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

SONAME = "libtensorrt_rtx.so"
MACHINES = {"x86_64": 62, "aarch64": 183}
"""ELF numbers of the processors that TensorRT-RTX has wheels for."""

_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 1, 4, 5, 6, 10, 11, 14
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ_WRITE = 6


def shared_object(soname: str, needed: str, machine: int) -> bytes:
    """A 64-bit little-endian ELF shared object without code, with a name and one dependency.

    Args:
        soname: What it calls itself.
        needed: What is loaded with it.
        machine: ELF number of the processor.
    """
    header_size, program_header_size, program_headers = 64, 56, 3
    strings = b"\0" + soname.encode() + b"\0" + needed.encode() + b"\0"
    hash_at = header_size + program_headers * program_header_size
    hash_table = struct.pack("<4I", 1, 1, 0, 0)
    symbols_at = hash_at + len(hash_table)
    symbols = bytes(24)
    strings_at = symbols_at + len(symbols)
    dynamic_at = -(-(strings_at + len(strings)) // 8) * 8
    entries = [
        (_DT_NEEDED, 2 + len(soname)), (_DT_SONAME, 1), (_DT_HASH, hash_at), (_DT_STRTAB, strings_at),
        (_DT_SYMTAB, symbols_at), (_DT_STRSZ, len(strings)), (_DT_SYMENT, 24), (0, 0),
    ]  # fmt: skip
    dynamic = b"".join(struct.pack("<2Q", tag, value) for tag, value in entries)
    size = dynamic_at + len(dynamic)

    def segment(kind: int, offset: int, length: int, align: int) -> bytes:
        addresses, lengths = [offset] * 3, [length] * 2  # in the file and in memory: the same
        return struct.pack("<2I6Q", kind, _READ_WRITE, *addresses, *lengths, align)

    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    kind = (3, machine, 1)  # a shared object of version 1
    places = (0, header_size, 0)  # no entry, where program headers begin, no sections
    sizes = (header_size, program_header_size, program_headers, 64, 0, 0)
    header += struct.pack("<2HI3QI6H", *kind, *places, 0, *sizes)
    headers = segment(_PT_LOAD, 0, size, 0x1000) + segment(_PT_DYNAMIC, dynamic_at, len(dynamic), 8)
    headers += segment(_PT_GNU_STACK, 0, 0, 16)
    content = header + headers + hash_table + symbols + strings
    return content.ljust(dynamic_at, b"\0") + dynamic


def load() -> None:
    """Loads the shim; call it after ``import tensorrt_rtx``.

    Raises:
        OSError: The parser would still abort the process here.
    """
    if not resolvable():
        machine = MACHINES.get(platform.machine())
        if machine is None or not hasattr(os, "memfd_create"):
            raise OSError(f"TensorRT-RTX's parser cannot find {SONAME} on this platform")
        descriptor = os.memfd_create(SONAME)
        try:
            os.write(descriptor, shared_object(SONAME, f"{SONAME}.1", machine))
            ctypes.CDLL(f"/proc/self/fd/{descriptor}", mode=os.RTLD_NOW | os.RTLD_GLOBAL)
        finally:
            os.close(descriptor)
    if not resolvable():
        raise OSError(f"TensorRT-RTX's parser cannot find its core library {SONAME}")


def resolvable() -> bool:
    """Whether the library is there under the name that the parser asks for."""
    try:
        ctypes.CDLL(SONAME, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return False
    return True
