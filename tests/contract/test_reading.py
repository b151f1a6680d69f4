"""``get``: values, directories, order, hidden nodes, the root."""

from __future__ import annotations

from typing import Any

import pytest

import getc


def keys_of(result: getc.EtcdResult) -> list[str]:
    return [node.key for node in result.nodes]


def test_get_returns_the_value_after_set(client: getc.Client) -> None:
    """A Got with the value, the key and the indices."""
    written = client.set('/a', 'text')
    result = client.get('/a')
    assert type(result) is getc.Got
    assert type(result.node) is getc.Value
    assert (result.key, result.value) == ('/a', 'text')
    assert result.node == written.node
    assert result.prev_node is None
    assert not result.is_new


def test_get_raises_key_not_found_when_the_node_does_not_exist(client: getc.Client) -> None:
    """Error 100, which names the key."""
    with pytest.raises(getc.KeyNotFound) as caught:
        client.get('/none')
    assert caught.value.errno == 100
    assert str(caught.value) == '[100] Key not found (/none)'


@pytest.mark.v3_differs('v3 names the requested key (design, section 3)')
def test_get_names_the_first_missing_directory_when_deep(client: getc.Client) -> None:
    """The cause of a KeyNotFound is the outermost missing node."""
    client.set('/a/b', '1')
    with pytest.raises(getc.KeyNotFound) as caught:
        client.get('/a/x/y/z')
    assert caught.value.cause == '/a/x'


def test_get_raises_not_dir_when_a_parent_is_a_value(client: getc.Client) -> None:
    """Error 104, which names the value."""
    client.set('/a', '1')
    with pytest.raises(getc.NotDir) as caught:
        client.get('/a/b')
    assert (caught.value.errno, caught.value.message, caught.value.cause) == (104, 'Not a directory', '/a')


def test_get_lists_the_children_when_a_directory(client: getc.Client) -> None:
    """Nodes of subdirectories are not included."""
    client.set('/d/a', '1')
    client.set('/d/sub/b', '2')
    result = client.get('/d', sorted=True)
    assert isinstance(result.node, getc.Directory)
    assert result.value is None
    assert keys_of(result) == ['/d/a', '/d/sub']
    assert result.values == ('1',)
    assert isinstance(result.nodes[1], getc.Directory)
    assert result.nodes[1].nodes == ()


def test_get_lists_everything_when_recursive(client: getc.Client) -> None:
    """leaves() iterates depth first."""
    for key in ('/d/b', '/d/a/z', '/d/a/c/x'):
        client.set(key, key)
    result = client.get('/d', recursive=True, sorted=True)
    assert isinstance(result.node, getc.Directory)
    assert [leaf.key for leaf in result.node.leaves()] == ['/d/a/c/x', '/d/a/z', '/d/b']


def test_get_sorts_by_key_when_sorted(client: getc.Client) -> None:
    """In the order of the keys, not of creation."""
    for name in ('b', 'B', 'a10', 'a9', 'é', 'z'):
        client.set(f'/d/{name}', name)
    assert client.get('/d', sorted=True).values == ('B', 'a10', 'a9', 'b', 'z', 'é')


def test_get_returns_the_same_nodes_when_unsorted(client: getc.Client) -> None:
    """The order is undefined, the nodes are the same."""
    names = {f'n{number}' for number in range(20)}
    for name in names:
        client.set(f'/d/{name}', name)
    assert set(client.get('/d').values) == names


def test_get_returns_an_empty_directory_when_it_has_no_nodes(client: getc.Client) -> None:
    client.set('/d', dir=True)
    result = client.get('/d')
    assert isinstance(result.node, getc.Directory)
    assert (result.nodes, result.values) == ((), ())


@pytest.mark.parametrize('options', [{'recursive': True}, {'sorted': True}, {'recursive': True, 'sorted': True}])
def test_get_ignores_recursive_and_sorted_for_a_value(client: getc.Client, options: dict[str, Any]) -> None:
    client.set('/a', '1')
    assert client.get('/a', **options) == client.get('/a')


@pytest.mark.parametrize('quorum', [True, False, None])
def test_get_reads_the_last_write_with_any_quorum(client: getc.Client, quorum: bool | None) -> None:
    """With one server every quorum is the same."""
    client.set('/a', '1')
    assert client.get('/a', quorum=quorum).value == '1'


# -- hidden nodes


def test_get_leaves_hidden_nodes_out_of_listings(client: getc.Client) -> None:
    """A name with a leading underscore is not listed, at any depth."""
    for key in ('/d/_x', '/d/a', '/d/_dir/b', '/d/sub/_y', '/d/sub/c', '/d/e_'):
        client.set(key, key)
    result = client.get('/d', recursive=True, sorted=True)
    assert isinstance(result.node, getc.Directory)
    assert [leaf.key for leaf in result.node.leaves()] == ['/d/a', '/d/e_', '/d/sub/c']


def test_get_reads_a_hidden_node_by_its_key(client: getc.Client) -> None:
    """Also nodes below it."""
    client.set('/_d/a', '1')
    assert client.get('/_d/a').value == '1'
    assert client.get('/_d').values == ('1',)


# -- the root


@pytest.mark.whole_tree
def test_get_reads_the_root_of_an_empty_store(client: getc.Client) -> None:
    """The root is a directory that always exists."""
    result = client.get('/')
    assert isinstance(result.node, getc.Directory)
    assert result.key == '/'
    assert result.nodes == ()


@pytest.mark.whole_tree
def test_get_lists_the_tree_when_the_root_is_read(client: getc.Client) -> None:
    client.set('/b', '1')
    client.set('/a/c', '2')
    client.set('/_h', '3')
    result = client.get('/', sorted=True, recursive=True)
    assert keys_of(result) == ['/a', '/b']
    assert isinstance(result.node, getc.Directory)
    assert [leaf.key for leaf in result.node.leaves()] == ['/a/c', '/b']


@pytest.mark.whole_tree
@pytest.mark.parametrize('key', ['', '/', '//'])
def test_get_reads_the_root_when_the_key_has_no_segments(client: getc.Client, key: str) -> None:
    """A key without segments is the root."""
    client.set('/a', '1')
    assert client.get(key).values == ('1',)


# -- several clients


def test_get_reads_the_write_of_another_client(client: getc.Client, other: getc.Client) -> None:
    client.set('/a', '1')
    assert other.get('/a').node == client.get('/a').node


def test_get_lists_a_large_directory(client: getc.Client) -> None:
    for number in range(300):
        client.set(f'/d/{number:04}', str(number))
    assert client.get('/d', sorted=True).values == tuple(str(number) for number in range(300))
