"""What RW locks guarantee, judged from the history of the store; and what they cost on a real etcd."""

from __future__ import annotations

import itertools
import random
from typing import Any

import gevent
import pytest

import getc
from getc.results import Deleted, Set
from getc.testing import EtcdServer, wait_until
from getc.v3.rpc import RpcClient
from tests.recipes.conftest import Open

KEY = '/locks/a'
TTL = 30


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the unary RPCs that any client calls."""
    calls: list[str] = []
    call = RpcClient.call

    def record(self: RpcClient, method: Any, *args: Any, **options: Any) -> Any:
        calls.append(method.path.rpartition('/')[2])
        return call(self, method, *args, **options)

    monkeypatch.setattr(RpcClient, 'call', record)
    return calls


def keys(client: getc.Client) -> list[str]:
    return [value.key for value in client.rwlock(KEY).contenders()]


def test_at_any_revision_a_writer_is_the_only_owner(open_client: Open) -> None:
    """G1 for readers and writers, while contenders come, are killed, and lose their keys."""
    rng = random.Random(1)
    clients = [open_client() for _ in range(3)]
    observer = open_client()
    start = observer.set('/start', 'x').modified_index
    owners: list[tuple[int, bool, int, int]] = []  # token, is a writer, indices of the store within the block

    def work(lock: getc.RWLock, seed: int) -> None:
        choice = random.Random(seed)
        for _ in range(6):
            is_writer = choice.random() < 0.4
            try:
                with lock.write if is_writer else lock.read as token:
                    began = observer.set('/steps', 'x').modified_index
                    gevent.sleep(choice.random() * 0.003)
                    ended = observer.set('/steps', 'x').modified_index
                owners.append((token, is_writer, began, ended))
            except getc.NodeLost:
                pass  # this test has deleted the key of a waiter that has just become an owner

    workers = [gevent.spawn(work, client.rwlock(KEY, ttl=TTL), seed) for client in clients for seed in range(4)]
    for _ in range(6):
        gevent.sleep(0.01)
        waiting = keys(observer)[3:]
        if waiting:
            observer.delete(rng.choice(waiting))
        workers.pop(rng.randrange(len(workers))).kill()
    gevent.joinall(workers, timeout=120)
    assert all(worker.dead for worker in workers)
    wait_until(lambda: not keys(observer))

    end = observer.set('/end', 'x').modified_index
    lives: dict[str, tuple[int, int]] = {}  # the creation and the deletion of each key
    with observer.changes('/', index=start) as changes:
        for result in changes:
            if result.modified_index == end:
                break
            if isinstance(result, Deleted) and result.key in lives:
                lives[result.key] = (lives[result.key][0], result.modified_index)
            elif isinstance(result, Set) and result.is_new and result.key.startswith(f'{KEY}/'):
                lives[result.key] = (result.created_index, end)
    deletions = dict(lives.values())
    blocking = {key: life for key, life in lives.items() if key.startswith(f'{KEY}/write/')}
    assert len({is_writer for _, is_writer, _, _ in owners}) == 2 and len(owners) > 10
    for token, is_writer, began, ended in owners:
        assert token <= began < ended < deletions[token]
        earlier = [life for life in (lives if is_writer else blocking).values() if life[0] < token]
        assert all(deleted < began for _, deleted in earlier)
    for one, two in itertools.combinations(owners, 2):
        (_, is_writer, began, ended), (_, is_other_writer, other_began, other_ended) = one, two
        assert ended < other_began or other_ended < began or not (is_writer or is_other_writer)


@pytest.mark.parametrize('side', ['read', 'write'])
def test_uncontended_acquire_and_release_are_one_request_each(
    etcd_server: EtcdServer, calls: list[str], side: str
) -> None:
    with getc.etcd(etcd_server.url, api='v3') as client:
        rwlock = client.rwlock(KEY, ttl=TTL)
        lock = rwlock.read if side == 'read' else rwlock.write
        with lock:  # grants the lease
            pass
        calls.clear()
        with lock:
            pass
        assert calls == ['Txn', 'Txn']


def test_hundred_readers_behind_a_writer_cost_one_query_each(etcd_server: EtcdServer, calls: list[str]) -> None:
    """And the writer behind them costs one query when the last reader leaves."""
    count = 100
    with getc.etcd(etcd_server.url, api='v3') as client:
        lock = client.rwlock(KEY, ttl=60)
        lock.write.acquire()
        crowd = client.rwlock(KEY, ttl=60)
        reading = [gevent.spawn(crowd.read.acquire) for _ in range(count)]
        wait_until(lambda: len(keys(client)) == count + 1)
        calls.clear()
        lock.write.release()
        gevent.joinall(reading, timeout=60, raise_error=True)
        assert all(greenlet.successful() for greenlet in reading)
        assert [call for call in calls if call != 'LeaseTimeToLive'] == ['Txn'] * (count + 1)
