"""mirror: a subtree as a mapping, which follows etcd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gevent
import pytest

import getc
from getc import WatcherState

Until = Callable[..., None]
CHANGE_TIMEOUT = 60


def test_mirror_has_all_values_when_mirror_returns(client: getc.Client) -> None:
    """Values at any depth, by their keys, without directories and hidden nodes."""
    client.set('/servers/a', '1')
    client.set('/servers/deep/b', '2')
    client.set('/servers/_hidden', 'x')
    client.set('/servers/empty', dir=True)
    client.set('/servers-other', 'x')
    mirror = client.mirror('/servers')
    assert dict(mirror) == {'/servers/a': '1', '/servers/deep/b': '2'}
    assert isinstance(mirror, Mapping)
    assert (len(mirror), '/servers/a' in mirror, '/servers/x' in mirror) == (2, True, False)
    assert mirror.get('/servers/x', 'none') == 'none'
    assert mirror.nodes['/servers/a'] == client.get('/servers/a').node
    assert (mirror.state, mirror.is_stale) == (WatcherState.LIVE, False)
    assert repr(mirror) == f'<getc.Mirror /servers[2] LIVE index={mirror.index}>'


def test_mirror_of_a_missing_node_is_empty_at_first(client: getc.Client, other: getc.Client) -> None:
    mirror = client.mirror('/servers')
    assert dict(mirror) == {}
    other.set('/servers/a', '1')
    assert mirror.wait(lambda nodes: nodes.get('/servers/a'), timeout=CHANGE_TIMEOUT) == '1'


def test_mirror_of_a_value_has_that_value(client: getc.Client, other: getc.Client) -> None:
    """The node may become a directory and a value again."""
    client.set('/cfg/rate', '20')
    mirror = client.mirror('/cfg/rate')
    assert dict(mirror) == {'/cfg/rate': '20'}
    other.set('/cfg/rate', '30')
    assert mirror.wait(lambda nodes: nodes.get('/cfg/rate') == '30', timeout=CHANGE_TIMEOUT)
    other.delete('/cfg/rate')
    mirror.wait(lambda nodes: not nodes, timeout=CHANGE_TIMEOUT)
    other.set('/cfg/rate/low', '1')
    mirror.wait(lambda nodes: dict(nodes) == {'/cfg/rate/low': '1'}, timeout=CHANGE_TIMEOUT)
    other.delete('/cfg/rate', recursive=True)
    other.set('/cfg/rate', '40')
    mirror.wait(lambda nodes: dict(nodes) == {'/cfg/rate': '40'}, timeout=CHANGE_TIMEOUT)


def test_mirror_follows_writes_and_deletes(client: getc.Client, other: getc.Client) -> None:
    """Also of whole directories, and replacements of a value by a directory and vice versa."""
    mirror = client.mirror('/servers')
    other.set('/servers/a', '1')
    other.set('/servers/d/b', '2')
    other.set('/servers/d/c', '3')
    other.set('/servers/a', '4')
    mirror.wait(lambda nodes: nodes.get('/servers/a') == '4', timeout=CHANGE_TIMEOUT)
    assert dict(mirror) == {'/servers/a': '4', '/servers/d/b': '2', '/servers/d/c': '3'}
    other.delete('/servers/d', recursive=True)
    other.set('/servers/d', 'now a value')
    other.delete('/servers/a')
    mirror.wait(lambda nodes: '/servers/a' not in nodes, timeout=CHANGE_TIMEOUT)
    assert dict(mirror) == {'/servers/d': 'now a value'}


def test_reading_a_mirror_does_not_switch_greenlets(client: getc.Client) -> None:
    client.set('/servers/a', '1')
    mirror = client.mirror('/servers')
    switched: list[int] = []
    gevent.spawn(switched.append, 1)
    assert [mirror['/servers/a'], *mirror, *mirror.values()] == ['1', '/servers/a', '1']
    assert switched == []


def test_wait_returns_the_result_of_the_predicate(client: getc.Client, other: getc.Client, spawn: Any) -> None:
    """At once if it is true, else when it becomes true; for each greenlet that waits."""
    mirror = client.mirror('/servers')
    assert mirror.wait(lambda nodes: len(nodes) == 0) is True
    waiting = [spawn(mirror.wait, lambda nodes, least=least: len(nodes) >= least and least) for least in (1, 2, 3)]
    for name in 'abc':
        other.set(f'/servers/{name}', name)
    assert [each.get(timeout=CHANGE_TIMEOUT) for each in waiting] == [1, 2, 3]


def test_wait_raises_timed_out_when_the_predicate_stays_false(client: getc.Client) -> None:
    """An exception of the predicate is raised in the greenlet that waits."""
    mirror = client.mirror('/servers')
    with pytest.raises(getc.TimedOut, match=r'mirror /servers: the predicate was not true within 0.01 s'):
        mirror.wait(lambda nodes: len(nodes) > 3, timeout=0.01)
    with pytest.raises(KeyError):
        mirror.wait(lambda nodes: nodes['/servers/none'])


def test_wait_ends_when_the_mirror_is_stopped(client: getc.Client, spawn: Any) -> None:
    """By its own stop, or by that of the client."""
    first, second = client.mirror('/a'), client.mirror('/b')
    waiting = [spawn(mirror.wait, len) for mirror in (first, second)]
    gevent.sleep(0)
    first.stop()
    client.close()
    for each in waiting:
        with pytest.raises(getc.ClientClosed):
            each.get(timeout=CHANGE_TIMEOUT)
    assert (first.state, second.state) == (WatcherState.STOPPED, WatcherState.STOPPED)


def test_on_update_is_called_after_the_mirror_has_changed(
    client: getc.Client, other: getc.Client, wait_until: Until
) -> None:
    """One call for each revision, in order."""
    received: list[tuple[tuple[str, ...], dict[str, str]]] = []

    def on_update(results: tuple[getc.EtcdResult, ...]) -> None:
        received.append((tuple(result.key for result in results), dict(mirror)))

    mirror = client.mirror('/cfg', on_update=on_update)
    other.set('/cfg/a', '1')
    wait_until(lambda: len(received) == 1)
    other.set('/cfg/b', '2')
    wait_until(lambda: len(received) == 2)
    assert received == [(('/cfg/a',), {'/cfg/a': '1'}), (('/cfg/b',), {'/cfg/a': '1', '/cfg/b': '2'})]


def test_transaction_is_applied_to_a_mirror_as_a_whole(
    client: getc.Client, backend_under_test: Any, wait_until: Until
) -> None:
    """v3 writes several keys in a transaction: no reader sees a part of them."""
    if backend_under_test.name != 'v3':
        pytest.skip('one write at a time is all that v2 and memory have')
    from getc.v3.txn import put

    seen: list[dict[str, str]] = []
    updates: list[int] = []
    mirror = client.mirror('/cfg', on_update=lambda results: updates.append(len(results)))

    def look(nodes: getc.Mirror) -> bool:
        seen.append(dict(nodes))
        return nodes.get('/cfg/9') == '2'

    for value in (b'1', b'2'):
        client.v3.kv.txn(success=[put(b'/cfg/%d' % number, value) for number in range(10)])
    mirror.wait(look, timeout=CHANGE_TIMEOUT)
    assert all(len(set(view.values())) <= 1 and len(view) in (0, 10) for view in seen)
    wait_until(lambda: len(updates) == 2)
    assert updates == [10, 10]


def test_mirror_resyncs_after_lost_history(
    client: getc.Client, other: getc.Client, backend_under_test: Any, wait_until: Until
) -> None:
    """The callback is far behind: the mirror is stale meanwhile, and correct at the end."""
    gate = gevent.event.Event()
    mirror = client.mirror('/cfg', on_update=lambda results: gate.wait())
    while not mirror.is_stale:  # a watch that is overtaken would not fall as far behind
        for _ in range(100):
            last = other.set('/cfg/a', 'x')
        wait_until(lambda last=last: mirror.is_stale or mirror.index >= last.modified_index)
    other.set('/cfg/b', 'new')
    other.delete('/cfg/a')
    backend_under_test.compact_history(other)
    gate.set()
    mirror.wait(lambda nodes: dict(nodes) == {'/cfg/b': 'new'}, timeout=CHANGE_TIMEOUT)
    wait_until(lambda: not mirror.is_stale)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'key': 7}, TypeError, 'key must be a str'),
        ({'on_update': 'log'}, TypeError, 'on_update must be a function or None, not str'),
        ({'timeout': -1}, ValueError, 'timeout'),
    ],
)
def test_mirror_raises_for_invalid_options_before_any_io(
    refusing: getc.Client, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The message names the option."""
    with pytest.raises(error, match=message):
        refusing.mirror(**{'key': '/servers', **options})


def test_mirror_raises_timed_out_when_no_server_answers(refusing: getc.Client) -> None:
    """Nothing is left running."""
    with pytest.raises(getc.TimedOut, match=r'mirror /servers did not start within 0.05 s'):
        refusing.mirror('/servers', timeout=0.05)
