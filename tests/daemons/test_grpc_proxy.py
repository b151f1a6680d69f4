"""Watchers and mirrors behind an ``etcd grpc-proxy``, which shares watches and hides restarts of etcd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import getc
from getc import KeeperState, timing
from getc.backends.tree.watch import shared_watch
from getc.backends.tree.watch.proxied_watches import CHECK_INTERVAL, DELIVERY_TIMEOUT
from getc.testing import VirtualTime
from getc.v3.create_queue import CREATE_TIMEOUT
from getc.v3.watch_health import CHECK_READ_TIMEOUT, WATCH_IDLE_TIMEOUT
from tests.support.fake_etcd import FakeEtcd
from tests.support.fake_rpc import HISTORY_BATCH

CHECK_TIMEOUT = WATCH_IDLE_TIMEOUT + CHECK_READ_TIMEOUT


@pytest.fixture
def server(etcd_clock: VirtualTime) -> FakeEtcd:
    server = FakeEtcd()
    server.is_proxied = server.drops_progress = True
    return server


@pytest.fixture
def client(server: FakeEtcd) -> Iterator[getc.Client]:
    with server.open() as client:
        yield client


def test_watch_that_the_proxy_shares_counts_as_one_of_the_same_store(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """The created response has neither the id of the cluster nor the revision of the store."""
    client.set('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    other = client.mirror('/other')
    for number in range(10):
        client.set('/elsewhere', str(number))
        etcd_clock.advance(20)
    assert (mirror.is_stale, other.is_stale) == (False, False)
    server.break_streams()
    etcd_clock.advance(5)
    server.put('/cfg/a', '2')
    etcd_clock.advance(0)
    assert (mirror.is_stale, mirror['/cfg/a']) == (False, '2')
    assert 'history lost' not in caplog.text


@pytest.mark.parametrize('cluster_id', [1, 2], ids=['same cluster id', 'other cluster id'])
def test_mirror_shows_the_store_that_replaced_another_one_behind_the_proxy(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture, cluster_id: int
) -> None:
    """The proxy keeps the stream open, and waits for a revision that the new store has not reached."""
    for number in range(20):
        server.put('/cfg/a', str(number))
    mirror = client.mirror('/cfg')
    client.keep_node('/servers/a', ttl=5)
    changes: list[getc.EtcdResult] = []
    client.on_change('/cfg', changes.append)
    etcd_clock.advance(100)
    server.wipe(cluster_id, breaks_streams=False)
    server.put('/cfg/b', 'new')
    etcd_clock.advance(CHECK_TIMEOUT + 2)
    assert (mirror.is_stale, dict(mirror)) == (False, {'/cfg/b': 'new'})
    assert [(change.key, change.resync) for change in changes] == [('/cfg/a', True), ('/cfg/b', True)]
    assert 'etcd behind the grpc-proxy http://there was restarted or replaced' in caplog.text


def test_history_that_the_proxy_drops_is_compared(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy sends one response of many revisions, and may then continue with the changes from now on."""
    monkeypatch.setattr(shared_watch, 'MAX_HISTORY_BATCH', HISTORY_BATCH)
    for number in range(4 * HISTORY_BATCH):
        server.put(f'/cfg/{number % 7}', str(number))
    changes: list[getc.EtcdResult] = []
    watcher = client.on_change('/cfg', changes.append, index=2)
    etcd_clock.advance(5)
    assert not watcher.is_stale
    assert [change.resync for change in changes] == [False] * HISTORY_BATCH + [True] * 7
    assert {change.key: change.value for change in changes} == {
        key.decode(): kv.value.decode() for key, kv in server.keys.items()
    }
    server.put('/cfg/a', 'new')
    etcd_clock.advance(0)
    assert changes[-1].key == '/cfg/a'


