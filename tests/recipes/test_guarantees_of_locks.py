"""The guarantees G1 to G6 of locks, in the order of the page on locks."""

from __future__ import annotations

import random

import gevent
import pytest

import getc
from getc.backends.memory.backend import MemoryBackend
from getc.backends.tree.backend import TreeV3
from getc.backends.v2.backend import KeysV2
from getc.operations import WatchSpec
from getc.recipes import ContenderState
from getc.results import Deleted, Set
from getc.testing import MemoryStore, VirtualTime, wait_until
from tests.recipes.conftest import Open

KEY = '/locks/a'
TTL = 30

BACKENDS = (MemoryBackend, TreeV3, KeysV2)


def keys(client: getc.Client) -> list[str]:
    return [value.key for value in client.lock(KEY).contenders()]


def test_g1_at_any_revision_one_contender_is_first_until_it_is_gone(open_client: Open) -> None:
    """Judged from the history, while contenders come, are killed, and lose their keys."""
    rng = random.Random(1)
    clients = [open_client() for _ in range(3)]
    observer = open_client()
    start = observer.set('/start', 'x').modified_index
    owners: list[tuple[int, int, int]] = []  # token, and the index of the store as it was then and at the end

    def work(lock: getc.Lock) -> None:
        for _ in range(5):
            try:
                with lock as token:
                    began = observer.set('/steps', 'x').modified_index
                    gevent.sleep(rng.random() * 0.003)
                    ended = observer.set('/steps', 'x').modified_index
                owners.append((token, began, ended))
            except getc.NodeLost:
                pass  # this test has deleted the key of a waiter that has just become the owner

    workers = [gevent.spawn(work, client.lock(KEY, ttl=TTL)) for client in clients for _ in range(4)]
    for _ in range(6):
        gevent.sleep(0.01)
        waiting = keys(observer)[1:]
        if waiting:
            observer.delete(rng.choice(waiting))
        workers.pop(rng.randrange(len(workers))).kill()
    gevent.joinall(workers, timeout=120)
    assert all(worker.dead for worker in workers)
    wait_until(lambda: not keys(observer))

    end = observer.set(f'{KEY}/end', 'x').modified_index
    present: dict[str, int] = {}
    firsts: list[tuple[int, int]] = []  # the index from which on a contender was first, and its creation
    with observer.changes(KEY, index=start) as changes:
        for result in changes:
            if result.modified_index == end:
                break
            before = min(present.values(), default=None)
            if isinstance(result, Deleted):
                del present[result.key]
            elif isinstance(result, Set) and result.is_new:
                present[result.key] = result.created_index
            after = min(present.values(), default=None)
            if before is not None and before in present.values():
                assert after == before, 'a contender was created before the first one'
            if after is not None and after != before:
                firsts.append((result.modified_index, after))
    ends = [*(index for index, _ in firsts[1:]), end]
    periods = {token: (since, until) for (since, token), until in zip(firsts, ends, strict=True)}
    assert len(owners) > 10
    for token, began, ended in owners:
        since, until = periods[token]
        assert since <= began < ended < until


def test_g2_ensure_raises_before_etcd_can_have_expired_the_key(etcd_clock: VirtualTime) -> None:
    """The owner is cut off at any point of its cycle of renewals; at each moment the key exists while it is ensured."""
    store = MemoryStore()
    with getc.etcd(store.url) as observer:
        for cut_at in range(12):
            link = store.link()
            with getc.etcd(link.url) as client:
                lock = client.lock(KEY, ttl=10)
                lock.acquire()
                etcd_clock.advance(cut_at * 0.5)
                link.disconnect()
                ensured = 0.0
                while keys(observer):
                    etcd_clock.stall(0.1)  # no timer and no greenlet of the owner runs
                    try:
                        lock.ensure()
                        ensured = etcd_clock.now()
                        assert keys(observer), 'ensure() has returned after etcd has expired the key'
                    except getc.NodeLost:
                        pass
                assert lock.state is ContenderState.LOST
                assert 0.9 < etcd_clock.now() - ensured < 10
                etcd_clock.advance(0)
                with pytest.raises(getc.NodeLost):
                    lock.release(timeout=0)
                client.close(timeout=0)


