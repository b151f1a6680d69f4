"""``delete`` without conditions: values, directories, subtrees."""

from __future__ import annotations

from typing import Any

import pytest

import getc


def test_delete_returns_the_deleted_node(client: getc.Client) -> None:
    """prev_node of the result is the last state of the node, and its index is that of the delete."""
    first = client.set('/a', '1')
    result = client.delete('/a')
    assert type(result) is getc.Deleted
    assert (result.key, result.value) == ('/a', None)
    assert type(result.node) is getc.Node
    assert result.prev_node == first.node
    assert result.created_index == first.created_index
    assert result.modified_index == result.etcd_index == first.modified_index + 1
    assert not result.is_new
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')


@pytest.mark.parametrize('options', [{}, {'dir': True}, {'recursive': True}, {'dir': True, 'recursive': True}], ids=str)
def test_delete_raises_key_not_found_when_the_node_does_not_exist(client: getc.Client, options: dict[str, Any]) -> None:
    """Error 100."""
    with pytest.raises(getc.KeyNotFound) as caught:
        client.delete('/a', **options)
    assert caught.value.cause == '/a'


@pytest.mark.parametrize('options', [{'dir': True}, {'recursive': True}, {'dir': True, 'recursive': True}], ids=str)
def test_delete_accepts_a_value_when_dir_or_recursive(client: getc.Client, options: dict[str, Any]) -> None:
    """dir and recursive permit a directory, they do not require one."""
    client.set('/a', '1')
    result = client.delete('/a', **options)
    assert type(result.node) is getc.Node
    assert isinstance(result.prev_node, getc.Value)


def test_delete_raises_not_dir_when_a_parent_is_a_value(client: getc.Client) -> None:
    """Error 104."""
    client.set('/a', '1')
    with pytest.raises(getc.NotDir) as caught:
        client.delete('/a/b')
    assert caught.value.cause == '/a'
    assert client.get('/a').value == '1'


def test_delete_raises_not_file_when_the_node_is_a_directory(client: getc.Client) -> None:
    """A directory requires dir or recursive, also an empty one: error 102."""
    client.set('/d/a', '1')
    client.set('/e', dir=True)
    for key in ('/d', '/e'):
        with pytest.raises(getc.NotFile) as caught:
            client.delete(key)
        assert caught.value.cause == key
    assert client.get('/d').values == ('1',)


def test_delete_deletes_an_empty_directory_when_dir(client: getc.Client) -> None:
    first = client.set('/d', dir=True)
    result = client.delete('/d', dir=True)
    assert type(result) is getc.Deleted
    assert isinstance(result.node, getc.Directory)
    assert result.prev_node == first.node
    with pytest.raises(getc.KeyNotFound):
        client.get('/d')


@pytest.mark.parametrize('key', ['/d/a', '/d/sub/a', '/d/_hidden'])
def test_delete_raises_dir_not_empty_when_dir(client: getc.Client, key: str) -> None:
    """Hidden nodes count: error 108."""
    client.set(key, '1')
    with pytest.raises(getc.DirNotEmpty) as caught:
        client.delete('/d', dir=True)
    assert (caught.value.errno, caught.value.message, caught.value.cause) == (108, 'Directory not empty', '/d')
    assert client.get(key).value == '1'


@pytest.mark.parametrize('options', [{'recursive': True}, {'dir': True, 'recursive': True}], ids=str)
def test_delete_deletes_the_subtree_when_recursive(client: getc.Client, options: dict[str, Any]) -> None:
    """All nodes are deleted in one change."""
    for key in ('/d/a', '/d/sub/b', '/d/_h', '/dd'):
        last = client.set(key, '1')
    result = client.delete('/d', **options)
    assert isinstance(result.node, getc.Directory)
    assert isinstance(result.prev_node, getc.Directory)
    assert result.nodes == result.prev_node.nodes == ()
    assert result.modified_index == last.modified_index + 1
    for key in ('/d', '/d/a', '/d/sub/b', '/d/_h'):
        with pytest.raises(getc.KeyNotFound):
            client.get(key)
    assert client.get('/dd').value == '1'


def test_delete_keeps_keys_with_the_same_prefix(client: getc.Client) -> None:
    for key in ('/a', '/ab', '/a-b', '/a.b', '/b/a'):
        client.set(key, key)
    client.delete('/a')
    for key in ('/ab', '/a-b', '/a.b', '/b/a'):
        assert client.get(key).value == key
