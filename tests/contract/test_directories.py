"""Directories: explicit ones with ``dir=True`` and implicit parents; replacing, updating, deleting."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

import getc


def test_set_creates_a_directory_when_dir(client: getc.Client) -> None:
    result = client.set('/d', dir=True)
    assert type(result) is getc.Set
    assert type(result.node) is getc.Directory
    assert (result.key, result.value, result.nodes, result.ttl) == ('/d', None, (), None)
    assert result.is_new
    assert result.prev_node is None
    assert client.get('/d').node == result.node


def test_create_creates_a_directory_when_dir(client: getc.Client) -> None:
    """A second create fails."""
    result = client.create('/a/d', dir=True)
    assert type(result) is getc.Created
    assert isinstance(result.node, getc.Directory)
    with pytest.raises(getc.NodeExist):
        client.create('/a/d', dir=True)


def test_set_raises_not_file_when_the_directory_exists(client: getc.Client) -> None:
    """A directory is never replaced, not even by an empty one: error 102, and its nodes are unchanged."""
    client.set('/d/a', '1')
    client.set('/e', dir=True)
    for key in ('/d', '/e'):
        with pytest.raises(getc.NotFile) as caught:
            client.set(key, dir=True)
        assert caught.value.cause == key
    assert client.get('/d').values == ('1',)


def test_set_replaces_a_value_when_a_directory_is_set(client: getc.Client) -> None:
    """prev_node is the value."""
    value = client.set('/a', '1')
    result = client.set('/a', dir=True)
    assert isinstance(result.node, getc.Directory)
    assert result.prev_node == value.node
    assert not result.is_new
    client.set('/a/b', '2')
    assert client.get('/a').values == ('2',)


def test_update_writes_an_empty_value_when_dir(client: getc.Client) -> None:
    """etcd v2 does not turn a value into a directory by update: it writes the empty value."""
    first = client.set('/a', '1')
    result = client.update('/a', dir=True)
    assert type(result) is getc.Updated
    assert (result.value, result.created_index) == ('', first.created_index)
    assert client.get('/a').value == ''


def test_swap_writes_an_empty_value_when_dir(client: getc.Client) -> None:
    """The same with a condition."""
    client.set('/a', '1')
    result = client.set('/a', dir=True, prev_value='1')
    assert type(result) is getc.ComparedThenSwapped
    assert result.value == ''


def test_directory_cannot_be_updated_by_etcd_3_5_on_v2(client: getc.Client, backend_under_test: Any) -> None:
    """It reports the error as code 300."""
    if backend_under_test.name != 'v2' or backend_under_test.version < (3, 5):
        pytest.skip('v3, memory, and etcd 3.4 on v2 update directories')
    client.set('/d/a', '1')
    for write in (
        lambda: client.update('/d', dir=True),
        lambda: client.update('/d', dir=True, ttl=60),
        lambda: client.refresh('/d', ttl=60),
        lambda: client.update('/d', dir=True, refresh=True, ttl=60),
    ):
        with pytest.raises(getc.NotFile) as caught:
            write()
        assert not caught.value.maybe_applied
        assert str(caught.value) == '[102] Not a file (/d): it is a directory, which etcd 3.5 cannot change on v2'
    assert client.get('/d').ttl is None
    assert client.get('/d').values == ('1',)


@pytest.mark.parametrize(
    'write',
    [
        lambda client, **conditions: client.set('/d', 'x', **conditions),
        lambda client, **conditions: client.set('/d', dir=True, **conditions),
        lambda client, **conditions: client.update('/d', 'x', **conditions),
        lambda client, **conditions: client.update('/d', dir=True, ttl=60, **conditions),
        lambda client, **conditions: client.refresh('/d', ttl=60, **conditions),
    ],
)
def test_directory_has_neither_prev_value_nor_prev_index(client: getc.Client, write: Callable[..., Any]) -> None:
    """A write with a condition is about a value: error 102, even if the index is that of the directory."""
    made = client.set('/d', dir=True, ttl=50)
    for conditions in ({'prev_value': '1'}, {'prev_index': made.modified_index}, {'prev_index': 1}):
        with pytest.raises(getc.NotFile, match='prev_value and prev_index cannot be used with a directory') as caught:
            write(client, **conditions)
        assert caught.value.cause == '/d'
    assert client.get('/d').ttl in range(40, 51)


@pytest.mark.parametrize(
    ('method', 'options', 'hint'),
    [
        ('delete', {}, 'it is a directory: delete it with dir=True if it is empty, with recursive=True otherwise'),
        ('delete', {'prev_index': 1}, 'prev_value and prev_index cannot be used with a directory'),
        ('set', {'value': 'x'}, 'it is a directory: write below it, or delete it first with recursive=True'),
        ('set', {'dir': True}, 'it is a directory already'),
        ('set', {'dir': True, 'ttl': 60}, 'it is a directory already: change its TTL by update or refresh'),
        ('update', {'value': 'x'}, 'it is a directory: write below it, or delete it first with recursive=True'),
    ],
)
def test_not_file_error_names_the_remedy(client: getc.Client, method: str, options: dict[str, Any], hint: str) -> None:
    """etcd's message 'Not a file' names neither the directory nor the missing option."""
    client.set('/d/a', '1')
    with pytest.raises(getc.NotFile) as caught:
        getattr(client, method)('/d', **options)
    assert str(caught.value) == f'[102] Not a file (/d): {hint}'
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_refresh_keeps_the_value_when_dir(client: getc.Client) -> None:
    """A refresh changes only the TTL."""
    client.set('/a', '1')
    assert client.update('/a', dir=True, refresh=True, ttl=60).value == '1'
    assert client.get('/a').value == '1'


def test_directory_keeps_its_indices_when_nodes_are_created_in_it(client: getc.Client) -> None:
    """A write below a directory does not change the directory."""
    client.set('/d', dir=True)
    before = client.get('/d')
    client.set('/d/a', '1')
    client.update('/d/a', '2')
    after = client.get('/d')
    assert (after.created_index, after.modified_index) == (before.created_index, before.modified_index)
    assert after.values == ('2',)


@pytest.mark.v3_differs('an implicit directory is deleted with its last key on v3')
def test_directory_stays_when_its_last_node_is_deleted(client: getc.Client) -> None:
    """An implicit directory remains when it is empty."""
    client.set('/d/a', '1')
    client.delete('/d/a')
    assert client.get('/d').nodes == ()


def test_directory_stays_when_made_explicitly_and_emptied(client: getc.Client) -> None:
    """An explicit directory remains when it is empty."""
    client.set('/d', dir=True)
    client.set('/d/a', '1')
    client.delete('/d/a')
    assert isinstance(client.get('/d').node, getc.Directory)


def test_directories_can_be_nested_deeply(client: getc.Client) -> None:
    """Fifty levels."""
    key = '/d' * 50
    client.set(key, 'deep')
    assert client.get(key).value == 'deep'
    node: getc.Node = client.get('/d', recursive=True).node
    depth = 1
    while isinstance(node, getc.Directory):
        (node,) = node.nodes
        depth += 1
    assert depth == 50
    assert client.delete('/d', recursive=True).key == '/d'
