"""``wait``: from now on, from an index, recursive, hidden nodes, deleted parents, timeouts, lost history."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import getc

CHANGE_TIMEOUT = 60.0
"""Seconds after which a missing change is a failure."""

Spawn = Callable[..., Any]


def write_until_received(client: getc.Client, key: str, waiting: Any) -> list[str]:
    """Write to the key until the waiter has received a write; return the values written.

    Whether a wait without an index is registered is not visible from outside, so one write is not enough.
    """
    values = []
    with gevent.Timeout(CHANGE_TIMEOUT):
        while not waiting.ready():
            values.append(str(len(values)))
            client.set(key, values[-1])
            waiting.join(0.05)
    return values


def changes(client: getc.Client, key: str, index: int, **options: Any) -> Iterator[getc.EtcdResult]:
    """Yield every change from an index on, by successive calls of ``wait``."""
    while True:
        result = client.wait(key, index, timeout=CHANGE_TIMEOUT, **options)
        yield result
        index = result.modified_index + 1


# -- without an index


@pytest.mark.parametrize('index', [None, 0])
def test_wait_returns_the_next_change_when_no_index(client: getc.Client, spawn: Spawn, index: int | None) -> None:
    """Without an index (None or 0) earlier changes do not count."""
    before = client.set('/a', 'before')
    waiting = spawn(client.wait, '/a', index)
    values = write_until_received(client, '/a', waiting)
    result = waiting.get()
    assert type(result) is getc.Set
    assert result.value in values
    assert result.modified_index > before.modified_index
    assert result.prev_node is not None


def test_wait_returns_when_the_node_is_created(client: getc.Client, spawn: Spawn) -> None:
    """Neither the key nor its directory exists before."""
    waiting = spawn(client.wait, '/no/such/key')
    write_until_received(client, '/no/such/key', waiting)
    assert waiting.get().key == '/no/such/key'


def test_wait_returns_a_change_of_another_client(client: getc.Client, other: getc.Client, spawn: Spawn) -> None:
    waiting = spawn(client.wait, '/d', recursive=True)
    write_until_received(other, '/d/a', waiting)
    assert waiting.get().key == '/d/a'


def test_blocked_waits_do_not_block_other_calls(client: getc.Client, spawn: Spawn) -> None:
    """Fifty waits of one client, each of which returns its own change."""
    start = client.set('/start', '1').etcd_index
    waiting = [spawn(client.wait, f'/d/{number}', start + 1) for number in range(50)]
    gevent.sleep(0)
    written = [client.set(f'/d/{number}', str(number)) for number in range(50)]
    results = [greenlet.get(timeout=CHANGE_TIMEOUT) for greenlet in waiting]
    assert [result.node for result in results] == [result.node for result in written]


# -- with an index


def test_wait_returns_the_change_at_the_index(client: getc.Client) -> None:
    """A past change at exactly the index, or the first one after it."""
    first = client.set('/a', '1')
    client.set('/b', '1')
    second = client.set('/a', '2')
    assert client.wait('/a', first.modified_index, timeout=CHANGE_TIMEOUT).node == first.node
    assert client.wait('/a', first.modified_index + 1, timeout=CHANGE_TIMEOUT).node == second.node
    assert client.wait('/a', second.modified_index, timeout=CHANGE_TIMEOUT).node == second.node


def test_wait_accepts_a_positional_index(client: getc.Client) -> None:
    written = client.set('/a', '1')
    assert client.wait('/a', written.index).node == client.wait(key='/a', index=written.index).node == written.node


def test_wait_blocks_when_the_index_is_the_next_one(client: getc.Client, spawn: Spawn) -> None:
    """Until the next index, or a later one of the key."""
    index = client.set('/a', '0').etcd_index
    waiting = spawn(client.wait, '/a', index + 1)
    gevent.sleep(0)
    client.set('/b', '1')
    written = client.set('/a', '2')
    assert waiting.get(timeout=CHANGE_TIMEOUT).node == written.node


def test_wait_raises_index_cleared_when_the_index_is_ahead_of_the_store(client: getc.Client) -> None:
    """An index beyond the next one belongs to another store, or to one that has lost data."""
    index = client.set('/a', '1').etcd_index
    for ahead in (2, 1000):
        with pytest.raises(getc.EventIndexCleared) as caught:
            client.wait('/a', index + ahead, timeout=CHANGE_TIMEOUT)
        assert caught.value.index == index
        assert caught.value.cause == 'the store was replaced, or restored to an earlier state'


def test_successive_waits_by_index_return_every_change(client: getc.Client) -> None:
    """Waiting for modified_index + 1 each time misses nothing and repeats nothing."""
    start = client.set('/a', 'start').etcd_index
    client.update('/a', '1')
    client.set('/other', 'x')
    client.set('/a', '2', prev_value='1')
    client.delete('/a')
    client.create('/a', '3')
    client.delete('/a', prev_value='3')
    client.set('/a', '4')
    following = changes(client, '/a', start + 1)
    seen = [next(following) for _ in range(6)]
    assert [result.modified_index for result in seen] == [start + step for step in (1, 3, 4, 5, 6, 7)]
    assert [result.value for result in seen] == ['1', '2', None, '3', None, '4']
    assert [isinstance(result, getc.Deleted) for result in seen] == [False, False, True, False, True, False]


@pytest.mark.v3_differs('a PUT event is Set on v3, because events do not have the operation')
def test_wait_returns_the_class_of_the_operation(client: getc.Client) -> None:
    """The class of the result is the one that the writer got."""
    start = client.set('/d/a', '1').etcd_index
    done = [
        client.update('/d/a', '2'),
        client.set('/d/a', '3', prev_value='2'),
        client.delete('/d/a', prev_value='3'),
        client.create('/d/a', '4'),
        client.set('/d/a', '5'),
        client.delete('/d/a'),
        client.append('/d', '6'),
        client.set('/d/e', dir=True),
        client.delete('/d', recursive=True),
    ]
    following = changes(client, '/d', start + 1, recursive=True)
    for result in done:
        seen = next(following)
        assert type(seen) is type(result)
        assert (seen.node, seen.prev_node, seen.is_new) == (result.node, result.prev_node, result.is_new)


def test_wait_skips_a_refresh_in_the_past(client: getc.Client) -> None:
    """A refresh is not a change, in the history and live."""
    start = client.set('/a', '1', ttl=100).etcd_index
    client.refresh('/a', ttl=100)
    last = client.set('/a', '2')
    assert client.wait('/a', start + 1, timeout=CHANGE_TIMEOUT).modified_index == last.modified_index


# -- related keys


def test_wait_ignores_descendants_when_not_recursive(client: getc.Client) -> None:
    """A change of the directory itself counts."""
    client.set('/d', dir=True)
    start = client.set('/x', '1').etcd_index
    client.set('/d/a', '1')
    client.set('/d/sub/b', '1')
    gone = client.delete('/d', recursive=True)
    seen = client.wait('/d', start + 1, timeout=CHANGE_TIMEOUT)
    assert seen.node == gone.node


def test_wait_ignores_keys_with_the_same_prefix(client: getc.Client) -> None:
    """/foobar is not below /foo."""
    start = client.set('/x', '1').etcd_index
    for key in ('/foobar', '/foo-a', '/foo.a/b', '/foo0', '/fo', '/FOO'):
        client.set(key, '1')
    client.set('/foo/a', 'right')
    assert client.wait('/foo', start + 1, recursive=True, timeout=CHANGE_TIMEOUT).key == '/foo/a'


def test_live_wait_ignores_keys_with_the_same_prefix(client: getc.Client, spawn: Spawn) -> None:
    """The same for a blocked wait."""
    start = client.set('/x', '1').etcd_index
    recursive = spawn(client.wait, '/foo', start + 1, recursive=True)
    exact = spawn(client.wait, '/foo', start + 1)
    gevent.sleep(0)
    for key in ('/foobar', '/foo-a', '/foo.a/b', '/foo0', '/fo', '/FOO'):
        client.set(key, '1')
    client.set('/foo/a', 'below')
    client.delete('/foo', recursive=True)
    client.set('/foo', 'itself')
    assert recursive.get(timeout=CHANGE_TIMEOUT).key == '/foo/a'
    assert exact.get(timeout=CHANGE_TIMEOUT).key == '/foo'


def test_wait_returns_changes_of_descendants_when_recursive(client: getc.Client) -> None:
    """The node itself, its children, and theirs."""
    start = client.set('/d', dir=True)
    client.set('/d/a', '1')
    client.set('/d/b/c/d', '2')
    following = changes(client, '/d', start.modified_index, recursive=True)
    assert [next(following).key for _ in range(3)] == ['/d', '/d/a', '/d/b/c/d']


@pytest.mark.whole_tree
def test_wait_returns_any_change_when_the_root_is_watched(client: getc.Client) -> None:
    """A recursive wait on the root."""
    start = client.set('/x', '1').etcd_index
    client.set('/a/b', '1')
    client.delete('/x')
    following = changes(client, '/', start, recursive=True)
    assert [next(following).key for _ in range(3)] == ['/x', '/a/b', '/x']


# -- hidden nodes


def test_wait_ignores_hidden_nodes_when_watching_above(client: getc.Client) -> None:
    """A hidden node, or one in a hidden directory, from the history."""
    start = client.set('/x', '1').etcd_index
    client.set('/d/_h', '1')
    client.set('/d/_dir/a', '1')
    client.set('/d/sub/_h/b', '1')
    client.set('/d/seen', '1')
    assert client.wait('/d', start + 1, recursive=True, timeout=CHANGE_TIMEOUT).key == '/d/seen'


def test_wait_ignores_hidden_nodes_when_live(client: getc.Client, spawn: Spawn) -> None:
    """The same for a blocked wait."""
    start = client.set('/x', '1').etcd_index
    waiting = spawn(client.wait, '/d', start + 1, recursive=True)
    gevent.sleep(0)
    client.set('/d/_h', '1')
    client.set('/d/_dir/a', '1')
    client.set('/d/seen', '1')
    assert waiting.get(timeout=CHANGE_TIMEOUT).key == '/d/seen'


def test_wait_returns_a_change_of_a_hidden_node_by_its_key(client: getc.Client, spawn: Spawn) -> None:
    """Or below the key of a hidden directory; from the history and live."""
    start = client.set('/x', '1').etcd_index
    live = spawn(client.wait, '/d/_h', start + 1, recursive=True)
    gevent.sleep(0)
    client.set('/d/_h/a', '1')
    assert live.get(timeout=CHANGE_TIMEOUT).key == '/d/_h/a'
    assert client.wait('/d/_h', start + 1, recursive=True, timeout=CHANGE_TIMEOUT).key == '/d/_h/a'
    assert client.wait('/d/_h/a', start + 1, timeout=CHANGE_TIMEOUT).key == '/d/_h/a'


# -- deleted parents


@pytest.mark.parametrize('recursive', [False, True])
@pytest.mark.v3_differs('v3 sends the deletion of the key itself')
def test_wait_returns_when_a_parent_directory_is_deleted(client: getc.Client, spawn: Spawn, recursive: bool) -> None:
    """The result has the key of the directory."""
    start = client.set('/d/sub/a', '1').etcd_index
    waiting = spawn(client.wait, '/d/sub/a', start + 1, recursive=recursive)
    gevent.sleep(0)
    gone = client.delete('/d', recursive=True)
    seen = waiting.get(timeout=CHANGE_TIMEOUT)
    assert type(seen) is getc.Deleted
    assert (seen.key, seen.modified_index) == ('/d', gone.modified_index)
    assert isinstance(seen.node, getc.Directory)


def test_recursive_delete_is_one_event(client: getc.Client) -> None:
    """To a wait on a parent."""
    for key in ('/d/a', '/d/b', '/d/c'):
        start = client.set(key, '1').etcd_index
    gone = client.delete('/d', recursive=True)
    after = client.set('/d/x', '1')
    following = changes(client, '/d', start + 1, recursive=True)
    assert next(following).modified_index == gone.modified_index
    assert next(following).modified_index == after.modified_index


# -- timeouts


def timed_out(client: getc.Client, key: str, index: int) -> getc.TimedOut:
    """Return the error of a wait without a change; it waits longer if the server was too slow to create the watch."""
    timeout = 0.05
    with gevent.Timeout(CHANGE_TIMEOUT):
        while True:
            with pytest.raises(getc.ConnectionError) as caught:
                client.wait(key, index, timeout=timeout)
            if isinstance(caught.value, getc.TimedOut):
                return caught.value
            timeout *= 2


def test_wait_times_out_when_nothing_changes(client: getc.Client) -> None:
    """TimedOut is a ConnectionError of getc, and the builtin TimeoutError."""
    index = client.set('/a', '1').etcd_index
    error = timed_out(client, '/a', index + 1)
    assert isinstance(error, builtins.TimeoutError)
    assert isinstance(error, getc.ConnectionError)
    assert error.maybe_applied is False
    assert '/a' in str(error)


def test_wait_works_after_it_timed_out(client: getc.Client) -> None:
    """The same wait returns the next change."""
    index = client.set('/a', '1').etcd_index
    for _ in range(3):
        timed_out(client, '/a', index + 1)
    written = client.set('/a', '2')
    assert client.wait('/a', index + 1, timeout=CHANGE_TIMEOUT).node == written.node


def test_wait_ends_when_killed(client: getc.Client, spawn: Spawn) -> None:
    """The client can be used afterwards."""
    waiting = spawn(client.wait, '/a')
    gevent.sleep(0)
    waiting.kill()
    assert waiting.ready()
    assert client.set('/a', '1').value == '1'


def test_wait_raises_the_callers_gevent_timeout(client: getc.Client) -> None:
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as timeout:
        client.wait('/a', timeout=CHANGE_TIMEOUT)
    assert caught.value is timeout


def test_wait_ends_when_the_client_is_closed(client: getc.Client, spawn: Spawn) -> None:
    """ClientClosed is raised by blocked waits and by later calls."""
    waiting = spawn(client.wait, '/a')
    gevent.sleep(0)
    client.close()
    with pytest.raises(getc.ClientClosed):
        waiting.get(timeout=CHANGE_TIMEOUT)
    for call in (lambda: client.wait('/a'), lambda: client.get('/a'), lambda: client.set('/a', '1')):
        with pytest.raises(getc.ClientClosed):
            call()


# -- many waiters


def test_one_change_wakes_all_waiters(client: getc.Client, spawn: Spawn) -> None:
    start = client.set('/a', '1').etcd_index
    waiting = [spawn(client.wait, '/a', start + 1) for _ in range(10)]
    gevent.sleep(0)
    written = client.set('/a', '2')
    assert [greenlet.get(timeout=CHANGE_TIMEOUT).node for greenlet in waiting] == [written.node] * 10


def test_waiters_of_a_memory_store_are_woken_in_order(
    backend_under_test: Any, client: getc.Client, spawn: Spawn
) -> None:
    """In the order in which they began to wait."""
    if backend_under_test.name in ('v2', 'v3'):
        pytest.skip('a server answers each waiter on a connection of its own, in no promised order')
    woken: list[int] = []

    def wait(number: int) -> None:
        client.wait('/a')
        woken.append(number)

    waiting = [spawn(wait, number) for number in range(20)]
    gevent.sleep(0.01)
    client.set('/a', '1')
    gevent.joinall(waiting, timeout=CHANGE_TIMEOUT)
    assert woken == list(range(20))


# -- history


@pytest.mark.v3_differs('v3 keeps the history until it is compacted')
def test_wait_raises_index_cleared_when_history_is_lost(client: getc.Client) -> None:
    """1000 changes are kept; an older index is error 401, which has the index of the store."""
    start = client.set('/a', 'first').etcd_index
    for number in range(1001):
        last = client.set('/busy', str(number))
    with pytest.raises(getc.EventIndexCleared) as caught:
        client.wait('/a', start, timeout=CHANGE_TIMEOUT)
    assert caught.value.errno == 401
    assert caught.value.message == 'The event in requested index is outdated and cleared'
    assert caught.value.index == last.etcd_index
    oldest = last.modified_index - 999
    assert client.wait('/busy', oldest, timeout=CHANGE_TIMEOUT).modified_index == oldest
    with pytest.raises(getc.EventIndexCleared):
        client.wait('/busy', oldest - 1, timeout=CHANGE_TIMEOUT)


def test_live_wait_misses_nothing_when_history_overflows(client: getc.Client, spawn: Spawn) -> None:
    start = client.set('/a', 'first').etcd_index
    waiting = spawn(client.wait, '/a', start + 1)
    gevent.sleep(0.01)
    for number in range(1100):
        client.set('/busy', str(number))
    client.set('/a', 'second')
    assert waiting.get(timeout=CHANGE_TIMEOUT).value == 'second'
