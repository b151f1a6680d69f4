"""``namespace``: a client whose root is a directory of the store."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import gevent
import pytest

import getc

pytestmark = pytest.mark.whole_tree


@pytest.fixture
def namespaced(backend_under_test: Any, client: getc.Client) -> getc.Client:
    """A client with namespace /ns of the store of ``client``."""
    opened: getc.Client = backend_under_test.open(namespace='/ns')
    return opened


def test_namespace_is_added_to_and_removed_from_keys(client: getc.Client, namespaced: getc.Client) -> None:
    """Keys inside do not have the namespace, keys outside do."""
    written = namespaced.set('/a', '1')
    assert written.key == '/a'
    assert namespaced.get('/a').key == '/a'
    assert client.get('/ns/a').node == getc.Value('/ns/a', written.index, written.created_index, value='1')
    client.set('/ns/b', '2')
    assert namespaced.get('/b').value == '2'


def test_namespace_is_removed_from_every_key_of_a_result(client: getc.Client, namespaced: getc.Client) -> None:
    """Nodes of a directory, prev_node, the node of an append."""
    namespaced.set('/d/a/b', '1')
    listing = namespaced.get('/', recursive=True)
    assert isinstance(listing.node, getc.Directory)
    assert listing.key == '/'
    assert [leaf.key for leaf in listing.node.leaves()] == ['/d/a/b']
    prev_node = namespaced.set('/d/a/b', '2').prev_node
    assert prev_node is not None
    assert prev_node.key == '/d/a/b'
    assert namespaced.append('/q', '1').key.startswith('/q/0')
    assert [node.key for node in client.get('/ns', sorted=True).nodes] == ['/ns/d', '/ns/q']


def test_namespace_is_removed_from_errors(client: getc.Client, namespaced: getc.Client) -> None:
    """The cause of an error is a key relative to the namespace."""
    namespaced.set('/a', '1')
    for refused in (
        lambda: namespaced.get('/none'),
        lambda: namespaced.create('/a', '1'),
        lambda: namespaced.set('/a/b', '1'),
        lambda: namespaced.delete('/none'),
    ):
        with pytest.raises(getc.EtcdError) as caught:
            refused()
        assert caught.value.cause in ('/none', '/a')
        assert '/ns' not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize('namespace', ['/ns', '/name/space/deep'])
def test_error_in_a_missing_namespace_names_the_key(
    backend_under_test: Any, client: getc.Client, namespace: str
) -> None:
    """In a namespace without a write, the missing key is the requested one."""
    namespaced = backend_under_test.open(namespace=namespace)
    for refused in (
        lambda: namespaced.get('/a'),
        lambda: namespaced.delete('/a'),
        lambda: namespaced.update('/a', '1'),
    ):
        with pytest.raises(getc.KeyNotFound) as caught:
            refused()
        assert str(caught.value) == '[100] Key not found (/a)'
        assert caught.value.args[1] == '/a'


def test_namespace_raises_not_dir_when_it_is_a_value(backend_under_test: Any, client: getc.Client) -> None:
    """The namespace or a parent of it is a value: NotDir of the root inside."""
    client.set('/name', '1')
    for namespace in ('/name', '/name/space'):
        with pytest.raises(getc.NotDir) as caught:
            backend_under_test.open(namespace=namespace).set('/a', '1')
        assert caught.value.cause == '/'


def test_namespace_hides_what_is_outside(client: getc.Client, namespaced: getc.Client) -> None:
    """Also keys with the same prefix."""
    client.set('/a', 'outside')
    client.set('/nsx/a', 'outside')
    with pytest.raises(getc.KeyNotFound):
        namespaced.get('/a')
    namespaced.set('/a', 'inside')
    assert client.get('/a').value == 'outside'
    assert namespaced.get('/').values == ('inside',)


def test_namespace_waits_inside(client: getc.Client, namespaced: getc.Client) -> None:
    """A recursive wait on the root of a namespace returns only changes inside."""
    start = client.set('/ns', dir=True).etcd_index
    client.set('/a', 'outside')
    client.set('/nsx/a', 'outside')
    client.set('/ns/a', 'inside', ttl=100)
    seen = namespaced.wait('/', start + 1, recursive=True, timeout=30)
    assert (seen.key, seen.value) == ('/a', 'inside')
    assert namespaced.wait('/a', start + 1, timeout=30).key == '/a'


@pytest.mark.v3_differs('v3 sends the deletion of the key itself')
def test_wait_in_a_namespace_returns_when_the_namespace_is_deleted(
    client: getc.Client, namespaced: getc.Client, spawn: Any
) -> None:
    start = namespaced.set('/d/a', '1').etcd_index
    waiting = spawn(namespaced.wait, '/d/a', start + 1)
    gevent.sleep(0)
    client.delete('/ns', recursive=True)
    seen = waiting.get(timeout=30)
    assert isinstance(seen, getc.Deleted)
    assert seen.key == '/'


@pytest.mark.parametrize('namespace', ['ns', '/ns/', '//ns', 'ns//'])
def test_namespace_is_normalised(backend_under_test: Any, client: getc.Client, namespace: str) -> None:
    """A namespace may have any form that a key may have."""
    backend_under_test.open(namespace=namespace).set('/a', '1')
    assert client.get('/ns/a').value == '1'


@pytest.mark.parametrize('namespace', ['', '/', None])
def test_namespace_is_the_whole_tree_when_it_is_the_root(
    backend_under_test: Any, client: getc.Client, namespace: str | None
) -> None:
    """The root as namespace changes nothing."""
    backend_under_test.open(namespace=namespace).set('/a', '1')
    assert client.get('/a').value == '1'


def test_namespace_may_have_several_unusual_segments(backend_under_test: Any, client: getc.Client) -> None:
    namespaced = backend_under_test.open(namespace='/a b/é?#%')
    namespaced.set('/x', '1')
    assert client.get('/a b/é?#%/x').value == '1'
    assert namespaced.get('/').nodes[0].key == '/x'


def test_namespace_compares_and_deletes_inside(client: getc.Client, namespaced: getc.Client) -> None:
    """Conditions and deletes apply to nodes inside."""
    client.set('/a', '1')
    index = namespaced.set('/a', '1').modified_index
    assert namespaced.set('/a', '2', prev_index=index).value == '2'
    assert namespaced.delete('/a', prev_value='2').key == '/a'
    assert client.get('/a').value == '1'


# -- the namespace is never shown

SECRET = '/name/space'


class LeakCheck:
    """Searches everything that a client returns or raises for the namespace, in all that is reachable by attributes."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.kinds: set[str] = set()
        self._seen: list[object] = []

    def take(self, thing: object, path: str = '') -> None:
        """Search an object, its public attributes and its items."""
        if isinstance(thing, str):
            if 'name/space' in thing or '/name' in thing.split():
                self.found.append(f'{path}: {thing!r}')
            return
        if (
            thing is None
            or isinstance(thing, (int, float, datetime, type))
            or any(thing is each for each in self._seen)
        ):
            return
        self._seen.append(thing)
        self.kinds.add(type(thing).__name__)
        path = path or type(thing).__name__
        self.take(repr(thing), f'repr({path})')
        self.take(str(thing), f'str({path})')
        if isinstance(thing, BaseException):
            self.take(''.join(traceback.format_exception(thing)), f'traceback of {path}')
            self.take(list(thing.args), f'{path}.args')
        if isinstance(thing, Mapping):
            thing = dict(thing)
            self.take([*thing, *thing.values()], f'{path}[...]')
        elif isinstance(thing, (list, tuple)):
            for number, item in enumerate(thing):
                self.take(item, f'{path}[{number}]')
        else:
            for name in dir(thing):
                if not name.startswith('_') and not callable(value := getattr(thing, name, None)):
                    self.take(value, f'{path}.{name}')

    def call(self, function: Callable[..., Any], *args: object, **options: object) -> None:
        """Search what a function returns or raises."""
        try:
            self.take(function(*args, **options))
        except getc.EtcException as error:
            self.take(error)


