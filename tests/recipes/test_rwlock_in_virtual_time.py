"""RW locks on a store in memory, in virtual time: losses, outages, lost replies, the cost of waiters."""

from __future__ import annotations

import gevent
import pytest

import getc
from getc import timing
from getc.recipes import ContenderState, ReadLock, WriteLock
from getc.testing import MemoryStore, VirtualTime

TTL = 10
KEY = '/locks/a'

OUT, WAITING, HELD = ContenderState.OUT, ContenderState.WAITING, ContenderState.HELD
SUSPECT, LOST = ContenderState.SUSPECT, ContenderState.LOST

Side = ReadLock | WriteLock

sides = pytest.mark.parametrize('side', ['read', 'write'])


def side_of(client: getc.Client, side: str) -> Side:
    rwlock = client.rwlock(KEY, ttl=TTL)
    return rwlock.read if side == 'read' else rwlock.write


def keys(client: getc.Client) -> list[str]:
    return [value.key for value in client.rwlock(KEY).contenders()]


@sides
def test_lock_is_held_for_ten_minutes(client: getc.Client, etcd_clock: VirtualTime, side: str) -> None:
    lock = side_of(client, side)
    token = lock.acquire()
    etcd_clock.advance(600)
    assert (lock.state, lock.ensure()) == (HELD, token)
    lock.release()


@sides
def test_lock_is_lost_before_etcd_gives_it_to_a_writer(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, side: str
) -> None:
    """G2: while the owner cannot renew, ``ensure`` raises before the next contender has the lock."""
    link = store.link()
    with getc.etcd(link.url) as cut_off:
        lock = side_of(cut_off, side)
        lost_at: list[float] = []
        held_at: list[float] = []
        lock.on_lost(lambda _: lost_at.append(timing.now()))
        lock.acquire()
        writer = side_of(client, 'write')

        def wait() -> None:
            writer.acquire()
            held_at.append(timing.now())

        gevent.spawn(wait)
        etcd_clock.advance(5)
        link.disconnect()
        etcd_clock.advance(2)
        assert lock.state is SUSPECT and lock.ensure()
        etcd_clock.advance(TTL)
        assert lock.state is LOST
        assert held_at and lost_at[0] <= held_at[0] - 1  # the safety margin
        link.connect()
        with pytest.raises(getc.NodeLost, match='was not renewed within its TTL of 10 s'):
            lock.release()
        assert len(keys(client)) == 1
        writer.release()


@sides
def test_ensure_raises_at_once_after_a_pause_of_the_process(
    etcd_clock: VirtualTime, client: getc.Client, side: str
) -> None:
    """G2: no timer and no greenlet has run since, as after SIGSTOP."""
    lock = side_of(client, side)
    lock.acquire()
    etcd_clock.stall(TTL - 1 - 0.001)
    assert lock.ensure()
    etcd_clock.stall(0.001)
    assert (lock.state, lock.remaining()) == (LOST, 0.0)
    with pytest.raises(getc.NodeLost, match='was not renewed within its TTL of 10 s'):
        lock.ensure()
    with pytest.raises(getc.NodeLost):
        lock.release()


@sides
def test_block_of_interrupting_ends_when_the_lock_counts_as_lost(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, side: str
) -> None:
    lock = side_of(client, side)
    lock.acquire()
    began = timing.now()
    store.disconnect()
    with pytest.raises(getc.NodeLost), lock.interrupting():
        gevent.sleep(60)
    assert timing.now() - began == pytest.approx(TTL - 1)
    with pytest.raises(getc.NodeLost):
        lock.release()
    store.connect()
    etcd_clock.advance(TTL)
    assert keys(client) == []


@sides
def test_lost_replies_leave_one_contender(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, side: str
) -> None:
    lock = side_of(client, side)
    for lost in range(6):
        for _ in range(lost):
            store.lose_next_reply()
        with lock as token:
            assert [value.created_index for value in lock.contenders()] == [token]
        etcd_clock.advance(TTL)
        assert keys(client) == []


@sides
def test_acquire_waits_through_an_outage(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, side: str
) -> None:
    store.disconnect()
    lock = side_of(client, side)
    acquiring = gevent.spawn(lambda: (lock.acquire(), lock.state, lock.release()))
    etcd_clock.advance(300)
    assert not acquiring.dead
    store.connect()
    etcd_clock.advance(2)
    assert acquiring.get(timeout=0)[1] is HELD


@sides
def test_acquire_that_times_out_during_an_outage_names_the_reason(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, side: str
) -> None:
    store.disconnect()
    text = f'{side} lock {KEY} was not acquired within 3 s: the store is disconnected'
    with pytest.raises(getc.TimedOut, match=text) as caught:
        side_of(client, side).acquire(timeout=3)
    assert caught.value.is_outage


