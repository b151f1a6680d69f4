"""Writes of a node: one transaction each, and its result."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from getc import paths
from getc.backends.tree.codec.directory_lease import MAX_TXN_OPS, NO_LEASE, DirectoryLease, join_compares
from getc.backends.tree.codec.keyspace import (
    MAX_SEGMENTS,
    NO_TTL,
    TTL,
    check_depth,
    directory_range,
    encode,
    marker,
    value_of,
)
from getc.backends.tree.codec.responses import DELETE, PUT, malformed, results_of_txn
from getc.backends.tree.codec.txn_failure import conditions, error_from_failure, failure_reads, is_absent
from getc.errors import RootROnly
from getc.operations import Put
from getc.paths import ROOT
from getc.results import ComparedThenSwapped, Created, Directory, EtcdResult, Node, Set, Updated, Value
from getc.v3.protobuf_fields import bytes_field, nested_field, number_field
from getc.v3.schema.kv import Compare, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, TxnResponse

__all__ = ['check_put', 'encode_put', 'parse_put', 'result_of_put', 'txn_of_put']

MAX_CACHED_KEYS: Final = 4096
"""Keys whose encoded parts of a write are cached."""

MAX_CACHED_SIZE: Final = 4000
"""Characters of these parts, about: they contain the key six times, and each ancestor three times."""

TXN_SUCCESS: Final = 2
OP_REQUEST_PUT: Final = 2
PUT_VALUE: Final = 2
PUT_LEASE: Final = 3
"""Field numbers of TxnRequest, RequestOp and PutRequest."""

OTHER_LEASE: Final = 1
"""Stands for any lease while the parts of a write are made."""


def check_put(put: Put) -> None:
    """Refuse a write that the tree on v3 does not support.

    Raises:
        NotSupported: The key has too many segments.
        RootROnly: The root cannot be written.
    """
    if put.key.count(ROOT) > MAX_SEGMENTS:  # spares most writes the call
        check_depth(put.key)
    if put.key == ROOT:
        raise RootROnly('Root is read only', ROOT)


def txn_of_put(put: Put, *, lease: int = 0, is_strict: bool = True, joined: DirectoryLease = NO_LEASE) -> TxnRequest:
    """Return the transaction of a write that is neither a refresh nor an update of a directory.

    Args:
        put: The operation, checked.
        lease: The lease of the node's own TTL; 0 for a node without one.
        is_strict: Compare that no ancestor is a value, and that the node is not a directory.  A node without a TTL of
            its own joins the lease of the directory that it is in: compare that this is ``joined``.
        joined: The nearest directory above the node that has a lease.
    """
    key = encode(put.key)
    last: list[Compare] = []
    if put.prev_exist or put.is_compared:
        first, *last = conditions(put)
        compare = [first]
    else:
        compare = [is_absent(key)] if put.prev_exist is False else []
        if is_strict:
            compare += [is_absent(encode(ancestor)) for ancestor in paths.ancestors(put.key)]
            # The range comes last: a compare over 100,000 keys that fails takes the server 265 ms, and a compare of a
            # single key that fails before makes the server skip it.
            last = [is_absent(*directory_range(put.key))]
    if is_strict and not lease:
        compare += join_compares(paths.ancestors(put.key), joined, MAX_TXN_OPS - len(compare) - len(last))
        lease = joined.lease
    compare += last
    if put.dir:
        success = [RequestOp(request_put=PutRequest(key=marker(put.key), lease=lease))]
        if put.prev_exist is not False:
            success.insert(0, RequestOp(request_delete_range=DeleteRangeRequest(key=key, prev_kv=True)))
    else:
        request = PutRequest(key=key, value=encode(put.value or ''), lease=lease, prev_kv=True)
        success = [RequestOp(request_put=request)]
    failure = failure_reads(put.key, is_strict=is_strict) if compare else []
    return TxnRequest(compare=compare, success=success, failure=failure)


# -- the same, encoded


def encode_put(put: Put, *, lease: int = 0, is_strict: bool = True) -> bytes:
    """Return the encoded :func:`txn_of_put`, made from cached parts where possible.

    The parts that depend on the key alone are most of the transaction, and most writes are to keys that were written
    before.  An encoded message may be put together from encoded parts.
    """
    if put.dir:
        return txn_of_put(put, lease=lease, is_strict=is_strict).SerializeToString()
    is_small = len(put.key) * (put.key.count('/') + 5) <= MAX_CACHED_SIZE
    parts_of = _cached_parts_of_put if is_small else _parts_of_put
    if put.is_compared:
        around, request = parts_of(put.key, True, is_strict, not lease)
        around += TxnRequest(compare=conditions(put)[1:]).SerializeToString()
    else:
        around, request = parts_of(put.key, put.prev_exist, is_strict, not lease)
    if put.value:
        request += bytes_field(PUT_VALUE, put.value.encode('utf-8', 'surrogateescape'))
    if lease:
        request += number_field(PUT_LEASE, lease)
    return around + nested_field(TXN_SUCCESS, OP_REQUEST_PUT, request)


class _Parts(NamedTuple):
    """The parts of a transaction that depend on the key alone, encoded.

    Attributes:
        around: Everything but the success half, and the compares of ``prev_value`` and ``prev_index``.
        request: The PutRequest of the success half, without value and lease.
    """

    around: bytes
    request: bytes


def _parts_of_put(key: str, prev_exist: bool | None, is_strict: bool, is_joining: bool) -> _Parts:
    put = Put(key, '', prev_exist=prev_exist)
    txn = txn_of_put(put, lease=0 if is_joining else OTHER_LEASE, is_strict=is_strict)
    request = txn.success[0].request_put
    request.lease = 0
    packed = request.SerializeToString()
    del txn.success[:]  # type: ignore[attr-defined]
    return _Parts(txn.SerializeToString(), packed)


_cached_parts_of_put = lru_cache(maxsize=MAX_CACHED_KEYS)(_parts_of_put)


# -- results


def parse_put(put: Put, response: TxnResponse, ttl: TTL = NO_TTL, *, is_strict: bool = True) -> EtcdResult:
    """Return the result of a write.

    Raises:
        EtcdError: The compares failed.
        ProtocolError: The response has another shape.
    """
    if not response.succeeded:
        raise error_from_failure(put, response, is_strict=is_strict)
    prev_node: Value | None = None
    if put.dir:
        kinds = (PUT,) if put.prev_exist is False else (DELETE, PUT)
        deleted = results_of_txn(response, *kinds)[0]
        if put.prev_exist is not False and deleted.prev_kvs:
            prev_node = value_of(put.key, deleted.prev_kvs[0])
    else:
        results = response.responses  # checked here, not by results_of_txn: this is the hot path of ``set``
        if len(results) != 1 or not results[0].HasField(PUT):
            raise malformed('a write without the result of its put', is_write=True)
        written = results[0].response_put
        if written.HasField('prev_kv'):
            prev_node = value_of(put.key, written.prev_kv)
    return result_of_put(put, prev_node, response.header.revision, response.header.raft_term, ttl)


def result_of_put(put: Put, prev_node: Node | None, index: int, term: int, ttl: TTL) -> EtcdResult:
    """Return the result of a write that was applied.

    Args:
        put: The operation.
        prev_node: The value that was there before, or None.
        index: The index of the write.
        term: The raft term.
        ttl: The TTL of the node.
    """
    node: Node
    if put.dir:
        node = Directory(put.key, index, index, ttl.ttl, ttl.expiration)
    else:
        created = index if prev_node is None else prev_node.created_index
        node = Value(put.key, index, created, ttl.ttl, ttl.expiration, put.value or '')
    if put.is_compared:
        return ComparedThenSwapped(node, prev_node, index, 0, term)
    if put.prev_exist:
        return Updated(node, prev_node, index, 0, term)
    kind = Set if put.prev_exist is None else Created
    return kind(node, prev_node, index, 0, term, prev_node is None)
