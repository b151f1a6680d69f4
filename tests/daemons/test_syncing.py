"""sync of mirrors and watchers during faults, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import gevent
import pytest

import getc
from getc import WatcherState
from getc.errors import ClientClosed, PermissionDenied, TimedOut
from getc.testing import MemoryStore, VirtualTime
from tests.support.fake_etcd import FakeEtcd
from tests.support.leftovers import check_greenlets


@pytest.fixture
def server(etcd_clock: VirtualTime) -> FakeEtcd:
    return FakeEtcd()


@pytest.fixture
def client(request: pytest.FixtureRequest, server: FakeEtcd, etcd_clock: VirtualTime) -> Iterator[getc.Client]:
    """A client of a fake etcd v3; its close leaves no greenlet."""
    with server.open() as client:
        yield client
    etcd_clock.advance(0)
    check_greenlets(request)


# -- v3


def test_thousand_greenlets_share_reads_and_progress_requests(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    mirror = client.mirror('/a')
    etcd_clock.advance(3)
    server.put('/elsewhere')
    server.calls.clear()
    syncs = [gevent.spawn(mirror.sync) for _ in range(1000)]
    etcd_clock.advance(1)
    assert {sync.get(block=False) for sync in syncs} == {server.revision}
    assert mirror.index == server.revision
    assert len(server.times('Range')) == 1
    etcd_clock.advance(60)
    assert len(server.times('Range')) <= 2  # nothing goes on


def test_sync_without_progress_responses_takes_reads(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """As behind ``etcd grpc-proxy``."""
    server.drops_progress = True
    mirror = client.mirror('/a')
    server.put('/a/x', '1')
    server.put('/elsewhere')
    sync = gevent.spawn(mirror.sync)
    etcd_clock.advance(4)
    assert sync.get(block=False) == mirror.index == server.revision
    assert dict(mirror) == {'/a/x': '1'}


def test_lost_progress_responses_are_requested_again(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    mirror = client.mirror('/a')
    etcd_clock.advance(3)
    server.drops_progress = True
    server.put('/elsewhere')
    sync = gevent.spawn(mirror.sync)
    etcd_clock.advance(0.4)
    assert not sync.ready()
    server.drops_progress = False
    etcd_clock.advance(1)
    assert sync.get(block=False) == server.revision


def test_sync_waits_until_a_lagging_member_has_caught_up(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    mirror = client.mirror('/a')
    etcd_clock.advance(3)
    server.lags_at = server.revision
    server.put('/elsewhere')
    sync = gevent.spawn(mirror.sync)
    etcd_clock.advance(1)
    assert not sync.ready()
    server.lags_at = 0
    etcd_clock.advance(1)
    assert sync.get(block=False) == server.revision


@pytest.mark.parametrize('is_before', [True, False], ids=['down before', 'down during'])
def test_sync_goes_on_after_an_outage(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, is_before: bool
) -> None:
    mirror = client.mirror('/a')
    etcd_clock.advance(3)
    server.put('/elsewhere')
    server.drops_progress = True
    if is_before:
        server.go_down()
    sync = gevent.spawn(mirror.sync, 60)
    etcd_clock.advance(0.2)
    server.go_down()
    etcd_clock.advance(3)
    assert (sync.ready(), mirror.state) == (False, WatcherState.STALE)
    server.drops_progress = False
    server.put('/a/x', '1')
    server.recover()
    etcd_clock.advance(5)
    assert sync.get(block=False) == server.revision
    assert dict(mirror) == {'/a/x': '1'}


def test_sync_of_a_stale_mirror_times_out_with_the_reason(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    mirror = client.mirror('/a')
    server.go_down()
    etcd_clock.advance(1)
    with pytest.raises(TimedOut, match=r'^mirror /a did not show everything that etcd had within 5 s: .*refused'):
        mirror.sync(5)
    server.recover()
    etcd_clock.advance(5)
    assert mirror.sync() == server.revision


def test_sync_during_a_resync_shows_the_state_after_it(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    server.put('/a/x', '1')
    mirror = client.mirror('/a')
    server.go_down()
    server.delete('/a/x')
    server.put('/a/y', '2')
    server.compact()
    server.recover()
    sync = gevent.spawn(mirror.sync)
    etcd_clock.advance(5)
    assert sync.get(block=False) == server.revision
    assert dict(mirror) == {'/a/y': '2'}


def test_sync_shows_a_store_that_was_wiped_meanwhile(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Its index is lower than the one that was read before: that one is never reached."""
    for _ in range(20):
        server.put('/a/x', '1')
    mirror = client.mirror('/a')
    etcd_clock.advance(3)
    server.put('/elsewhere')
    server.drops_progress = True
    sync = gevent.spawn(mirror.sync, 120)
    etcd_clock.advance(0.1)
    server.wipe()
    server.drops_progress = False
    server.put('/a/y', '2')
    etcd_clock.advance(30)
    assert sync.get(block=False) == mirror.index == server.revision
    assert dict(mirror) == {'/a/y': '2'}


