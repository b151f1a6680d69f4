"""Short constructors of etcd's messages, and short forms of transactions."""

from __future__ import annotations

from typing import Any

from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import (
    Compare,
    DeleteRangeResponse,
    PutResponse,
    RangeResponse,
    RequestOp,
    ResponseOp,
    TxnRequest,
    TxnResponse,
)
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['compares', 'deletion', 'does', 'found', 'kv', 'put', 'response']

Kind = Compare.CompareTarget

INDEX = 50


def kv(key: str, value: str = '', index: int = 5, created: int = 3) -> KeyValue:
    return KeyValue(key=key.encode(), value=value.encode(), mod_revision=index, create_revision=created)


def found(*kvs: KeyValue) -> ResponseOp:
    """The result of a read."""
    return ResponseOp(response_range=RangeResponse(kvs=kvs))


def put(before: KeyValue | None = None) -> ResponseOp:
    return ResponseOp(response_put=PutResponse(prev_kv=before))


def deletion(*before: KeyValue, deleted: int | None = None) -> ResponseOp:
    count = len(before) if deleted is None else deleted
    return ResponseOp(response_delete_range=DeleteRangeResponse(deleted=count, prev_kvs=before))


def response(*done: ResponseOp, succeeded: bool) -> TxnResponse:
    return TxnResponse(header=ResponseHeader(revision=INDEX, raft_term=2), succeeded=succeeded, responses=done)


def compares(txn: TxnRequest) -> list[tuple[Any, ...]]:
    """The compares of a transaction, in order."""
    return [_compare(each) for each in txn.compare]


def _compare(compare: Compare) -> tuple[Any, ...]:
    keys = (compare.key,) if not compare.range_end else (compare.key, compare.range_end)
    field = compare.WhichOneof('target_union')
    # etcd evaluates the target; the member of the oneof has to be the one of that name.
    assert {
        Kind.VERSION: 'version',
        Kind.CREATE: 'create_revision',
        Kind.MOD: 'mod_revision',
        Kind.VALUE: 'value',
        Kind.LEASE: 'lease',
    }[Kind(compare.target)] == field
    if field == 'create_revision' and compare.create_revision == 0 and compare.result == 0:
        return ('none', *keys)
    if field == 'version' and compare.version == 0 and compare.result == Compare.CompareResult.GREATER:
        return ('there', *keys)
    return (field, *keys, getattr(compare, field))


def does(operations: Any) -> list[tuple[Any, ...]]:
    """The requests of a half of a transaction, in order."""
    return [_operation(each) for each in operations]


def _operation(operation: RequestOp) -> tuple[Any, ...]:
    kind = operation.WhichOneof('request')
    request = getattr(operation, kind)
    name = kind.removeprefix('request_')
    if name == 'put':
        return (name, request.key, request.value)
    if name == 'txn':
        return (name, compares(request), does(request.success), does(request.failure))
    return (name, request.key, request.range_end) if request.range_end else (name, request.key)
