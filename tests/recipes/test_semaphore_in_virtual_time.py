"""Semaphores on a store in memory, in virtual time: losses, outages, lost replies, the cost of waiters."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

import getc
from getc import timing
from getc.operations import WatchSpec
from getc.recipes import ContenderState, Semaphore
from getc.testing import MemoryStore, VirtualTime
from getc.testing.memory_faults import LinkedBackend

TTL = 10
KEY = '/slots/a'

HELD, SUSPECT, LOST = ContenderState.HELD, ContenderState.SUSPECT, ContenderState.LOST


def count_of(client: getc.Client) -> int:
    return len(Semaphore(client, KEY, 2).contenders())


def test_slot_is_held_for_ten_minutes(client: getc.Client, etcd_clock: VirtualTime) -> None:
    semaphore = Semaphore(client, KEY, 2, ttl=TTL)
    token = semaphore.acquire()
    etcd_clock.advance(600)
    assert (semaphore.state, semaphore.ensure()) == (HELD, token)
    semaphore.release()


def test_slot_is_lost_before_etcd_gives_it_to_another_owner(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    """G2: while the owner cannot renew, ``ensure`` raises before a waiter has the slot."""
    link = store.link()
    with getc.etcd(link.url) as cut_off, Semaphore(client, KEY, 2, ttl=TTL):
        semaphore = Semaphore(cut_off, KEY, 2, ttl=TTL)
        lost_at: list[float] = []
        held_at: list[float] = []
        semaphore.on_lost(lambda _: lost_at.append(timing.now()))
        semaphore.acquire()
        next_one = Semaphore(client, KEY, 2, ttl=TTL)

        def wait() -> None:
            with next_one:
                held_at.append(timing.now())

        waiting = gevent.spawn(wait)
        etcd_clock.advance(5)
        link.disconnect()
        etcd_clock.advance(2)
        assert semaphore.state is SUSPECT and semaphore.ensure()
        etcd_clock.advance(TTL)
        assert semaphore.state is LOST
        assert held_at and lost_at[0] <= held_at[0] - 1  # the safety margin
        waiting.get(timeout=1)
        link.connect()
        with pytest.raises(getc.NodeLost, match='was not renewed within its TTL of 10 s'):
            semaphore.release()


def test_ensure_raises_at_once_after_a_pause_of_the_process(etcd_clock: VirtualTime, client: getc.Client) -> None:
    """G2: no timer and no greenlet has run since, as after SIGSTOP."""
    semaphore = Semaphore(client, KEY, 2, ttl=TTL)
    semaphore.acquire()
    etcd_clock.stall(TTL - 1 - 0.001)
    assert semaphore.ensure()
    etcd_clock.stall(0.001)
    with pytest.raises(getc.NodeLost, match='was not renewed within its TTL of 10 s'):
        semaphore.ensure()
    with pytest.raises(getc.NodeLost):
        semaphore.release()


def test_lost_replies_leave_one_contender_and_one_limit(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    """Also the reply to the write of the limit may be lost."""
    for lost in range(6):
        semaphore = Semaphore(client, KEY, 2, ttl=TTL)
        for _ in range(lost):
            store.lose_next_reply()
        with semaphore as token:
            assert [value.created_index for value in semaphore.contenders()] == [token]
        etcd_clock.advance(TTL)
        assert (count_of(client), client.get(f'{KEY}/limit').value) == (0, '2')
        client.delete(f'{KEY}/limit')


def test_acquire_waits_through_an_outage(store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client) -> None:
    store.disconnect()
    semaphore = Semaphore(client, KEY, 2, ttl=TTL)
    acquiring = gevent.spawn(lambda: (semaphore.acquire(), semaphore.release()))
    etcd_clock.advance(300)
    assert not acquiring.dead
    store.connect()
    etcd_clock.advance(2)
    assert acquiring.successful()


@pytest.mark.parametrize('disturb', ['compact', 'wipe', 'disconnect'])
def test_waiters_survive(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, other: getc.Client, disturb: str
) -> None:
    """Their watch ends, and they query again."""
    owner, crowd = Semaphore(client, KEY, 1, ttl=TTL), Semaphore(other, KEY, 1, ttl=TTL)
    owner.acquire()
    inside: list[int] = []

    def work() -> None:
        with crowd as token:
            inside.append(token)
            gevent.sleep(0.1)

    waiting = [gevent.spawn(work) for _ in range(3)]
    etcd_clock.advance(1)
    getattr(store, disturb)()
    etcd_clock.advance(1)
    if disturb == 'disconnect':
        store.connect()
        etcd_clock.advance(1)
    if disturb != 'wipe':
        assert inside == []
        owner.release()
    etcd_clock.advance(2 * TTL)
    assert [greenlet.successful() for greenlet in waiting] == [True] * 3
    if disturb == 'wipe':
        with pytest.raises(getc.NodeLost):
            owner.release()
    assert count_of(client) == 0


# -- the cost of waiters


@pytest.mark.parametrize('limit', [1, 5])
def test_release_takes_one_query_and_all_waiters_of_an_object_share_one_watch(
    store: MemoryStore,
    etcd_clock: VirtualTime,
    client: getc.Client,
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
) -> None:
    """G6."""
    watches: list[WatchSpec] = []
    watch = LinkedBackend.watch

    def record(self: LinkedBackend, spec: WatchSpec, *args: object) -> object:
        if spec.key.startswith(KEY) and spec.recursive:
            watches.append(spec)
        return watch(self, spec, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LinkedBackend, 'watch', record)
    owners = [Semaphore(client, KEY, limit, ttl=300) for _ in range(limit)]
    for owner in owners:
        owner.acquire()
    crowd = Semaphore(client, KEY, limit, ttl=300)
    let_go = Event()
    inside: list[int] = []

    def work() -> None:
        with crowd as token:
            inside.append(token)
            let_go.wait()

    waiting = [gevent.spawn(work) for _ in range(200)]
    etcd_clock.advance(0.5)
    assert len(crowd.contenders()) == 200 + limit and not inside
    for number, owner in enumerate(owners):
        sent.clear()
        owner.release()
        etcd_clock.advance(0.01)
        assert sent == ['Delete', 'Predecessor']
        assert len(inside) == number + 1
    assert len(watches) == 1
    let_go.set()
    etcd_clock.advance(5)
    assert all(greenlet.successful() for greenlet in waiting)
    assert inside == sorted(inside) and len(watches) == 1


def test_waiter_with_more_waiters_before_it_than_it_knows_gets_in(
    etcd_clock: VirtualTime, client: getc.Client, other: getc.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It queries whenever too few of those that it knows are left."""
    monkeypatch.setattr('getc.recipes.semaphore_queue.KNOWN_EARLIER', 3)
    crowd, semaphore = Semaphore(client, KEY, 2, ttl=TTL), Semaphore(other, KEY, 2, ttl=TTL)

    def work() -> None:
        with crowd:
            gevent.sleep(0.5)

    workers = [gevent.spawn(work) for _ in range(20)]
    etcd_clock.advance(0.1)
    last = gevent.spawn(semaphore.acquire)
    etcd_clock.advance(3)
    assert not last.dead
    etcd_clock.advance(3)
    assert all(worker.successful() for worker in workers) and last.successful()


