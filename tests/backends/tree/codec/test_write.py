"""Writes as transactions, and their results."""

from __future__ import annotations

from dataclasses import replace

import pytest

from getc.backends.tree.codec import write
from getc.backends.tree.codec.directory_lease import NO_LEASE, DirectoryLease
from getc.backends.tree.codec.keyspace import TTL
from getc.backends.tree.codec.write import check_put, encode_put, parse_put, txn_of_put
from getc.errors import NotSupported, ProtocolError, RootROnly
from getc.operations import Put
from getc.results import ComparedThenSwapped, Created, Directory, Set, Updated, Value
from getc.v3.schema.kv import ResponseOp, TxnRequest
from tests.backends.tree.codec.messages import INDEX, compares, deletion, does, found, kv, put, response

FAILURE_READS = [('range', b'/a'), ('range', b'/a/b'), ('range', b'/a/b/c/', b'/a/b/c0'), ('range', b'/a/b/c')]
NO_TTL_ABOVE = [('lease', b'/a/b/', 0), ('lease', b'/a/', 0)]
INSIDE = ('none', b'/a/b/c/', b'/a/b/c0')
GUARD = [('none', b'/a'), ('none', b'/a/b'), *NO_TTL_ABOVE, INSIDE]
KEY = '/a/b/c'


# -- requests


def test_set_compares_the_ancestors_first_and_the_range_below_last() -> None:
    """A compare over 100,000 keys takes long; a single key that fails before makes the server skip it."""
    txn = txn_of_put(Put(KEY, 'x'))
    assert compares(txn) == GUARD
    assert does(txn.success) == [('put', b'/a/b/c', b'x')]
    assert does(txn.failure) == FAILURE_READS


def test_create_compares_the_key_before_all_others() -> None:
    txn = txn_of_put(Put(KEY, 'x', prev_exist=False))
    assert compares(txn) == [('none', b'/a/b/c'), *GUARD]
    assert does(txn.failure) == FAILURE_READS


def test_update_compares_the_node_and_the_leases_above() -> None:
    """If the node is a value, no ancestor is one."""
    txn = txn_of_put(Put(KEY, 'x', prev_exist=True, prev_value='old', prev_index=7))
    conditions = [('value', b'/a/b/c', b'old'), ('mod_revision', b'/a/b/c', 7)]
    assert compares(txn) == [('there', b'/a/b/c'), *NO_TTL_ABOVE, *conditions]
    assert does(txn.success) == [('put', b'/a/b/c', b'x')]
    assert does(txn.failure) == FAILURE_READS


def test_set_of_a_directory_deletes_the_value_and_puts_the_marker() -> None:
    txn = txn_of_put(Put('/d', dir=True))
    assert compares(txn) == [('none', b'/d/', b'/d0')]
    assert does(txn.success) == [('delete_range', b'/d'), ('put', b'/d/', b'')]


def test_create_of_a_directory_only_puts_the_marker() -> None:
    txn = txn_of_put(Put('/d', dir=True, prev_exist=False))
    assert compares(txn) == [('none', b'/d'), ('none', b'/d/', b'/d0')]
    assert does(txn.success) == [('put', b'/d/', b'')]


def test_write_does_not_touch_the_ancestors_when_not_strict() -> None:
    """The server demands the permission even for reads that it does not perform."""
    txn = txn_of_put(Put(KEY, 'x'), is_strict=False)
    assert (compares(txn), does(txn.failure)) == ([], [])
    txn = txn_of_put(Put(KEY, 'x', prev_exist=False), is_strict=False)
    assert (compares(txn), does(txn.failure)) == ([('none', b'/a/b/c')], FAILURE_READS[2:])


@pytest.mark.parametrize(
    ('write', 'without_leases'),
    [
        (Put(KEY, 'x', ttl=5), [('none', b'/a'), ('none', b'/a/b'), INSIDE]),
        (Put(KEY, 'x', ttl=5, prev_exist=True), [('there', b'/a/b/c')]),
    ],
    ids=repr,
)
def test_write_with_a_ttl_does_not_compare_the_leases_above(write: Put, without_leases: list[object]) -> None:
    """The node has its own lease."""
    assert compares(txn_of_put(write, lease=77)) == without_leases


def test_write_below_a_directory_with_a_ttl_joins_and_compares_its_lease() -> None:
    """The nearest one counts, so those above it are not compared."""
    joined = DirectoryLease('/a/b', 88)
    for operation in (Put(KEY, 'x'), Put(KEY, dir=True), Put(KEY, 'x', prev_exist=True)):
        txn = txn_of_put(operation, joined=joined)
        assert [each for each in compares(txn) if each[0] == 'lease'] == [('lease', b'/a/b/', 88)]
        assert txn.success[-1].request_put.lease == 88
    txn = txn_of_put(Put(KEY, 'x'), joined=DirectoryLease('/a', 99))
    assert [each for each in compares(txn) if each[0] == 'lease'] == [('lease', b'/a/', 99), ('lease', b'/a/b/', 0)]


