"""Appends as transactions, and their results."""

from __future__ import annotations

from typing import Any

import pytest

from getc.backends.tree.codec import append as codec
from getc.backends.tree.codec.append import (
    MAX_NUMBER,
    check_append,
    directories_of,
    encode_append,
    key_of_number,
    last_key_of,
    names_request,
    next_name,
    number_of,
    parse_append,
)
from getc.backends.tree.codec.directory_lease import DirectoryLease
from getc.errors import NotDir, NotSupported, ProtocolError
from getc.operations import Append
from getc.results import Created, Directory, Value
from getc.v3.schema.kv import Compare, RangeResponse, ResponseOp, TxnRequest
from tests.backends.tree.codec.messages import INDEX, compares, does, found, kv, put, response

FIRST = b'/a/b/00000000000000000007'
LATER = found(kv('/q/00000000000000000012'))


# -- requests


def txn_of(append: Append, number: int, **options: Any) -> TxnRequest:
    return TxnRequest.FromString(encode_append(append, number, **options))


def test_append_compares_the_ancestors_and_then_the_numbers() -> None:
    txn = txn_of(Append('/a/b', 'x'), 7, lease=77)
    assert compares(txn) == [('none', b'/a'), ('none', b'/a/b'), ('none', FIRST, b'/a/b/1')]
    assert does(txn.success) == [('put', FIRST, b'x')]
    assert txn.success[0].request_put.lease == 77
    reads = [('range', b'/a'), ('range', b'/a/b/', b'/a/b0'), ('range', b'/a/b')]
    assert does(txn.failure) == [*reads, ('range', FIRST, b'/a/b/1')]
    assert txn.failure[-1].request_range.limit == 1


def test_append_without_a_ttl_joins_the_lease_of_the_directory() -> None:
    """Of the nearest one that has a lease."""
    txn = txn_of(Append('/a/b', 'x'), 7)
    above = [('none', b'/a'), ('none', b'/a/b')]
    assert compares(txn) == [*above, ('lease', b'/a/b/', 0), ('lease', b'/a/', 0), ('none', FIRST, b'/a/b/1')]
    txn = txn_of(Append('/a/b', 'x'), 7, joined=DirectoryLease('/a/b', 88))
    assert compares(txn) == [*above, ('lease', b'/a/b/', 88), ('none', FIRST, b'/a/b/1')]
    assert txn.success[0].request_put.lease == 88
    assert directories_of(Append('/a/b', 'x')) == ['/a', '/a/b']
    assert directories_of(Append('/', 'x')) == []


def test_guards_of_long_directories_are_not_cached() -> None:
    before = codec._cached_guards.cache_info()
    assert compares(txn_of(Append('/' + 'd' * 1000, 'x'), 7))[0] == ('none', b'/' + b'd' * 1000)
    assert codec._cached_guards.cache_info() == before
    txn_of(Append('/guards/cached', 'x'), 7)
    txn_of(Append('/guards/cached', 'y'), 8)
    after = codec._cached_guards.cache_info()
    assert (after.misses, after.hits) == (before.misses + 1, before.hits + 1)


def test_append_to_a_deep_directory_has_as_many_compares_as_etcd_accepts() -> None:
    txn = txn_of(Append('/s' * 125, 'x'), 7)
    assert max(len(txn.compare), len(txn.failure)) == 128
    assert compares(txn)[125:127] == [('lease', b'/s' * 125 + b'/', 0), ('lease', b'/s' * 124 + b'/', 0)]


def test_append_was_refused_for_a_lease_when_there_is_no_later_key() -> None:
    refused = response(found(), found(), found(), succeeded=False)
    assert last_key_of(Append('/q', 'x'), refused) is None
    with pytest.raises(ProtocolError):
        last_key_of(Append('/q', 'x', ttl=60), refused)


def test_append_compares_only_the_numbers_when_not_strict() -> None:
    txn = txn_of(Append('/a/b', 'x'), 7, is_strict=False)
    assert compares(txn) == [('none', FIRST, b'/a/b/1')]
    assert does(txn.failure) == [('range', FIRST, b'/a/b/1')]


def test_append_of_a_directory_puts_a_marker() -> None:
    txn = txn_of(Append('/', dir=True), 7)
    assert compares(txn) == [('none', b'/00000000000000000007', b'/1')]
    assert does(txn.success) == [('put', b'/00000000000000000007/', b'')]


