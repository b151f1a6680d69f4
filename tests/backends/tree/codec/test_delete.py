"""Deletes as transactions, and their results."""

from __future__ import annotations

from typing import Any

import pytest

from getc.backends.tree.codec.delete import parse_delete, txn_of_delete
from getc.errors import (
    DirNotEmpty,
    EtcdError,
    KeyNotFound,
    NotDir,
    NotFile,
    NotSupported,
    ProtocolError,
    RootROnly,
    TestFailed,
)
from getc.operations import Delete
from getc.results import ComparedThenDeleted, Deleted, Directory, Node, Value
from getc.v3.schema.kv import ResponseOp, TxnResponse
from tests.backends.tree.codec.messages import INDEX, compares, deletion, does, found, kv, response

FAILURE_READS = [('range', b'/a'), ('range', b'/a/b/', b'/a/b0'), ('range', b'/a/b')]
KEY = '/a/b'
VALUE = kv(KEY, 'old')


def nested(txn: TxnResponse) -> TxnResponse:
    """A response to a transaction whose failure half is another transaction."""
    return response(ResponseOp(response_txn=txn), succeeded=False)


# -- requests


@pytest.mark.parametrize(
    ('options', 'conditions'),
    [
        ({}, []),
        ({'prev_value': 'x'}, [('value', b'/a/b', b'x')]),
        ({'prev_index': 7, 'recursive': True}, [('mod_revision', b'/a/b', 7)]),
    ],
)
def test_delete_of_a_value_compares_the_value(options: dict[str, Any], conditions: list[object]) -> None:
    """Conditions are about values, also of a recursive delete."""
    txn = txn_of_delete(Delete(KEY, **options))
    assert compares(txn) == [('there', b'/a/b'), *conditions]
    assert does(txn.success) == [('delete_range', b'/a/b')]
    assert does(txn.failure) == FAILURE_READS


def test_delete_of_a_directory_deletes_the_value_or_else_the_only_marker() -> None:
    txn = txn_of_delete(Delete(KEY, dir=True))
    assert compares(txn) == [('there', b'/a/b')]
    assert does(txn.success) == [('delete_range', b'/a/b')]
    alone = [('there', b'/a/b/'), ('none', b'/a/b/\0', b'/a/b0')]
    assert does(txn.failure) == [('txn', alone, [('delete_range', b'/a/b/')], FAILURE_READS)]


def test_recursive_delete_deletes_all_and_reads_the_ancestors() -> None:
    txn = txn_of_delete(Delete(KEY, recursive=True))
    assert compares(txn) == []
    reads = [('range', b'/a'), ('range', b'/a/b/')]
    assert does(txn.success) == [*reads, ('delete_range', b'/a/b'), ('delete_range', b'/a/b/', b'/a/b0')]


@pytest.mark.parametrize('options', [{}, {'dir': True}, {'recursive': True}])
def test_ancestors_are_not_read_when_not_strict(options: dict[str, Any]) -> None:
    """The server would demand the permission."""
    txn = txn_of_delete(Delete(KEY, **options), is_strict=False)
    assert str(('range', b'/a')) not in str(does([*txn.success, *txn.failure]))


def test_root_and_keys_with_too_many_segments_are_refused() -> None:
    with pytest.raises(RootROnly):
        txn_of_delete(Delete('/', recursive=True))
    with pytest.raises(NotSupported):
        txn_of_delete(Delete('/a' * 127))


# -- results


def test_deleted_value_has_the_index_of_the_delete_and_its_previous_node() -> None:
    result = parse_delete(Delete(KEY), response(deletion(VALUE), succeeded=True))
    assert result == Deleted(Node(KEY, INDEX, 3), Value(KEY, 5, 3, None, None, 'old'), INDEX, 0, 2)
    result = parse_delete(Delete(KEY, prev_value='old'), response(deletion(VALUE), succeeded=True))
    assert type(result) is ComparedThenDeleted


def test_deleted_directory_has_the_indices_of_its_marker() -> None:
    done = nested(response(deletion(kv(KEY + '/')), succeeded=True))
    expected = Deleted(Directory(KEY, INDEX, 3), Directory(KEY, 5, 3), INDEX, 0, 2)
    assert parse_delete(Delete(KEY, dir=True), done) == expected
    done = response(found(), found(kv(KEY + '/')), deletion(), deletion(deleted=4), succeeded=True)
    assert parse_delete(Delete(KEY, recursive=True), done) == expected


