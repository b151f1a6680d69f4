"""Writes: one transaction each, and what its response means."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from getc import paths
from getc.backends.tree.codec.keyspace import below, check_depth, encode, marker
from getc.backends.tree.codec.nodes import NO_TTL, TTL, value_of
from getc.backends.tree.codec.txn_failure import conditions, error_from_failure, failure_reads, is_absent
from getc.errors import NotSupported, RootROnly
from getc.operations import Append, Put
from getc.paths import ROOT, join
from getc.results import ComparedThenSwapped, Created, Directory, EtcdResult, Node, Set, Updated, Value
from getc.v3.protobuf_fields import bytes_field, number_field
from getc.v3.schema.kv import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)

__all__ = [
    'appended',
    'check',
    'last_of',
    'number_of',
    'packed_put',
    'result_of_put',
    'txn_of_append',
    'txn_of_put',
    'written',
]

NUMBER: Final = 20
"""Digits of the name that an append gives."""

LAST_NUMBER: Final = 10 ** (NUMBER - 1) - 1
"""Names begin with a zero, so that ``AFTER_NUMBERS`` comes after all of them."""

AFTER_NUMBERS: Final = b'1'

REMEMBERED: Final = 4096
"""Keys of which the parts of a write are remembered."""

MOST_REMEMBERED: Final = 4000
"""Letters of these parts at most, or little more: they name the key six times, and with it all that is above it."""

SUCCESS: Final = 2
REQUEST_PUT: Final = 2
VALUE: Final = 2
LEASE: Final = 3
"""The numbers of the fields in TxnRequest, RequestOp and PutRequest."""


def check(operation: Put | Append) -> None:
    """Refuse what the tree on v3 does not have.

    Raises:
        NotSupported: A directory with a TTL, or changed in place; a key too deep.
        RootROnly: The root cannot be written.
    """
    check_depth(operation.key if isinstance(operation, Put) else _numbered(operation.key, 0))
    if isinstance(operation, Put):
        if operation.key == ROOT:
            raise RootROnly('Root is read only', ROOT)
        if operation.dir and (operation.prev_exist or operation.is_compared) and not operation.refresh:
            raise NotSupported('on etcd v3 a directory has nothing that could be changed: delete it, or write into it')
    if operation.dir and operation.ttl is not None and not (isinstance(operation, Put) and operation.refresh):
        raise NotSupported('on etcd v3 a directory has no TTL: give its nodes one')


def txn_of_put(put: Put, *, lease: int = 0, is_strict: bool = True) -> TxnRequest:
    """The transaction of a write that is no refresh.

    Args:
        put: What to write, checked.
        lease: By which the node lives; 0 for ever.
        is_strict: Make sure that no value is above the node, and no directory in its place.
    """
    key = encode(put.key)
    if put.prev_exist or put.is_compared:
        compare = conditions(put)
    else:
        compare = [is_absent(key)] if put.prev_exist is False else []
        compare += _guard(put.key) if is_strict else []
    if put.dir:
        success = [RequestOp(request_put=PutRequest(key=marker(put.key)))]
        if put.prev_exist is not False:
            success.insert(0, RequestOp(request_delete_range=DeleteRangeRequest(key=key, prev_kv=True)))
    else:
        request = PutRequest(key=key, value=encode(put.value or ''), lease=lease, prev_kv=True)
        success = [RequestOp(request_put=request)]
    failure = failure_reads(put.key, is_strict=is_strict) if compare else []
    return TxnRequest(compare=compare, success=success, failure=failure)


def packed_put(put: Put, *, lease: int = 0, is_strict: bool = True) -> bytes:
    """The same, packed.

    What depends on the key alone is remembered, packed as well: a message may be put together from parts.  That is most
    of the transaction, and most writes are to keys that were written before.
    """
    if put.dir or put.prev_exist or put.is_compared:
        return txn_of_put(put, lease=lease, is_strict=is_strict).SerializeToString()
    is_small = len(put.key) * (put.key.count('/') + 5) <= MOST_REMEMBERED
    parts_of = _remembered_parts_of_put if is_small else _parts_of_put
    around, request = parts_of(put.key, put.prev_exist, is_strict)
    if put.value:
        request += bytes_field(VALUE, encode(put.value))
    if lease:
        request += number_field(LEASE, lease)
    return around + bytes_field(SUCCESS, bytes_field(REQUEST_PUT, request))


class _Parts(NamedTuple):
    """What of a write depends on its key alone, packed: all but the success half, and what that begins with."""

    around: bytes
    request: bytes


def _parts_of_put(key: str, prev_exist: bool | None, is_strict: bool) -> _Parts:
    txn = txn_of_put(Put(key, '', prev_exist=prev_exist), is_strict=is_strict)
    request = txn.success[0].request_put.SerializeToString()
    del txn.success[:]  # type: ignore[attr-defined]
    return _Parts(txn.SerializeToString(), request)


_remembered_parts_of_put = lru_cache(maxsize=REMEMBERED)(_parts_of_put)


def written(put: Put, response: TxnResponse, life: TTL = NO_TTL) -> EtcdResult:
    """What a write did.

    Raises:
        EtcdError: It was refused.
    """
    if not response.succeeded:
        raise error_from_failure(put, response)
    header, first = response.header, response.responses[0]
    prev_node: Value | None = None
    if put.dir:
        if first.response_delete_range.prev_kvs:
            prev_node = value_of(put.key, first.response_delete_range.prev_kvs[0])
    elif first.response_put.HasField('prev_kv'):
        prev_node = value_of(put.key, first.response_put.prev_kv)
    return result_of_put(put, prev_node, header.revision, header.raft_term, life)


def result_of_put(put: Put, prev_node: Node | None, index: int, term: int, life: TTL) -> EtcdResult:
    """The result of a write that was done at an index.

    Args:
        put: What was written.
        prev_node: The value that was there before, or None.
        index: The index of the write.
        term: The election's.
        life: How long the node lives.
    """
    node: Node
    if put.dir:
        node = Directory(put.key, index, index)
    else:
        created = index if prev_node is None else prev_node.created_index
        node = Value(put.key, index, created, life.ttl, life.expiration, put.value or '')
    kind = _kind_of(put)
    is_new = prev_node is None and kind in (Set, Created)
    return kind(node, prev_node, index, 0, term, is_new)


def _kind_of(put: Put) -> type[EtcdResult]:
    if put.is_compared:
        return ComparedThenSwapped
    return Set if put.prev_exist is None else Updated if put.prev_exist else Created


def _guard(key: str) -> list[Compare]:
    """That every node above is no value, and that there is nothing below.

    The range comes last: a comparison over 100,000 keys that fails takes the server 265 ms, and single keys that fail
    before it cut it short.
    """
    compare = [is_absent(encode(ancestor)) for ancestor in paths.ancestors(key)]
    return [*compare, is_absent(*below(key))]


# -- append


def txn_of_append(
    append: Append, number: int, *, end: bytes = b'', lease: int = 0, is_strict: bool = True
) -> TxnRequest:
    """The transaction that appends under this number, if nothing comes after it.

    Args:
        append: What to append, checked.
        number: Its name.
        end: The first key that may come after it; left out for what comes after all numbers.
        lease: By which the node lives; 0 for ever.
        is_strict: Make sure that neither the directory nor what is above it is a value.

    Raises:
        NotSupported: There are no more numbers.
    """
    if number > LAST_NUMBER:
        raise NotSupported(f'{append.key} has a name after which no number of {NUMBER} digits comes')
    is_guarded = is_strict and append.key != ROOT
    above = [*paths.ancestors(append.key), append.key] if is_guarded else []
    compare = [is_absent(encode(ancestor)) for ancestor in above]
    first = encode(_numbered(append.key, number))
    if end <= first:
        end = marker(append.key) + AFTER_NUMBERS
    compare.append(is_absent(first, end))
    key = first + b'/' if append.dir else first
    last = RangeRequest(
        key=first,
        range_end=end,
        limit=1,
        keys_only=True,
        sort_order=RangeRequest.SortOrder.DESCEND,
        sort_target=RangeRequest.SortTarget.KEY,
    )
    return TxnRequest(
        compare=compare,
        success=[RequestOp(request_put=PutRequest(key=key, value=encode(append.value or ''), lease=lease))],
        failure=[*(failure_reads(append.key, keys_only=True) if is_guarded else ()), RequestOp(request_range=last)],
    )


def appended(append: Append, number: int, response: TxnResponse, life: TTL = NO_TTL) -> EtcdResult:
    """What a successful append did."""
    index = response.header.revision
    key = _numbered(append.key, number)
    node: Node
    if append.dir:
        node = Directory(key, index, index)
    else:
        node = Value(key, index, index, life.ttl, life.expiration, append.value or '')
    return Created(node, None, index, 0, response.header.raft_term, True)


def last_of(append: Append, response: TxnResponse) -> bytes:
    """The last key that is in the way of a refused append.

    Raises:
        NotDir: The directory, or one above it, is a value.
    """
    *found, last = response.responses
    if found:
        *above, _, itself = (each.response_range.kvs for each in found)
        if itself or any(above):
            raise error_from_failure(append, TxnResponse(header=response.header, responses=found))
    key: bytes = last.response_range.kvs[0].key
    return key


def number_of(append: Append, key: bytes) -> int | None:
    """The number in a key's name; None if it is another program's name, which may look much like one."""
    name = key[len(marker(append.key)) :].split(b'/', 1)[0]
    return int(name) if len(name) == NUMBER and name.isdigit() else None


def _numbered(key: str, number: int) -> str:
    return join(key, f'/{number:0{NUMBER}d}')
