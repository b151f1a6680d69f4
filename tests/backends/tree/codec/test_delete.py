"""Deletes as transactions."""

from __future__ import annotations

from typing import Any

import pytest

from getc.backends.tree.codec.delete import deleted, txn_of_delete
from getc.errors import DirNotEmpty, EtcdError, KeyNotFound, NotDir, NotFile, NotSupported, RootROnly, TestFailed
from getc.operations import Delete
from getc.results import ComparedThenDeleted, Deleted, Directory, Node, Value
from getc.v3.schema.kv import ResponseOp, TxnResponse
from tests.backends.tree.codec.messages import INDEX, compares, deletion, does, found, kv, response

EVIDENCE = [('range', b'/a'), ('range', b'/a/b/', b'/a/b0'), ('range', b'/a/b')]
KEY = '/a/b'
VALUE = kv(KEY, 'old')


def nested(txn: TxnResponse) -> TxnResponse:
    """The answer to a transaction whose failure half was another one."""
    return response(ResponseOp(response_txn=txn), succeeded=False)


# -- what is asked


@pytest.mark.parametrize(
    ('options', 'conditions'),
    [
        ({}, []),
        ({'prev_value': 'x'}, [('value', b'/a/b', b'x')]),
        ({'prev_index': 7, 'recursive': True}, [('mod_revision', b'/a/b', 7)]),
    ],
)
def test_delete_of_a_value_compares_it(options: dict[str, Any], conditions: list[object]) -> None:
    """It is there, and what else is asked for holds; a condition is about a value, also with ``recursive``."""
    txn = txn_of_delete(Delete(KEY, **options))
    assert compares(txn) == [('there', b'/a/b'), *conditions]
    assert does(txn.success) == [('delete_range', b'/a/b')]
    assert does(txn.failure) == EVIDENCE


def test_delete_of_a_directory_takes_the_value_else_the_marker_if_it_is_alone() -> None:
    """In one round trip."""
    txn = txn_of_delete(Delete(KEY, dir=True))
    assert compares(txn) == [('there', b'/a/b')]
    assert does(txn.success) == [('delete_range', b'/a/b')]
    alone = [('there', b'/a/b/'), ('none', b'/a/b/\0', b'/a/b0')]
    assert does(txn.failure) == [('txn', alone, [('delete_range', b'/a/b/')], EVIDENCE)]


def test_recursive_delete_takes_all_and_reads_what_is_above() -> None:
    """Without a comparison."""
    txn = txn_of_delete(Delete(KEY, recursive=True))
    assert compares(txn) == []
    reads = [('range', b'/a'), ('range', b'/a/b/')]
    assert does(txn.success) == [*reads, ('delete_range', b'/a/b'), ('delete_range', b'/a/b/', b'/a/b0')]


@pytest.mark.parametrize('options', [{}, {'dir': True}, {'recursive': True}])
def test_nothing_above_is_read_when_not_strict(options: dict[str, Any]) -> None:
    """The server would want the permission."""
    txn = txn_of_delete(Delete(KEY, **options), is_strict=False)
    assert str(('range', b'/a')) not in str(does([*txn.success, *txn.failure]))


def test_root_and_keys_too_deep_are_refused() -> None:
    """Before anything is sent."""
    with pytest.raises(RootROnly):
        txn_of_delete(Delete('/', recursive=True))
    with pytest.raises(NotSupported):
        txn_of_delete(Delete('/a' * 127))


# -- what it did


def test_deleted_value_is_told_with_what_it_was() -> None:
    """The node has the index of the deletion."""
    result = deleted(Delete(KEY), response(deletion(VALUE), succeeded=True))
    assert result == Deleted(Node(KEY, INDEX, 3), Value(KEY, 5, 3, None, None, 'old'), INDEX, 0, 2)
    result = deleted(Delete(KEY, prev_value='old'), response(deletion(VALUE), succeeded=True))
    assert type(result) is ComparedThenDeleted


def test_deleted_directory_is_told_with_its_marker() -> None:
    """Which has its indices."""
    done = nested(response(deletion(kv(KEY + '/')), succeeded=True))
    expected = Deleted(Directory(KEY, INDEX, 3), Directory(KEY, 5, 3), INDEX, 0, 2)
    assert deleted(Delete(KEY, dir=True), done) == expected
    done = response(found(), found(kv(KEY + '/')), deletion(), deletion(deleted=4), succeeded=True)
    assert deleted(Delete(KEY, recursive=True), done) == expected


def test_deleted_directory_without_a_marker_has_no_indices() -> None:
    """It was there because of what was in it."""
    done = response(found(), found(), deletion(), deletion(deleted=3), succeeded=True)
    assert deleted(Delete(KEY, recursive=True), done).prev_node == Directory(KEY, 0, 0)


def test_value_wins_when_there_are_keys_below_it() -> None:
    """All are deleted; the result is the value's."""
    done = response(found(), found(), deletion(VALUE), deletion(deleted=3), succeeded=True)
    assert deleted(Delete(KEY, recursive=True), done).prev_node == Value(KEY, 5, 3, None, None, 'old')
    done = response(deletion(VALUE), succeeded=True)
    assert deleted(Delete(KEY, dir=True), done).prev_node == Value(KEY, 5, 3, None, None, 'old')


@pytest.mark.parametrize(
    ('above', 'inside', 'itself', 'options', 'error'),
    [
        (True, True, True, {}, NotDir),
        (False, True, False, {}, NotFile),
        (False, False, False, {}, KeyNotFound),
        (False, False, True, {'prev_value': 'secret'}, TestFailed),
    ],
)
def test_refused_delete_of_a_value_says_why(
    above: bool, inside: bool, itself: bool, options: dict[str, Any], error: type[EtcdError]
) -> None:
    """In the order 104, 102, 100, 101."""
    kvs = [[kv('/a')] * above, [kv('/a/b/x')] * inside, [VALUE] * itself]
    with pytest.raises(error) as caught:
        deleted(Delete(KEY, **options), response(*(found(*each) for each in kvs), succeeded=False))
    assert caught.value.cause == {NotDir: '/a', TestFailed: 'prev_value differs'}.get(error, KEY)


@pytest.mark.parametrize(
    ('above', 'inside', 'error'), [(False, True, DirNotEmpty), (True, False, NotDir), (False, False, KeyNotFound)]
)
def test_refused_delete_of_a_directory_says_why(above: bool, inside: bool, error: type[EtcdError]) -> None:
    """108, or 104, or 100."""
    reads = found(*[kv('/a')] * above), found(*[kv('/a/b/x')] * inside), found()
    with pytest.raises(error) as caught:
        deleted(Delete(KEY, dir=True), nested(response(*reads, succeeded=False)))
    assert caught.value.cause == ('/a' if error is NotDir else KEY)


@pytest.mark.parametrize(('above', 'error'), [(True, NotDir), (False, KeyNotFound)])
def test_recursive_delete_of_nothing_says_why(above: bool, error: type[EtcdError]) -> None:
    """It was committed, and deleted nothing."""
    done = response(found(*[kv('/a')] * above), found(), deletion(), deletion(), succeeded=True)
    with pytest.raises(error) as caught:
        deleted(Delete(KEY, recursive=True), done)
    assert (caught.value.cause, caught.value.index) == ('/a' if above else KEY, INDEX)
