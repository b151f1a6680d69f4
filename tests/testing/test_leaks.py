"""The leak check reports objects of getc that outlive a block, with the line that started them."""

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
    """Return the line after that of the call, in the format of a report."""
    return f'{HERE}:{sys._getframe(1).f_lineno + 1}, in '


def close_clients() -> None:
    """Close the clients that the test has leaked on purpose."""
    for client in open_clients():
        client.close()


def leaks_of(body: Callable[[], Any]) -> Leaked:
    """Run the body in a leak check and return its error."""
    with pytest.raises(Leaked) as caught, no_leaks(timeout=0):
        body()
    return caught.value


@pytest.fixture
def client(etcd: getc.Client) -> getc.Client:
    """A client from before the check, closed after the test."""
    return etcd


@pytest.mark.parametrize('is_virtual', [False, True])
def test_ended_objects_are_not_leaks(request: pytest.FixtureRequest, is_virtual: bool) -> None:
    """Daemons of a closed client, calls that have returned, unused stores."""
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
def test_closed_client_of_a_server_is_not_a_leak(etcd_server: EtcdServer, api: Any) -> None:
    """Its sockets, greenlets and timers end shortly after ``close``."""
    skip_unless_supported(api, etcd_server.binary)
    with no_leaks(), getc.etcd(etcd_server.url, api=api) as client:
        client.on_change('/cfg', print)
        client.keep_node('/a', 'x', ttl=5)
        client.set('/b', 'x')


def test_running_daemons_are_reported_with_the_line_that_started_them(client: getc.Client) -> None:
    lines: list[str] = []

    def body() -> None:
        client.on_change('/stopped', print).stop()
        lines.append(line_of_caller())
        client.on_change('/cfg', print)
        lines.append(line_of_caller())
        client.keep_node('/servers/a', 'x')
        lines.append(line_of_caller())
        client.mirror('/servers')

    leaked = leaks_of(body)
    for line, name in zip(lines, ('on_change /cfg', 'keep_node /servers/a', 'mirror /servers'), strict=True):
        assert f'{name}, started at\n    {line}body\n' in str(leaked)
    assert "client.on_change('/cfg', print)" in str(leaked)
    assert '/stopped' not in str(leaked)


def test_daemon_is_reported_with_the_spawning_line_when_started_in_a_greenlet(client: getc.Client) -> None:
    """Its own stack has no line of user code."""
    lines: list[str] = []

    def body() -> None:
        lines.append(line_of_caller())
        gevent.spawn(client.keep_node, '/servers/a', 'x').join()

    report = str(leaks_of(body))
    assert f'keep_node /servers/a, started at\n    {lines[0]}body\n' in report


def test_call_in_flight_is_reported(client: getc.Client) -> None:
    """Greenlets of the user that do something else are not."""
    lines: list[str] = []
    started: list[gevent.Greenlet[..., Any]] = []

    def body() -> None:
        lines.append(line_of_caller())
        started.append(gevent.spawn(client.wait, '/a'))
        started.append(gevent.spawn(gevent.sleep, 60))
        gevent.sleep(0)

    leaked = leaks_of(body)
    gevent.killall(started)
    assert len([leak for leak in leaked.leaks if 'call in flight' in leak.what]) == 1
    assert lines[0] in str(leaked)


def test_sockets_are_reported_when_they_are_of_getc(etcd_server: EtcdServer) -> None:
    """With the address of the peer."""
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

    leaked = leaks_of(body)
    clients[0].close()
    for sock in pairs[0]:
        sock.close()
    assert [leak.what for leak in leaked.leaks] == [f'a socket connected to {address}']
    assert lines[0] in str(leaked)


def test_greenlets_and_timers_of_getc_are_reported(etcd_clock: VirtualTime) -> None:
    """As started by getc itself if no line of user code is on the stack."""
    clients: list[getc.Client] = []

    def body() -> None:
        clients.append(getc.etcd('memory://'))
        clients[0].on_change('/', print)
        clients[0].keep_node('/a', 'x', ttl=5)

    report = str(leaks_of(body))
    clients[0].close()
    assert "the greenlet 'getc renewal of /a', started by getc itself" in report
    assert 'a timer of getc.backends.memory.notifier.SharedStore._on_timer, started by getc itself' in report


def test_objects_from_before_are_not_leaks(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """Nor are new greenlets and timers of a client from before."""
    keeper = client.keep_node('/a', 'x', ttl=5)
    watcher = client.on_change('/a', print)
    with no_leaks():
        etcd_clock.advance(60)
    assert keeper.state is getc.KeeperState.KEPT
    assert not watcher.is_stale


def test_daemon_of_an_unreferenced_client_is_a_leak() -> None:
    """In memory it could be collected as garbage; on a real etcd it would run on."""
    leaked = leaks_of(lambda: getc.etcd('memory://').on_change('/a', print))
    close_clients()
    assert leaked.leaks[0].what == 'on_change /a'


def test_daemon_is_a_leak_when_its_client_is_from_before(client: getc.Client) -> None:
    """Only the daemon is reported, without the greenlets that getc uses for it."""
    leaked = leaks_of(lambda: client.keep_node('/a', 'x', ttl=5))
    assert [leak.what for leak in leaked.leaks] == ['keep_node /a']


def test_check_waits_for_objects_that_are_being_closed() -> None:
    """In real time, and no longer than needed."""
    client = getc.etcd('memory://')
    with no_leaks(timeout=60):
        watcher = client.on_change('/a', print)
        gevent.spawn_later(0.05, watcher.stop)
    assert watcher.join(0)
    client.close()


def test_exception_in_the_block_is_not_replaced_by_a_leak(client: getc.Client) -> None:
    with pytest.raises(KeyError), no_leaks(timeout=0):
        client.on_change('/a', print)
        raise KeyError


def test_check_restores_the_constructors() -> None:
    """Also for nested checks."""
    before = (Daemon.__init__, gevent.socket.socket.__init__)
    with no_leaks(), no_leaks():
        assert Daemon.__init__ is not before[0]
    leaks_of(lambda: getc.etcd('memory://leaks').on_change('/a', print))
    close_clients()
    assert (Daemon.__init__, gevent.socket.socket.__init__) == before
