"""Semaphores judged from the history of the store; kills at every switch point; owners that die."""

from __future__ import annotations

import random
from itertools import count

import gevent
import pytest

import getc
from getc.recipes import Semaphore
from getc.results import Deleted, Set
from getc.testing import EtcdServer, wait_until
from tests.recipes.conftest import Open
from tests.recipes.strikes import TTL, run_struck, time_for_removal
from tests.support.leftovers import greenlets_of_getc

KEY = '/slots/a'


def count_of(client: getc.Client) -> int:
    return len(Semaphore(client, KEY, 2).contenders())


def cycle(semaphore: Semaphore) -> None:
    with semaphore:
        assert semaphore.ensure()
        gevent.sleep(0)


def check_usable(semaphore: Semaphore, observer: getc.Client) -> None:
    """Wait until no key is left, and use the object again, from another greenlet."""
    wait_until(lambda: count_of(observer) == 0, timeout=time_for_removal(observer))
    gevent.spawn(cycle, semaphore).get(timeout=30)
    wait_until(
        lambda: count_of(observer) == 0, timeout=time_for_removal(observer)
    )  # a removal may find its key not created yet
    watch = semaphore._queue._watch  # type: ignore[attr-defined]
    assert watch._watch is None and not watch._waiters


def test_never_more_owners_than_the_limit_at_any_revision(open_client: Open) -> None:
    """Judged from the history, while contenders come, are killed, and lose their keys."""
    limit = 3
    rng = random.Random(1)
    clients = [open_client() for _ in range(3)]
    observer = open_client()
    start = observer.set('/start', 'x').modified_index
    owners: list[tuple[int, int, int]] = []  # token, and the index of the store within the block

    def work(semaphore: Semaphore, seed: int) -> None:
        choice = random.Random(seed)
        for _ in range(6):
            try:
                with semaphore as token:
                    began = observer.set('/steps', 'x').modified_index
                    gevent.sleep(choice.random() * 0.003)
                    ended = observer.set('/steps', 'x').modified_index
                owners.append((token, began, ended))
            except getc.NodeLost:
                pass  # this test has deleted the key of a waiter that has just become an owner

    shared = [Semaphore(client, KEY, limit, ttl=TTL) for client in clients]
    workers = [gevent.spawn(work, semaphore, seed) for semaphore in shared for seed in range(4)]
    for _ in range(6):
        gevent.sleep(0.01)
        waiting = shared[0].contenders()[limit:]
        if waiting:
            observer.delete(rng.choice(waiting).key)
        workers.pop(rng.randrange(len(workers))).kill()
    gevent.joinall(workers, timeout=120)
    assert all(worker.dead for worker in workers)
    wait_until(lambda: count_of(observer) == 0)

    end = observer.set('/end', 'x').modified_index
    lives: dict[str, tuple[int, int]] = {}  # the creation and the deletion of each key
    with observer.changes('/', index=start) as changes:
        for result in changes:
            if result.modified_index == end:
                break
            if isinstance(result, Deleted) and result.key in lives:
                lives[result.key] = (lives[result.key][0], result.modified_index)
            elif isinstance(result, Set) and result.is_new and result.key.startswith(f'{KEY}/slots/'):
                lives[result.key] = (result.created_index, end)
    deletions = dict(lives.values())
    assert len(owners) > 10
    for token, began, ended in owners:
        assert token <= began < ended < deletions[token]
        earlier = [life for life in lives.values() if life[0] < token and life[1] > began]
        assert len(earlier) < limit
        inside = [other for other in owners if other[1] <= began < other[2]]
        assert len(inside) <= limit


@pytest.mark.parametrize('end', [b'', b'/x', b'//', b'_x', b'y/x'])
def test_foreign_key_takes_a_slot_until_it_is_deleted(etcd_server: EtcdServer, end: bytes) -> None:
    name = b'/slots/a/slots/' + end
    with getc.etcd(etcd_server.url, api='v3') as client:
        client.v3.kv.put(name, b'x')
        semaphore = Semaphore(client, KEY, 2, ttl=TTL)
        with semaphore:
            waiting = [gevent.spawn(cycle, semaphore) for _ in range(2)]
            wait_until(lambda: count_of(client) == 4)
            client.get('/')
            assert not any(greenlet.dead for greenlet in waiting)
            client.v3.kv.delete_range(name)
            gevent.joinall(waiting, timeout=30, raise_error=True)
            assert all(greenlet.dead for greenlet in waiting)


@pytest.mark.parametrize('by', ['kill', 'timeout'])
def test_strike_at_each_switch_of_an_uncontended_cycle_leaves_nothing(open_client: Open, by: str) -> None:
    semaphore, observer = Semaphore(open_client(), KEY, 2, ttl=TTL), open_client()
    for at in count(1):
        outcome = run_struck(lambda: cycle(semaphore), at, by=by)
        check_usable(semaphore, observer)
        if not outcome.was_struck:
            break
    assert at > 1


@pytest.mark.parametrize('by', ['kill', 'timeout'])
def test_strike_at_each_switch_of_a_contended_cycle_leaves_nothing(open_client: Open, by: str) -> None:
    semaphore, observer = Semaphore(open_client(), KEY, 2, ttl=TTL), open_client()
    owners = [Semaphore(open_client(), KEY, 2, ttl=TTL) for _ in range(2)]
    check_usable(semaphore, observer)
    for at in count(1):
        for owner in owners:
            owner.acquire()
        ended: list[bool] = []

        def work(ended: list[bool] = ended) -> None:
            try:
                cycle(semaphore)
            finally:
                ended.append(True)

        def release(ended: list[bool] = ended) -> None:
            wait_until(lambda: count_of(observer) > 2 or bool(ended))
            for owner in owners:
                owner.release()

        outcome = run_struck(work, at, by=by, then=release)
        check_usable(semaphore, observer)
        if not outcome.was_struck:
            break
    assert at > 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thousand_random_strikes_leave_nothing(etcd_server: EtcdServer) -> None:
    """On a real etcd, with 0 to 4 other contenders in the queue; never more owners than the limit."""
    rng = random.Random(213)
    inside: list[int] = []

    def watched(semaphore: Semaphore) -> None:
        with semaphore as token:
            inside.append(token)
            try:
                assert len(inside) <= 2
                gevent.sleep(0)
            finally:
                inside.remove(token)

    with (
        getc.etcd(etcd_server.url, api='v3') as client,
        getc.etcd(etcd_server.url, api='v3') as rival,
        getc.etcd(etcd_server.url, api='v3') as observer,
    ):
        semaphore, crowd = Semaphore(client, KEY, 2, ttl=TTL), Semaphore(rival, KEY, 2, ttl=TTL)
        struck = 0
        for _ in range(1000):
            others = [gevent.spawn(watched, crowd) for _ in range(rng.randrange(5))]
            if rng.random() < 0.5:
                gevent.sleep(rng.random() * 0.003)
            at, by = rng.randrange(1, 14), rng.choice(['kill', 'timeout'])
            struck += run_struck(lambda: watched(semaphore), at, by=by).was_struck
            gevent.joinall(others, timeout=60, raise_error=True)
            assert all(other.dead for other in others)
            if rng.random() < 0.1:
                check_usable(semaphore, observer)
        check_usable(semaphore, observer)
        assert struck > 200
    wait_until(lambda: greenlets_of_getc() == [])