def test_sync_raises_if_the_user_may_not_read_any_more(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    mirror = client.mirror('/a')
    server.forbidden |= {(b'/a', b''), (b'/a/', b'')}
    with pytest.raises(PermissionDenied):
        mirror.sync()


def test_user_who_may_read_only_the_children_can_sync(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    mirror = client.mirror('/a')
    server.forbidden.add((b'/a', b''))
    server.put('/a/x', '1')
    assert mirror.sync() == server.revision
    assert dict(mirror) == {'/a/x': '1'}


def test_close_of_the_client_ends_a_sync(server: FakeEtcd, etcd_clock: VirtualTime) -> None:
    client = server.open()
    mirror = client.mirror('/a')
    server.drops_progress = True
    server.put('/elsewhere')
    sync = gevent.spawn(mirror.sync)
    etcd_clock.advance(0.2)
    client.close()
    etcd_clock.advance(0)
    assert isinstance(sync.exception, ClientClosed)
    with pytest.raises(ClientClosed, match='mirror /a was stopped'):
        mirror.sync()


def test_sync_of_a_mirror_that_was_refused_raises_the_refusal(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    server.forbidden |= {(b'/a', b''), (b'/a', b'/a0'), (b'/a/', b'/a0')}
    mirror = client.mirror('/a', wait=False)
    with pytest.raises(PermissionDenied):
        mirror.sync()
    with pytest.raises(PermissionDenied):
        mirror.sync()


def test_restored_subscriber_of_a_merged_watch_syncs(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Two mirrors of one node: the later one may have a watch of its own at first."""
    first = client.mirror('/a')
    for number in range(5):
        server.put('/a/x', str(number))
        other = client.mirror('/a')
        server.put('/a/x', f'{number}!')
        syncs = [gevent.spawn(mirror.sync) for mirror in (first, other)]
        etcd_clock.advance(2)
        assert [sync.get(block=False) for sync in syncs] == [server.revision] * 2
        assert dict(first) == dict(other) == {'/a/x': f'{number}!'}
        other.stop()


# -- memory


def test_sync_in_memory_waits_for_the_reply_of_the_store(etcd_clock: VirtualTime) -> None:
    store = MemoryStore()
    link = store.link()
    with getc.etcd(link.url) as client, getc.etcd(store.url) as other:
        mirror = client.mirror('/a')
        written = other.set('/a/x', '1')
        link.delay(2)
        sync = gevent.spawn(mirror.sync)
        etcd_clock.advance(1)
        assert not sync.ready()
        etcd_clock.advance(2)
        assert sync.get(block=False) >= written.etcd_index
        assert dict(mirror) == {'/a/x': '1'}


def test_sync_in_memory_waits_until_the_store_is_connected(etcd_clock: VirtualTime) -> None:
    store = MemoryStore()
    link = store.link()
    with getc.etcd(link.url) as client, getc.etcd(store.url) as other:
        mirror = client.mirror('/a')
        other.set('/a/x', '1')
        link.disconnect()
        sync = gevent.spawn(mirror.sync, 60)
        etcd_clock.advance(5)
        assert not sync.ready()
        link.connect()
        written = other.set('/a/y', '2')
        etcd_clock.advance(5)
        assert sync.get(block=False) == written.etcd_index
        assert dict(mirror) == {'/a/x': '1', '/a/y': '2'}


# -- random histories


class History:
    """A store whose states are known, while random faults happen to it."""

    def __init__(self, server: FakeEtcd, seed: int) -> None:
        self.server = server
        self.rng = random.Random(seed)
        self.states: dict[int, dict[str, str]] = {}
        self.wipes = 0
        self._observe()

    def state_at(self, revision: int) -> dict[str, str]:
        """The values below /a at a revision."""
        return self.states[max(known for known in self.states if known <= revision)]

    def step(self) -> None:
        """Perform a random operation or fault."""
        server, key = self.server, f'/a/{self.rng.randrange(4)}'
        actions: list[tuple[int, Callable[[], object]]] = [
            (8, lambda: server.put(key, str(self.rng.random()))),
            (4, lambda: server.delete(key) if key.encode() in server.keys else None),
            (2, lambda: server.put_all({'/a/0': str(self.rng.random()), '/a/1': str(self.rng.random())})),
            (5, lambda: server.put('/elsewhere')),
            (1, server.break_streams),
            (1, server.go_down),
            (3, server.recover),
            (1, server.compact),
            (1, lambda: setattr(server, 'drops_progress', self.rng.random() < 0.5)),
            (1, lambda: setattr(server, 'history_delay', self.rng.choice((0.0, 0.0, 0.1)))),
            (1, lambda: server.invalidate_tokens()),
            (3, self._hold_streams),
        ]
        self.rng.choices([action for _, action in actions], [weight for weight, _ in actions])[0]()
        if self.rng.random() < 0.01:
            server.wipe(self.rng.choice((1, 2)))
            self.states.clear()
            self.wipes += 1
        self._observe()

    def _hold_streams(self) -> None:
        """Delay the messages of streams, for less time than two reads that find nothing are apart."""
        self.server.holds_streams = True
        gevent.spawn_later(0.3, self.server.release_streams)

    def _observe(self) -> None:
        values = {key.decode(): kv.value.decode() for key, kv in self.server.keys.items() if key.startswith(b'/a/')}
        self.states[self.server.revision] = values


@pytest.mark.parametrize('seed', range(12))
def test_mirror_shows_the_state_at_its_index_after_each_sync_in_a_random_history(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, seed: int
) -> None:
    """That index is at least the one that the store had when the call began."""
    history = History(server, seed)
    mirror = client.mirror('/a')
    done: list[str] = []

    def sync() -> None:
        before, wipes = server.revision, history.wipes
        try:
            index = mirror.sync(20)
        except TimedOut:
            done.append('timed out')
            return
        if history.wipes == wipes:
            assert index >= before
            assert mirror.index >= index
            assert dict(mirror) == history.state_at(mirror.index)
            done.append('in sync')

    syncs = []
    for _ in range(300):
        history.step()
        if history.rng.random() < 0.3:
            syncs.append(gevent.spawn(sync))
        if history.rng.random() < 0.7:
            etcd_clock.advance(history.rng.choice((0.0, 0.0, 0.01, 0.5)))
    server.recover()
    server.drops_progress = False
    server.history_delay = 0.0
    etcd_clock.advance(30)
    gevent.joinall(syncs, timeout=0, raise_error=True)
    assert all(each.successful() for each in syncs), [each.exception for each in syncs if not each.successful()]
    assert done.count('in sync') > 20
    mirror.sync()
    assert dict(mirror) == history.state_at(server.revision)
