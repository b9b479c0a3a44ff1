"""A module brings all that it needs, and the tables load it in the right order."""

from __future__ import annotations

import struct

from qemunet.guest import elf, modules
from qemunet.guest.modules import Module

NEEDS = {"a": ("b", "c"), "b": ("d",), "c": ("d",), "d": (), "x": ("gone",)}


def load(name: str) -> Module | None:
    return Module(name, b"", NEEDS[name], (f"pci:{name}*",)) if name in NEEDS else None


def elf_with(section: bytes, content: bytes) -> bytes:
    """The smallest ELF file with one section of that name."""
    names = b"\0" + section + b"\0.shstrtab\0"
    content_at, names_at = 64, 64 + len(content)
    tables_at = names_at + len(names)
    head = elf.MAGIC + b"\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, tables_at, 0, 64, 56, 0, 64, 3, 2)
    rows = [(0, 0, 0, 0), (1, 1, content_at, len(content)), (len(section) + 2, 3, names_at, len(names))]
    tables = b"".join(struct.pack("<IIQQQQIIQQ", n, k, 0, 0, o, s, 0, 0, 1, 0) for n, k, o, s in rows)
    return head + content + names + tables


def test_the_closure_has_all_needs_once_and_passes_over_what_is_built_in() -> None:
    assert list(modules.closure(["a"], load)) == ["a", "b", "c", "d"]
    assert list(modules.closure(["x", "no-such"], load)) == ["x"]


def test_the_needs_read_backwards_are_an_order_of_loading() -> None:
    chosen = modules.closure(["a"], load)
    order = modules.needs_of("a", chosen)[::-1]
    assert order.index("d") < order.index("b")
    assert order.index("d") < order.index("c")
    assert modules.dependency_table(chosen).splitlines()[3] == "d.ko:"


def test_a_module_describes_itself() -> None:
    content = elf_with(b".modinfo", b"alias=pci:v1*\0license=GPL\0alias=pci:v2*\0depends=mii,crc-ccitt\0")
    module = modules.parse("8139-too", content)
    assert module == Module("8139_too", content, ("mii", "crc_ccitt"), ("pci:v1*", "pci:v2*"))
    assert modules.alias_table({"8139_too": module}) == "alias pci:v1* 8139_too\nalias pci:v2* 8139_too\n"


def test_the_signature_is_left_out() -> None:
    info = bytes(8) + struct.pack(">I", 5)
    assert modules.unsigned(b"module" + b"*sig*" + info + modules.SIGNATURE_MARK) == b"module"
    assert modules.unsigned(b"module") == b"module"
