"""Uncompresses kernels and modules, with the standard library where it can and else with a program of the host."""

from __future__ import annotations

import bz2
import importlib
import lzma
import shutil
import subprocess
import zlib

# The programs for what the standard library lacks (zstd came with Python 3.14), by the first bytes of the data.
ZSTD = b"\x28\xb5\x2f\xfd"
PROGRAMS = {ZSTD: "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x02\x21\x4c\x18": "lz4"}
TIMEOUT = 60  # seconds


class NoProgram(Exception):
    """The program that could uncompress this is missing; its name is the argument."""


def uncompress(data: bytes) -> bytes:
    """Return the data uncompressed, as it is when it is not compressed; ValueError when it is damaged.

    What follows the end of the compressed data is ignored.
    """
    try:
        return _by_library(data)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"damaged: {error}") from error


def _by_library(data: bytes) -> bytes:
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(data)
    if data.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"BZh"):
        return bz2.BZ2Decompressor().decompress(data)
    program = PROGRAMS.get(data[:4])
    return data if program is None else _by_program(program, data)


def _by_program(program: str, data: bytes) -> bytes:
    if program == "zstd":
        try:
            library = importlib.import_module("compression.zstd")
        except ImportError:
            pass
        else:
            return bytes(library.ZstdDecompressor().decompress(data))
    if shutil.which(program) is None:
        raise NoProgram(program)
    # It complains about what follows the data, after having written all of it.
    result = subprocess.run([program, "-dc"], input=data, capture_output=True, check=False, timeout=TIMEOUT)
    if not result.stdout:
        raise ValueError(result.stderr.decode(errors="replace").strip())
    return result.stdout
