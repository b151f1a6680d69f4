"""Tests of daemons with a real etcd that crashes, hangs, loses its history, and restarts empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import getc
from getc import Keeper, KeeperState, Watcher, WatcherState
from getc.errors import ConnectionError, NodeLost, TimedOut
from getc.testing import EtcdServer, FaultProxy, wait_until
from tests.support.api_support import skip_unless_supported

TTL = 2


@pytest.fixture(params=['v2', 'v3'])
def api(request: pytest.FixtureRequest, etcd_server: EtcdServer) -> Any:
    skip_unless_supported(request.param, etcd_server.binary)
    return request.param


@pytest.fixture
def client(etcd_server: EtcdServer, api: Any) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api=api) as client:
        yield client


@pytest.fixture
def other(etcd_server: EtcdServer, api: Any) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api=api) as client:
        yield client


class Recorder:
    """Callbacks of a keeper and a watcher that record their calls."""

    def __init__(self) -> None:
        self.keeper_calls: list[str] = []
        self.changes: list[str] = []

    def on_lost(self, keeper: Keeper) -> None:
        with pytest.raises(NodeLost):
            keeper.ensure()
        self.keeper_calls.append('lost')

    def on_restored(self, keeper: Keeper) -> None:
        self.keeper_calls.append(f'restored, {keeper.ensure() > 0}')

    def on_change(self, result: getc.EtcdResult) -> None:
        mark = ' (resync)' if result.resync else ''
        value = '' if result.value is None else f'={result.value}'
        self.changes.append(f'{type(result).__name__} {result.key}{value}{mark}')

    def on_resync(self, _watcher: Watcher) -> None:
        self.changes.append('resync')

    def keep(self, client: getc.Client, ttl: int = TTL) -> Keeper:
        return client.keep_node('/servers/a', 'x', ttl=ttl, on_lost=self.on_lost, on_restored=self.on_restored)

    def follow(self, client: getc.Client, key: str = '/cfg') -> Watcher:
        return client.on_change(key, self.on_change, on_resync=self.on_resync)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_restart_with_data_loses_neither_node_nor_change(
    etcd_server: EtcdServer, client: getc.Client, other: getc.Client, recorder: Recorder
) -> None:
    """The keeper is SUSPECT meanwhile, the watcher STALE."""
    keeper = recorder.keep(client, ttl=12)
    token = keeper.ensure()
    other.set('/cfg/stays', '0')
    watcher = recorder.follow(client)
    other.set('/cfg/a', '1')
    wait_until(lambda: recorder.changes)
    etcd_server.kill()
    wait_until(lambda: keeper.state is KeeperState.SUSPECT and watcher.state is WatcherState.STALE)
    assert isinstance(watcher.last_error, ConnectionError)
    etcd_server.restart()
    for number in range(2, 6):
        other.set('/cfg/a', str(number))
    wait_until(lambda: keeper.state is KeeperState.KEPT and len(recorder.changes) >= 5)
    assert recorder.changes == [f'Set /cfg/a={number}' for number in range(1, 6)]
    assert watcher.state is WatcherState.LIVE
    assert (keeper.ensure(), recorder.keeper_calls) == (token, [])


def test_outage_longer_than_the_ttl_loses_the_node_and_restores_it(
    etcd_server: EtcdServer, client: getc.Client, other: getc.Client, recorder: Recorder
) -> None:
    """on_lost runs during the outage."""
    keeper = recorder.keep(client)
    token = keeper.ensure()
    etcd_server.kill()
    wait_until(lambda: recorder.keeper_calls == ['lost'])
    assert keeper.state is KeeperState.LOST
    etcd_server.restart()
    wait_until(lambda: keeper.state is KeeperState.KEPT)
    assert keeper.ensure() > token
    assert other.get('/servers/a').value == 'x'
    wait_until(lambda: len(recorder.keeper_calls) > 1)
    assert recorder.keeper_calls == ['lost', 'restored, True']


def test_node_is_written_again_and_the_difference_delivered_after_a_wipe(
    etcd_server: EtcdServer, client: getc.Client, other: getc.Client, recorder: Recorder
) -> None:
    """With one resync."""
    other.set('/cfg/a', '1')
    other.set('/cfg/b', '1')
    keeper = recorder.keep(client, ttl=3)  # written at another index than in the new store
    watcher = recorder.follow(client, '/')
    etcd_server.restart(wipe=True)
    wait_until(lambda: keeper.state is KeeperState.KEPT and 'resync' in recorder.changes)
    wait_until(lambda: any('/servers/a=x' in change for change in recorder.changes))
    assert recorder.changes.count('resync') == 1
    assert recorder.changes[:2] == ['Deleted /cfg/a (resync)', 'Deleted /cfg/b (resync)']
    assert other.get('/servers/a').value == 'x'
    other.set('/cfg/a', '2')
    wait_until(lambda: recorder.changes[-1] == 'Set /cfg/a=2')
    assert watcher.state is WatcherState.LIVE


def test_calls_to_a_server_that_hangs_time_out_and_daemons_recover(
    etcd_server: EtcdServer, client: getc.Client, other: getc.Client, recorder: Recorder
) -> None:
    """SIGSTOP: connections stay open, and no request is answered."""
    other.set('/cfg/a', '0')
    keeper = recorder.keep(client)
    watcher = recorder.follow(client)
    waiting = gevent.spawn(other.wait, '/cfg/a', timeout=60)
    wait_until(lambda: (waits := other._waits._listeners) and all(first.live_index for first in waits))
    etcd_server.pause()
    with pytest.raises(TimedOut) as caught:
        client.get('/cfg/a', timeout=0.1)
    assert not caught.value.maybe_applied
    with pytest.raises(TimedOut) as caught:
        client.set('/cfg/b', 'x', timeout=1)
    assert caught.value.maybe_applied
    with pytest.raises(ConnectionError, match=r'no watch of /cfg/a was created within 0\.1 s') as not_watched:
        client.wait('/cfg/a', timeout=0.1)
    assert not isinstance(not_watched.value, TimedOut)  # TimedOut would mean that there was no change
    with pytest.raises(TimedOut):
        client.keep_node('/servers/b', timeout=0.1)
    with pytest.raises(TimedOut):
        client.on_change('/cfg', print, timeout=0.1)
    wait_until(lambda: recorder.keeper_calls == ['lost'])
    etcd_server.resume()
    wait_until(lambda: recorder.keeper_calls == ['lost', 'restored, True'])
    assert keeper.ensure() > 0
    client.set('/cfg/a', '1')
    assert waiting.get(timeout=60).value == '1'
    wait_until(lambda: 'Set /cfg/a=1' in recorder.changes)
    assert watcher.state is WatcherState.LIVE
    assert recorder.changes.count('Set /cfg/a=1') == 1


def test_wait_continues_after_a_crash(etcd_server: EtcdServer, client: getc.Client, other: getc.Client) -> None:
    """It returns the first change after the restart."""
    waiting = gevent.spawn(client.wait, '/cfg/a', timeout=60)
    wait_until(lambda: (waits := client._waits._listeners) and all(first.live_index is not None for first in waits))
    etcd_server.restart()
    other.set('/cfg/a', '1')
    other.set('/cfg/a', '2')
    assert waiting.get(timeout=60).value == '1'


def test_wait_raises_at_once_when_the_connection_is_refused(etcd_server: EtcdServer, client: getc.Client) -> None:
    """It works once the server listens."""
    etcd_server.kill()
    with pytest.raises(getc.ConnectionRefused):
        client.wait('/cfg/a', timeout=60)
    etcd_server.restart()
    index = client.set('/cfg/a', '1').modified_index
    assert client.wait('/cfg/a', index, timeout=60).value == '1'


def test_history_lost_during_an_outage_is_delivered_as_one_difference(
    etcd_server: EtcdServer, other: getc.Client, recorder: Recorder, api: Any
) -> None:
    """On v2 after more than 1000 events, on v3 after a compaction."""
    other.set('/cfg/gone', '1')
    other.set('/cfg/stays', '1')
    with FaultProxy(etcd_server.url) as proxy, getc.etcd(proxy.url, api=api) as client:
        watcher = recorder.follow(client)
        proxy.stop()
        wait_until(lambda: watcher.state is WatcherState.STALE)
        other.delete('/cfg/gone')
        other.set('/cfg/new', '1')
        if api == 'v3':
            other.v3.kv.compact(other.set('/elsewhere', 'x').etcd_index)
        else:
            writes = [gevent.spawn(lambda: [other.set('/elsewhere', 'x') for _ in range(130)]) for _ in range(8)]
            gevent.joinall(writes)
        proxy.start()
        wait_until(lambda: watcher.state is WatcherState.LIVE and 'resync' in recorder.changes)
        assert recorder.changes == ['Deleted /cfg/gone (resync)', 'Set /cfg/new=1 (resync)', 'resync']


def test_stop_and_close_return_in_time_when_etcd_is_dead(etcd_server: EtcdServer, recorder: Recorder, api: Any) -> None:
    """They leave no connection open."""
    client = getc.etcd(etcd_server.url, api=api)
    keepers = [client.keep_node(f'/servers/{number}', ttl=30) for number in range(20)]
    watchers = [client.on_change('/cfg', print) for _ in range(5)]
    etcd_server.pause()
    with gevent.Timeout(60):
        watchers[0].stop(timeout=600)  # without a request
        keepers[0].stop(timeout=0.1)
        client.close(timeout=0.2)
    assert {keeper.state for keeper in keepers} == {KeeperState.STOPPED}
    assert {watcher.state for watcher in watchers} == {WatcherState.STOPPED}
    etcd_server.resume()
