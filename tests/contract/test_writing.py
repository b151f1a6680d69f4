"""``set``, ``create``, ``update``: results, indices, TTLs."""

from __future__ import annotations

from typing import Any

import pytest

import getc


def test_set_creates_a_node(client: getc.Client) -> None:
    """is_new is true, there is no prev_node, and both indices are that of the write."""
    result = client.set('/a', '1')
    assert type(result) is getc.Set
    assert (result.key, result.value, result.ttl, result.expiration) == ('/a', '1', None, None)
    assert result.is_new
    assert result.prev_node is None
    assert result.created_index == result.modified_index == result.index == result.etcd_index > 0
    assert not result.resync


@pytest.mark.v3_differs('v3 keeps created_index: a put does not replace the key (design, section 3)')
def test_set_replaces_an_existing_node(client: getc.Client) -> None:
    """A new created_index; prev_node is the previous node."""
    first = client.set('/a', '1')
    second = client.set('/a', '2')
    assert type(second) is getc.Set
    assert second.prev_node == first.node
    assert second.created_index == second.modified_index == first.modified_index + 1
    assert not second.is_new


def test_is_new_is_false_when_the_node_existed(client: getc.Client) -> None:
    """A deleted node does not count."""
    assert client.set('/a', '1').is_new
    assert not client.set('/a', '1').is_new
    client.delete('/a')
    assert client.set('/a', '1').is_new


def test_set_drops_the_ttl_when_none_is_given(client: getc.Client) -> None:
    """A write without a ttl makes the node permanent."""
    assert client.set('/a', '1', ttl=100).ttl == 100
    result = client.set('/a', '2')
    assert (result.ttl, result.expiration) == (None, None)
    assert client.get('/a').ttl is None


def test_set_creates_missing_parent_directories(client: getc.Client) -> None:
    client.set('/a/b/c', '1')
    assert isinstance(client.get('/a').node, getc.Directory)
    assert isinstance(client.get('/a/b').node, getc.Directory)


@pytest.mark.v3_differs('an implicit directory has no indices of its own on v3')
def test_created_parent_directories_have_the_index_of_the_write(client: getc.Client) -> None:
    written = client.set('/a/b/c', '1')
    client.set('/a/b/d', '2')
    for key in ('/a', '/a/b'):
        directory = client.get(key)
        assert (directory.created_index, directory.modified_index) == (written.index, written.index)


def test_set_raises_not_dir_when_a_parent_is_a_value(client: getc.Client) -> None:
    """Error 104 names the value, and nothing is written."""
    client.set('/a', '1')
    for write in (client.set, client.create, client.update):
        with pytest.raises(getc.NotDir) as caught:
            write('/a/b/c', '2')
        assert caught.value.cause == '/a'
    assert client.get('/a').value == '1'


def test_set_raises_not_file_when_the_node_is_a_directory(client: getc.Client) -> None:
    """A directory is not replaced by a value: error 102."""
    client.set('/d', dir=True)
    for write in (client.set, client.update):
        with pytest.raises(getc.NotFile) as caught:
            write('/d', '1')
        assert (caught.value.errno, caught.value.message, caught.value.cause) == (102, 'Not a file', '/d')
    assert isinstance(client.get('/d').node, getc.Directory)


@pytest.mark.whole_tree
def test_write_of_the_root_raises_root_read_only(client: getc.Client) -> None:
    """The root cannot be written or deleted: error 107."""
    for write in (
        lambda: client.set('/', '1'),
        lambda: client.set('/', dir=True),
        lambda: client.set('/', '1', prev_value='0'),
        lambda: client.create('/', '1'),
        lambda: client.update('/', '1'),
        lambda: client.refresh('/', ttl=5),
        lambda: client.delete('/'),
        lambda: client.delete('/', dir=True),
        lambda: client.delete('/', recursive=True),
    ):
        with pytest.raises(getc.RootROnly) as caught:
            write()
        assert (caught.value.errno, caught.value.message, caught.value.cause) == (107, 'Root is read only', '/')


@pytest.mark.whole_tree
@pytest.mark.v3_differs('v3 returns error 107 as for all methods')
def test_delete_raises_not_file_when_the_root_is_compared(client: getc.Client) -> None:
    """etcd v2 checks first that directories are not compared: error 102."""
    for conditions in ({'prev_index': 1}, {'prev_value': '1'}):
        with pytest.raises(getc.NotFile):
            client.delete('/', recursive=True, **conditions)  # type: ignore[arg-type]


# -- create


def test_create_creates_a_node(client: getc.Client) -> None:
    """Also in new directories."""
    result = client.create('/a/b', '1', ttl=60)
    assert type(result) is getc.Created
    assert isinstance(result, getc.Set)
    assert (result.key, result.value, result.ttl) == ('/a/b', '1', 60)
    assert result.is_new
    assert result.prev_node is None
    assert result.created_index == result.modified_index == result.etcd_index


