"""A pcap is what its format says, and a stream comes apart wherever it was cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemunet.host import pcap
from tests.pcap import Frame, parse


def test_a_file_is_a_header_and_records() -> None:
    time = 1_700_000_000_123_456_789
    assert parse(pcap.HEADER + pcap.record(time, b"x" * 60)) == [Frame(time, b"x" * 60)]
    assert parse(pcap.HEADER) == []


def test_a_frame_that_was_longer_says_so() -> None:
    record = pcap.record(0, b"x" * 60, 1500)
    assert int.from_bytes(record[12:16], "little") == 1500


@given(st.lists(st.binary(max_size=80), max_size=6), st.integers(1, 50))
def test_a_stream_may_be_cut_anywhere(frames: list[bytes], size: int) -> None:
    """Whatever the pieces, the records are the same, and the last one's words are known at the end."""
    records = [pcap.record(number, frame) for number, frame in enumerate(frames)]
    data = pcap.HEADER + b"".join(records) + pcap.last_record({"dropped": 7})
    stream = pcap.Stream()
    found: list[bytes] = []
    for at in range(0, len(data), size):
        assert stream.words is None
        found += stream.feed(data[at : at + size])
    assert found == records
    assert stream.words == {"dropped": 7}


@pytest.mark.parametrize("data", [b"x" * 24, pcap.HEADER + b"\0" * 8 + b"\xff" * 8])
def test_what_is_no_such_stream_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="frame"):
        pcap.Stream().feed(data)
