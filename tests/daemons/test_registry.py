"""Tests of the registry of daemons, and of the names that daemons show to programs."""

from __future__ import annotations

import threading

import gevent
import pytest

import getc
from getc.daemons.mirror import Mirror
from getc.daemons.registry import DaemonRegistry
from getc.errors import TimedOut
from getc.net.client_log import ClientLog
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.faulty import FaultyBackend

DAEMON = {'join', 'key', 'last_error', 'name', 'state', 'stop'}
FOLLOWER = DAEMON | {'index', 'is_stale'}


@pytest.fixture
def registry(etcd_clock: VirtualTime) -> DaemonRegistry:
    return DaemonRegistry(ClientLog())


def test_start_waits_and_stop_all_stops(registry: DaemonRegistry, backend: FaultyBackend) -> None:
    mirrors = [Mirror(registry.log, backend, f'/cfg/{number}') for number in range(3)]
    for mirror in mirrors:
        registry.start(mirror, wait=True, deadline=Deadline(1))
        assert mirror.state is getc.WatcherState.LIVE
    assert [daemon.key for daemon in registry] == ['/cfg/0', '/cfg/1', '/cfg/2']
    mirrors[1].stop()
    assert [daemon.key for daemon in registry] == ['/cfg/0', '/cfg/2']
    registry.stop_all(Deadline(1))
    assert len(registry) == 0
    assert all(mirror.join(0) for mirror in mirrors)


def test_daemon_that_does_not_start_leaves_the_registry(
    registry: DaemonRegistry, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    backend.go_down()
    with pytest.raises(TimedOut, match='mirror /cfg did not start within 2 s: connection refused'):
        registry.start(Mirror(registry.log, backend, '/cfg'), wait=True, deadline=Deadline(2))
    gevent.sleep(0)
    assert len(registry) == 0
    registry.stop_all(Deadline(0))


def test_stop_all_that_a_timeout_interrupts_stops_every_daemon(
    registry: DaemonRegistry, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    ends: list[str] = []

    def callback() -> None:
        try:
            gevent.sleep(60)
        finally:
            ends.append('ended')

    mirrors = [Mirror(registry.log, backend, f'/cfg/{number}') for number in range(3)]
    for mirror in mirrors:
        registry.start(mirror, wait=True, deadline=Deadline(1))
        mirror._daemon.callbacks.post(callback)
    etcd_clock.advance(0)
    with pytest.raises(gevent.Timeout), gevent.Timeout(1):
        registry.stop_all(Deadline(30))
    etcd_clock.advance(0)
    assert ends == ['ended'] * 3
    assert all(mirror.join(0) for mirror in mirrors)
    assert len(registry) == 0
    assert etcd_clock.seconds_to_next() is None


def test_stop_all_kills_the_callbacks_of_all_daemons_within_one_second_of_grace(
    registry: DaemonRegistry, backend: FaultyBackend, etcd_clock: VirtualTime
) -> None:
    def callback() -> None:
        try:
            gevent.sleep(60)
        finally:
            gevent.sleep(3)

    for number in range(6):
        mirror = Mirror(registry.log, backend, f'/cfg/{number}')
        registry.start(mirror, wait=True, deadline=Deadline(1))
        mirror._daemon.callbacks.post(callback)
    etcd_clock.advance(0)
    stopping = gevent.spawn(registry.stop_all, Deadline(0.5))
    etcd_clock.advance(1.6)
    assert stopping.successful()
    etcd_clock.advance(3)  # ends the callbacks


def test_daemon_that_is_refused_in_another_thread_is_not_registered(
    registry: DaemonRegistry, backend: FaultyBackend
) -> None:
    mirror = Mirror(registry.log, backend, '/cfg')
    mirror.join(0)  # binds the mirror to this thread
    errors: list[str] = []

    def start() -> None:
        try:
            registry.start(mirror, wait=False, deadline=Deadline(1))
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert errors == ['mirror /cfg can only be used in the thread that first used it; create one client per thread']
    assert len(registry) == 0


def test_reset_in_child_drops_the_daemons_of_the_parent(
    registry: DaemonRegistry, backend: FaultyBackend, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(registry.log, backend, '/cfg')
    registry.start(mirror, wait=True, deadline=Deadline(1))
    with monkeypatch.context() as patch:
        patch.setattr('os.getpid', lambda: -1)
        registry.reset_in_child(ClientLog('etcd client of the child'))
        assert len(registry) == 0
        own = Mirror(registry.log, backend, '/own')
        registry.start(own, wait=True, deadline=Deadline(1))
        registry.stop_all(Deadline(1))
        assert own.join(0)
    assert not mirror.join(0)
    mirror.stop()


@pytest.mark.parametrize(
    ('kind', 'names'),
    [
        (getc.Keeper, DAEMON | {'detach', 'ensure', 'guard', 'orphan', 'remaining', 'ttl', 'update', 'value'}),
        (getc.Watcher, FOLLOWER | {'ready', 'recursive', 'sync'}),
        (getc.Mirror, FOLLOWER | {'get', 'items', 'keys', 'nodes', 'sync', 'values', 'wait'}),
        (getc.Changes, FOLLOWER | {'close', 'get'}),
    ],
)
def test_daemons_show_programs_only_what_programs_need(kind: type, names: set[str]) -> None:
    assert {name for name in dir(kind) if not name.startswith('_')} == names


def test_orphan_is_an_alias_of_detach() -> None:
    assert getc.Keeper.orphan is getc.Keeper.detach
