"""Appends to a directory: a transaction for a number, and its result."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from getc import paths
from getc.backends.tree.codec.directory_lease import MAX_TXN_OPS, NO_LEASE, DirectoryLease, join_compares
from getc.backends.tree.codec.keyspace import AFTER_SLASH, NO_TTL, TTL, check_depth, encode, marker
from getc.backends.tree.codec.responses import PUT, RANGE, malformed, results_of_txn
from getc.backends.tree.codec.txn_failure import error_from_failure, failure_reads, is_absent
from getc.errors import NotSupported
from getc.operations import Append
from getc.paths import ROOT, join
from getc.results import Created, Directory, EtcdResult, Node, Value
from getc.v3.ranges import next_key
from getc.v3.schema.kv import Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse

__all__ = [
    'check_append',
    'directories_of',
    'encode_append',
    'key_of_number',
    'last_key_of',
    'names_request',
    'next_name',
    'number_of',
    'parse_append',
]

DIGITS: Final = 20
"""Digits of the name of an appended node."""

MAX_NUMBER: Final = 10 ** (DIGITS - 1) - 1
"""Names begin with a zero, so that ``AFTER_NUMBERS`` sorts after all of them."""

AFTER_NUMBERS: Final = b'1'

MAX_CACHED_DIRECTORIES: Final = 1024
"""Directories whose encoded part of an append is cached."""

MAX_CACHED_SIZE: Final = 4000
"""Characters of this part, about: it contains the key five times, and each ancestor three times."""


def check_append(append: Append) -> None:
    """Refuse an append that the tree on v3 does not support.

    Raises:
        NotSupported: The new key has too many segments.
    """
    check_depth(_numbered(append.key, 0))


def encode_append(
    append: Append,
    number: int,
    *,
    read_at: int = 0,
    lease: int = 0,
    is_strict: bool = True,
    joined: DirectoryLease = NO_LEASE,
) -> bytes:
    """Return the encoded TxnRequest that appends a node under a number, if no name of the directory sorts after it.

    The parts that depend on the directory alone are cached: most appends are to directories that had appends before.
    An encoded message may be put together from encoded parts.

    Args:
        append: The operation, checked.
        number: The number.
        read_at: A revision at which all names after the number were read, and found not to be numbers: only names that
            were created since refuse the append.  0 if the names were not read.
        lease: The lease of the node's own TTL; 0 for a node without one.
        is_strict: Compare that neither the directory nor an ancestor is a value.  A node without a TTL of its own joins
            the lease of the directory that it is in: compare that this is ``joined``.
        joined: The nearest directory above the node that has a lease.

    Raises:
        NotSupported: The numbers are used up.
    """
    if number > MAX_NUMBER:
        text = f'cannot append to {{key}}: it contains a name that sorts after every number of {DIGITS} digits'
        raise NotSupported(text, key=append.key)
    guards = b''
    if _is_guarded(append, is_strict):
        is_small = len(append.key) * (append.key.count('/') + 5) <= MAX_CACHED_SIZE
        guards = (_cached_guards if is_small else _guards)(append.key, None if lease else joined)
        lease = lease or joined.lease
    first = encode(_numbered(append.key, number))
    end = marker(append.key) + AFTER_NUMBERS
    last = RangeRequest(
        key=first,
        range_end=end,
        limit=1,
        min_create_revision=read_at + 1 if read_at else 0,
        keys_only=True,
        sort_order=RangeRequest.SortOrder.DESCEND,
        sort_target=RangeRequest.SortTarget.KEY,
    )
    put = PutRequest(key=first + b'/' if append.dir else first, value=encode(append.value or ''), lease=lease)
    txn = TxnRequest(
        compare=[_is_created_by(read_at, first, end) if read_at else is_absent(first, end)],
        success=[RequestOp(request_put=put)],
        failure=[RequestOp(request_range=last)],
    )
    return guards + txn.SerializeToString()


def _guards(key: str, joined: DirectoryLease | None) -> bytes:
    """Encode the compares of the directories that an appended node is in, and the reads if they fail.

    Args:
        key: The directory of the append.
        joined: The lease that the node joins; None for a node with a TTL of its own.
    """
    above = [*paths.ancestors(key), key]
    compare = [is_absent(encode(directory)) for directory in above]
    if joined is not None:
        compare += join_compares(above, joined, MAX_TXN_OPS - len(compare) - 1)
    return TxnRequest(compare=compare, failure=failure_reads(key, keys_only=True)).SerializeToString()


_cached_guards = lru_cache(maxsize=MAX_CACHED_DIRECTORIES)(_guards)


def directories_of(append: Append) -> list[str]:
    """Return the directories that contain the appended node, outermost first, without the root."""
    return paths.ancestors(_numbered(append.key, 0))


def _is_created_by(revision: int, key: bytes, range_end: bytes) -> Compare:
    """Compare: every key of the range was created at this revision or before; true if there is no key."""
    return Compare(
        key=key,
        range_end=range_end,
        target=Compare.CompareTarget.CREATE,
        result=Compare.CompareResult.LESS,
        create_revision=revision + 1,
    )


def key_of_number(append: Append, number: int) -> bytes:
    """Return the key of the node with a number."""
    return encode(_numbered(append.key, number))


def names_request(append: Append, start: bytes, since: int, limit: int) -> RangeRequest:
    """Return the read of a page of names that may sort after a number, in their order.

    Args:
        append: The operation.
        start: The first key of the page.
        since: Only keys that were created after this revision; 0 for all.
        limit: Maximum number of keys.
    """
    end = marker(append.key) + AFTER_NUMBERS
    return RangeRequest(key=start, range_end=end, limit=limit, keys_only=True, min_create_revision=since + 1)


def next_name(append: Append, page: RangeResponse) -> bytes | None:
    """Return the first key of the next page of names, after all keys below the last name; None if there is none.

    Raises:
        ProtocolError: The page is empty, although more keys follow.
    """
    if not page.more:
        return None
    if not page.kvs:
        raise malformed('a page of {key} has no keys, although more keys follow', is_write=False, key=append.key)
    directory, last = marker(append.key), page.kvs[-1].key
    name, slash, _ = last[len(directory) :].partition(b'/')
    return directory + name + AFTER_SLASH if slash else next_key(last)


def parse_append(append: Append, number: int, response: TxnResponse, ttl: TTL = NO_TTL) -> EtcdResult:
    """Return the result of an append whose compares succeeded.

    Raises:
        ProtocolError: The response has another shape.
    """
    results_of_txn(response, PUT)
    index = response.header.revision
    key = _numbered(append.key, number)
    node: Node
    if append.dir:
        node = Directory(key, index, index, ttl.ttl, ttl.expiration)
    else:
        node = Value(key, index, index, ttl.ttl, ttl.expiration, append.value or '')
    return Created(node, None, index, 0, response.header.raft_term, True)


def last_key_of(append: Append, response: TxnResponse, *, is_strict: bool = True) -> bytes | None:
    """Return the last key that sorts after the number of an append whose compares failed.

    None if there is none: then the lease of a directory above refused the append.

    Raises:
        NotDir: The directory, or an ancestor, is a value.
        ProtocolError: The response has another shape.
    """
    count = len(paths.ancestors(append.key)) + 2 if _is_guarded(append, is_strict) else 0
    *reads, last = results_of_txn(response, *[RANGE] * count, RANGE)
    if reads:
        *above, _, itself = (found.kvs for found in reads)
        if itself or any(above):
            failure = TxnResponse(header=response.header, responses=response.responses[:-1])
            raise error_from_failure(append, failure)
    if not last.kvs:
        if reads and append.ttl is None:
            return None
        problem = 'the compare of an append to {key} failed, but the response contains no later key'
        raise malformed(problem, is_write=True, key=append.key)
    return bytes(last.kvs[0].key)


def number_of(append: Append, key: bytes) -> int | None:
    """Return the number in the name of a key; None if another program chose the name, which may look similar."""
    name = key[len(marker(append.key)) :].split(b'/', 1)[0]
    return int(name) if len(name) == DIGITS and name.isdigit() else None


def _is_guarded(append: Append, is_strict: bool) -> bool:
    return is_strict and append.key != ROOT


def _numbered(key: str, number: int) -> str:
    return join(key, f'/{number:0{DIGITS}d}')
