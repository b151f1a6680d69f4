"""``namespace``: a client that sees one directory as its root."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

import getc

pytestmark = pytest.mark.whole_tree


@pytest.fixture
def inside(backing: Any, client: getc.Client) -> getc.Client:
    """A client of the namespace /ns of the store that ``client`` sees whole."""
    opened: getc.Client = backing.open(namespace='/ns')
    return opened


def test_namespace_is_put_in_front_and_taken_off(client: getc.Client, inside: getc.Client) -> None:
    """Inside nobody sees the namespace, outside everybody does."""
    written = inside.set('/a', '1')
    assert written.key == '/a'
    assert inside.get('/a').key == '/a'
    assert client.get('/ns/a').node == getc.Value('/ns/a', written.index, written.created_index, value='1')
    client.set('/ns/b', '2')
    assert inside.get('/b').value == '2'


def test_namespace_is_taken_off_every_key_of_a_result(client: getc.Client, inside: getc.Client) -> None:
    """Of the nodes in a directory, of prev_node, of an append."""
    inside.set('/d/a/b', '1')
    listing = inside.get('/', recursive=True)
    assert isinstance(listing.node, getc.Directory)
    assert listing.key == '/'
    assert [leaf.key for leaf in listing.node.leaves()] == ['/d/a/b']
    prev_node = inside.set('/d/a/b', '2').prev_node
    assert prev_node is not None
    assert prev_node.key == '/d/a/b'
    assert inside.append('/q', '1').key.startswith('/q/0')
    assert [node.key for node in client.get('/ns', sorted=True).nodes] == ['/ns/d', '/ns/q']


def test_namespace_is_taken_off_errors(client: getc.Client, inside: getc.Client) -> None:
    """The cause of an error is a key as the caller knows it."""
    inside.set('/a', '1')
    for refused in (
        lambda: inside.get('/none'),
        lambda: inside.create('/a', '1'),
        lambda: inside.set('/a/b', '1'),
        lambda: inside.delete('/none'),
    ):
        with pytest.raises(getc.EtcdError) as caught:
            refused()
        assert caught.value.cause in ('/none', '/a')
        assert '/ns' not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize('namespace', ['/ns', '/name/space/deep'])
def test_namespace_names_the_key_when_it_does_not_exist_yet(backing: Any, client: getc.Client, namespace: str) -> None:
    """In a namespace that nobody has written to, what is missing is the key that was asked for."""
    inside = backing.open(namespace=namespace)
    for refused in (lambda: inside.get('/a'), lambda: inside.delete('/a'), lambda: inside.update('/a', '1')):
        with pytest.raises(getc.KeyNotFound) as caught:
            refused()
        assert str(caught.value) == '[100] Key not found (/a)'
        assert caught.value.args[1] == '/a'


def test_namespace_names_its_root_when_it_is_a_value(backing: Any, client: getc.Client) -> None:
    """A value where the namespace, or a directory above it, should be: NotDir of the root inside."""
    client.set('/name', '1')
    for namespace in ('/name', '/name/space'):
        with pytest.raises(getc.NotDir) as caught:
            backing.open(namespace=namespace).set('/a', '1')
        assert caught.value.cause == '/'


def test_namespace_hides_what_is_outside(client: getc.Client, inside: getc.Client) -> None:
    """Keys outside are not seen, be they called alike."""
    client.set('/a', 'outside')
    client.set('/nsx/a', 'outside')
    with pytest.raises(getc.KeyNotFound):
        inside.get('/a')
    inside.set('/a', 'inside')
    assert client.get('/a').value == 'outside'
    assert inside.get('/').values == ('inside',)


def test_namespace_waits_inside(client: getc.Client, inside: getc.Client) -> None:
    """A recursive wait on the root of a namespace sees the namespace's changes alone."""
    start = client.set('/ns', dir=True).etcd_index
    client.set('/a', 'outside')
    client.set('/nsx/a', 'outside')
    client.set('/ns/a', 'inside', ttl=100)
    seen = inside.wait('/', start + 1, recursive=True, timeout=30)
    assert (seen.key, seen.value) == ('/a', 'inside')
    assert inside.wait('/a', start + 1, timeout=30).key == '/a'


@pytest.mark.v3_differs('v3 tells the deletion of the key itself')
def test_namespace_is_told_when_it_is_deleted(client: getc.Client, inside: getc.Client, spawn: Any) -> None:
    """A wait inside is woken when the namespace itself is deleted."""
    start = inside.set('/d/a', '1').etcd_index
    waiting = spawn(inside.wait, '/d/a', start + 1)
    gevent.sleep(0)
    client.delete('/ns', recursive=True)
    seen = waiting.get(timeout=30)
    assert isinstance(seen, getc.Deleted)
    assert seen.key == '/'


@pytest.mark.parametrize('namespace', ['ns', '/ns/', '//ns', 'ns//'])
def test_namespace_is_normalised(backing: Any, client: getc.Client, namespace: str) -> None:
    """A namespace may be written as any key may."""
    backing.open(namespace=namespace).set('/a', '1')
    assert client.get('/ns/a').value == '1'


@pytest.mark.parametrize('namespace', ['', '/', None])
def test_namespace_is_the_whole_tree_when_it_is_the_root(
    backing: Any, client: getc.Client, namespace: str | None
) -> None:
    """The root as a namespace changes nothing."""
    backing.open(namespace=namespace).set('/a', '1')
    assert client.get('/a').value == '1'


def test_namespace_may_be_deep_and_awkward(backing: Any, client: getc.Client) -> None:
    """A namespace of several segments with any characters."""
    inside = backing.open(namespace='/a b/é?#%')
    inside.set('/x', '1')
    assert client.get('/a b/é?#%/x').value == '1'
    assert inside.get('/').nodes[0].key == '/x'


def test_namespace_compares_and_deletes_inside(client: getc.Client, inside: getc.Client) -> None:
    """Conditions and deletes are those of the nodes inside."""
    client.set('/a', '1')
    index = inside.set('/a', '1').modified_index
    assert inside.set('/a', '2', prev_index=index).value == '2'
    assert inside.delete('/a', prev_value='2').key == '/a'
    assert client.get('/a').value == '1'