def test_create_raises_node_exist_when_the_node_exists(client: getc.Client) -> None:
    """A value or a directory: error 105, and nothing changes."""
    client.set('/a', '1')
    client.set('/d', dir=True)
    for key in ('/a', '/d'):
        with pytest.raises(getc.NodeExist) as caught:
            client.create(key, '2')
        assert (caught.value.errno, caught.value.message, caught.value.cause) == (105, 'Key already exists', key)
        with pytest.raises(getc.NodeExist):
            client.create(key, dir=True)
    assert client.get('/a').value == '1'


def test_create_creates_the_node_again_after_delete(client: getc.Client) -> None:
    """The new node has another created_index."""
    first = client.create('/a', '1')
    client.delete('/a')
    assert client.create('/a', '2').created_index > first.created_index


# -- update


def test_update_keeps_the_created_index(client: getc.Client) -> None:
    """The value and modified_index change."""
    first = client.set('/a', '1')
    result = client.update('/a', '2')
    assert type(result) is getc.Updated
    assert isinstance(result, getc.Set)
    assert (result.value, result.created_index) == ('2', first.created_index)
    assert result.modified_index == result.etcd_index > first.modified_index
    assert result.prev_node == first.node
    assert not result.is_new
    assert client.get('/a').node == result.node


def test_update_raises_key_not_found_when_the_node_does_not_exist(client: getc.Client) -> None:
    """Error 100, and nothing is created."""
    with pytest.raises(getc.KeyNotFound) as caught:
        client.update('/a', '1')
    assert caught.value.cause == '/a'
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')


def test_update_sets_and_drops_the_ttl(client: getc.Client) -> None:
    """With a ttl the node gets it, without one it loses its TTL."""
    client.set('/a', '1')
    assert client.update('/a', '2', ttl=100).ttl == 100
    assert client.get('/a').ttl is not None
    assert client.update('/a', '3').ttl is None
    assert client.get('/a').ttl is None


def test_update_accepts_an_empty_value(client: getc.Client) -> None:
    client.set('/a', '1')
    assert client.update('/a', '').value == ''
    assert client.get('/a').value == ''


# -- indices


def test_index_grows_by_one_with_each_write(client: getc.Client) -> None:
    """Reads and errors do not take an index."""
    start = client.set('/a', '1').etcd_index
    client.get('/a')
    with pytest.raises(getc.NodeExist):
        client.create('/a', '2')
    with pytest.raises(getc.TestFailed):
        client.set('/a', '2', prev_value='x')
    assert client.create('/b', '1').modified_index == start + 1
    assert client.update('/a', '2').modified_index == start + 2
    assert client.delete('/b').modified_index == start + 3
    assert client.append('/q', '1').modified_index == start + 4
    assert client.get('/a').etcd_index == start + 4


def test_error_has_the_index_of_the_store(client: getc.Client) -> None:
    index = client.set('/a', '1').etcd_index
    for refused in (lambda: client.get('/none'), lambda: client.create('/a', '1'), lambda: client.delete('/none')):
        with pytest.raises(getc.EtcdError) as caught:
            refused()
        assert caught.value.index == index


# -- bytes


def test_bytes_are_written_and_read(client: getc.Client) -> None:
    """In every write, and as a condition; bytes that are UTF-8 equal the text."""
    for raw in ('grüße'.encode(), b'', b'line\r\n\x00\x01'):
        assert client.set('/a', raw).node == client.get('/a').node
        assert client.get('/a').raw_value == raw
        assert client.get('/a').value == raw.decode()
    client.set('/a', b'1')
    assert client.set('/a', b'2', prev_value=b'1').value == '2'
    assert client.update('/a', b'3', prev_value=b'2').raw_value == b'3'
    assert client.create('/b', b'x').value == 'x'
    assert client.append('/queue', b'x').value == 'x'
    client.refresh('/a', ttl=60, prev_value=b'3')
    client.delete('/a', prev_value=b'3')


def test_values_that_are_not_utf8_are_written_and_read(client: getc.Client, backend_under_test: Any) -> None:
    """v2 supports text only, and raises before any I/O."""
    raw = bytes(range(256))
    if backend_under_test.name == 'v2':
        with pytest.raises(getc.NotSupported):
            client.set('/a', raw)
        return
    client.set('/a', raw)
    got = client.get('/a')
    assert got.raw_value == raw
    assert client.set('/a', got.value or '', prev_value=raw).raw_value == raw
    with client.keep_node('/b', raw) as keeper:
        assert client.get('/b').raw_value == raw
        keeper.update(raw + b'!')
        assert client.get('/b').raw_value == raw + b'!'
    assert client.delete('/a', prev_value=raw).raw_value is None
