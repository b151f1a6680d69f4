"""Watching the keys of held nodes: what a replaced owner learns before its next renewal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from getc.backends.tree.lease.key_watches import KeyWatches
from getc.testing import VirtualTime
from tests.support.fake_etcd import FakeEtcd, FakeRpc
from tests.support.leftovers import check_greenlets

LEASE = 0x11


class Node:
    """A node that is held; it notes what it is told."""

    def __init__(self, watches: KeyWatches, key: str, known_at: int) -> None:
        self.raw_key = key.encode()
        self.lease_id = LEASE
        self.known_at = known_at
        self.told: list[str] = []
        self.watch = watches.watch(self)

    def on_taken(self, *, is_deleted: bool) -> None:
        self.told.append('deleted' if is_deleted else 'taken')
        self.watch.close()


class Bench:
    """The watches of a client, and its etcd, where another lease is always at hand."""

    def __init__(self) -> None:
        self.server = FakeEtcd()
        assert self.server.grant(3600) == LEASE
        self.other = self.server.grant(3600)
        self.rpc: Any = FakeRpc(self.server)
        self.watches = KeyWatches(self.rpc)

    def hold(self, key: str = '/a') -> Node:
        """A node that is ours, and that is watched when this returns."""
        node = Node(self.watches, key, self.server.put(key, 'x', lease=LEASE))
        gevent.sleep(0.001)
        return node

    @property
    def watched(self) -> list[bytes]:
        """The keys that the server watches."""
        return sorted(key for stream in self.server.streams for key, _, _ in getattr(stream, 'watches', {}).values())


@pytest.fixture
def bench(request: pytest.FixtureRequest, etcd_clock: VirtualTime) -> Iterator[Bench]:
    """The bench; when all has ended, no greenlet may be left."""
    bench = Bench()
    yield bench
    bench.watches.close()
    bench.rpc.close()
    etcd_clock.advance(0)
    check_greenlets(request)


def test_write_with_another_lease_or_none_and_a_deletion_are_told_once(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Each to the owner of that node."""
    taken, permanent, deleted, beside = (bench.hold(key) for key in ('/a', '/b', '/c', '/d'))
    bench.server.doubles = True
    bench.server.put('/a', 'x', lease=bench.other)
    bench.server.put('/b', 'x')
    bench.server.delete('/c')
    bench.server.put('/a', 'y', lease=bench.other)
    etcd_clock.advance(0)
    assert [node.told for node in (taken, permanent, deleted, beside)] == [['taken'], ['taken'], ['deleted'], []]
    assert bench.watched == [b'/d']


def test_write_with_its_own_lease_is_not_told(bench: Bench, etcd_clock: VirtualTime) -> None:
    """It is an update, whoever made it."""
    node = bench.hold()
    bench.server.put('/a', 'y', lease=LEASE)
    etcd_clock.advance(0)
    assert node.told == []


def test_all_are_on_one_stream_and_none_is_left_when_they_are_closed(bench: Bench, etcd_clock: VirtualTime) -> None:
    """However many there are."""
    nodes = [bench.hold(f'/{number}') for number in range(100)]
    assert len(bench.server.streams) == 1
    assert len(bench.watched) == 100
    for node in nodes:
        node.watch.close()
        node.watch.close()
    etcd_clock.advance(0)
    assert bench.watched == []


def test_what_comes_before_the_watch_has_begun_is_told(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The node is watched from the revision at which it was last known to be ours."""
    node = Node(bench.watches, '/a', bench.server.put('/a', 'x', lease=LEASE))
    bench.server.put('/a', 'x', lease=bench.other)
    etcd_clock.advance(0)
    assert node.told == ['taken']


def test_watches_go_on_where_they_were_when_their_stream_breaks(bench: Bench, etcd_clock: VirtualTime) -> None:
    """What happened meanwhile is told as soon as the server is back, and nothing twice."""
    nodes = [bench.hold(f'/{number}') for number in range(3)]
    bench.server.go_down()
    etcd_clock.advance(60)
    assert len(bench.server.times('WatchCreate')) == 3
    bench.server.put('/1', 'x', lease=bench.other)
    bench.server.come_back()
    etcd_clock.advance(1)
    assert [node.told for node in nodes] == [[], ['taken'], []]
    assert bench.watched == [b'/0', b'/2']


def test_server_that_takes_watches_and_ends_their_stream_is_not_asked_all_the_time(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """A member without a leader does so, with each new stream."""
    bench.hold()
    for _ in range(60):
        bench.server.is_silent = True
        bench.server.break_streams()
        etcd_clock.advance(1)
    assert len(bench.server.times('WatchCreate')) == 1
    assert 30 < len(bench.rpc._streams) < 300


def test_watch_that_was_refused_begins_with_the_next_renewal_on_another_stream(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """A stream has the token that it began with, which the server may have forgotten; the others stay on it."""
    first = bench.hold('/a')
    bench.server.forget_tokens()
    second = bench.hold('/b')
    assert (first.watch.is_due, second.watch.is_due) == (False, True)
    second.watch.restart()
    etcd_clock.advance(0)
    assert bench.watched == [b'/a', b'/b']
    assert len(bench.server.streams) == 2
    first.watch.close()
    etcd_clock.advance(0)
    assert len(bench.server.streams) == 1


def test_watch_that_was_refused_twice_is_left_off(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Its user may not watch it."""
    bench.server.forbidden.add((b'/a', b''))
    node = bench.hold('/a')
    assert node.watch.is_due
    node.watch.restart()
    etcd_clock.advance(60)
    assert not node.watch.is_due
    assert len(bench.server.times('WatchCreate')) == 2


def test_watch_whose_history_was_compacted_begins_with_the_next_renewal(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Which knows a later revision."""
    node = bench.hold()
    bench.server.go_down()
    bench.server.put('/elsewhere')
    bench.server.compact()
    bench.server.come_back()
    etcd_clock.advance(2)
    assert node.watch.is_due
    node.known_at = bench.server.revision
    node.watch.restart()
    etcd_clock.advance(0)
    assert bench.watched == [b'/a']


def test_node_that_was_given_up_before_its_watch_began_is_not_watched(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Nor is one whose client was closed."""
    first = Node(bench.watches, '/a', 1)
    first.watch.close()
    etcd_clock.advance(0)
    Node(bench.watches, '/b', 1)
    bench.watches.close()
    etcd_clock.advance(1)
    assert bench.server.times('WatchCreate') == []