def test_no_object_from_a_client_shows_its_namespace(
    backend_under_test: Any, client: getc.Client, wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Results, nodes, errors with their tracebacks, keepers, watchers, changes, mirrors, and the log."""
    caplog.set_level(logging.DEBUG, 'getc')
    client.set('/name/other', '1')
    namespaced = backend_under_test.open(namespace=SECRET)
    out = LeakCheck()
    namespaced.set('/first', '1')
    start = namespaced.get('/first').etcd_index
    mirror = namespaced.mirror('/', on_update=out.take)
    watcher = namespaced.on_change('/', out.take, initial=True, on_resync=out.take)
    changes = namespaced.changes('/', initial=True)

    for call in (
        namespaced.get,
        namespaced.delete,
        namespaced.update,
        namespaced.refresh,
        namespaced.create,
        namespaced.set,
        namespaced.append,
    ):
        options: dict[str, Any] = {'ttl': 60} if call == namespaced.refresh else {}
        values = () if call in (namespaced.get, namespaced.delete, namespaced.refresh) else ('x',)
        for key in ('/none', '/first', '/first/below', '/d', '/'):
            if not (call == namespaced.delete and key == '/first'):
                out.call(call, key, *values, **options)
    for wrong in ({'prev_value': 'no'}, {'prev_index': 1}):
        out.call(namespaced.set, '/first', 'x', **wrong)
        out.call(namespaced.delete, '/first', **wrong)
    out.call(namespaced.set, '/e/f/g', '1')
    for options in ({'dir': True}, {'recursive': True}, {}):
        out.call(namespaced.delete, '/e', **options)
    out.call(namespaced.get, '/', recursive=True, sorted=True, quorum=True)
    out.call(namespaced.set, '/made', dir=True)
    out.call(namespaced.append, '/q', 'x', ttl=60)
    out.call(namespaced.get, '/'.join(['', *['deep'] * 130]))
    out.call(namespaced.set, '/'.join(['', *['deep'] * 130]), '1')
    out.call(namespaced.wait, '/', start + 1, recursive=True, timeout=10)
    out.call(namespaced.wait, '/never', timeout=0.01)

    out.call(namespaced.keep_node, '/first')
    out.call(namespaced.keep_node, '/d', on_conflict='wait', timeout=0.01)
    keeper = namespaced.keep_node('/servers/a', 'x', ttl=60, on_lost=out.take, on_restored=out.take)
    out.take(keeper)
    out.call(keeper.update, 'y')
    out.call(namespaced.keep_node, '/servers/a', on_conflict='raise')
    out.call(namespaced.keep_node, '/servers/a', on_conflict='wait', timeout=0.01)
    client.set(f'{SECRET}/servers/a', 'theirs', ttl=60)
    out.call(keeper.update, 'z')
    wait_until(lambda: keeper.state is getc.KeeperState.LOST)
    for call in (keeper.ensure, lambda: keeper.update('z')):
        out.call(call)
    client.delete(f'{SECRET}/servers/a')
    wait_until(lambda: keeper.state is getc.KeeperState.KEPT)
    keeper.orphan()
    out.call(keeper.ensure)

    out.call(lambda: [changes.get(timeout=10) for _ in range(10)])
    wait_until(lambda: mirror.index >= keeper_index(client))
    for left in (keeper, watcher, changes, mirror):
        out.take(left)
    client.delete('/name', recursive=True)
    wait_until(lambda: not mirror)
    backend_under_test.compact_history(client)
    out.call(namespaced.wait, '/first', 1, timeout=10)
    namespaced.close()
    out.call(namespaced.get, '/first')
    out.take(caplog.messages)
    assert out.found == []
    expected = {'Got', 'Set', 'Created', 'Updated', 'Value', 'Directory', 'Keeper', 'Watcher', 'Mirror', 'Changes'}
    expected |= {'KeyNotFound', 'NodeExist', 'TestFailed', 'NotFile', 'NotDir', 'TimedOut', 'EventIndexCleared'}
    assert expected <= out.kinds


def keeper_index(client: getc.Client) -> int:
    """The index of the latest change of the kept node."""
    return client.get(f'{SECRET}/servers/a').modified_index
