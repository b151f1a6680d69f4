"""A store in memory with fault injection, seen by calls, keepers and watchers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import gevent
import pytest

import getc
from getc import KeeperState, WatcherState
from getc.testing import MemoryStore, VirtualTime

A_WHILE = 2.0
"""Seconds in which daemons are back: they wait for one at most between attempts."""


@pytest.fixture
def client(etcd_store: MemoryStore, etcd_clock: VirtualTime) -> Iterator[getc.Client]:
    with getc.etcd(etcd_store.url) as client:
        yield client


@pytest.fixture
def other(etcd_store: MemoryStore, etcd_clock: VirtualTime) -> Iterator[getc.Client]:
    """A second client of the same store."""
    with getc.etcd(etcd_store.url) as client:
        yield client


def fields_of(changes: list[getc.EtcdResult]) -> list[tuple[str, str, str | None, bool]]:
    return [(type(result).__name__, result.key, result.value, result.resync) for result in changes]


# -- names


def test_clients_of_one_url_share_the_store() -> None:
    """The faults apply to all of them."""
    store = MemoryStore('game')
    with getc.etcd('memory://game') as client, getc.etcd('memory://game', namespace='/eu') as other:
        client.set('/eu/a', 'x')
        assert other.get('/a').value == 'x'
        store.disconnect()
        for each in (client, other):
            with pytest.raises(getc.ConnectionRefused):
                each.get('/a')


def test_name_is_rejected_when_it_is_in_use() -> None:
    """The faults would not apply to clients from before."""
    with getc.etcd('memory://taken') as client:
        client.set('/a', 'x')
        with pytest.raises(ValueError, match='memory://taken is already in use'):
            MemoryStore('taken')
    store = MemoryStore('mine')
    with pytest.raises(ValueError, match='memory://mine is already in use'):
        MemoryStore('mine')
    assert repr(store) == '<MemoryStore memory://mine>'


def test_stores_without_a_name_are_distinct() -> None:
    one, two = MemoryStore(), MemoryStore()
    with getc.etcd(one.url) as client, getc.etcd(two.url) as other:
        client.set('/a', 'x')
        with pytest.raises(getc.KeyNotFound):
            other.get('/a')


# -- disconnected


def test_calls_are_refused_when_disconnected(etcd_store: MemoryStore, client: getc.Client) -> None:
    """They have no effect, and no data are lost."""
    client.set('/a', 'x')
    etcd_store.disconnect()
    assert not etcd_store.is_connected
    for call in (lambda: client.get('/a'), lambda: client.set('/a', 'y'), client.ready):
        with pytest.raises(getc.ConnectionRefused, match='disconnected') as caught:
            call()
        assert not caught.value.maybe_applied
    etcd_store.connect()
    client.ready()
    assert client.get('/a').value == 'x'


def test_keeper_loses_and_restores_its_node_when_the_store_was_disconnected(
    etcd_store: MemoryStore, client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """The node expires meanwhile, as in an etcd that only this client cannot reach."""
    link = etcd_store.link()
    pages: list[str] = []
    with getc.etcd(link.url) as server:
        keeper = server.keep_node(
            '/servers/a',
            'x',
            ttl=10,
            on_lost=lambda _: pages.append('lost'),
            on_restored=lambda _: pages.append('back'),
        )
        link.disconnect()
        etcd_clock.advance(11)
        assert (keeper.state, pages) == (KeeperState.LOST, ['lost'])
        with pytest.raises(getc.KeyNotFound):
            other.get('/servers/a')
        link.connect()
        etcd_clock.advance(A_WHILE)
        assert (keeper.state, pages) == (KeeperState.KEPT, ['lost', 'back'])
        assert other.get('/servers/a').value == 'x'


def test_watcher_is_stale_when_disconnected_and_receives_each_change_once_afterwards(
    etcd_store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Only clients of the link are cut off; the writes of others are delivered afterwards, in order."""
    link = etcd_store.link()
    changes: list[getc.EtcdResult] = []
    with getc.etcd(link.url) as follower:
        watcher = follower.on_change('/cfg', changes.append)
        mirror = follower.mirror('/cfg')
        client.set('/cfg/a', '1')
        etcd_clock.advance(0)
        link.disconnect()
        etcd_clock.advance(A_WHILE)
        assert watcher.state is WatcherState.STALE
        assert mirror.is_stale
        for value in '23':
            client.set('/cfg/a', value)
        etcd_clock.advance(60)
        assert len(changes) == 1
        link.connect()
        etcd_clock.advance(A_WHILE)
        assert watcher.state is WatcherState.LIVE
        assert fields_of(changes) == [('Set', '/cfg/a', value, False) for value in '123']
        assert dict(mirror) == {'/cfg/a': '3'}


