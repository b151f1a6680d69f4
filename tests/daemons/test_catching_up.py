"""Tests that a follower is LIVE only once everything that etcd had at its start was delivered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import getc
from getc import WatcherState
from getc.daemons.follower import MAX_BACKLOG
from getc.testing import EtcdServer, VirtualTime, wait_until
from tests.support.api_support import skip_unless_supported
from tests.support.fake_etcd import FakeEtcd
from tests.support.fake_faults import delay


@pytest.fixture
def server(etcd_clock: VirtualTime) -> FakeEtcd:
    """A server that sends the past of a watch in batches of five revisions, one batch a second."""
    server = FakeEtcd()
    server.history_delay = 1.0
    return server


@pytest.fixture
def client(server: FakeEtcd) -> Iterator[getc.Client]:
    with server.open() as client:
        yield client


NEW = {}
OLD = {'answers_progress_early': True}
PROXY = {'drops_progress': True}
SERVERS = pytest.mark.parametrize('traits', [NEW, OLD, PROXY], ids=['new', 'old', 'proxy'])


def configure(server: FakeEtcd, traits: dict[str, bool]) -> None:
    for name, value in traits.items():
        setattr(server, name, value)


@SERVERS
def test_watcher_with_an_index_is_live_once_all_past_changes_were_delivered(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, traits: dict[str, bool]
) -> None:
    """on_change returns as soon as the watch was created."""
    configure(server, traits)
    for number in range(40):
        server.put('/cfg/a', str(number))
    delivered: list[str | None] = []
    watcher = client.on_change('/cfg', lambda result: delivered.append(result.value), index=2)
    while len(delivered) < 40:
        assert (watcher.state, watcher.is_stale, watcher.ready.is_set()) == (WatcherState.STARTING, True, False)
        etcd_clock.advance(0.1)
    etcd_clock.advance(0.1)
    assert (watcher.state, watcher.ready.is_set(), len(delivered)) == (WatcherState.LIVE, True, 40)


@SERVERS
@pytest.mark.parametrize('is_deleted', [False, True])
def test_mirror_is_stale_after_an_outage_until_it_shows_the_existing_values(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, traits: dict[str, bool], is_deleted: bool
) -> None:
    """Also if the last change is a deletion."""
    configure(server, traits)
    server.put_all({'/cfg/a': 'old', '/cfg/b': 'x'})
    mirror = client.mirror('/cfg')
    server.go_down()
    for number in range(20):
        server.put('/cfg/a', str(number))
    if is_deleted:
        server.delete('/cfg/b')
    etcd_clock.advance(1)
    server.recover()
    existing = {key.decode(): kv.value.decode() for key, kv in server.keys.items()}
    while dict(mirror) != existing:
        assert mirror.is_stale
        etcd_clock.advance(0.1)
    etcd_clock.advance(0.1)
    assert not mirror.is_stale


@SERVERS
def test_watch_without_changes_in_its_range_is_live_soon(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, traits: dict[str, bool]
) -> None:
    """Only other keys changed between the listing and the watch: no event shows the end of the past."""
    configure(server, traits)
    server.put('/cfg/a', '1')
    for number in range(3):
        server.put('/elsewhere', str(number))
    server.history_delay = 0.1
    watcher = client.on_change('/cfg', print, index=3)
    assert watcher.is_stale
    etcd_clock.advance(3)
    assert not watcher.is_stale
    began = etcd_clock.elapsed
    second = client.on_change('/cfg/a', print, index=3)
    wait_until(lambda: not second.is_stale)
    assert etcd_clock.elapsed - began < 1  # the wait for a server without progress responses is not repeated


def test_on_change_waits_for_the_watch_and_mirror_until_it_has_caught_up(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """There are writes between the listing and the watch."""

    def busy(do: Callable[[], Any], *_: object) -> Any:
        response = do()
        server.put('/elsewhere', 'x')
        return response

    server.put('/cfg/a', '1')
    server.next('Txn', busy, busy)
    watcher = client.on_change('/cfg', print)
    assert (watcher.state, etcd_clock.elapsed) == (WatcherState.STARTING, 0)
    mirror = client.mirror('/cfg/a')
    assert not mirror.is_stale
    assert etcd_clock.elapsed >= server.history_delay


@pytest.mark.parametrize('traits', [NEW, OLD], ids=['new', 'old'])
def test_member_that_lags_is_not_taken_for_another_store(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, traits: dict[str, bool]
) -> None:
    """The last change was a deletion, which no read shows."""
    configure(server, traits)
    server.history_delay = 0.0
    server.put_all({'/cfg/a': '1', '/cfg/b': '1'})
    delivered: list[str] = []
    watcher = client.on_change(
        '/cfg', lambda result: delivered.append(result.key), on_resync=lambda _: delivered.append('resync')
    )
    server.delete('/cfg/b')
    etcd_clock.advance(1)
    server.go_down()
    server.lags_at = 2
    server.recover()
    etcd_clock.advance(8)
    assert watcher.is_stale
    server.stop_lagging()
    server.put('/cfg/c', '1')
    etcd_clock.advance(3)
    assert (watcher.is_stale, delivered) == (False, ['/cfg/b', '/cfg/c'])


@pytest.mark.parametrize('traits', [NEW, OLD, PROXY], ids=['new', 'old', 'proxy'])
def test_member_that_lags_during_writes_is_not_taken_for_another_store(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, traits: dict[str, bool]
) -> None:
    """The key is written again and again, so another member shows no change of it up to the target."""
    configure(server, traits)
    server.history_delay = 0.0
    delivered: list[str | None] = []
    watcher = client.on_change(
        '/cfg/a', lambda result: delivered.append(result.value), on_resync=lambda _: delivered.append('resync')
    )
    for number in range(3):
        server.put('/cfg/a', str(number))
    etcd_clock.advance(1)
    server.go_down()
    server.lags_at = 2
    server.recover()
    for number in range(3, 93):
        server.put('/cfg/a', str(number))
        etcd_clock.advance(0.1)
        assert watcher.is_stale
    server.stop_lagging()
    etcd_clock.advance(20)
    assert (watcher.is_stale, delivered) == (False, [str(number) for number in range(93)])


@SERVERS
def test_watch_on_a_member_that_lags_is_not_live_although_it_has_no_changes(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, traits: dict[str, bool]
) -> None:
    """The member is behind the listing at which the watch starts."""
    configure(server, traits)
    server.put('/cfg/a', '1')
    server.put('/elsewhere', '1')
    delivered: list[str | None] = []
    watcher = client.on_change(
        '/cfg', lambda result: delivered.append(result.value), on_resync=lambda _: delivered.append('resync')
    )
    etcd_clock.advance(1)
    assert not watcher.is_stale
    server.go_down()
    server.lags_at = 2
    server.recover()
    etcd_clock.advance(8)
    assert watcher.is_stale
    server.stop_lagging()
    etcd_clock.advance(20)
    assert not watcher.is_stale
    server.put('/cfg/a', '2')
    etcd_clock.advance(1)
    assert delivered == ['2']


def test_history_that_arrives_while_reads_are_slow_does_not_cause_a_resync(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """A read does not show a deletion, so its response is no evidence for another store."""
    configure(server, OLD)
    server.put('/cfg/a', '1')
    delivered: list[str] = []
    watcher = client.on_change(
        '/cfg', lambda result: delivered.append(result.key), on_resync=lambda _: delivered.append('resync')
    )
    server.delete('/cfg/a')
    etcd_clock.advance(2)
    server.go_down()
    server.history_delay = 0.58
    server.next('Range', delay(0), delay(0.5))
    server.recover()
    etcd_clock.advance(5)
    assert (watcher.is_stale, delivered) == (False, ['/cfg/a'])


def test_watcher_is_not_live_while_its_callback_is_behind_by_more_than_the_bound(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Existing values count too."""
    server.put_all({f'/cfg/{number}': 'x' for number in range(MAX_BACKLOG + 10)})
    delivered: list[str] = []

    def slow(result: getc.EtcdResult) -> None:
        gevent.sleep(0.1)
        delivered.append(result.key)

    watcher = client.on_change('/cfg', slow, initial=True)
    etcd_clock.advance(5)
    assert watcher.is_stale
    etcd_clock.advance(MAX_BACKLOG / 10)
    assert (len(delivered), watcher.state) == (MAX_BACKLOG + 10, WatcherState.LIVE)