@sides
def test_refusal_is_raised_at_once(store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, side: str) -> None:
    store.fail_next(getc.PermissionDenied('permission denied'))
    lock = side_of(client, side)
    with pytest.raises(getc.PermissionDenied):
        lock.acquire()
    assert lock.state is OUT and not client._daemons._tasks


@pytest.mark.parametrize('disturb', ['compact', 'wipe'])
def test_waiting_reader_and_writer_survive(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, other: getc.Client, disturb: str
) -> None:
    """Their watches end, and they query again; after a wipe they rejoin, and the owner is lost."""
    owner, lock = client.rwlock(KEY, ttl=TTL), other.rwlock(KEY, ttl=TTL)
    owner.write.acquire()
    held: list[str] = []

    def work(side: Side) -> None:
        with side:
            held.append(repr(side))
            gevent.sleep(1)

    waiting = [gevent.spawn(work, lock.read)]
    etcd_clock.advance(0.1)
    waiting.append(gevent.spawn(work, lock.write))
    etcd_clock.advance(1)
    (store.compact if disturb == 'compact' else store.wipe)()
    etcd_clock.advance(1)
    if disturb == 'compact':
        assert held == []
        owner.write.release()
    etcd_clock.advance(2 * TTL)
    assert [greenlet.successful() for greenlet in waiting] == [True, True]
    assert len(held) == 2
    if disturb == 'wipe':
        assert owner.write.state is LOST
        with pytest.raises(getc.NodeLost):
            owner.write.release()
    assert keys(client) == []


@pytest.mark.parametrize('delay', [0, 1, float('inf')], ids=['at once', 'late', 'never'])
def test_close_ends_readers_and_writers_within_its_timeout(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, delay: float
) -> None:
    closing = getc.etcd(store.url)
    reader, lock = client.rwlock(KEY, ttl=TTL), closing.rwlock(KEY, ttl=TTL)
    reader.read.acquire()
    lock.read.acquire()
    waiting = [gevent.spawn(lock.write.acquire)]
    etcd_clock.advance(0.1)
    waiting.append(gevent.spawn(lock.read.acquire))
    etcd_clock.advance(0.1)
    assert len(keys(client)) == 4
    store.delay(delay)
    began = timing.now()
    closing.close(timeout=3)
    assert timing.now() - began <= 4
    for greenlet in waiting:
        with pytest.raises(getc.ClientClosed):
            greenlet.get(timeout=1)
    with pytest.raises(getc.NodeLost, match='the client was closed'):
        lock.read.ensure()
    lock.read.release()
    store.delay(0)
    if delay == float('inf'):
        etcd_clock.advance(TTL + 1)
    assert len(keys(client)) == 1
    reader.read.release()


@pytest.mark.parametrize('count', [10, 300])
def test_release_of_a_reader_wakes_one_writer_at_most(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, sent: list[str], count: int
) -> None:
    """G6: the writer waits for the last reader before it, and the readers behind the writer sleep."""
    readers = [client.rwlock(KEY, ttl=300) for _ in range(count)]
    for reader in readers:
        reader.read.acquire()
    writer, late = client.rwlock(KEY, ttl=300), client.rwlock(KEY, ttl=300)
    writing = gevent.spawn(writer.write.acquire)
    etcd_clock.advance(0.1)
    waiting = [gevent.spawn(late.read.acquire) for _ in range(count)]
    etcd_clock.advance(0.5)
    for reader in readers[:-1]:
        sent.clear()
        reader.read.release()
        etcd_clock.advance(0.01)
        assert sent == ['Delete']
    sent.clear()
    readers[-1].read.release()
    etcd_clock.advance(0.01)
    assert sent == ['Delete', 'Predecessor'] and writing.dead and not any(greenlet.dead for greenlet in waiting)
    sent.clear()
    writer.write.release()
    etcd_clock.advance(0.5)
    assert sent == ['Delete'] + ['Predecessor'] * count
    assert all(greenlet.successful() for greenlet in waiting)


@sides
def test_uncontended_cycle_takes_two_writes_and_one_read_in_memory(
    client: getc.Client, sent: list[str], side: str
) -> None:
    with side_of(client, side):
        pass
    assert sent == ['Put', 'Predecessor', 'Delete']


def test_greenlets_that_have_ended_leave_nothing_in_the_object(client: getc.Client, etcd_clock: VirtualTime) -> None:
    lock = client.rwlock(KEY, ttl=TTL).read

    def read() -> None:
        with lock:
            pass

    for _ in range(20):
        gevent.spawn(read).get(timeout=5)
    etcd_clock.advance(1)
    assert not lock._holders and len(lock._last) <= 1 and not client._daemons._tasks
