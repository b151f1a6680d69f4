"""What a stretch of a program leaves behind is told, with the line that started it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
import pytest

import getc
from getc.daemons.base import Daemon
from getc.testing import EtcdServer, Leaked, VirtualTime, no_leaks
from tests.support.api_support import skip_unless_supported
from tests.support.leftovers import open_clients

HERE = __file__


def line_of_caller() -> str:
    """The line after that of the call, as a report names it."""
    return f'{HERE}:{sys._getframe(1).f_lineno + 1}, in '


def end_clients() -> None:
    """Close the clients that the test has leaked on purpose."""
    for client in open_clients():
        client.close()


def leaked_by(body: Callable[[], Any]) -> Leaked:
    """What is found after it, at once."""
    with pytest.raises(Leaked) as caught, no_leaks(timeout=0):
        body()
    return caught.value


@pytest.fixture
def client(etcd: getc.Client) -> getc.Client:
    """It was there before, and is closed after the test."""
    return etcd


@pytest.mark.parametrize('is_virtual', [False, True])
def test_what_was_ended_is_no_leak(request: pytest.FixtureRequest, is_virtual: bool) -> None:
    """Daemons of a closed client, calls that have returned, stores that nobody uses any more."""
    if is_virtual:
        request.getfixturevalue('etcd_clock')
    with no_leaks():
        with getc.etcd('memory://') as client:
            client.on_change('/cfg', print)
            client.keep_node('/a', 'x', ttl=5)
            client.mirror('/cfg')
            waiting = gevent.spawn(client.wait, '/b')
            gevent.sleep(0)
            client.set('/b', 'x', ttl=100)
            waiting.join()
        waiting.get()


@pytest.mark.parametrize('api', ['v2', 'v3'])
def test_closed_client_of_a_server_is_no_leak(etcd_server: EtcdServer, api: Any) -> None:
    """Its sockets, greenlets and timers end with it, if not on the instant."""
    skip_unless_supported(api, etcd_server.binary)
    with no_leaks(), getc.etcd(etcd_server.url, api=api) as client:
        client.on_change('/cfg', print)
        client.keep_node('/a', 'x', ttl=5)
        client.set('/b', 'x')


def test_daemons_that_go_on_are_told_with_the_line_that_started_them(client: getc.Client) -> None:
    """Each that was not stopped, and no other."""
    lines: list[str] = []

    def body() -> None:
        client.on_change('/stopped', print).stop()
        lines.append(line_of_caller())
        client.on_change('/cfg', print)
        lines.append(line_of_caller())
        client.keep_node('/servers/a', 'x')
        lines.append(line_of_caller())
        client.mirror('/servers')

    leaked = leaked_by(body)
    for line, name in zip(lines, ('on_change /cfg', 'keep_node /servers/a', 'mirror /servers'), strict=True):
        assert f'{name}, started at\n    {line}body\n' in str(leaked)
    assert "client.on_change('/cfg', print)" in str(leaked)
    assert '/stopped' not in str(leaked)


def test_daemon_started_in_a_greenlet_is_told_with_the_line_that_spawned_it(client: getc.Client) -> None:
    """Its own stack has no line of the user's."""
    lines: list[str] = []

    def body() -> None:
        lines.append(line_of_caller())
        gevent.spawn(client.keep_node, '/servers/a', 'x').join()

    told = str(leaked_by(body))
    assert f'keep_node /servers/a, started at\n    {lines[0]}body\n' in told


def test_call_that_is_under_way_is_told(client: getc.Client) -> None:
    """A greenlet of the user's that is in a call of getc's; one that is elsewhere is not ours."""
    lines: list[str] = []
    started: list[gevent.Greenlet[..., Any]] = []

    def body() -> None:
        lines.append(line_of_caller())
        started.append(gevent.spawn(client.wait, '/a'))
        started.append(gevent.spawn(gevent.sleep, 60))
        gevent.sleep(0)

    leaked = leaked_by(body)
    gevent.killall(started)
    assert len([leak for leak in leaked.leaks if 'in a call' in leak.what]) == 1
    assert lines[0] in str(leaked)


def test_sockets_of_getc_are_told_and_others_are_not(etcd_server: EtcdServer) -> None:
    """By whom they go to; a socket of the user's own is the user's business."""
    skip_unless_supported('v2', etcd_server.binary)
    address = etcd_server.url.removeprefix('http://')
    clients: list[getc.Client] = []
    pairs: list[tuple[Any, Any]] = []
    lines: list[str] = []

    def body() -> None:
        pairs.append(gevent.socket.socketpair())
        clients.append(getc.etcd(etcd_server.url, api='v2'))
        lines.append(line_of_caller())
        clients[0].set('/a', 'x')

    leaked = leaked_by(body)
    clients[0].close()
    for sock in pairs[0]:
        sock.close()
    assert [leak.what for leak in leaked.leaks] == [f'a socket to {address}']
    assert lines[0] in str(leaked)


def test_greenlets_and_timers_of_getc_are_told(etcd_clock: VirtualTime) -> None:
    """By their names; as getc's own business where no line of the user's is on the stack."""
    clients: list[getc.Client] = []

    def body() -> None:
        clients.append(getc.etcd('memory://'))
        clients[0].on_change('/', print)
        clients[0].keep_node('/a', 'x', ttl=5)

    told = str(leaked_by(body))
    clients[0].close()
    assert "the greenlet 'getc renewal of /a', started by getc itself" in told
    assert 'a timer of getc.backends.memory.notifier.SharedStore._on_timer, started by getc itself' in told


def test_what_was_there_before_is_no_leak(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """It is somebody else's, and goes on: with new greenlets and timers, which are no leak either."""
    keeper = client.keep_node('/a', 'x', ttl=5)
    watcher = client.on_change('/a', print)
    with no_leaks():
        etcd_clock.advance(60)
    assert keeper.state is getc.KeeperState.KEPT
    assert not watcher.is_stale


def test_daemon_of_a_client_that_was_dropped_is_a_leak() -> None:
    """In memory all of it could be collected; on a real etcd it would go on, so it is told."""
    leaked = leaked_by(lambda: getc.etcd('memory://').on_change('/a', print))
    end_clients()
    assert leaked.leaks[0].what == 'on_change /a'


def test_daemon_on_a_client_that_was_there_before_is_a_leak(client: getc.Client) -> None:
    """Only what getc needs for it is left out of the report."""
    leaked = leaked_by(lambda: client.keep_node('/a', 'x', ttl=5))
    assert [leak.what for leak in leaked.leaks] == ['keep_node /a']


def test_what_is_about_to_end_is_waited_for() -> None:
    """In real time, and no longer than it takes."""
    client = getc.etcd('memory://')
    with no_leaks(timeout=60):
        watcher = client.on_change('/a', print)
        gevent.spawn_later(0.05, watcher.stop)
    assert watcher.join(0)
    client.close()


def test_error_inside_is_not_hidden_by_a_leak(client: getc.Client) -> None:
    """It says more."""
    with pytest.raises(KeyError), no_leaks(timeout=0):
        client.on_change('/a', print)
        raise KeyError


def test_check_leaves_no_trace() -> None:
    """The constructors are what they were, also where one check is inside another."""
    before = (Daemon.__init__, gevent.socket.socket.__init__)
    with no_leaks(), no_leaks():
        assert Daemon.__init__ is not before[0]
    leaked_by(lambda: getc.etcd('memory://leaks').on_change('/a', print))
    end_clients()
    assert (Daemon.__init__, gevent.socket.socket.__init__) == before