def test_deleted_directory_without_a_marker_has_no_indices() -> None:
    """It existed because of the keys below it."""
    done = response(found(), found(), deletion(), deletion(deleted=3), succeeded=True)
    assert parse_delete(Delete(KEY, recursive=True), done).prev_node == Directory(KEY, 0, 0)


def test_result_is_the_values_when_there_are_keys_below_it() -> None:
    """All are deleted."""
    done = response(found(), found(), deletion(VALUE), deletion(deleted=3), succeeded=True)
    assert parse_delete(Delete(KEY, recursive=True), done).prev_node == Value(KEY, 5, 3, None, None, 'old')
    done = response(deletion(VALUE), succeeded=True)
    assert parse_delete(Delete(KEY, dir=True), done).prev_node == Value(KEY, 5, 3, None, None, 'old')


@pytest.mark.parametrize(
    ('above', 'inside', 'itself', 'options', 'error'),
    [
        (True, True, True, {}, NotDir),
        (False, True, False, {}, NotFile),
        (False, False, False, {}, KeyNotFound),
        (False, False, True, {'prev_value': 'secret'}, TestFailed),
    ],
)
def test_refused_delete_of_a_value_names_the_reason(
    above: bool, inside: bool, itself: bool, options: dict[str, Any], error: type[EtcdError]
) -> None:
    """In the order 104, 102, 100, 101."""
    kvs = [[kv('/a')] * above, [kv('/a/b/x')] * inside, [VALUE] * itself]
    with pytest.raises(error) as caught:
        parse_delete(Delete(KEY, **options), response(*(found(*each) for each in kvs), succeeded=False))
    assert caught.value.cause == {NotDir: '/a', TestFailed: 'prev_value differs'}.get(error, KEY)


@pytest.mark.parametrize(
    ('above', 'inside', 'error'), [(False, True, DirNotEmpty), (True, False, NotDir), (False, False, KeyNotFound)]
)
def test_refused_delete_of_a_directory_names_the_reason(above: bool, inside: bool, error: type[EtcdError]) -> None:
    """108, or 104, or 100."""
    reads = found(*[kv('/a')] * above), found(*[kv('/a/b/x')] * inside), found()
    with pytest.raises(error) as caught:
        parse_delete(Delete(KEY, dir=True), nested(response(*reads, succeeded=False)))
    assert caught.value.cause == ('/a' if error is NotDir else KEY)


@pytest.mark.parametrize(('above', 'error'), [(True, NotDir), (False, KeyNotFound)])
def test_recursive_delete_of_nothing_names_the_reason(above: bool, error: type[EtcdError]) -> None:
    """The transaction was applied, and deleted nothing."""
    done = response(found(*[kv('/a')] * above), found(), deletion(), deletion(), succeeded=True)
    with pytest.raises(error) as caught:
        parse_delete(Delete(KEY, recursive=True), done)
    assert (caught.value.cause, caught.value.index) == ('/a' if above else KEY, INDEX)


@pytest.mark.parametrize(
    ('options', 'done'),
    [
        ({}, response(succeeded=True)),
        ({}, response(deletion(), succeeded=True)),
        ({}, response(found(), succeeded=False)),
        ({'dir': True}, response(succeeded=False)),
        ({'dir': True}, response(found(), succeeded=False)),
        ({'dir': True}, nested(response(succeeded=True))),
        ({'dir': True}, nested(response(deletion(), succeeded=True))),
        ({'dir': True}, nested(response(found(), succeeded=False))),
        ({'recursive': True}, response(succeeded=True)),
        ({'recursive': True}, response(deletion(), deletion(deleted=1), found(), found(), succeeded=True)),
        ({'recursive': True}, response(found(), found(), deletion(deleted=1), deletion(), succeeded=True)),
    ],
)
def test_malformed_response_is_a_protocol_error_of_a_delete_that_may_be_applied(
    options: dict[str, Any], done: TxnResponse
) -> None:
    with pytest.raises(ProtocolError, match='malformed response of etcd v3') as caught:
        parse_delete(Delete(KEY, **options), done)
    assert caught.value.maybe_applied