@pytest.mark.parametrize('prev_exist', [None, False, True])
@pytest.mark.parametrize('joined', [NO_LEASE, DirectoryLease('/s', 88)], ids=repr)
def test_transaction_of_a_deep_key_has_as_many_compares_as_etcd_accepts(
    prev_exist: bool | None, joined: DirectoryLease
) -> None:
    """Those of the nearest directories, and always that of the lease which is joined."""
    txn = txn_of_put(Put('/s' * 126, 'x', prev_exist=prev_exist), joined=joined)
    assert max(len(txn.compare), len(txn.failure)) <= 128
    leases = [each for each in compares(txn) if each[0] == 'lease']
    if joined.lease:
        assert leases.pop(0) == ('lease', b'/s/', 88)
    assert [each[1].count(b'/') for each in leases] == list(range(126, 126 - len(leases), -1))
    assert len(leases) == (125 if prev_exist else 1 + (prev_exist is None)) - (joined.lease > 0)


def test_put_has_the_lease_or_none() -> None:
    """A put without a lease drops the TTL that the node had."""
    assert txn_of_put(Put(KEY, 'x', ttl=5), lease=77).success[0].request_put.lease == 77
    assert txn_of_put(Put(KEY, 'x')).success[0].request_put.lease == 0


@pytest.mark.parametrize('is_strict', [True, False])
@pytest.mark.parametrize(
    'write',
    [
        Put(KEY, 'x'),
        Put(KEY, ''),
        Put(KEY, 'x', prev_exist=False),
        Put(KEY, 'x', prev_exist=True),
        Put(KEY, 'x', prev_value='old', prev_index=7),
        Put('/d', dir=True),
        Put('/d', dir=True, prev_exist=False),
    ],
    ids=repr,
)
def test_encoded_put_equals_the_transaction(write: Put, is_strict: bool) -> None:
    """Also from cached parts, with another value and another lease."""
    for lease, value in ((0, write.value), (77, write.value and 'another value')):
        again = replace(write, value=value)
        encoded = TxnRequest.FromString(encode_put(again, lease=lease, is_strict=is_strict))
        assert encoded == txn_of_put(again, lease=lease, is_strict=is_strict)


@pytest.mark.parametrize('key', ['/' + 'directory' * 1000, '/directory' * 40], ids=['long', 'deep'])
def test_encoded_put_of_a_large_key_is_not_cached(key: str) -> None:
    before = write._cached_parts_of_put.cache_info()
    assert TxnRequest.FromString(encode_put(Put(key, 'x'))) == txn_of_put(Put(key, 'x'))
    assert write._cached_parts_of_put.cache_info() == before


# -- checks


def test_check_refuses_a_key_that_is_too_deep() -> None:
    with pytest.raises(NotSupported, match='on etcd v3'):
        check_put(Put('/d' * 127, 'x'))


def test_check_accepts_the_deepest_key() -> None:
    check_put(Put('/d' * 126, 'x'))


def test_check_refuses_to_write_the_root() -> None:
    with pytest.raises(RootROnly):
        check_put(Put('/', 'x'))


# -- results


def test_written_value_keeps_its_created_index() -> None:
    result = parse_put(Put('/a', 'new'), response(put(kv('/a', 'old')), succeeded=True), TTL.of(9, 0.0))
    assert type(result) is Set
    assert (result.node.modified_index, result.node.created_index, result.etcd_index) == (INDEX, 3, INDEX)
    assert (result.value, result.ttl, result.raft_term, result.is_new) == ('new', 9, 2, False)
    assert result.prev_node == Value('/a', 5, 3, None, None, 'old')


@pytest.mark.parametrize(
    ('operation', 'kind', 'is_new'),
    [
        (Put('/a', 'x'), Set, True),
        (Put('/a', 'x', prev_exist=False), Created, True),
        (Put('/a', 'x', prev_exist=True), Updated, False),
        (Put('/a', 'x', prev_value='o'), ComparedThenSwapped, False),
        (Put('/a', 'x', prev_exist=True, prev_index=5), ComparedThenSwapped, False),
    ],
)
def test_result_has_the_class_of_its_operation(operation: Put, kind: type, is_new: bool) -> None:
    result = parse_put(operation, response(put(), succeeded=True))
    assert (type(result), result.is_new) == (kind, is_new)


def test_written_directory_has_the_value_before_it() -> None:
    result = parse_put(Put('/a', dir=True), response(deletion(kv('/a', 'old')), put(), succeeded=True))
    assert result.node == Directory('/a', INDEX, INDEX)
    ttl = TTL.of(9, 0.0)
    assert parse_put(Put('/a', dir=True, ttl=9), response(deletion(), put(), succeeded=True), ttl).ttl == 9
    assert result.prev_node == Value('/a', 5, 3, None, None, 'old')
    assert not result.is_new
    assert parse_put(Put('/a', dir=True), response(deletion(), put(), succeeded=True)).is_new
    assert parse_put(Put('/a', dir=True, prev_exist=False), response(put(), succeeded=True)).is_new


@pytest.mark.parametrize(
    ('operation', 'results'),
    [
        (Put('/a', 'x'), []),
        (Put('/a', 'x'), [found()]),
        (Put('/a', 'x'), [ResponseOp()]),
        (Put('/a', 'x'), [put(), put()]),
        (Put('/a', dir=True), [put()]),
        (Put('/a', dir=True), [put(), deletion()]),
        (Put('/a', dir=True, prev_exist=False), [deletion(), put()]),
    ],
)
def test_malformed_result_is_a_protocol_error_of_a_write_that_may_be_applied(
    operation: Put, results: list[ResponseOp]
) -> None:
    with pytest.raises(ProtocolError, match='malformed response of etcd v3') as caught:
        parse_put(operation, response(*results, succeeded=True))
    assert caught.value.maybe_applied
