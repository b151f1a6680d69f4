"""Fields packed by hand are those that protobuf packs."""

from __future__ import annotations

import pytest

from getc.wire.packing import bytes_field, number_field
from getc.wire.schema.kv import PutRequest, RangeRequest

SIZES = [1, 127, 128, 16_383, 16_384, 2_100_000]


@pytest.mark.parametrize('size', SIZES)
def test_bytes_are_packed_as_protobuf_does(size: int) -> None:
    """Short and long, up to where their length takes another byte."""
    content = b'x' * size
    assert bytes_field(1, content) == RangeRequest(key=content).SerializeToString()
    assert bytes_field(2, content) == RangeRequest(range_end=content).SerializeToString()


@pytest.mark.parametrize('number', [*SIZES, 2**31, 2**63 - 1])
def test_numbers_are_packed_as_protobuf_does(number: int) -> None:
    """Leases have up to 63 bits."""
    assert number_field(3, number) == PutRequest(lease=number).SerializeToString()


def test_nothing_may_be_packed_too() -> None:
    """Protobuf would leave it out, and reads it as the same."""
    assert PutRequest.FromString(bytes_field(2, b'') + number_field(3, 0)) == PutRequest()
