"""Messages and RPCs of the KV service: read, write, delete and compare keys."""

from __future__ import annotations

from enum import IntEnum

from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.mvccpb import KeyValue
from getc.v3.schema.table import Message, Method, Repeated, build, field, int64

__all__ = [
    'KV',
    'CompactionRequest',
    'CompactionResponse',
    'Compare',
    'DeleteRangeRequest',
    'DeleteRangeResponse',
    'PutRequest',
    'PutResponse',
    'RangeRequest',
    'RangeResponse',
    'RangeStreamResponse',
    'RequestOp',
    'ResponseOp',
    'TxnRequest',
    'TxnResponse',
]


class RangeRequest(Message):
    """Read ``key``, or the keys from it up to ``range_end``, exclusive.

    A ``range_end`` of ``b'\\0'`` is the end of the store.  A ``limit`` of 0 means no limit, a ``revision`` of 0 the
    latest.  With ``serializable`` the member answers from its own data, which may be stale.
    """

    class SortOrder(IntEnum):
        """The order of the results; NONE is the order of the keys."""

        NONE = 0
        ASCEND = 1
        DESCEND = 2

    class SortTarget(IntEnum):
        """The field to sort by."""

        KEY = 0
        VERSION = 1
        CREATE = 2
        MOD = 3
        VALUE = 4

    key: bytes = field(1)
    range_end: bytes = field(2)
    limit: int64 = field(3)
    revision: int64 = field(4)
    sort_order: int = field(5, SortOrder)
    sort_target: int = field(6, SortTarget)
    serializable: bool = field(7)
    keys_only: bool = field(8)
    count_only: bool = field(9)
    min_mod_revision: int64 = field(10)
    max_mod_revision: int64 = field(11)
    min_create_revision: int64 = field(12)
    max_create_revision: int64 = field(13)


class RangeResponse(Message):
    """The keys found; ``more`` if the limit left some out.  ``count`` counts the range regardless of the limit."""

    header: ResponseHeader = field(1)
    kvs: Repeated[KeyValue] = field(2)
    more: bool = field(3)
    count: int64 = field(4)


class RangeStreamResponse(Message):  # since 3.7
    """A part of the keys of a RangeStream, in order.  The last one alone has ``header``, ``more`` and ``count``."""

    range_response: RangeResponse = field(1)  # since 3.7


class PutRequest(Message):
    """Write a key.  A ``lease`` of 0 detaches the key from its lease, unless ``ignore_lease`` keeps it."""

    key: bytes = field(1)
    value: bytes = field(2)
    lease: int64 = field(3)
    prev_kv: bool = field(4)
    ignore_value: bool = field(5)
    ignore_lease: bool = field(6)


class PutResponse(Message):
    """``prev_kv`` is set if it was requested and the key existed."""

    header: ResponseHeader = field(1)
    prev_kv: KeyValue = field(2)


class DeleteRangeRequest(Message):
    """Delete a key or a range, given as in :class:`RangeRequest`."""

    key: bytes = field(1)
    range_end: bytes = field(2)
    prev_kv: bool = field(3)


class DeleteRangeResponse(Message):
    """The number of deleted keys; ``prev_kvs`` if they were requested."""

    header: ResponseHeader = field(1)
    deleted: int64 = field(2)
    prev_kvs: Repeated[KeyValue] = field(3)


class RequestOp(Message):
    """One operation of a transaction."""

    request_range: RangeRequest = field(1, oneof='request')
    request_put: PutRequest = field(2, oneof='request')
    request_delete_range: DeleteRangeRequest = field(3, oneof='request')
    request_txn: TxnRequest = field(4, oneof='request')


class ResponseOp(Message):
    """The response to one operation of a transaction."""

    response_range: RangeResponse = field(1, oneof='response')
    response_put: PutResponse = field(2, oneof='response')
    response_delete_range: DeleteRangeResponse = field(3, oneof='response')
    response_txn: TxnResponse = field(4, oneof='response')


class Compare(Message):
    """A condition: compare the ``target`` field of a key with the value in the oneof, by the operator ``result``.

    All fields of a key that does not exist are zero.  With a ``range_end`` the condition has to hold for every key of
    the range.
    """

    class CompareResult(IntEnum):
        """The comparison operator; the field of the key is on the left."""

        EQUAL = 0
        GREATER = 1
        LESS = 2
        NOT_EQUAL = 3

    class CompareTarget(IntEnum):
        """The field to compare, which the member of the oneof with the same name is compared with."""

        VERSION = 0
        CREATE = 1
        MOD = 2
        VALUE = 3
        LEASE = 4

    result: int = field(1, CompareResult)
    target: int = field(2, CompareTarget)
    key: bytes = field(3)
    version: int64 = field(4, oneof='target_union')
    create_revision: int64 = field(5, oneof='target_union')
    mod_revision: int64 = field(6, oneof='target_union')
    value: bytes = field(7, oneof='target_union')
    lease: int64 = field(8, oneof='target_union')
    range_end: bytes = field(64)


class TxnRequest(Message):
    """Execute ``success`` if every condition holds, else ``failure``; atomically, at one revision."""

    compare: Repeated[Compare] = field(1)
    success: Repeated[RequestOp] = field(2)
    failure: Repeated[RequestOp] = field(3)


class TxnResponse(Message):
    """``succeeded`` if ``success`` was executed, and the response to each operation."""

    header: ResponseHeader = field(1)
    succeeded: bool = field(2)
    responses: Repeated[ResponseOp] = field(3)


class CompactionRequest(Message):
    """Remove the history before ``revision``; with ``physical`` the response waits for the removal from disk."""

    revision: int64 = field(1)
    physical: bool = field(2)


class CompactionResponse(Message):
    """Confirms a compaction."""

    header: ResponseHeader = field(1)


build('etcdserverpb', globals())


class KV:
    """The KV service.  A Txn without write operations may be repeated like a Range."""

    Range = Method('/etcdserverpb.KV/Range', RangeRequest, RangeResponse, reads=True)
    RangeStream = Method(
        '/etcdserverpb.KV/RangeStream', RangeRequest, RangeStreamResponse, server_streaming=True, reads=True
    )  # since 3.7
    Put = Method('/etcdserverpb.KV/Put', PutRequest, PutResponse)
    DeleteRange = Method('/etcdserverpb.KV/DeleteRange', DeleteRangeRequest, DeleteRangeResponse)
    Txn = Method('/etcdserverpb.KV/Txn', TxnRequest, TxnResponse)
    Compact = Method('/etcdserverpb.KV/Compact', CompactionRequest, CompactionResponse)
