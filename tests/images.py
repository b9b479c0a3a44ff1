"""Disk images of which the header says what an attacker likes."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

_BACKING_FORMAT, _DATA_FILE = 0xE2792ACA, 0x44415441
_END = 0
_DATA_ELSEWHERE = 1 << 2


def qcow2(path: Path, backing: bytes = b"", kind: bytes = b"", data_file: bytes = b"", size: int = 1 << 20) -> Path:
    """Make an image and write names into its header that qemu-img would check or refuse."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from(">I", data, 100)
    extensions = _extension(_BACKING_FORMAT, kind) + _extension(_DATA_FILE, data_file) + struct.pack(">II", _END, 0)
    data[start : start + len(extensions) + len(backing)] = extensions + backing
    if backing:
        struct.pack_into(">QI", data, 8, start + len(extensions), len(backing))
    if data_file:
        struct.pack_into(">Q", data, 72, struct.unpack_from(">Q", data, 72)[0] | _DATA_ELSEWHERE)
    path.write_bytes(data)
    return path


def _extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0") if data else b""
