"""Watches of the keys of kept nodes, which notify a replaced owner before its next renewal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from getc.backends.tree.lease.key_watches import KeyWatches
from getc.testing import VirtualTime
from tests.support.fake_etcd import FakeEtcd
from tests.support.fake_rpc import FakeRpc
from tests.support.leftovers import check_greenlets

LEASE = 0x11


class Node:
    """A kept node; records its callbacks."""

    def __init__(self, watches: KeyWatches, key: str, known_at: int) -> None:
        self.events: list[str] = []
        self.watch = watches.watch(key.encode(), LEASE, known_at, self.on_taken)

    def on_taken(self, is_deleted: bool) -> None:
        self.events.append('deleted' if is_deleted else 'taken')
        self.watch.close()


class Bench:
    """The key watches of a client, and a fake etcd with another lease."""

    def __init__(self) -> None:
        self.server = FakeEtcd()
        assert self.server.grant(3600) == LEASE
        self.other = self.server.grant(3600)
        self.rpc: Any = FakeRpc(self.server)
        self.watches = KeyWatches(self.rpc)

    def keep(self, key: str = '/a') -> Node:
        """Return a node that is ours and already watched."""
        node = Node(self.watches, key, self.server.put(key, 'x', lease=LEASE))
        gevent.sleep(0.001)
        return node

    @property
    def watched(self) -> list[bytes]:
        """The keys that are watched in etcd."""
        return sorted(key for stream in self.server.streams for key, _, _ in getattr(stream, 'watches', {}).values())


@pytest.fixture
def bench(request: pytest.FixtureRequest, etcd_clock: VirtualTime) -> Iterator[Bench]:
    """The bench; checks that no greenlet is left in the end."""
    bench = Bench()
    yield bench
    bench.watches.close()
    bench.rpc.close()
    etcd_clock.advance(0)
    check_greenlets(request)


def test_owner_is_notified_once_of_a_write_with_another_lease_and_of_a_delete(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    taken, permanent, deleted, beside = (bench.keep(key) for key in ('/a', '/b', '/c', '/d'))
    bench.server.duplicates_events = True
    bench.server.put('/a', 'x', lease=bench.other)
    bench.server.put('/b', 'x')
    bench.server.delete('/c')
    bench.server.put('/a', 'y', lease=bench.other)
    etcd_clock.advance(0)
    assert [node.events for node in (taken, permanent, deleted, beside)] == [['taken'], ['taken'], ['deleted'], []]
    assert bench.watched == [b'/d']


def test_owner_is_not_notified_of_a_write_with_its_own_lease(bench: Bench, etcd_clock: VirtualTime) -> None:
    """It is an update."""
    node = bench.keep()
    bench.server.put('/a', 'y', lease=LEASE)
    etcd_clock.advance(0)
    assert node.events == []


def test_all_watches_are_on_one_stream_and_none_is_left_after_close(bench: Bench, etcd_clock: VirtualTime) -> None:
    nodes = [bench.keep(f'/{number}') for number in range(100)]
    assert len(bench.server.streams) == 1
    assert len(bench.watched) == 100
    for node in nodes:
        node.watch.close()
        node.watch.close()
    etcd_clock.advance(0)
    assert bench.watched == []


def test_owner_is_notified_of_a_write_before_the_watch_was_created(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The watch starts from the revision at which the node is known to be ours."""
    node = Node(bench.watches, '/a', bench.server.put('/a', 'x', lease=LEASE))
    bench.server.put('/a', 'x', lease=bench.other)
    etcd_clock.advance(0)
    assert node.events == ['taken']


def test_watches_continue_after_their_stream_breaks(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Events of the outage are delivered, and none twice."""
    nodes = [bench.keep(f'/{number}') for number in range(3)]
    bench.server.go_down()
    etcd_clock.advance(60)
    assert len(bench.server.times('WatchCreate')) == 3
    bench.server.put('/1', 'x', lease=bench.other)
    bench.server.recover()
    etcd_clock.advance(1)
    assert [node.events for node in nodes] == [[], ['taken'], []]
    assert bench.watched == [b'/0', b'/2']


def test_streams_are_opened_with_backoff_when_each_ends_before_a_watch_is_created(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """As those of a member without a leader."""
    bench.keep()
    for _ in range(60):
        bench.server.is_silent = True
        bench.server.break_streams()
        etcd_clock.advance(1)
    assert len(bench.server.times('WatchCreate')) == 1
    assert 30 < len(bench.rpc._streams) < 300


def test_refused_watch_starts_again_with_the_next_renewal_on_another_stream(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """A stream keeps the token it was opened with, which the server may have forgotten; its other watches stay."""
    first = bench.keep('/a')
    bench.server.invalidate_tokens()
    second = bench.keep('/b')
    assert (first.watch.is_due, second.watch.is_due) == (False, True)
    second.watch.restart()
    etcd_clock.advance(0)
    assert bench.watched == [b'/a', b'/b']
    assert len(bench.server.streams) == 2
    first.watch.close()
    etcd_clock.advance(0)
    assert len(bench.server.streams) == 1


def test_watch_that_is_refused_twice_is_given_up(bench: Bench, etcd_clock: VirtualTime) -> None:
    bench.server.forbidden.add((b'/a', b''))
    node = bench.keep('/a')
    assert node.watch.is_due
    node.watch.restart()
    etcd_clock.advance(60)
    assert not node.watch.is_due
    assert len(bench.server.times('WatchCreate')) == 2


def test_watch_whose_history_was_compacted_starts_again_with_the_next_renewal(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """From the revision of that renewal."""
    node = bench.keep()
    bench.server.go_down()
    bench.server.put('/elsewhere')
    bench.server.compact()
    bench.server.recover()
    etcd_clock.advance(2)
    assert node.watch.is_due
    node.watch.known_at = bench.server.revision
    node.watch.restart()
    etcd_clock.advance(0)
    assert bench.watched == [b'/a']


def test_closed_watch_is_not_created_when_the_stream_opens(bench: Bench, etcd_clock: VirtualTime) -> None:
    first = Node(bench.watches, '/a', 1)
    first.watch.close()
    etcd_clock.advance(0)
    assert bench.server.times('WatchCreate') == []
    Node(bench.watches, '/b', 1)
    bench.watches.close()
    etcd_clock.advance(1)
    assert bench.watched == []
