"""Operations: frozen values that are checked when they are made, whoever makes them."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from getc.errors import RefreshTTLRequired, RefreshValue
from getc.operations import MAX_TTL, Append, Delete, Get, Put, WatchSpec, in_namespace
from getc.results import Deleted, Directory, EtcdResult, Node, Set, Value

OPERATIONS: list[Any] = [
    Get('/a', recursive=True, sorted=True, quorum=False),
    Put('/a', 'text', ttl=3, prev_value='old', prev_index=7, prev_exist=True),
    Put('/a', ttl=3, refresh=True, prev_exist=True),
    Append('/a', dir=True, ttl=3),
    Delete('/a', dir=True, recursive=True, prev_value='old', prev_index=7),
    WatchSpec('/a', 7, recursive=True),
]
operations = pytest.mark.parametrize('operation', OPERATIONS, ids=lambda operation: type(operation).__name__)


@operations
def test_operation_is_a_value(operation: Any) -> None:
    """Immutable, comparable, hashable, picklable."""
    twin = pickle.loads(pickle.dumps(operation))
    assert (twin, hash(twin)) == (operation, hash(operation))
    for field in dataclasses.fields(operation):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(operation, field.name, None)
    assert not hasattr(operation, '__dict__')


@operations
def test_operation_has_a_normal_key(operation: Any) -> None:
    """The key is normalised, so that everything below may take it as it is."""
    assert dataclasses.replace(operation, key='a//b/').key == '/a/b'
    with pytest.raises(ValueError, match='key'):
        dataclasses.replace(operation, key='/a/../b')
    with pytest.raises(TypeError, match='key'):
        dataclasses.replace(operation, key=None)


@operations
def test_below_namespace_changes_the_key_alone(operation: Any) -> None:
    """The same operation, inside a directory."""
    inside = in_namespace('/ns', operation)
    assert inside == dataclasses.replace(operation, key='/ns/a')
    assert type(inside) is type(operation)
    assert in_namespace('/', operation) == operation


def test_operation_says_whether_it_writes() -> None:
    """A write that was sent may have happened; a read may be sent again."""
    writing = [type(operation).__name__ for operation in OPERATIONS if operation.is_write]
    assert writing == ['Put', 'Put', 'Append', 'Delete']


@pytest.mark.parametrize('ttl', [0, 1, MAX_TTL, None])
@pytest.mark.parametrize('kind', [Put, Append])
def test_ttl_may_be_anything_up_to_the_limit(kind: type[Put] | type[Append], ttl: int | None) -> None:
    """0, the longest one, and none."""
    assert kind('/a', '1', ttl=ttl).ttl == ttl


@pytest.mark.parametrize('kind', [Put, Append])
def test_ttl_is_refused_when_past_the_limit(kind: type[Put] | type[Append]) -> None:
    """One second more is a ValueError that names the limit."""
    with pytest.raises(ValueError, match=f'at most {MAX_TTL}, '):
        kind('/a', '1', ttl=MAX_TTL + 1)


def test_index_is_refused_when_etcd_cannot_count_as_far() -> None:
    """It has a sign there, so one bit less; found before anything is sent."""
    for make in (
        lambda index: Put('/a', '1', prev_index=index),
        lambda index: Delete('/a', prev_index=index),
        lambda index: WatchSpec('/a', index),
    ):
        make(2**63 - 1)
        with pytest.raises(ValueError, match=f'index is at most {2**63 - 1}, not {2**63}'):
            make(2**63)


@pytest.mark.parametrize('text', ['\ud800', 'a\udfff'], ids=ascii)
def test_text_is_refused_when_no_bytes_stand_for_it(text: str) -> None:
    """Half of a surrogate pair is no text; the error does not tell which value it was."""
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
def test_text_may_stand_for_any_bytes(text: str) -> None:
    """Escaped bytes pass: whether the API can keep them, the API says."""
    assert Put('/a', text).value == text
    assert Get(f'/{text}').key == f'/{text}'


def test_refresh_needs_a_node_and_a_ttl_and_no_value() -> None:
    """As the server would say: errors 211 and 212; a refresh that creates makes no sense."""
    assert Put('/a', ttl=3, refresh=True, dir=True, prev_exist=None).refresh
    with pytest.raises(RefreshValue, match=r'\[211\] Value provided on refresh \(/a\)'):
        Put('a/', '', ttl=3, refresh=True)
    with pytest.raises(RefreshTTLRequired, match=r'\[212\] A TTL must be provided on refresh \(/a\)'):
        Put('a/', refresh=True)
    with pytest.raises(ValueError, match='exists'):
        Put('/a', ttl=3, refresh=True, prev_exist=False)


def test_watch_from_zero_is_a_watch_from_now() -> None:
    """0 is how etcd says: from now on."""
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
