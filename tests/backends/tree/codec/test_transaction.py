"""Transactions of several nodes as one transaction of etcd, and their results."""

from __future__ import annotations

from typing import Any

import pytest

from getc.backends.tree.codec.keyspace import TTL
from getc.backends.tree.codec.transaction import (
    DirectoryLeaseChanged,
    EncodedTransaction,
    parse_snapshot,
    txn_of_snapshot,
)
from getc.errors import KeyNotFound, NodeExist, NodeLost, NotDir, NotFile, ProtocolError, TestFailed
from getc.operations import Delete, Get, Put
from getc.transactions import Check, Conflict, Guard, Snapshot, SnapshotRead, Transaction, Version
from getc.v3.schema.kv import Compare, ResponseOp, TxnRequest, TxnResponse
from getc.v3.schema.mvccpb import KeyValue
from tests.backends.tree.codec.messages import INDEX, compares, deletion, does, found, kv, put, response


def encoded(transaction: Transaction, *, is_strict: bool = True) -> TxnRequest:
    return EncodedTransaction(transaction, is_strict=is_strict).request({60: (7, TTL(60, None))})


def nested(*, succeeded: bool) -> ResponseOp:
    return ResponseOp(response_txn=TxnResponse(succeeded=succeeded))


# -- requests


def test_structural_compares_are_sent_once_and_those_of_directories_last() -> None:
    txn = encoded(Transaction(operations=(Put('/a/b/x', '1'), Put('/a/b/y', '2'), Put('/a/z', '3', prev_exist=False))))
    assert compares(txn) == [
        ('mod_revision', b'/a', 0),
        ('mod_revision', b'/a/b', 0),
        ('mod_revision', b'/a/z', 0),
        ('lease', b'/a/b/', 0),
        ('lease', b'/a/', 0),
        ('none', b'/a/b/x/', b'/a/b/x0'),
        ('none', b'/a/b/y/', b'/a/b/y0'),
        ('none', b'/a/z/', b'/a/z0'),
    ]
    assert does(txn.success) == [('put', b'/a/b/x', b'1'), ('put', b'/a/b/y', b'2'), ('put', b'/a/z', b'3')]
    assert does(txn.failure) == [
        ('range', b'/a'),
        ('range', b'/a/b'),
        ('range', b'/a/z'),
        ('range', b'/a/b/'),
        ('range', b'/a/'),
        ('range', b'/a/b/x/', b'/a/b/x0'),
        ('range', b'/a/b/y/', b'/a/b/y0'),
        ('range', b'/a/z/', b'/a/z0'),
    ]


def test_without_strict_only_the_node_itself_is_compared() -> None:
    checks = (Check('/a/w', exists=False),)
    txn = encoded(Transaction(checks, (Put('/a/x', '1'), Put('/a/y', '2', prev_exist=False))), is_strict=False)
    assert compares(txn) == [('mod_revision', b'/a/w', 0), ('mod_revision', b'/a/y', 0)]
    assert does(txn.failure) == [('range', b'/a/w'), ('range', b'/a/y')]
    assert compares(encoded(Transaction(operations=(Put('/x', '1'),)), is_strict=False)) == []


def test_guard_is_compared_first_by_creation_and_lease() -> None:
    check = Check('/a', index=5)
    txn = encoded(Transaction((check,), guard=Guard('/owner', 3, 9)))
    assert compares(txn) == [
        ('create_revision', b'/owner', 3),
        ('lease', b'/owner', 9),
        ('mod_revision', b'/a', 5),
    ]
    assert does(txn.failure) == [
        ('range', b'/owner'),
        ('range', b'/a'),
        ('range', b'/a/', b'/a0'),
        ('txn', [('lease', b'/owner', 9)], [], []),
    ]
    assert all(each.request_range.keys_only for each in txn.failure[:3])
    assert compares(encoded(Transaction(guard=Guard('/lock/x', 3)))) == [('create_revision', b'/lock/x', 3)]


def test_conditions_of_checks_and_operations() -> None:
    checks = (
        Check('/a', exists=True),
        Check('/b', index=5),
        Check('/c', value='x'),
        Check('/d', index=0),
        Check('/e', max_index=9),
    )
    operations = (
        Get('/f'),
        Delete('/g', prev_index=4),
        Put('/h', '1', prev_exist=True),
        Put('/i', '1', prev_value='y'),
    )
    txn = encoded(Transaction(checks, operations))
    assert compares(txn) == [
        ('there', b'/a'),
        ('mod_revision', b'/b', 5),
        ('value', b'/c', b'x'),
        ('mod_revision', b'/d', 0),
        ('mod_revision', b'/e', 10),
        ('there', b'/f'),
        ('mod_revision', b'/g', 4),
        ('there', b'/h'),
        ('value', b'/i', b'y'),
    ]
    assert [Compare.CompareResult(each.result).name for each in txn.compare if each.key == b'/e'] == ['LESS']


