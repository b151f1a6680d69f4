"""Kills and timeouts at every point at which a reader or a writer switches: no key, greenlet or turn is left behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

import gevent
import pytest

import getc
from getc.recipes import ReadLock, WriteLock
from getc.testing import EtcdServer, wait_until
from tests.recipes.conftest import Open
from tests.recipes.strikes import TTL, run_struck, time_for_removal
from tests.support.leftovers import greenlets_of_getc

KEY = '/locks/a'

Side = ReadLock | WriteLock

strikes = pytest.mark.parametrize('by', ['kill', 'timeout'])
sides = pytest.mark.parametrize('side', ['read', 'write'])


def side_of(client: getc.Client, side: str) -> Side:
    rwlock = client.rwlock(KEY, ttl=TTL)
    return rwlock.read if side == 'read' else rwlock.write


def is_free(client: getc.Client) -> bool:
    return client.rwlock(KEY).contenders() == ()


def check_usable(lock: Side, observer: getc.Client) -> None:
    """Wait until no key is left, and use the object again, from another greenlet."""
    wait_until(lambda: is_free(observer), timeout=time_for_removal(observer))
    gevent.spawn(cycle, lock).get(timeout=30)
    # A removal may find that its key is not created yet, and goes on.
    wait_until(lambda: is_free(observer), timeout=time_for_removal(observer))


def cycle(lock: Side) -> None:
    with lock:
        assert lock.ensure()
        gevent.sleep(0)


@strikes
@sides
def test_strike_at_each_switch_of_an_uncontended_cycle_leaves_nothing(open_client: Open, side: str, by: str) -> None:
    lock, observer = side_of(open_client(), side), open_client()
    check_usable(lock, observer)
    for at in count(1):
        outcome = run_struck(lambda: cycle(lock), at, by=by)
        check_usable(lock, observer)
        if not outcome.was_struck:
            break
    assert at > 1


@strikes
@sides
def test_strike_at_each_switch_of_a_contended_cycle_leaves_nothing(open_client: Open, side: str, by: str) -> None:
    """A reader waits for a writer; a writer for a reader and for another writer."""
    lock, observer = side_of(open_client(), side), open_client()
    reader, writer = (side_of(open_client(), name) for name in ('read', 'write'))
    check_usable(lock, observer)
    for at in count(1):
        owner: Side = writer if side == 'read' or at % 2 else reader
        owner.acquire()
        ended: list[bool] = []

        def work(ended: list[bool] = ended) -> None:
            try:
                cycle(lock)
            finally:
                ended.append(True)

        def release(owner: Side = owner, ended: list[bool] = ended) -> None:
            wait_until(lambda: len(observer.rwlock(KEY).contenders()) > 1 or bool(ended))
            owner.release()

        outcome = run_struck(work, at, by=by, then=release)
        check_usable(lock, observer)
        if not outcome.was_struck:
            break
    assert at > 2


@strikes
def test_strike_of_a_writer_that_waits_for_its_turn_leaves_nothing(open_client: Open, by: str) -> None:
    lock, observer = side_of(open_client(), 'write'), open_client()
    for at in (1, 2, 3):
        lock.acquire()
        run_struck(lambda: cycle(lock), at, by=by, then=lock.release)
        check_usable(lock, observer)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thousand_random_strikes_leave_nothing(etcd_server: EtcdServer) -> None:
    """On a real etcd, with 0 to 3 other readers and writers in the queue; never a writer beside another owner."""
    rng = random.Random(649)
    inside: list[str] = []

    def watched(lock: Side, name: str) -> None:
        with lock:
            inside.append(name)
            try:
                assert 'write' not in inside or len(inside) == 1
                gevent.sleep(0)
            finally:
                inside.remove(name)

    with (
        getc.etcd(etcd_server.url, api='v3') as client,
        getc.etcd(etcd_server.url, api='v3') as rival,
        getc.etcd(etcd_server.url, api='v3') as observer,
    ):
        locks = {name: side_of(client, name) for name in ('read', 'write')}
        struck = 0

        def spawn() -> gevent.Greenlet[..., None]:
            name = rng.choice(['read', 'write'])
            return gevent.spawn(watched, side_of(rival, name), name)

        for _ in range(1000):
            others = [spawn() for _ in range(rng.randrange(4))]
            if rng.random() < 0.5:
                gevent.sleep(rng.random() * 0.003)
            name = rng.choice(['read', 'write'])
            work: Callable[[], object] = lambda name=name: watched(locks[name], name)  # type: ignore[misc]  # noqa: E731
            struck += run_struck(work, rng.randrange(1, 14), by=rng.choice(['kill', 'timeout'])).was_struck
            gevent.joinall(others, timeout=60, raise_error=True)
            assert all(other.dead for other in others)
            if rng.random() < 0.1:
                check_usable(locks[name], observer)
        for lock in locks.values():
            check_usable(lock, observer)
        assert struck > 200
    wait_until(lambda: greenlets_of_getc() == [])
