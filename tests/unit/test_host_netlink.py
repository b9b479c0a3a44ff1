"""Messages to and from the kernel, without a kernel."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemunet.host import netlink as nl

HEADER = struct.Struct("=IHHII")
ERROR, DONE = 2, 3


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def verdict(sequence: int, code: int, words: str = "") -> bytes:
    """An acknowledgement or refusal, as with NETLINK_CAP_ACK and NETLINK_EXT_ACK."""
    body = struct.pack("=i", -code) + HEADER.pack(HEADER.size, nl.NEWLINK, 5, sequence, 0)
    return message(ERROR, 0x300 if words else 0x100, sequence, body + (nl.text(1, words) if words else b""))


@pytest.fixture
def both() -> Iterator[tuple[nl.Netlink, socket.socket]]:
    """A conversation, and the kernel's end of it."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield nl.Netlink(ours), kernels
    ours.close()
    kernels.close()


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_what_is_written_can_be_read(pairs: list[tuple[int, bytes]]) -> None:
    assert nl.each_attribute(b"".join(nl.raw(kind, value) for kind, value in pairs)) == pairs


@given(st.binary(max_size=64))
def test_no_garbage_breaks_the_reader(data: bytes) -> None:
    nl.each_attribute(data)


def test_attributes_are_padded_to_four_bytes_and_nest() -> None:
    assert nl.text(3, "lo") == b"\x07\x00\x03\x00lo\x00\x00"
    assert nl.nested(18, nl.text(1, "tun")) == b"\x0c\x00\x12\x80\x08\x00\x01\x00tun\x00"
    assert nl.mac(1, "02:00:00:00:00:0a")[4:] == b"\x02\x00\x00\x00\x00\x0a\x00\x00"


def test_several_requests_go_in_one_datagram_and_all_are_answered(both: tuple[nl.Netlink, socket.socket]) -> None:
    net, kernel = both
    kernel.send(verdict(1, 0))
    kernel.send(verdict(2, 0))
    net.do(nl.Request(nl.NEWLINK, 0, bytes(16)), nl.Request(nl.DELLINK, nl.CREATE, bytes(16)))
    sent = kernel.recv(4096)
    assert [HEADER.unpack_from(sent, at)[1:4] for at in (0, 32)] == [(nl.NEWLINK, 0x5, 1), (nl.DELLINK, 0x405, 2)]


def test_the_first_refusal_is_raised_in_the_kernels_words(both: tuple[nl.Netlink, socket.socket]) -> None:
    net, kernel = both
    kernel.send(verdict(1, 0))
    kernel.send(verdict(2, errno.ELOOP, "Can not enslave a bridge to a bridge"))
    kernel.send(verdict(3, errno.ENODEV))
    with pytest.raises(OSError, match="Can not enslave a bridge to a bridge") as caught:
        net.do(*(nl.Request(nl.NEWLINK, 0, bytes(16)) for _ in range(3)))
    assert caught.value.errno == errno.ELOOP


def test_answers_to_earlier_questions_are_passed_over(both: tuple[nl.Netlink, socket.socket]) -> None:
    net, kernel = both
    kernel.send(verdict(99, errno.EPERM))
    kernel.send(verdict(1, 0))
    net.do(nl.Request(nl.NEWLINK, 0, bytes(16)))


def test_a_dump_that_was_torn_is_taken_again(both: tuple[nl.Netlink, socket.socket]) -> None:
    net, kernel = both
    kernel.send(message(nl.NEWLINK, 0x2 | 0x10, 1, b"old!") + message(DONE, 0x2, 1, bytes(4)))
    kernel.send(message(nl.NEWLINK, 0x2, 2, b"new!") + message(DONE, 0x2, 2, bytes(4)))
    assert net.dump(nl.Request(nl.GETLINK, 0, bytes(16))) == [b"new!"]


def test_a_dump_that_is_always_torn_is_given_up(both: tuple[nl.Netlink, socket.socket]) -> None:
    net, kernel = both
    for sequence in range(1, 21):
        kernel.send(message(DONE, 0x2 | 0x10, sequence, bytes(4)))
    with pytest.raises(OSError, match="changes faster"):
        net.dump(nl.Request(nl.GETLINK, 0, bytes(16)))


def test_a_question_gets_its_answer_or_the_refusal(both: tuple[nl.Netlink, socket.socket]) -> None:
    net, kernel = both
    kernel.send(message(nl.NEWLINK, 0, 1, b"link"))
    assert net.ask(nl.Request(nl.GETLINK, 0, bytes(16))) == b"link"
    kernel.send(verdict(2, errno.ENODEV))
    with pytest.raises(OSError) as caught:
        net.ask(nl.Request(nl.GETLINK, 0, bytes(16)))
    assert caught.value.errno == errno.ENODEV
