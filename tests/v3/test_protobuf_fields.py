"""Fields encoded by hand equal those that protobuf encodes."""

from __future__ import annotations

from typing import Any

import pytest

from getc.v3.protobuf_fields import beginning, bytes_field, number_field
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import PutRequest, RangeRequest, RangeResponse, TxnResponse
from getc.v3.schema.mvccpb import Event, KeyValue
from getc.v3.schema.watch import WatchResponse

SIZES = [1, 127, 128, 16_383, 16_384, 2_100_000]


@pytest.mark.parametrize('size', SIZES)
def test_bytes_field_equals_the_encoding_of_protobuf(size: int) -> None:
    """For lengths with a varint of one and of several bytes."""
    content = b'x' * size
    assert bytes_field(1, content) == RangeRequest(key=content).SerializeToString()
    assert bytes_field(2, content) == RangeRequest(range_end=content).SerializeToString()


@pytest.mark.parametrize('number', [*SIZES, 2**31, 2**63 - 1])
def test_number_field_equals_the_encoding_of_protobuf(number: int) -> None:
    """Lease ids have up to 63 bits."""
    assert number_field(3, number) == PutRequest(lease=number).SerializeToString()


def test_empty_field_is_decoded_as_an_unset_one() -> None:
    """Protobuf omits it."""
    assert PutRequest.FromString(bytes_field(2, b'') + number_field(3, 0)) == PutRequest()


HEADER = ResponseHeader(cluster_id=2**64 - 1, member_id=2**63, revision=2**62, raft_term=300)


def test_beginning_ends_before_keys_and_values() -> None:
    """Header and numbers are complete wherever the response was cut after them."""
    kv = KeyValue(key=b'/secret', value=b'secret' * 100)
    cases: list[tuple[Any, dict[str, Any]]] = [
        (TxnResponse(header=HEADER, succeeded=True), {'responses': [{'response_range': {'kvs': [kv]}}]}),
        (TxnResponse(header=HEADER), {'responses': [{'response_range': {'kvs': [kv]}}]}),
        (WatchResponse(header=HEADER, watch_id=2**40, fragment=True), {'events': [Event(kv=kv)]}),
        (RangeResponse(header=HEADER), {'kvs': [kv]}),
    ]
    for kept, left_out in cases:
        merged = type(kept)(**left_out)
        merged.MergeFrom(kept)
        packed = merged.SerializeToString()
        for end in (128, 129, len(packed)):
            assert type(kept).FromString(beginning(packed[:end])) == kept


def test_beginning_is_empty_when_the_header_is_cut() -> None:
    """Likewise for bytes that are not a response of etcd."""
    packed = TxnResponse(header=HEADER, succeeded=True).SerializeToString()
    header = len(packed) - 2
    assert [beginning(packed[:end]) for end in range(header)] == [b''] * header
    assert beginning(packed[: header + 1]) == packed[:header]
    for junk in (b'\xff' * 128, bytes(128), b'X' * 128, b'\x0a\xff\xff\xff\xff\xff', b'\x0a'):
        assert TxnResponse.FromString(beginning(junk)).header.cluster_id == 0
