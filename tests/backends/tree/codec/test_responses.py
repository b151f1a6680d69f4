"""The check of a transaction's response against its requests."""

from __future__ import annotations

import pytest

from getc.backends.tree.codec.responses import DELETE, PUT, RANGE, results_of_txn
from getc.errors import ProtocolError
from getc.v3.schema.kv import ResponseOp
from tests.backends.tree.codec.messages import deletion, found, kv, put, response


def test_results_are_returned_in_the_order_of_the_requests() -> None:
    read, deleted, written = results_of_txn(
        response(found(kv('/a')), deletion(deleted=3), put(kv('/b')), succeeded=True), RANGE, DELETE, PUT
    )
    assert (read.kvs[0].key, deleted.deleted, written.prev_kv.key) == (b'/a', 3, b'/b')


@pytest.mark.parametrize(
    ('results', 'text'),
    [
        ([], r'the success half of a transaction has 0 results \(\), not 2 results \(range, put\)'),
        ([found()], r'1 results \(range\), not'),
        ([put(), found()], r'2 results \(put, range\), not'),
        ([found(), ResponseOp()], r'2 results \(range, None\), not'),
        ([found(), put(), put()], r'3 results \(range, put, put\), not'),
        ([found()] * 99, r'99 results \(range, .*, \.\.\.\), not'),
    ],
)
def test_other_results_are_a_protocol_error(results: list[ResponseOp], text: str) -> None:
    with pytest.raises(ProtocolError, match=text) as caught:
        results_of_txn(response(*results, succeeded=True), RANGE, PUT)
    assert caught.value.maybe_applied


def test_malformed_response_to_a_read_applied_nothing() -> None:
    with pytest.raises(ProtocolError) as caught:
        results_of_txn(response(succeeded=True), RANGE, is_write=False)
    assert not caught.value.maybe_applied