def test_failure_half_reads_no_value() -> None:
    """Values may be large: they are compared again, in nested transactions."""
    txn = encoded(Transaction((Check('/a', value='x'),), (Put('/b', '1', prev_value='y'),)))
    assert all(each.request_range.keys_only for each in txn.failure if each.HasField('request_range'))
    assert does(txn.failure)[-2:] == [
        ('txn', [('value', b'/a', b'x')], [], []),
        ('txn', [('value', b'/b', b'y')], [], []),
    ]


def test_refetched_nodes_are_read_with_their_values() -> None:
    txn = encoded(Transaction((Check('/a', index=5),), (Put('/b', '1'),), refetch=('/a', '/b')))
    reads = {each.request_range.key: each.request_range.keys_only for each in txn.failure}
    assert reads == {b'/a': False, b'/b': False, b'/b/': True}


def test_put_has_the_lease_of_its_ttl() -> None:
    txn = encoded(Transaction(operations=(Put('/a', '1', ttl=60), Put('/b', '1'))))
    assert [each.request_put.lease for each in txn.success] == [7, 0]


def test_node_without_a_ttl_joins_the_lease_of_the_nearest_directory_that_has_one() -> None:
    """Directories that are farther away are not compared."""
    transaction = Transaction(operations=(Put('/a/b/c/x', '1'), Put('/a/y', '1', ttl=60), Put('/z', '1')))
    known = {'/a/b': 5, '/a': 6, '/other': 7}
    txn = EncodedTransaction(transaction, is_strict=True, directory_leases=known).request({60: (7, TTL(60, None))})
    compared = [each for each in compares(txn) if each[0] == 'lease']
    assert compared == [('lease', b'/a/b/c/', 0), ('lease', b'/a/b/', 5)]
    assert [each.request_put.lease for each in txn.success] == [5, 7, 0]


def test_refusal_because_of_the_lease_of_a_directory_has_the_leases() -> None:
    encoded = EncodedTransaction(Transaction(operations=(Put('/a/b/x', '1'),)), is_strict=True)
    marked = KeyValue(key=b'/a/', mod_revision=3, create_revision=3, lease=9)
    reads = [found(), found(), found(), found(marked), found()]
    with pytest.raises(DirectoryLeaseChanged) as caught:
        encoded.parse(response(*reads, succeeded=False), {})
    assert caught.value.leases == {'/a/b': 0, '/a': 9}


def test_other_conditions_come_before_the_lease_of_a_directory() -> None:
    encoded = EncodedTransaction(Transaction(operations=(Put('/a/x', '1', prev_exist=False),)), is_strict=True)
    marked = KeyValue(key=b'/a/', mod_revision=3, create_revision=3, lease=9)
    with pytest.raises(NodeExist):
        encoded.parse(response(found(), found(kv('/a/x')), found(marked), found(), succeeded=False), {})


# -- refusals


def error_of(transaction: Transaction, *done: ResponseOp) -> Any:
    parse = EncodedTransaction(transaction, is_strict=True).parse
    with pytest.raises((NodeLost, KeyNotFound, NodeExist, NotDir, NotFile, TestFailed, ProtocolError)) as caught:
        parse(response(*done, succeeded=False), {})
    return caught.value


@pytest.mark.parametrize(
    ('owner', 'is_on_lease', 'reason'),
    [
        ((), False, 'it was deleted, or has expired'),
        ((kv('/owner', created=4),), True, 'it was written by another client, or acquired again'),
        ((kv('/owner', created=3),), False, 'it was written by another client, or acquired again'),
    ],
    ids=['deleted', 'created again', 'another lease'],
)
def test_guard_that_does_not_hold_is_node_lost(owner: tuple[KeyValue, ...], is_on_lease: bool, reason: str) -> None:
    """The lease is compared again: etcd 3.7 returns it only together with the value."""
    transaction = Transaction((Check('/a', index=5),), guard=Guard('/owner', 3, 9))
    error = error_of(transaction, found(*owner), found(), found(), nested(succeeded=is_on_lease))
    assert type(error) is NodeLost
    assert error.key == '/owner'
    assert reason in str(error)