def test_watch_that_the_proxy_serves_no_more_is_created_again_for_this_client_alone(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """No call of the client shows the missed change.  Another watch of the same range would be as dead."""
    server.put('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    node = client.mirror('/cfg/a')
    etcd_clock.advance(25)
    (stream,) = server.streams
    shared = {watched[:2] for watched in stream.watches.values()}  # type: ignore[attr-defined]
    stream.watches.clear()  # type: ignore[attr-defined]
    server.put('/cfg/a', '2')
    etcd_clock.advance(2 * (CHECK_INTERVAL + DELIVERY_TIMEOUT) + 3)
    assert (mirror.is_stale, dict(mirror)) == (False, {'/cfg/a': '2'})
    assert (node.is_stale, dict(node)) == (False, {'/cfg/a': '2'})
    assert 'missed a change up to revision 3, which a read has shown' in caplog.text
    ranges = [watched[:2] for each in server.streams for watched in each.watches.values()]
    assert {key for key, _ in ranges} == {key for key, _ in shared}
    assert not shared.issuperset(ranges)
    server.put('/cfg/\U0010ffff', '3')
    etcd_clock.advance(0)
    assert mirror['/cfg/\U0010ffff'] == '3'


def test_quiet_watches_behind_a_proxy_cost_a_read_each_in_ten_seconds(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """With many watches at most 100 are read in a round."""
    for number in range(150):
        client.on_change(f'/{number}', print)
    etcd_clock.advance(60)
    server.calls.clear()
    etcd_clock.advance(100)
    assert 800 <= len(server.times('Range')) <= 1100


def test_event_of_another_store_ends_the_watches_at_once(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """The other store has passed the revision that the proxy waited for."""
    server.put('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    etcd_clock.advance(25)
    server.wipe(breaks_streams=False)
    for number in range(5):
        server.put('/cfg/b', str(number))
    etcd_clock.advance(2)
    assert (mirror.is_stale, dict(mirror)) == (False, {'/cfg/b': '4'})


def test_watch_is_created_again_without_a_resync_after_another_election(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    server.put('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    server.put('/cfg/a', '2')
    etcd_clock.advance(100)
    (stream,) = server.streams
    server.raft_term += 1
    etcd_clock.advance(CHECK_TIMEOUT + 2)
    assert stream not in server.streams
    server.put('/cfg/a', '3')
    etcd_clock.advance(1)
    assert (mirror.is_stale, mirror['/cfg/a']) == (False, '3')
    assert 'history lost' not in caplog.text


def test_stream_on_which_no_watch_is_created_is_reopened(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """The server answers reads.  The watches that wait for the first one are created, too."""
    server.is_silent = True
    watchers = [client.on_change(f'/{number}', print, wait=False) for number in range(3)]
    etcd_clock.advance(1)
    (stream,) = server.streams
    server.is_silent = False
    etcd_clock.advance(CREATE_TIMEOUT + CHECK_TIMEOUT + 5)
    assert stream not in server.streams
    assert [watcher.is_stale for watcher in watchers] == [False, False, False]


@pytest.mark.parametrize('ttl', [2, 3, 5, 10, 60])
def test_node_is_kept_although_the_proxy_answers_renewals_late(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture, ttl: int
) -> None:
    """The proxy renews a lease at its own pace, and answers then.  The remaining TTL shows its renewals."""
    keeper = client.keep_node('/servers/a', ttl=ttl)
    for _ in range(100):
        etcd_clock.advance(ttl / 7)
        assert keeper.state is KeeperState.KEPT
    assert 'missed' not in caplog.text
    calls = len(server.times('LeaseTimeToLive'))
    assert calls < 100 / 7 * 3 * 2


@pytest.mark.parametrize('ttl', [3, 10])
def test_node_is_lost_in_time_when_nothing_shows_a_renewal_behind_the_proxy(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, ttl: int
) -> None:
    keeper = client.keep_node('/servers/a', ttl=ttl)
    etcd_clock.advance(5 * ttl)
    server.go_silent()
    lost_at = max(lease.expires_at for lease in server.leases.values())
    while keeper.state in (KeeperState.KEPT, KeeperState.SUSPECT):
        etcd_clock.advance(0.05)
    assert timing.now() < lost_at


def test_revoked_lease_is_detected_behind_the_proxy(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    losses: list[object] = []
    client.keep_node('/servers/a', ttl=5, on_lost=losses.append)
    etcd_clock.advance(20)
    (lease,) = server.leases
    server.revoke(lease)
    etcd_clock.advance(5)
    assert len(losses) == 1
    assert b'/servers/a' in server.keys