def test_store_and_link_refuse_calls_independently(etcd_store: MemoryStore, client: getc.Client) -> None:
    """Clients of a link need both; others need the store only."""
    link = etcd_store.link()
    with getc.etcd(link.url) as linked:
        link.disconnect()
        client.set('/a', 'x')
        with pytest.raises(getc.ConnectionRefused):
            linked.get('/a')
        etcd_store.disconnect()
        link.connect()
        for each in (linked, client):
            with pytest.raises(getc.ConnectionRefused):
                each.get('/a')
        etcd_store.connect()
        assert linked.get('/a').value == client.get('/a').value == 'x'


def test_wait_continues_over_an_outage(
    etcd_store: MemoryStore, client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """It returns a change after the outage."""
    waiting = gevent.spawn(client.wait, '/a')
    etcd_clock.advance(0)
    etcd_store.disconnect()
    with pytest.raises(getc.ConnectionRefused):
        other.wait('/a')  # a new watch is
    etcd_clock.advance(A_WHILE)
    etcd_store.connect()
    other.set('/a', 'x')
    etcd_clock.advance(A_WHILE)
    assert waiting.get().value == 'x'


# -- calls that fail


def test_next_calls_raise_the_queued_errors(etcd_store: MemoryStore, client: getc.Client) -> None:
    """One each, in order, without any effect."""
    client.set('/a', 'x')
    etcd_store.fail_next(getc.TooManyRequests('busy'))
    etcd_store.fail_next(getc.HTTPError(503))
    with pytest.raises(getc.TooManyRequests, match='busy'):
        client.set('/a', 'y')
    with pytest.raises(getc.HTTPError, match='503'):
        client.get('/a')
    assert client.get('/a').value == 'x'


def test_error_is_rejected_when_no_client_raises_it(etcd_store: MemoryStore) -> None:
    with pytest.raises(TypeError, match='EtcException'):
        etcd_store.fail_next(OSError())  # type: ignore[arg-type]


def test_lost_reply_is_that_of_an_executed_write(etcd_store: MemoryStore, client: getc.Client) -> None:
    """Reads before it succeed; the error of the write has ``maybe_applied``."""
    etcd_store.lose_next_reply()
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')
    with pytest.raises(getc.ConnectionError) as caught:
        client.create('/a', 'x')
    assert caught.value.maybe_applied
    assert client.get('/a').value == 'x'
    with pytest.raises(getc.NodeExist):
        client.create('/a', 'x')


def test_keeper_recognizes_its_node_when_the_reply_to_its_first_write_was_lost(
    etcd_store: MemoryStore, client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """It does not treat its own node as that of a foreign owner."""
    etcd_store.lose_next_reply()
    keeper = client.keep_node('/servers/a', 'x', ttl=10)
    etcd_clock.advance(60)
    assert keeper.state is KeeperState.KEPT
    assert [node.key for node in other.get('/servers').nodes] == ['/servers/a']


def test_replies_are_delayed(
    etcd_store: MemoryStore, client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """The store executes at once; errors are delayed as well; a link adds its own delay."""
    etcd_store.delay(2)
    writing = gevent.spawn(client.set, '/a', 'x')
    etcd_clock.advance(0)
    etcd_store.delay(0)
    assert other.get('/a').value == 'x'
    etcd_clock.advance(1.9)
    assert not writing.ready()
    etcd_clock.advance(0.1)
    assert writing.get().value == 'x'

    etcd_store.delay(2)
    link = etcd_store.link()
    link.delay(3)
    with getc.etcd(link.url) as linked, pytest.raises(getc.NodeExist):
        linked.create('/a', 'y')
    assert etcd_clock.elapsed == 7


def test_call_times_out_when_the_delay_is_longer(
    etcd_store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """The write was executed, and its error has ``maybe_applied``."""
    etcd_store.delay(math.inf)
    with pytest.raises(getc.TimedOut, match='within 3 s') as caught:
        client.set('/a', 'x', timeout=3)
    assert caught.value.maybe_applied
    with pytest.raises(getc.TimedOut) as caught:
        client.get('/a')
    assert not caught.value.maybe_applied
    assert etcd_clock.elapsed == 13
    etcd_store.delay(0)
    assert client.get('/a').value == 'x'
    with pytest.raises(ValueError, match='at least 0'):
        etcd_store.delay(-1)


def test_watch_starts_late_when_replies_are_delayed(
    etcd_store: MemoryStore, client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """``wait`` reports that nothing has changed only if its watch was created."""
    etcd_store.delay(math.inf)
    with pytest.raises(getc.ConnectionError, match='no watch of /a was created within 3 s: no server has') as caught:
        client.wait('/a', timeout=3)
    assert not isinstance(caught.value, getc.TimedOut)
    etcd_store.delay(2)
    with pytest.raises(getc.TimedOut, match='no change of /a within 3 s'):
        client.wait('/a', timeout=3)
    waiting = gevent.spawn(client.wait, '/a')
    etcd_clock.advance(2)
    etcd_store.delay(0)
    other.set('/a', 'x')
    assert waiting.get().value == 'x'


def test_delayed_watch_ends_when_its_connection_breaks(
    etcd_store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Also when its client is closed."""
    etcd_store.delay(60)
    broken = gevent.spawn(client.wait, '/a')
    etcd_clock.advance(1)
    etcd_store.disconnect()
    etcd_clock.advance(0)
    assert isinstance(broken.exception, getc.ConnectionError)
    etcd_store.connect()
    closed = gevent.spawn(client.wait, '/a')
    etcd_clock.advance(1)
    client.close()
    etcd_clock.advance(60)
    assert isinstance(closed.exception, getc.ClientClosed)


def test_wait_reports_a_lost_watch_when_it_is_not_restored(
    etcd_store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Changes may have been missed; the wait still ends at its timeout."""
    waiting = gevent.spawn(client.wait, '/a', timeout=5)
    etcd_clock.advance(1)
    etcd_store.disconnect()
    etcd_clock.advance(4)
    etcd_clock.advance(0)
    assert str(waiting.exception) == 'no watch of /a was created within 5 s: the store is disconnected'
    assert not isinstance(waiting.exception, getc.TimedOut)
    assert isinstance(waiting.exception.__cause__, getc.ConnectionRefused)


def test_changes_report_staleness_when_no_change_comes_in_time(
    etcd_store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """TimedOut would claim that nothing has changed."""
    changes = client.changes('/a')
    mirror = client.mirror('/a')
    etcd_store.disconnect()
    with pytest.raises(getc.ConnectionError, match='no change of /a within 5 s, but the watch is STALE: the') as caught:
        changes.get(timeout=5)
    assert not isinstance(caught.value, getc.TimedOut)
    with pytest.raises(getc.TimedOut, match=r'mirror /a: .* within 5 s; the mirror is STALE'):
        mirror.wait(lambda _: False, timeout=5)
    etcd_store.connect()
    etcd_clock.advance(A_WHILE)
    with pytest.raises(getc.TimedOut, match=r'no change of /a within 5 s$'):
        changes.get(timeout=5)


def test_call_in_flight_ends_when_its_connection_breaks(
    etcd_store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """At once, and also when its client is closed."""
    etcd_store.delay(60)
    writing = gevent.spawn(client.set, '/a', 'x', timeout=None)
    reading = gevent.spawn(client.get, '/a', timeout=None)
    etcd_clock.advance(1)
    etcd_store.disconnect()
    etcd_clock.advance(0)
    assert (type(writing.exception), writing.exception.maybe_applied) == (getc.ConnectionError, True)
    assert (type(reading.exception), reading.exception.maybe_applied) == (getc.ConnectionError, False)
    etcd_store.connect()
    writing = gevent.spawn(client.set, '/a', 'y', timeout=None)
    etcd_clock.advance(1)
    client.close()
    etcd_clock.advance(0)
    assert isinstance(writing.exception, getc.ClientClosed)


# -- what becomes of the store


def test_keeper_registers_again_when_the_store_is_wiped(
    etcd_store: MemoryStore, client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """The index starts again; watchers receive the differences with ``resync``."""
    other.set('/cfg/a', '1')
    keeper = client.keep_node('/servers/a', 'x', ttl=10)
    etcd_clock.advance(60)
    changes: list[getc.EtcdResult] = []
    resyncs: list[object] = []
    other.on_change('/', changes.append, on_resync=resyncs.append)
    etcd_store.wipe()
    assert other.set('/new', 'x').etcd_index == 1
    etcd_clock.advance(10)
    assert keeper.state is KeeperState.KEPT
    assert other.get('/servers/a').value == 'x'
    with pytest.raises(getc.KeyNotFound):
        other.get('/cfg/a')
    assert ('Deleted', '/cfg/a', None, True) in fields_of(changes)
    assert ('Set', '/new', 'x', True) in fields_of(changes)
    assert len(resyncs) == 1


def test_watchers_resync_when_the_store_is_compacted(
    etcd_store: MemoryStore, client: getc.Client, other: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Keepers are not affected."""
    client.set('/cfg/a', '1')
    keeper = client.keep_node('/servers/a', 'x', ttl=10)
    link = etcd_store.link()
    resyncs: list[object] = []
    changes: list[getc.EtcdResult] = []
    with getc.etcd(link.url) as follower:
        follower.on_change('/cfg', changes.append, on_resync=resyncs.append)
        etcd_store.compact()
        etcd_clock.advance(A_WHILE)
        assert (len(resyncs), changes) == (1, [])  # no change was missed

        link.disconnect()
        for value in '23':
            client.set('/cfg/a', value)
        index = client.set('/cfg/b', 'x').etcd_index
        etcd_store.compact()
        link.connect()
        etcd_clock.advance(A_WHILE)
        assert len(resyncs) == 2
        assert fields_of(changes) == [('Set', '/cfg/a', '3', True), ('Set', '/cfg/b', 'x', True)]
    assert keeper.state is KeeperState.KEPT
    with pytest.raises(getc.EventIndexCleared):
        other.wait('/cfg', index)


def test_expire_ends_a_node_before_its_ttl(
    etcd_store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Its keeper registers it again."""
    changes: list[getc.EtcdResult] = []
    client.on_change('/', changes.append)
    client.set('/a', 'x', ttl=1000)
    client.set('/dir', dir=True, ttl=1000)
    client.set('/for-ever', 'x')
    etcd_store.expire('a/')
    etcd_store.expire('/dir')
    etcd_clock.advance(0)
    assert [(type(result), result.key) for result in changes[3:]] == [(getc.Expired, '/a'), (getc.Expired, '/dir')]
    with pytest.raises(ValueError, match='/for-ever has no TTL'):
        etcd_store.expire('/for-ever')
    with pytest.raises(getc.KeyNotFound):
        etcd_store.expire('/a')
    keeper = client.keep_node('/servers/a', 'x', ttl=10)
    token = keeper.ensure()
    etcd_store.expire('/servers/a')
    etcd_clock.advance(10)
    assert keeper.ensure() > token


def test_store_drops_its_references_when_clients_are_closed(etcd_store: MemoryStore) -> None:
    link = etcd_store.link()
    for _ in range(3):
        with getc.etcd(link.url) as client:
            client.set('/a', 'x')
            assert (len(etcd_store._backends), len(link._backends)) == (1, 1)
    assert (len(etcd_store._backends), len(link._backends)) == (0, 0)


# -- transactions


def test_transaction_whose_reply_is_lost_is_ambiguous_and_applied_once(
    client: getc.Client, other: getc.Client, etcd_store: MemoryStore
) -> None:
    etcd_store.lose_next_reply()
    t = client.transaction()
    with pytest.raises(getc.ConnectionError) as caught, t:
        t.set('/a', 'x')
        t.set('/b', 'x')
    assert caught.value.maybe_applied is True
    assert other.get('/a').index == other.get('/b').index == other.get('/b').etcd_index == 1
    with pytest.raises(RuntimeError, match='its response was not received'):
        _ = t.results


def test_transaction_without_a_write_loses_no_reply(client: getc.Client, etcd_store: MemoryStore) -> None:
    """The reply that is lost is that of the next write."""
    client.set('/a', 'x')
    etcd_store.lose_next_reply()
    with client.transaction() as t:
        t.get('/a')
    assert t.results[0].value == 'x'
    with pytest.raises(getc.ConnectionError):
        client.set('/a', 'y')


def test_transaction_is_refused_while_disconnected(client: getc.Client, etcd_store: MemoryStore) -> None:
    etcd_store.disconnect()
    with pytest.raises(getc.ConnectionRefused) as caught, client.transaction() as t:
        t.set('/a', 'x')
    assert caught.value.maybe_applied is False
    with pytest.raises(getc.ConnectionRefused):
        client.atomically(lambda stm: stm.get('/a'))


@pytest.mark.parametrize('is_idempotent', [False, True])
def test_atomically_runs_again_after_a_lost_reply_only_if_idempotent(
    client: getc.Client, etcd_store: MemoryStore, is_idempotent: bool
) -> None:
    runs: list[int] = []

    def claim(stm: getc.STM) -> str:
        runs.append(1)
        try:
            return stm.get('/owner').value or ''
        except getc.KeyNotFound:
            stm.set('/owner', 'me')
            return 'claimed'

    etcd_store.lose_next_reply()
    if is_idempotent:
        assert client.atomically(claim, idempotent=True) == 'me'
        assert len(runs) == 2
        return
    with pytest.raises(getc.ConnectionError) as caught:
        client.atomically(claim)
    assert caught.value.maybe_applied is True
    assert len(runs) == 1
    assert client.get('/owner').value == 'me'


def test_delayed_transaction_times_out_and_may_be_applied(
    client: getc.Client, other: getc.Client, etcd_store: MemoryStore
) -> None:
    etcd_store.delay(math.inf)
    with pytest.raises(getc.TimedOut) as caught, client.transaction(timeout=3) as t:
        t.set('/a', 'x')
    assert caught.value.maybe_applied is True
    etcd_store.delay(0)
    assert other.get('/a').value == 'x'


def test_guard_holds_although_the_reply_to_a_renewal_was_lost(
    client: getc.Client, etcd_store: MemoryStore, etcd_clock: VirtualTime
) -> None:
    """The renewal has moved the index of the node; the value and the creation prove the ownership."""
    keeper = client.keep_node('/owner', 'a', ttl=9)
    guard = keeper.guard
    etcd_store.lose_next_reply()
    etcd_clock.advance(3.1)
    with client.transaction(guard=guard) as t:
        t.set('/x', '1')
    assert t.index


def test_guard_fails_after_the_ttl_in_virtual_time(
    client: getc.Client, other: getc.Client, etcd_store: MemoryStore, etcd_clock: VirtualTime
) -> None:
    """The owner is cut off for longer than its TTL, and another client owns the node."""
    lock = client.lock('/locks/a', ttl=9)
    lock.acquire()
    guard = lock.guard
    etcd_store.disconnect()
    etcd_clock.advance(10)
    etcd_store.connect()
    rival = other.lock('/locks/a', ttl=9)
    rival.acquire()
    with pytest.raises(getc.NodeLost), client.transaction(guard=guard) as t:
        t.set('/x', '1')
    with other.transaction(guard=rival) as t:
        t.set('/x', '2')
    assert client.get('/x').value == '2'