@pytest.mark.parametrize('api', ['v2', 'v3'])
def test_live_watcher_has_delivered_everything_that_a_real_etcd_had(etcd_server: EtcdServer, api: Any) -> None:
    """More than etcd sends in one response."""
    skip_unless_supported(api, etcd_server.binary)
    changes = 900 if api == 'v2' else 2500  # the history of etcd v2 has 1000 events
    with getc.etcd(etcd_server.url, api=api) as client:
        first = client.set('/cfg/a', 'first').modified_index

        def write() -> None:
            for _ in range(changes // 10):
                client.set('/cfg/a', 'x')

        gevent.joinall([gevent.spawn(write) for _ in range(10)], raise_error=True)
        delivered: list[int] = []
        watcher = client.on_change('/cfg', lambda result: delivered.append(result.modified_index), index=first)
        last = client.get('/cfg/a').modified_index
        seen: list[tuple[bool, int]] = []
        while not seen or seen[-1][0]:
            seen.append((watcher.is_stale, watcher.index))
            gevent.sleep(0.001)
        assert watcher.index == last
        wait_until(lambda: delivered == list(range(first, last + 1)))


def test_forked_child_sends_no_progress_requests_for_its_parents_watches(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would open a connection."""
    server.drops_progress = True
    for number in range(40):
        server.put('/cfg/a', str(number))
    client.on_change('/cfg', print, index=2)
    server.calls.clear()
    monkeypatch.setattr(os, 'getpid', lambda: -1)
    etcd_clock.advance(60)
    assert not server.calls
