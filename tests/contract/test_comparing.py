"""``prev_value`` and ``prev_index``, on every method that takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import getc

SECRET = 'the-value-that-no-error-may-show'

Call = Callable[..., getc.EtcdResult]

WRITES: list[Callable[[getc.Client], Call]] = [
    lambda client: lambda key, **conditions: client.set(key, 'new', **conditions),
    lambda client: lambda key, **conditions: client.update(key, 'new', **conditions),
]
COMPARING: list[Callable[[getc.Client], Call]] = [
    *WRITES,
    lambda client: lambda key, **conditions: client.set(key, refresh=True, ttl=60, **conditions),
    lambda client: lambda key, **conditions: client.refresh(key, ttl=60, **conditions),
    lambda client: lambda key, **conditions: client.delete(key, **conditions),
]

writes = pytest.mark.parametrize('method', WRITES, ids=['set', 'update'])
comparing = pytest.mark.parametrize('method', COMPARING, ids=['set', 'update', 'set-refresh', 'refresh', 'delete'])


def conditions_that_hold(result: getc.EtcdResult) -> list[dict[str, Any]]:
    value, index = result.value, result.modified_index
    return [{'prev_value': value}, {'prev_index': index}, {'prev_value': value, 'prev_index': index}]


@writes
@pytest.mark.parametrize('which', range(3), ids=['value', 'index', 'both'])
def test_write_swaps_when_the_condition_holds(
    client: getc.Client, method: Callable[[getc.Client], Call], which: int
) -> None:
    """The node is written, keeps its created_index, and prev_node is the compared node."""
    first = client.set('/a', 'old')
    result = method(client)('/a', **conditions_that_hold(first)[which])
    assert type(result) is getc.ComparedThenSwapped
    assert isinstance(result, getc.Set)
    assert (result.value, result.created_index) == ('new', first.created_index)
    assert result.modified_index == result.etcd_index == first.modified_index + 1
    assert result.prev_node == first.node
    assert not result.is_new
    assert client.get('/a').node == result.node


@pytest.mark.parametrize('which', range(3), ids=['value', 'index', 'both'])
def test_delete_deletes_when_the_condition_holds(client: getc.Client, which: int) -> None:
    """The node is deleted; prev_node is the compared node."""
    first = client.set('/a', 'old')
    result = client.delete('/a', **conditions_that_hold(first)[which])
    assert type(result) is getc.ComparedThenDeleted
    assert isinstance(result, getc.Deleted)
    assert result.prev_node == first.node
    assert result.value is None
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')


@pytest.mark.parametrize('which', range(3), ids=['value', 'index', 'both'])
def test_refresh_keeps_the_value_when_the_condition_holds(client: getc.Client, which: int) -> None:
    """The result is a ComparedThenSwapped with the same value."""
    first = client.set('/a', 'old', ttl=30)
    result = client.refresh('/a', ttl=60, **conditions_that_hold(first)[which])
    assert type(result) is getc.ComparedThenSwapped
    assert (result.value, result.ttl, result.created_index) == ('old', 60, first.created_index)
    assert result.modified_index == first.modified_index + 1
    assert client.get('/a').value == 'old'


@comparing
def test_write_fails_when_the_value_differs(client: getc.Client, method: Callable[[getc.Client], Call]) -> None:
    """Error 101; its cause names the condition but no value; the node is unchanged."""
    first = client.set('/a', SECRET)
    with pytest.raises(getc.TestFailed) as caught:
        method(client)('/a', prev_value=SECRET + '!')
    assert (caught.value.errno, caught.value.message) == (101, 'Compare failed')
    assert caught.value.cause == 'prev_value differs'
    assert SECRET not in repr(caught.value) + str(caught.value) + repr(caught.value.__dict__)
    assert client.get('/a').node == first.node


@comparing
def test_write_fails_when_the_index_differs(client: getc.Client, method: Callable[[getc.Client], Call]) -> None:
    """Error 101; its cause has both indices; the node is unchanged."""
    client.set('/a', '0')
    first = client.set('/a', '1')
    given, actual = first.modified_index - 1, first.modified_index
    with pytest.raises(getc.TestFailed) as caught:
        method(client)('/a', prev_index=given)
    assert caught.value.cause == f'prev_index differs: {given} != {actual}'
    assert caught.value.index == first.etcd_index
    assert client.get('/a').node == first.node


@comparing
def test_write_fails_when_one_of_two_conditions_differs(
    client: getc.Client, method: Callable[[getc.Client], Call]
) -> None:
    """The cause names the conditions that failed."""
    first = client.set('/a', '1')
    given, actual = first.modified_index + 1, first.modified_index
    for conditions, cause in (
        ({'prev_value': '2', 'prev_index': actual}, 'prev_value differs'),
        ({'prev_value': '1', 'prev_index': given}, f'prev_index differs: {given} != {actual}'),
        (
            {'prev_value': '2', 'prev_index': given},
            f'prev_value differs, prev_index differs: {given} != {actual}',
        ),
    ):
        with pytest.raises(getc.TestFailed) as caught:
            method(client)('/a', **conditions)
        assert caught.value.cause == cause
    assert client.get('/a').node == first.node


@comparing
@pytest.mark.parametrize('conditions', [{'prev_value': '1'}, {'prev_index': 1}], ids=['value', 'index'])
def test_write_raises_key_not_found_when_the_compared_node_does_not_exist(
    client: getc.Client, method: Callable[[getc.Client], Call], conditions: dict[str, Any]
) -> None:
    """A condition requires a node: error 100, and nothing is created."""
    with pytest.raises(getc.KeyNotFound) as caught:
        method(client)('/a', **conditions)
    assert caught.value.cause == '/a'
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')


@comparing
@pytest.mark.parametrize('conditions', [{'prev_value': '1'}, {'prev_index': 1}], ids=['value', 'index'])
def test_write_raises_not_file_when_a_directory_is_compared(
    client: getc.Client, method: Callable[[getc.Client], Call], conditions: dict[str, Any]
) -> None:
    """Only values are compared: error 102."""
    client.set('/d', dir=True)
    with pytest.raises(getc.NotFile) as caught:
        method(client)('/d', **conditions)
    assert caught.value.cause == '/d'


def test_delete_raises_not_file_when_a_directory_is_compared_recursively(client: getc.Client) -> None:
    """Neither dir nor recursive makes a directory comparable."""
    index = client.set('/d', dir=True).modified_index
    for options in ({'dir': True}, {'recursive': True}):
        with pytest.raises(getc.NotFile):
            client.delete('/d', prev_index=index, **options)
    assert isinstance(client.get('/d').node, getc.Directory)


def test_swap_sets_and_drops_the_ttl(client: getc.Client) -> None:
    """As for update: the node gets the given TTL, or none."""
    client.set('/a', '1', ttl=100)
    assert client.set('/a', '2', prev_value='1', ttl=50).ttl == 50
    assert client.set('/a', '3', prev_value='2').ttl is None
    assert client.get('/a').ttl is None


def test_concurrent_swaps_have_one_winner(client: getc.Client, spawn: Callable[..., Any]) -> None:
    """Of many writers that compare with the same index, exactly one succeeds."""
    index = client.set('/a', 'start').modified_index

    def attempt(name: str) -> bool:
        try:
            client.set('/a', name, prev_index=index)
        except getc.TestFailed:
            return False
        return True

    attempts = [spawn(attempt, str(number)) for number in range(20)]
    wins = [number for number, greenlet in enumerate(attempts) if greenlet.get(timeout=30)]
    assert len(wins) == 1
    assert client.get('/a').value == str(wins[0])


def test_swap_compares_unusual_values(client: getc.Client) -> None:
    """A condition is any text except the empty one."""
    for value in (' ', 'a&b=c', '100%', 'a+b;c', 'é🔑', 'line\nbreak'):
        client.set('/a', value)
        assert type(client.set('/a', '1', prev_value=value)) is getc.ComparedThenSwapped
        client.set('/a', value)
        assert type(client.delete('/a', prev_value=value)) is getc.ComparedThenDeleted
