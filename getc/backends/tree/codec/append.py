"""Appends to a directory: a transaction for a number, and its result."""

from __future__ import annotations

from typing import Final

from getc import paths
from getc.backends.tree.codec.keyspace import NO_TTL, TTL, check_depth, encode, marker
from getc.backends.tree.codec.responses import PUT, RANGE, malformed, results_of_txn
from getc.backends.tree.codec.txn_failure import error_from_failure, failure_reads, is_absent
from getc.backends.tree.codec.write import refuse_directory_ttl
from getc.errors import NotSupported
from getc.operations import Append
from getc.paths import ROOT, join
from getc.results import Created, Directory, EtcdResult, Node, Value
from getc.v3.schema.kv import PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse

__all__ = ['check_append', 'last_key_of', 'number_of', 'parse_append', 'txn_of_append']

DIGITS: Final = 20
"""Digits of the name of an appended node."""

MAX_NUMBER: Final = 10 ** (DIGITS - 1) - 1
"""Names begin with a zero, so that ``AFTER_NUMBERS`` sorts after all of them."""

AFTER_NUMBERS: Final = b'1'


def check_append(append: Append) -> None:
    """Refuse an append that the tree on v3 does not support.

    Raises:
        NotSupported: It gives a directory a TTL, or the new key has too many segments.
    """
    check_depth(_numbered(append.key, 0))
    if append.dir:
        refuse_directory_ttl(append.ttl)


def txn_of_append(
    append: Append, number: int, *, end: bytes = b'', lease: int = 0, is_strict: bool = True
) -> TxnRequest:
    """Return the transaction that appends a node under a number, if no key of the directory sorts after the number.

    Args:
        append: The operation, checked.
        number: The number.
        end: The first key that may sort after the number; if empty, the first key after all numbers.
        lease: The lease of the node; 0 for a node without a TTL.
        is_strict: Compare that neither the directory nor an ancestor is a value.

    Raises:
        NotSupported: The numbers are used up.
    """
    if number > MAX_NUMBER:
        raise NotSupported(f'{{key}} has a name after which no number of {DIGITS} digits sorts', key=append.key)
    is_guarded = _is_guarded(append, is_strict)
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
        node = Directory(key, index, index)
    else:
        node = Value(key, index, index, ttl.ttl, ttl.expiration, append.value or '')
    return Created(node, None, index, 0, response.header.raft_term, True)


def last_key_of(append: Append, response: TxnResponse, *, is_strict: bool = True) -> bytes:
    """Return the last key that sorts after the number of an append whose compares failed.

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
        raise malformed('an append to {key} was refused, and no later key is there', is_write=True, key=append.key)
    key: bytes = last.kvs[0].key
    return key


def number_of(append: Append, key: bytes) -> int | None:
    """Return the number in the name of a key; None if another program chose the name, which may look similar."""
    name = key[len(marker(append.key)) :].split(b'/', 1)[0]
    return int(name) if len(name) == DIGITS and name.isdigit() else None


def _is_guarded(append: Append, is_strict: bool) -> bool:
    return is_strict and append.key != ROOT


def _numbered(key: str, number: int) -> str:
    return join(key, f'/{number:0{DIGITS}d}')
