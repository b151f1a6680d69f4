"""Kills and timeouts at every point at which acquire and release switch: no key, greenlet or turn is left behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

import gevent
import pytest

import getc
from getc.testing import EtcdServer, MemoryStore, wait_until
from tests.recipes.conftest import Open
from tests.recipes.strikes import TTL, run_struck, time_for_removal
from tests.support.leftovers import greenlets_of_getc

KEY = '/locks/a'


def is_free(client: getc.Client) -> bool:
    return client.lock(KEY).contenders() == ()


def check_usable(lock: getc.Lock, observer: getc.Client) -> None:
    """Wait until no key is left, and use the object again."""
    wait_until(lambda: is_free(observer), timeout=time_for_removal(observer))
    with lock:
        assert lock.ensure()
    wait_until(lambda: is_free(observer), timeout=time_for_removal(observer))


def cycle(lock: getc.Lock) -> None:
    with lock:
        gevent.sleep(0)


def release_after_arrival(owner: getc.Lock, observer: getc.Client, worker_is_over: Callable[[], bool]) -> None:
    """Release the lock as soon as a waiter has joined, or was struck before it could."""
    wait_until(lambda: len(observer.lock(KEY).contenders()) > 1 or worker_is_over())
    owner.release()


@pytest.mark.parametrize('by', ['kill', 'timeout'])
def test_strike_at_each_switch_of_an_uncontended_cycle_leaves_nothing(open_client: Open, by: str) -> None:
    client, observer = open_client(), open_client()
    lock = client.lock(KEY, ttl=TTL)
    check_usable(lock, observer)
    for at in count(1):
        outcome = run_struck(lambda: cycle(lock), at, by=by)
        check_usable(lock, observer)
        if not outcome.was_struck:
            break
    assert at > 1  # creating the key, the block, deleting the key: unless the answer is there at once


@pytest.mark.parametrize('by', ['kill', 'timeout'])
def test_strike_at_each_switch_of_a_contended_cycle_leaves_nothing(open_client: Open, by: str) -> None:
    client, observer = open_client(), open_client()
    lock, owner = client.lock(KEY, ttl=TTL), open_client().lock(KEY, ttl=TTL)
    check_usable(lock, observer)
    for at in count(1):
        owner.acquire()
        ended: list[bool] = []

        def work() -> None:
            try:
                cycle(lock)
            finally:
                ended.append(True)  # noqa: B023

        outcome = run_struck(work, at, by=by, then=lambda: release_after_arrival(owner, observer, lambda: bool(ended)))  # noqa: B023
        check_usable(lock, observer)
        if not outcome.was_struck:
            break
    assert at > 2  # in addition: the wait for the owner, and the query


@pytest.mark.parametrize('by', ['kill', 'timeout'])
def test_strike_of_a_greenlet_that_waits_for_its_turn_leaves_nothing(open_client: Open, by: str) -> None:
    client, observer = open_client(), open_client()
    lock = client.lock(KEY, ttl=TTL)
    for at in (1, 2, 3):
        lock.acquire()
        run_struck(lambda: cycle(lock), at, by=by, then=lock.release)
        check_usable(lock, observer)


@pytest.mark.parametrize('by', ['kill', 'timeout'])
def test_loss_and_strike_at_any_two_switches_end_a_block_of_interrupting_cleanly(by: str) -> None:
    """With NodeLost or the strike, never with the interrupt; and nothing is thrown after the block."""
    store = MemoryStore()
    store.delay(0.0001)
    outcomes: set[str] = set()
    with getc.etcd(store.url) as client:
        lock = client.lock(KEY, ttl=TTL)
        after: list[str] = []

        def work() -> None:
            with lock:
                with lock.interrupting():
                    gevent.sleep(0)
                    gevent.sleep(0)
                after.append('begun')
                gevent.sleep(0)
                gevent.sleep(0)
                after.append('ended')

        def lose() -> None:
            place = None if lock._held is None else lock._held._key
            if place is not None and place.loss is None:  # as its keep group would do at this moment
                place.on_lost(getc.NodeLost('{key} was lost', key=place.key))

        for at in range(10):
            for lost_at in range(10):
                after.clear()
                try:
                    outcome = run_struck(work, at, by=by, also_at=lost_at, also=lose)
                except getc.NodeLost:
                    outcomes.add('lost')
                else:
                    outcomes.add('struck' if outcome.error is not None else 'done')
                if not at:
                    assert after in ([], ['begun', 'ended'])
                check_usable(lock, client)
    assert outcomes == {'lost', 'struck', 'done'}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thousand_random_strikes_leave_nothing(etcd_server: EtcdServer) -> None:
    """On a real etcd, with 0 to 2 other contenders in the queue and lost connections in between."""
    rng = random.Random(18)
    with (
        getc.etcd(etcd_server.url, api='v3') as client,
        getc.etcd(etcd_server.url, api='v3') as rival,
        getc.etcd(etcd_server.url, api='v3') as observer,
    ):
        lock = client.lock(KEY, ttl=TTL)
        struck = 0
        for _ in range(1000):
            others = [gevent.spawn(cycle, rival.lock(KEY, ttl=TTL)) for _ in range(rng.randrange(3))]
            if rng.random() < 0.5:
                gevent.sleep(rng.random() * 0.003)
            by = rng.choice(['kill', 'timeout'])
            struck += run_struck(lambda: cycle(lock), rng.randrange(1, 14), by=by).was_struck
            gevent.joinall(others, timeout=60, raise_error=True)
            assert all(other.dead for other in others)
            if rng.random() < 0.1:
                check_usable(lock, observer)
        check_usable(lock, observer)
        assert struck > 200
    wait_until(lambda: greenlets_of_getc() == [])