def test_g3_guarded_write_is_applied_only_while_the_lock_is_held(open_client: Open) -> None:
    client, other = open_client(), open_client()
    if client.set('/score', '0') and client.api == 'v2':
        pytest.skip('etcd v2 has no transactions')
    lock = client.lock(KEY, ttl=TTL)
    with lock, client.transaction(guard=lock) as t:
        t.set('/score', '1')
    assert other.get('/score').value == '1'
    with pytest.raises(getc.NodeLost), client.transaction(guard=lock) as t:
        t.set('/score', '2')
    lock.acquire()
    guard = lock.guard
    other.delete(keys(other)[0])
    with pytest.raises(getc.NodeLost), client.transaction(guard=guard) as t:
        t.set('/score', '2')
    with pytest.raises(getc.NodeLost):
        lock.release()
    with lock, pytest.raises(getc.NodeLost), client.transaction(guard=guard) as t:  # of an earlier ownership
        t.set('/score', '2')
    assert other.get('/score').value == '1'


def test_g4_token_is_the_creation_of_the_key_and_rises_with_each_owner(open_client: Open) -> None:
    clients = [open_client() for _ in range(3)]
    tokens: list[int] = []
    for number in range(9):
        lock = clients[number % 3].lock(KEY, ttl=TTL)
        with lock as token:
            (owner,) = clients[0].lock(KEY).contenders()
            assert owner.created_index == token == lock.token == lock.ensure()
            tokens.append(token)
    assert tokens == sorted(set(tokens))


def test_g5_owners_follow_in_the_order_of_their_keys(open_client: Open) -> None:
    """And one that has lost its key is the last, with a higher token."""
    owner, observer = open_client().lock(KEY, ttl=TTL), open_client()
    locks = [open_client().lock(KEY, f'lock {number}', ttl=3) for number in range(4)]
    order: list[str] = []

    def work(lock: getc.Lock) -> None:
        with lock:
            order.append(lock.value)

    owner.acquire()
    workers = []
    for number, lock in enumerate(locks):
        workers.append(gevent.spawn(work, lock))
        wait_until(lambda count=number + 2: len(keys(observer)) == count)  # type: ignore[misc]
    lost = keys(observer)[2]
    observer.delete(lost)
    wait_until(lambda: len(keys(observer)) == 5)
    owner.release()
    gevent.joinall(workers, timeout=60, raise_error=True)
    assert order == ['lock 0', 'lock 2', 'lock 3', 'lock 1']


def test_g6_waiter_costs_one_watch_and_a_release_wakes_one(open_client: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, client, observer = open_client().lock(KEY, ttl=TTL), open_client(), open_client()
    owner.acquire()
    watched: list[str] = []
    queries: list[str] = []
    for backend in BACKENDS:
        watch, execute = backend.watch, backend.execute

        def count_watch(self, spec: WatchSpec, *args, _watch=watch):  # type: ignore[no-untyped-def]
            watched.append(spec.key)
            return _watch(self, spec, *args)

        def count_query(self, operation, *args, _execute=execute):  # type: ignore[no-untyped-def]
            if type(operation).__name__ == 'Predecessor':
                queries.append(operation.key)
            return _execute(self, operation, *args)

        monkeypatch.setattr(backend, 'watch', count_watch)
        monkeypatch.setattr(backend, 'execute', count_query)
    locks = [client.lock(KEY, ttl=TTL) for _ in range(10)]
    waiting = [gevent.spawn(lock.acquire) for lock in locks]
    wait_until(lambda: len(watched) == 10)
    order = keys(observer)
    assert sorted(watched) == sorted(order[:-1])  # each one the key right before its own
    queries.clear()
    owner.release()
    wait_until(lambda: any(greenlet.dead for greenlet in waiting))
    assert (queries, sum(greenlet.dead for greenlet in waiting)) == (order[1:2], 1)
    gevent.killall(waiting)
