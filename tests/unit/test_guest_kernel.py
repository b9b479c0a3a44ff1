"""Kernels: the uncompressed one is found in the image, and the right package is chosen."""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib

import pytest

from qemunet.guest import clock, compress, elf, initramfs, kernel, packages

UBUNTU = {
    "linux-image-generic": ["linux-image-6.8.0-1-generic", "linux-modules-extra-6.8.0-1-generic", "linux-firmware"],
    "linux-image-6.8.0-1-generic": ["kmod", "linux-modules-6.8.0-1-generic"],
}


def program(segments: list[tuple[int, bytes]], tail: bytes = b"") -> bytes:
    """An ELF file with these segments (kind, content) one after the other."""
    at = 64 + 56 * len(segments)
    rows, contents = b"", b""
    for kind, content in segments:
        rows += struct.pack("<IIQQQQQQ", kind, 5, at + len(contents), 0, 0, len(content), len(content), 4096)
        contents += content
    head = elf.MAGIC + b"\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    return head + rows + contents + tail


def test_a_kernel_loses_the_zeros_at_its_end_and_nothing_else() -> None:
    data = program([(elf.PT_LOAD, b"text"), (elf.PT_LOAD, b"data" + bytes(1000))], b"section table")
    trimmed = elf.trim(data)
    assert trimmed.endswith(b"textdata")
    assert [segment.size for segment in elf.segments(trimmed)] == [4, 4]


def test_a_program_with_an_interpreter_is_not_static() -> None:
    assert elf.is_static(program([(elf.PT_LOAD, b"x")]))
    assert not elf.is_static(program([(elf.PT_INTERP, b"/lib/ld.so")]))
    with pytest.raises(ValueError, match="not a 64 bit"):
        elf.is_static(b"#!/bin/sh\n")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bytes])
def test_what_follows_compressed_data_is_ignored(pack) -> None:
    packed = pack(b"content")
    tail = b"" if pack is bytes else b"1234"
    assert compress.uncompress(packed + tail) == b"content"


def test_damage_is_an_error_of_one_kind() -> None:
    with pytest.raises(ValueError, match="damaged"):
        compress.uncompress(gzip.compress(b"x")[:10] + b"\xff" * 8)
    assert zlib.error is not ValueError


def test_an_image_that_cannot_be_unpacked_is_used_as_it_is() -> None:
    assert kernel.bootable(b"no kernel") == b"no kernel"
    assert kernel.bootable(bytes(0x202) + b"HdrS" + bytes(1000)) == bytes(0x202) + b"HdrS" + bytes(1000)


def test_the_modules_of_an_image_come_with_it() -> None:
    choices = packages.kernel_choices("linux-image-generic", lambda name: UBUNTU.get(name, []))
    assert choices[0] == [
        "linux-image-6.8.0-1-generic",
        "linux-modules-6.8.0-1-generic",
        "linux-modules-extra-6.8.0-1-generic",
    ]
    assert choices[2][0] == "linux-image-unsigned-6.8.0-1-generic"
    assert packages.kernel_choices("linux-image-amd64", lambda name: []) == []


def test_apt_answers_are_read() -> None:
    answer = "linux-image-amd64\n  Depends: linux-image-6.1.0-1-amd64\n |Depends: kmod\n  Depends: <virtual>\n"
    assert packages.DEPENDS.findall(answer) == ["linux-image-6.1.0-1-amd64", "kmod", "<virtual>"]


def test_the_cursor_question_is_silenced_only_where_it_is_certain() -> None:
    assert initramfs.without_cursor_question(b"a\x1b[6n\0b") == b"a" + bytes(5) + b"b"
    twice = b"\x1b[6n\0\x1b[6n\0"
    assert initramfs.without_cursor_question(twice) == twice


def test_the_counter_has_a_frequency_that_agrees_with_itself() -> None:
    first, second = clock.tsc_khz(), clock.tsc_khz()
    if first is None or second is None:
        pytest.skip("no time stamp counter to be read here")
    assert abs(first - second) < first / 100
    assert clock.kernel_word().startswith("tsc_early_khz=")
