"""Queues of keys ordered by create revision: who is before a key, and the write that joins the queue.

The ranges hold every key below the directory: etcd's Go client orders its locks and elections by the prefix and the
create revision only.  Source: ``client/v3/concurrency/mutex.go`` and ``key.go`` of etcd 3.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from getc.backends.tree.codec.keyspace import decode, directory_range, encode, value_of
from getc.backends.tree.codec.responses import PUT, RANGE, results_of_txn
from getc.backends.tree.codec.write import txn_of_put
from getc.operations import Contenders, Predecessor, Put
from getc.results import ContendersResult, Node, PredecessorResult
from getc.v3.schema.kv import Compare, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse
from getc.v3.schema.mvccpb import KeyValue

__all__ = [
    'FoundPredecessor',
    'is_created_at',
    'parse_contenders',
    'parse_joined',
    'parse_predecessor',
    'request_of_contenders',
    'txn_of_join',
    'txn_of_predecessor',
]

ASCEND: Final = RangeRequest.SortOrder.ASCEND
DESCEND: Final = RangeRequest.SortOrder.DESCEND
CREATE: Final = RangeRequest.SortTarget.CREATE


class FoundPredecessor(NamedTuple):
    """What a :func:`txn_of_predecessor` has found.

    Attributes:
        etcd_index: The revision of the response.
        result: The earlier keys; None if the own key is gone.
    """

    etcd_index: int
    result: PredecessorResult | None


def is_created_at(key: str, revision: int) -> Compare:
    """Compare: the key exists, and was created at this revision."""
    return Compare(key=encode(key), target=Compare.CompareTarget.CREATE, create_revision=revision)


def txn_of_predecessor(query: Predecessor) -> TxnRequest:
    """Return the transaction that finds the earlier keys, if the own key exists."""
    return TxnRequest(compare=[is_created_at(query.key, query.token)], success=_earlier_ranges(query, query.token - 1))


def parse_predecessor(response: TxnResponse) -> FoundPredecessor:
    """Return what a :func:`txn_of_predecessor` has found.

    Raises:
        ProtocolError: The response has another shape.
    """
    index = response.header.revision
    if not response.succeeded:
        return FoundPredecessor(index, None)
    nearest, first = results_of_txn(response, RANGE, RANGE, is_write=False)
    return FoundPredecessor(index, _result(index, nearest.kvs, first.kvs))


def txn_of_join(put: Put, query: Predecessor, *, lease: int, is_strict: bool) -> TxnRequest:
    """Return the transaction that creates the own key, and finds the keys that exist before it does.

    Args:
        put: The write of the own key.
        query: Finds the earlier keys; its token is not used.
        lease: The lease of the own key.
        is_strict: Compare that no ancestor of the key is a value.
    """
    txn = txn_of_put(put, lease=lease, is_strict=is_strict)
    success = [*_earlier_ranges(query, 0), *txn.success]
    return TxnRequest(compare=list(txn.compare), success=success, failure=list(txn.failure))


def parse_joined(response: TxnResponse) -> PredecessorResult:
    """Return the earlier keys that a successful :func:`txn_of_join` has found.

    Raises:
        ProtocolError: The response has another shape.
    """
    nearest, first, _ = results_of_txn(response, RANGE, RANGE, PUT)
    return _result(response.header.revision, nearest.kvs, first.kvs)


def request_of_contenders(query: Contenders) -> RangeRequest:
    """Return the read of all keys of a queue."""
    first, end = directory_range(query.key)
    return RangeRequest(key=first, range_end=end, sort_order=ASCEND, sort_target=CREATE)


def parse_contenders(response: RangeResponse) -> ContendersResult:
    """Return all keys of a queue."""
    values = tuple(value_of(decode(kv.key), kv) for kv in response.kvs)
    return ContendersResult(response.header.revision, values)


def _earlier_ranges(query: Predecessor, max_create_revision: int) -> list[RequestOp]:
    """Return the reads of the nearest earlier keys, and of the first one with its value; 0 is without a bound.

    ``keys_only`` matters: etcd 3.7 answers it from memory (etcd#21791).
    """
    key, end = directory_range(query.scope)
    nearest = RangeRequest(
        key=key,
        range_end=end,
        limit=query.limit,
        keys_only=True,
        sort_order=DESCEND,
        sort_target=CREATE,
        max_create_revision=max_create_revision,
    )
    first = RangeRequest(
        key=key,
        range_end=end,
        limit=1,
        sort_order=ASCEND,
        sort_target=CREATE,
        max_create_revision=max_create_revision,
    )
    return [RequestOp(request_range=nearest), RequestOp(request_range=first)]


def _result(index: int, nearest: Sequence[KeyValue], first: Sequence[KeyValue]) -> PredecessorResult:
    earlier = tuple(Node(decode(kv.key), kv.mod_revision, kv.create_revision) for kv in nearest)
    if not first:
        return PredecessorResult(index, earlier)
    return PredecessorResult(index, earlier, value_of(decode(first[0].key), first[0]), not first[0].lease)