def test_check_is_named_when_the_guard_holds() -> None:
    transaction = Transaction((Check('/a', index=5),), guard=Guard('/owner', 3, 9))
    error = error_of(transaction, found(kv('/owner', created=3)), found(), found(), nested(succeeded=True))
    assert (type(error), error.key, error.index) == (KeyNotFound, '/a', INDEX)


def test_value_that_differs_is_named_by_the_nested_transaction() -> None:
    transaction = Transaction((Check('/a', value='x'), Check('/b', value='y')))
    reads = [found(kv('/a')), found(kv('/b')), found(), found()]
    error = error_of(transaction, *reads, nested(succeeded=True), nested(succeeded=False))
    assert (type(error), error.key) == (TestFailed, '/b')


def test_conflict_has_the_current_versions() -> None:
    transaction = Transaction((Check('/a', index=5),), (Put('/b', '1'),), refetch=('/a', '/b'))
    error = error_of(transaction, found(kv('/a', 'new', 9, 3)), found(), found())
    assert (type(error), error.key, error.index) == (Conflict, '/a', INDEX)
    assert error.versions == (Version('new', 9, 3), None)


def test_operation_that_is_refused_is_no_conflict() -> None:
    transaction = Transaction((Check('/a', index=5),), (Put('/a/b', '1', prev_exist=False),), refetch=('/a', '/a/b'))
    error = error_of(transaction, found(kv('/a')), found(kv('/a/b')), found(), found())
    assert (type(error), error.key) == (NotDir, '/a/b')


# -- responses that do not fit


@pytest.mark.parametrize(
    'done',
    [
        [],
        [found(), found(), found()],
        [put(), put()],
        [found(kv('/a')), deletion(kv('/b'))],
        [put(), found()],
        [put(), deletion()],
        [put(), deletion(kv('/b')), put()],
    ],
    ids=['empty', 'three reads', 'two puts', 'other order', 'read', 'nothing deleted', 'too many'],
)
def test_success_half_of_another_shape_is_a_protocol_error(done: list[ResponseOp]) -> None:
    transaction = Transaction(operations=(Put('/a', '1'), Delete('/b')))
    with pytest.raises(ProtocolError) as caught:
        EncodedTransaction(transaction, is_strict=True).parse(response(*done, succeeded=True), {})
    assert caught.value.maybe_applied


@pytest.mark.parametrize(
    'done',
    [[], [found()], [put(), found(), nested(succeeded=False)], [found(kv('/a')), found(), nested(succeeded=True)]],
    ids=['empty', 'too few', 'a put', 'every condition holds'],
)
def test_failure_half_of_another_shape_is_a_protocol_error(done: list[ResponseOp]) -> None:
    assert type(error_of(Transaction((Check('/a', value='x'),)), *done)) is ProtocolError


def test_missing_value_of_a_read_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match='/a') as caught:
        EncodedTransaction(Transaction(operations=(Get('/a'),)), is_strict=True).parse(
            response(found(), succeeded=True), {}
        )
    assert not caught.value.maybe_applied


# -- reads at an index


def test_snapshot_reads_the_node_and_the_first_key_below_at_the_index() -> None:
    txn = txn_of_snapshot(SnapshotRead('/a', 9), is_strict=True)
    assert does(txn.success) == [('range', b'/a'), ('range', b'/a/', b'/a0')]
    assert [each.request_range.revision for each in txn.success] == [9, 9]
    assert [each.request_range.serializable for each in txn.success] == [False, False]
    assert does(txn_of_snapshot(SnapshotRead('/a'), is_strict=False).success) == [('range', b'/a')]


@pytest.mark.parametrize(
    ('done', 'snapshot'),
    [
        ([found(kv('/a', 'x')), found()], Snapshot(INDEX, Version('x', 5, 3))),
        ([found(), found()], Snapshot(INDEX)),
        ([found(), found(kv('/a/b'))], Snapshot(INDEX, None, is_directory=True)),
        ([found(kv('/a', 'x')), found(kv('/a/b'))], Snapshot(INDEX, Version('x', 5, 3))),
    ],
    ids=['value', 'nothing', 'directory', 'both'],
)
def test_snapshot_is_parsed(done: list[ResponseOp], snapshot: Snapshot) -> None:
    assert parse_snapshot(SnapshotRead('/a'), response(*done, succeeded=True), is_strict=True) == snapshot


def test_snapshot_of_another_shape_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        parse_snapshot(SnapshotRead('/a'), response(found(), succeeded=True), is_strict=True)