def test_append_is_refused_only_by_later_names_when_the_names_were_read() -> None:
    """It creates a node under a number, so a name that was created before the read cannot be a number above it."""
    txn = txn_of(Append('/q', 'x'), 7, read_at=40)
    assert compares(txn)[-1] == ('create_revision', b'/q/00000000000000000007', b'/q/1', 41)
    assert txn.compare[-1].result == Compare.CompareResult.LESS
    assert txn.failure[-1].request_range.min_create_revision == 41


def test_page_of_names_is_followed_by_the_keys_after_its_last_name() -> None:
    """The keys below a name are skipped."""
    append = Append('/q', 'x')
    request = names_request(append, key_of_number(append, 7), 40, 10)
    assert (request.key, request.range_end) == (b'/q/00000000000000000007', b'/q/1')
    assert (request.min_create_revision, request.limit, request.keys_only) == (41, 10, True)

    def page(key: str, more: bool = True) -> RangeResponse:
        return RangeResponse(kvs=[kv(key)], more=more)

    assert next_name(append, page('/q/0a')) == b'/q/0a\0'
    assert next_name(append, page('/q/0a/x/y')) == b'/q/0a0'
    assert next_name(append, page('/q/0a', more=False)) is None
    with pytest.raises(ProtocolError, match='a page of /q has no keys, although more keys follow'):
        next_name(append, RangeResponse(more=True))


def test_append_is_refused_when_the_numbers_are_used_up() -> None:
    assert compares(txn_of(Append('/q', 'x'), MAX_NUMBER))[-1][1] == b'/q/09999999999999999999'
    with pytest.raises(NotSupported, match='cannot append to /q: it contains a name that sorts after'):
        txn_of(Append('/q', 'x'), MAX_NUMBER + 1)


def test_check_refuses_a_key_that_is_too_deep() -> None:
    """The new key has 126 segments at most."""
    with pytest.raises(NotSupported, match='on etcd v3'):
        check_append(Append('/d' * 126, 'x'))


def test_check_accepts_the_deepest_key() -> None:
    check_append(Append('/d' * 125, 'x'))


# -- responses


def test_appended_node_is_created_under_its_number() -> None:
    done = response(put(), succeeded=True)
    assert parse_append(Append('/q', 'x'), 7, done) == Created(
        Value('/q/00000000000000000007', INDEX, INDEX, None, None, 'x'), None, INDEX, 0, 2, True
    )
    assert parse_append(Append('/q', dir=True), 7, done).node == Directory('/q/00000000000000000007', INDEX, INDEX)


@pytest.mark.parametrize(
    ('name', 'number'),
    [
        (b'00000000000000000012', 12),
        (b'00000000000000000012/', 12),
        (b'00000000000000000012/below', 12),
        (b'0000000000000000007', None),
        (b'000000000000000000120', None),
        (b'0zebra', None),
        ('0000000000000000000\u00b2'.encode(), None),
    ],
)
def test_number_of_a_name_needs_exactly_20_digits(name: bytes, number: int | None) -> None:
    assert number_of(Append('/q', 'x'), b'/q/' + name) == number


def test_last_key_is_the_one_that_refused_the_number() -> None:
    append = Append('/p/q', 'x')
    assert last_key_of(append, response(found(), found(), found(), LATER, succeeded=False)).endswith(b'12')
    assert last_key_of(append, response(LATER, succeeded=False), is_strict=False).endswith(b'12')


def test_append_is_refused_when_the_directory_or_an_ancestor_is_a_value() -> None:
    """Also if there are numbers, which another program wrote: another number would be refused again."""
    append = Append('/p/q', 'x')
    with pytest.raises(NotDir) as caught:
        last_key_of(append, response(found(), found(kv('/p/q/x')), found(kv('/p/q')), LATER, succeeded=False))
    assert caught.value.cause == '/p/q'
    with pytest.raises(NotDir) as caught:
        last_key_of(append, response(found(kv('/p')), found(), found(), LATER, succeeded=False))
    assert caught.value.cause == '/p'


@pytest.mark.parametrize('results', [[], [LATER], [found(), found(), found(), put()]])
def test_malformed_refusal_is_a_protocol_error(results: list[ResponseOp]) -> None:
    with pytest.raises(ProtocolError, match='malformed response of etcd v3'):
        last_key_of(Append('/p/q', 'x'), response(*results, succeeded=False))


@pytest.mark.parametrize('results', [[], [found()], [put(), put()]])
def test_malformed_result_is_a_protocol_error_of_a_write_that_may_be_applied(results: list[ResponseOp]) -> None:
    with pytest.raises(ProtocolError, match='malformed response of etcd v3') as caught:
        parse_append(Append('/q', 'x'), 7, response(*results, succeeded=True))
    assert caught.value.maybe_applied