def test_deletions_before_a_late_answer_are_not_missed(client: getc.Client, etcd_clock: VirtualTime) -> None:
    """A waiter joins the watch with an answer that is older than what the watch has delivered."""
    semaphore = Semaphore(client, KEY, 1, ttl=TTL)
    semaphore.acquire()
    with_delay = Semaphore(client, KEY, 1, ttl=TTL)
    waiting = [gevent.spawn(lambda: (with_delay.acquire(), with_delay.release())) for _ in range(10)]
    for _ in range(10):
        etcd_clock.advance(0.0005)
    semaphore.release()
    etcd_clock.advance(5)
    assert all(greenlet.successful() for greenlet in waiting)
    assert with_delay._queue._watch._watch is None and not with_delay._queue._watch._waiters  # type: ignore[attr-defined]


def test_greenlets_that_have_ended_leave_nothing_in_the_object(client: getc.Client, etcd_clock: VirtualTime) -> None:
    semaphore = Semaphore(client, KEY, 2, ttl=TTL)

    def work() -> None:
        with semaphore:
            gevent.sleep(0.01)

    workers = [gevent.spawn(work) for _ in range(20)]
    etcd_clock.advance(5)
    assert all(worker.successful() for worker in workers)
    workers.clear()
    assert not semaphore._holders and not client._daemons._tasks
