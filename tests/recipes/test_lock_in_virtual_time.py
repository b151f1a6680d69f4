"""Locks on a store in memory, in virtual time: losses, outages, lost replies, pauses."""

from __future__ import annotations

import gevent
import pytest

import getc
from getc import timing
from getc.recipes import ContenderState
from getc.testing import MemoryStore, VirtualTime

TTL = 10
KEY = '/locks/a'

OUT, WAITING, HELD = ContenderState.OUT, ContenderState.WAITING, ContenderState.HELD
SUSPECT, LOST, LEAVING = ContenderState.SUSPECT, ContenderState.LOST, ContenderState.LEAVING


def keys(client: getc.Client) -> list[str]:
    return [value.key for value in client.lock(KEY).contenders()]


# -- renewals and losses


def test_lock_is_held_for_ten_minutes(client: getc.Client, etcd_clock: VirtualTime) -> None:
    lock = client.lock(KEY, ttl=TTL)
    token = lock.acquire()
    etcd_clock.advance(600)
    assert (lock.state, lock.ensure()) == (HELD, token)
    lock.release()


def test_lock_is_lost_before_etcd_gives_it_to_another_owner(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    """G2: while the owner cannot renew, ``ensure`` raises before the next contender is first."""
    link = store.link()
    with getc.etcd(link.url) as cut_off:
        lock = cut_off.lock(KEY, ttl=TTL)
        lost_at: list[float] = []
        lock.on_lost(lambda _: lost_at.append(timing.now()))
        lock.acquire()
        next_one = client.lock(KEY, ttl=TTL)
        held_at: list[float] = []

        def wait() -> None:
            next_one.acquire()
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
        next_one.release()


def test_suspect_lock_is_held_again_after_a_renewal(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    lock = client.lock(KEY, ttl=TTL)
    token = lock.acquire()
    store.disconnect()
    etcd_clock.advance(5)
    assert lock.state is SUSPECT
    store.connect()
    etcd_clock.advance(2)
    assert (lock.state, lock.ensure()) == (HELD, token)
    lock.release()


def test_ensure_raises_at_once_after_a_pause_of_the_process(etcd_clock: VirtualTime, client: getc.Client) -> None:
    """G2: no timer and no greenlet has run since, as after SIGSTOP."""
    lock = client.lock(KEY, ttl=TTL)
    lock.acquire()
    etcd_clock.stall(TTL - 1 - 0.001)
    assert lock.ensure()
    etcd_clock.stall(0.001)
    assert (lock.state, lock.remaining()) == (LOST, 0.0)
    with pytest.raises(getc.NodeLost, match='was not renewed within its TTL of 10 s'):
        lock.ensure()
    with pytest.raises(getc.NodeLost):
        lock.release()


def test_ensure_raises_at_once_after_a_suspend_of_the_machine(etcd_clock: VirtualTime, client: getc.Client) -> None:
    lock = client.lock(KEY, ttl=TTL)
    lock.acquire()
    etcd_clock.suspend(TTL)
    with pytest.raises(getc.NodeLost):
        lock.ensure()
    with pytest.raises(getc.NodeLost):
        lock.release()


def test_block_of_interrupting_ends_when_the_lock_counts_as_lost(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    lock = client.lock(KEY, ttl=TTL)
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


def test_waiter_does_not_hold_a_lock_after_a_pause_in_which_its_key_expired(
    etcd_clock: VirtualTime, client: getc.Client, other: getc.Client
) -> None:
    """It takes another key first."""
    owner, waiter = client.lock(KEY, ttl=TTL), other.lock(KEY, ttl=TTL)
    owner.acquire()
    waiting = gevent.spawn(waiter.acquire)
    etcd_clock.advance(0)
    (_, before) = keys(client)
    etcd_clock.stall(3 * TTL)
    etcd_clock.advance(1)
    assert waiter.state is HELD and waiting.get(timeout=0) == waiter.ensure()
    assert before not in keys(client)
    with pytest.raises(getc.NodeLost):
        owner.release()
    waiter.release()


# -- outages and lost replies


def test_lost_reply_to_the_create_makes_no_second_contender(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    """kazoo test_lock_fail_first_call, with a reply that is really lost."""
    lock = client.lock(KEY, ttl=TTL)
    store.lose_next_reply()
    token = lock.acquire()
    (owner,) = lock.contenders()
    assert owner.created_index == token == lock.ensure()
    etcd_clock.advance(3 * TTL)
    assert lock.ensure() == token
    lock.release()
    assert keys(client) == []


def test_lost_replies_at_random_leave_one_contender(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    lock = client.lock(KEY, ttl=TTL)
    for lost in range(6):
        for _ in range(lost):
            store.lose_next_reply()
        with lock:
            assert len(lock.contenders()) == 1
        etcd_clock.advance(TTL)
        assert keys(client) == []


def test_lost_reply_to_the_delete_does_not_make_release_raise(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    lock = client.lock(KEY, ttl=TTL)
    lock.acquire()
    store.lose_next_reply()
    lock.release()
    assert (lock.state, keys(client)) == (OUT, [])


def test_release_without_an_answer_returns_at_its_timeout_and_goes_on(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    lock = client.lock(KEY, ttl=TTL)
    lock.acquire()
    store.disconnect()
    began = timing.now()
    lock.release(timeout=2)
    assert timing.now() - began == pytest.approx(2)
    assert lock.state is LEAVING
    with pytest.raises(RuntimeError):
        lock.release()
    store.connect()
    etcd_clock.advance(2)
    assert (lock.state, keys(client)) == (OUT, [])


def test_key_of_a_killed_acquire_whose_reply_was_lost_is_deleted(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    lock = client.lock(KEY, ttl=TTL)
    store.lose_next_reply()
    store.delay(1)
    acquiring = gevent.spawn(lock.acquire)
    etcd_clock.advance(0.02)
    assert len(client._daemons._tasks) == 1
    acquiring.kill()
    store.delay(0)
    etcd_clock.advance(2)
    assert keys(client) == []
    assert lock.state is OUT and not client._daemons._tasks


def test_acquire_waits_through_an_outage(store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client) -> None:
    store.disconnect()
    lock = client.lock(KEY, ttl=TTL)
    acquiring = gevent.spawn(lock.acquire)
    etcd_clock.advance(300)
    assert lock.state is WAITING
    store.connect()
    etcd_clock.advance(2)
    assert acquiring.get(timeout=0) == lock.ensure()
    lock.release()


def test_acquire_that_times_out_during_an_outage_names_the_reason(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    store.disconnect()
    with pytest.raises(getc.TimedOut, match='was not acquired within 3 s: the store is disconnected') as caught:
        client.lock(KEY).acquire(timeout=3)
    assert caught.value.is_outage and isinstance(caught.value.__cause__, getc.ConnectionRefused)


def test_refusal_is_raised_at_once(store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client) -> None:
    store.fail_next(getc.PermissionDenied('permission denied'))
    lock = client.lock(KEY)
    with pytest.raises(getc.PermissionDenied):
        lock.acquire()
    assert lock.state is OUT and not client._daemons._tasks


def test_refused_delete_makes_release_raise(store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client) -> None:
    lock = client.lock(KEY)
    lock.acquire()
    store.fail_next(getc.PermissionDenied('permission denied'))
    with pytest.raises(getc.PermissionDenied):
        lock.release()
    assert lock.state is OUT


def test_waiter_rejoins_after_an_outage_that_lasted_longer_than_its_ttl(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    link = store.link()
    with getc.etcd(link.url) as cut_off, client.lock(KEY, ttl=TTL):
        lock = cut_off.lock(KEY, ttl=TTL)
        waiting = gevent.spawn(lock.acquire)
        etcd_clock.advance(0)
        (_, before) = keys(client)
        link.disconnect()
        etcd_clock.advance(3 * TTL)
        assert len(keys(client)) == 1
        link.connect()
        etcd_clock.advance(2)
        (_, after) = keys(client)
        assert after != before and not waiting.dead
        waiting.kill()


def test_deadline_includes_the_keys_that_were_lost_on_the_way(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, other: getc.Client
) -> None:
    with client.lock(KEY, ttl=TTL):
        began = timing.now()
        waiting = gevent.spawn(other.lock(KEY, ttl=TTL).acquire, 25)
        for _ in range(2):
            etcd_clock.advance(9)
            client.delete(keys(client)[1])
        with pytest.raises(getc.TimedOut):
            waiting.get()
        assert timing.now() - began == pytest.approx(25)


def test_wipe_of_the_store_loses_the_owner_and_lets_one_waiter_in(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, other: getc.Client
) -> None:
    owner, waiter = client.lock(KEY, ttl=TTL), other.lock(KEY, ttl=TTL)
    owner.acquire()
    waiting = gevent.spawn(waiter.acquire)
    etcd_clock.advance(1)
    store.wipe()
    etcd_clock.advance(TTL)
    assert owner.state is LOST and waiter.state is HELD
    assert waiting.get(timeout=0) == waiter.ensure()
    with pytest.raises(getc.NodeLost):
        owner.release()
    waiter.release()


def test_waiter_survives_a_compaction(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, other: getc.Client
) -> None:
    """Its watch ends, and it queries again."""
    owner = client.lock(KEY, ttl=TTL)
    owner.acquire()
    waiter = other.lock(KEY, ttl=TTL)
    waiting = gevent.spawn(waiter.acquire)
    etcd_clock.advance(1)
    store.compact()
    etcd_clock.advance(1)
    owner.release()
    etcd_clock.advance(1)
    assert waiting.get(timeout=0) == waiter.ensure()
    waiter.release()


# -- closing the client


@pytest.mark.parametrize('delay', [0, 1, float('inf')], ids=['at once', 'late', 'never'])
def test_close_ends_owners_and_waiters_within_its_timeout(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, delay: float
) -> None:
    closing = getc.etcd(store.url)
    owner, waiter, joining = (closing.lock(key, ttl=TTL) for key in ('/locks/b', KEY, '/locks/c'))
    held = client.lock(KEY, ttl=TTL)
    held.acquire()
    owner.acquire()
    waiting = gevent.spawn(waiter.acquire)
    etcd_clock.advance(0)
    store.delay(delay)
    greenlets = [waiting, gevent.spawn(joining.acquire)]
    etcd_clock.advance(0.1)
    began = timing.now()
    closing.close(timeout=3)
    assert timing.now() - began <= 4
    if not delay:
        assert greenlets.pop().value  # acquired before
    for greenlet in greenlets:
        with pytest.raises(getc.ClientClosed):
            greenlet.get(timeout=1)
    with pytest.raises(getc.NodeLost, match='the client was closed'):
        owner.ensure()
    owner.release()
    store.delay(0)
    if delay == float('inf'):
        etcd_clock.advance(TTL + 1)
    assert [len(client.lock(key).contenders()) for key in ('/locks/b', KEY, '/locks/c')] == [0, 1, 0]
    held.release()


# -- the cost of waiters


@pytest.mark.parametrize('count', [10, 1000])
def test_release_wakes_one_waiter_and_takes_a_constant_number_of_requests(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, sent: list[str], count: int
) -> None:
    """G6."""
    locks = [client.lock(KEY, ttl=300) for _ in range(count)]
    waiting = [gevent.spawn(lock.acquire) for lock in locks]
    etcd_clock.advance(0.5)
    assert len(client._daemons._tasks) == count
    for number in range(5):
        assert [lock.state for lock in locks[number : number + 2]] == [HELD, WAITING]
        sent.clear()
        locks[number].release()
        etcd_clock.advance(0.01)
        assert sent == ['Delete', 'Predecessor']
        assert sum(greenlet.dead for greenlet in waiting) == number + 2
    gevent.killall(waiting)


def test_uncontended_cycle_takes_two_writes_and_one_read_in_memory(client: getc.Client, sent: list[str]) -> None:
    lock = client.lock(KEY)
    with lock:
        pass
    assert sent == ['Put', 'Predecessor', 'Delete']


# -- callbacks


def test_on_lost_is_called_once_for_each_loss_and_its_exceptions_are_logged(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client, caplog: pytest.LogCaptureFixture
) -> None:
    lock = client.lock(KEY, ttl=TTL)
    calls: list[ContenderState] = []

    @lock.on_lost
    def fail(lost: getc.Lock) -> None:
        calls.append(lost.state)
        raise ZeroDivisionError

    with pytest.raises(TypeError, match='on_lost must be a function'):
        lock.on_lost(None)  # type: ignore[type-var]
    lock.acquire()
    client.delete(keys(client)[0])
    etcd_clock.advance(TTL)
    assert calls == [LOST]
    assert 'the callback' in caplog.text and 'ZeroDivisionError' in caplog.text
    with pytest.raises(getc.NodeLost):
        lock.release()
    lock.acquire()
    lock.release()
    assert calls == [LOST]
