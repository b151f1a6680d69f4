"""Operations: frozen dataclasses that validate their fields."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from getc.errors import RefreshTTLRequired, RefreshValue
from getc.operations import MAX_TTL, Append, Contenders, Delete, Get, Predecessor, Put, WatchSpec, in_namespace
from getc.results import Deleted, Directory, EtcdResult, Node, Set, Value

OPERATIONS: list[Any] = [
    Get('/a', recursive=True, sorted=True, quorum=False),
    Put('/a', 'text', ttl=3, prev_value='old', prev_index=7, prev_exist=True),
    Put('/a', ttl=3, refresh=True, prev_exist=True),
    Append('/a', dir=True, ttl=3),
    Delete('/a', dir=True, recursive=True, prev_value='old', prev_index=7),
    WatchSpec('/a', 7, recursive=True),
    Predecessor('/a/b', 7, '/a', 3),
    Contenders('/a'),
]
operations = pytest.mark.parametrize('operation', OPERATIONS, ids=lambda operation: type(operation).__name__)


@operations
def test_operation_is_immutable_comparable_hashable_and_picklable(operation: Any) -> None:
    twin = pickle.loads(pickle.dumps(operation))
    assert (twin, hash(twin)) == (operation, hash(operation))
    for field in dataclasses.fields(operation):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(operation, field.name, None)
    assert not hasattr(operation, '__dict__')


@operations
def test_operation_normalizes_its_key(operation: Any) -> None:
    assert dataclasses.replace(operation, key='a//b/').key == '/a/b'
    with pytest.raises(ValueError, match='key'):
        dataclasses.replace(operation, key='/a/../b')
    with pytest.raises(TypeError, match='key'):
        dataclasses.replace(operation, key=None)


@operations
def test_in_namespace_changes_only_the_keys(operation: Any) -> None:
    inside = in_namespace('/ns', operation)
    changed = {'key': '/ns' + operation.key}
    if isinstance(operation, Predecessor):
        changed['scope'] = '/ns' + operation.scope
    assert inside == dataclasses.replace(operation, **changed)
    assert type(inside) is type(operation)
    assert in_namespace('/', operation) == operation


def test_is_write_is_true_for_operations_that_write() -> None:
    writing = [type(operation).__name__ for operation in OPERATIONS if operation.is_write]
    assert writing == ['Put', 'Put', 'Append', 'Delete']


@pytest.mark.parametrize('ttl', [0, 1, MAX_TTL, None])
@pytest.mark.parametrize('kind', [Put, Append])
def test_ttl_is_accepted_up_to_the_limit(kind: type[Put] | type[Append], ttl: int | None) -> None:
    assert kind('/a', '1', ttl=ttl).ttl == ttl


@pytest.mark.parametrize('kind', [Put, Append])
def test_ttl_above_the_limit_raises_value_error(kind: type[Put] | type[Append]) -> None:
    with pytest.raises(ValueError, match=f'at most {MAX_TTL}, '):
        kind('/a', '1', ttl=MAX_TTL + 1)


def test_index_above_the_limit_raises_value_error() -> None:
    """Revisions of etcd are signed 64-bit integers."""
    for make in (
        lambda index: Put('/a', '1', prev_index=index),
        lambda index: Delete('/a', prev_index=index),
        lambda index: WatchSpec('/a', index),
    ):
        make(2**63 - 1)
        with pytest.raises(ValueError, match=f'index must be at most {2**63 - 1}, not {2**63}'):
            make(2**63)


@pytest.mark.parametrize('text', ['\ud800', 'a\udfff'], ids=ascii)
def test_text_that_cannot_be_encoded_raises_value_error_without_the_text(text: str) -> None:
    """For example half of a surrogate pair."""
    for make in (
        lambda: Put('/a', text),
        lambda: Append('/a', text),
        lambda: Put('/a', '1', prev_value=text),
        lambda: Delete('/a', prev_value=text),
    ):
        with pytest.raises(ValueError, match='encodable') as caught:
            make()
        assert text not in str(caught.value)


@pytest.mark.parametrize('text', ['\udcff', 'a\udc80b'], ids=ascii)
def test_surrogate_escaped_bytes_are_accepted(text: str) -> None:
    """The backend decides whether its API can store them."""
    assert Put('/a', text).value == text
    assert Get(f'/{text}').key == f'/{text}'


def test_refresh_raises_with_a_value_without_a_ttl_and_for_a_new_node() -> None:
    """The first two as the errors 211 and 212 of etcd."""
    assert Put('/a', ttl=3, refresh=True, dir=True, prev_exist=None).refresh
    with pytest.raises(RefreshValue, match=r'\[211\] Value provided on refresh \(/a\)'):
        Put('a/', '', ttl=3, refresh=True)
    with pytest.raises(RefreshTTLRequired, match=r'\[212\] A TTL must be provided on refresh \(/a\)'):
        Put('a/', refresh=True)
    with pytest.raises(ValueError, match='exists'):
        Put('/a', ttl=3, refresh=True, prev_exist=False)


def test_watch_from_index_zero_starts_now() -> None:
    assert WatchSpec('/a', 0) == WatchSpec('/a')
    assert WatchSpec('/a', 0).index is None


def change(key: str) -> EtcdResult:
    return Set(Value(key, 1, 1))


def removal(key: str, kind: type[Node] = Node) -> EtcdResult:
    return Deleted(kind(key, 2, 1))


@pytest.mark.parametrize(
    ('key', 'recursive', 'result', 'expected'),
    [
        ('/a', False, change('/a'), True),
        ('/a', False, change('/a/b'), False),
        ('/a', True, change('/a/b'), True),
        ('/a', True, change('/ab'), False),
        ('/a', True, change('/a/_b'), False),
        ('/a/_b', True, change('/a/_b/c'), True),
        ('/', True, change('/a/b'), True),
        ('/', True, change('/_a/b'), False),
        ('/a/b', False, change('/a'), False),
        ('/a/b', False, removal('/a', Directory), True),
        ('/a/b', True, removal('/', Directory), True),
        ('/ab', False, removal('/a', Directory), False),
        ('/a/b', False, removal('/a'), False),
    ],
)
def test_watch_spec_matches(key: str, recursive: bool, result: EtcdResult, expected: bool) -> None:
    """The watched key; with ``recursive`` keys below it that are not hidden; and the deletion of a directory above."""
    assert WatchSpec(key, None, recursive).matches(result) is expected


def test_watch_spec_of_hidden_nodes_covers_them() -> None:
    assert WatchSpec('/a', recursive=True, hidden=True).covers('/a/_b/c')
    assert not WatchSpec('/a', hidden=True).covers('/a/_b')


def test_watch_spec_of_an_exact_key_keeps_its_bytes() -> None:
    assert WatchSpec('/a//b/', is_exact=True).key == '/a//b/'
    assert in_namespace('/ns', WatchSpec('/a//b/', is_exact=True)).key == '/ns/a//b/'


def test_predecessor_looks_at_the_directory_of_its_key_by_default() -> None:
    assert Predecessor('locks/a/1', 7).scope == '/locks/a'
    inside = in_namespace('/ns', Predecessor('/locks/a/1', 7, '/locks'))
    assert (inside.key, inside.scope) == ('/ns/locks/a/1', '/ns/locks')


@pytest.mark.parametrize(('token', 'limit'), [(-1, 1), (2**63, 1), (1, 0)])
def test_predecessor_refuses_numbers_out_of_range(token: int, limit: int) -> None:
    with pytest.raises(ValueError, match='must be at'):
        Predecessor('/a/b', token, limit=limit)
