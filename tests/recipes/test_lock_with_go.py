"""Locks of getc and Go's ``concurrency.Mutex`` in one queue, in both directions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gevent
import pytest

import getc
from getc.recipes import ContenderState
from getc.testing import EtcdServer, wait_until
from tests.support.interop import Go
from tests.support.interop_events import GoError

KEY = '/locks/a'
TTL = 30


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


def keys(client: getc.Client) -> list[str]:
    return [value.key for value in client.lock(KEY).contenders()]


def wait_for(client: getc.Client, count: int) -> list[str]:
    wait_until(lambda: len(keys(client)) == count)
    return keys(client)


def test_go_before_between_and_after_locks_of_getc(client: getc.Client, go: Go) -> None:
    """G4 and G5: one order, and create revisions that rise across both clients."""
    first, second, third = (go.open_session(ttl=TTL) for _ in range(3))
    held = first.lock(KEY).result()
    locks = [client.lock(KEY, ttl=TTL), client.lock(KEY, ttl=TTL)]
    waiting = [gevent.spawn(locks[0].acquire)]
    wait_for(client, 2)
    between = second.lock(KEY)
    wait_for(client, 3)
    waiting.append(gevent.spawn(locks[1].acquire))
    wait_for(client, 4)
    last = third.lock(KEY)
    wait_for(client, 5)
    revisions = [held.create_revision]

    first.unlock(KEY).result()
    revisions.append(waiting[0].get(timeout=30))
    assert not between.is_done and not waiting[1].dead
    locks[0].release()
    revisions.append(between.result().create_revision)
    assert not waiting[1].dead and not last.is_done
    second.unlock(KEY).result()
    revisions.append(waiting[1].get(timeout=30))
    locks[1].release()
    revisions.append(last.result().create_revision)
    third.unlock(KEY).result()
    assert revisions == sorted(revisions)
    wait_for(client, 0)


def test_header_revision_of_go_is_not_comparable_with_tokens(client: getc.Client, go: Go) -> None:
    """A Go owner that has waited may report a higher number than the next token."""
    session = go.open_session(ttl=TTL)
    owner, behind = client.lock(KEY, ttl=TTL), client.lock(KEY, ttl=TTL)
    owner.acquire()
    in_go = session.lock(KEY)
    wait_for(client, 2)
    waiting = gevent.spawn(behind.acquire)
    wait_for(client, 3)
    for _ in range(3):
        client.set('/x', '1')
    owner.release()
    held = in_go.result()
    session.unlock(KEY).result()
    token = waiting.get(timeout=30)
    assert held.create_revision < token < held.header_revision
    behind.release()


def test_try_lock_on_both_sides(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    lock = client.lock(KEY, ttl=TTL)
    assert session.try_lock(KEY).result() is not None
    assert lock.try_acquire() is None
    session.unlock(KEY).result()
    assert lock.try_acquire() is not None
    assert session.try_lock(KEY).result() is None
    assert len(keys(client)) == 1
    lock.release()


def test_mutual_exclusion_in_a_mixed_crowd(client: getc.Client, go: Go) -> None:
    """G1: each owner reads a counter, and writes it one higher."""
    client.set('/counter', '0')

    def add_one() -> None:
        value = int(client.get('/counter').value or '')
        gevent.sleep(0.001)
        client.set('/counter', str(value + 1))

    def work_in_go() -> None:
        session = go.open_session(ttl=TTL)
        for _ in range(5):
            session.lock(KEY).result()
            add_one()
            session.unlock(KEY).result()

    def work() -> None:
        lock = client.lock(KEY, ttl=TTL)
        for _ in range(5):
            with lock:
                add_one()

    workers = [gevent.spawn(function) for function in (work, work_in_go) * 3]
    gevent.joinall(workers, raise_error=True, timeout=60)
    assert client.get('/counter').value == '30'
    wait_for(client, 0)


def test_session_of_a_go_owner_that_is_revoked_lets_the_next_one_in(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    session.lock(KEY).result()
    lock = client.lock(KEY, ttl=TTL)
    waiting = gevent.spawn(lock.acquire)
    wait_for(client, 2)
    client.v3.lease.revoke(session.lease)
    assert waiting.get(timeout=30) == lock.ensure()
    lock.release()


def test_owner_whose_lease_is_revoked_is_lost_and_go_is_next(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    lock = client.lock(KEY, ttl=TTL)
    lock.acquire()
    in_go = session.lock(KEY)
    own, _ = wait_for(client, 2)
    client.v3.lease.revoke(client.v3.kv.range(own.encode()).kvs[0].lease)
    assert in_go.result().key
    wait_until(lambda: lock.state is ContenderState.LOST)
    with pytest.raises(getc.NodeLost):
        lock.release()
    assert len(keys(client)) == 1
    session.unlock(KEY).result()


def test_waiter_in_go_that_dies_does_not_let_the_one_behind_in(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    owner, behind = client.lock(KEY, ttl=TTL), client.lock(KEY, ttl=TTL)
    owner.acquire()
    session.lock(KEY)
    wait_for(client, 2)
    waiting = gevent.spawn(behind.acquire)
    wait_for(client, 3)
    client.v3.lease.revoke(session.lease)
    wait_for(client, 2)
    client.get('/')
    assert not waiting.dead
    owner.release()
    assert waiting.get(timeout=30) == behind.ensure()
    behind.release()


def test_compaction_while_both_sides_wait_does_not_disturb_getc(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    owner, behind = client.lock(KEY, ttl=TTL), client.lock(KEY, ttl=TTL)
    owner.acquire()
    in_go = session.lock(KEY)
    wait_for(client, 2)
    waiting = gevent.spawn(behind.acquire)
    wait_for(client, 3)
    client.v3.kv.compact(client.set('/x', '1').etcd_index)
    owner.release()
    with contextlib.suppress(GoError):  # Go's Mutex may watch from a revision that is compacted by then, and gives up
        in_go.result()
    session.close().result()
    assert waiting.get(timeout=30) == behind.ensure()
    behind.release()


@pytest.mark.parametrize('name', [b'/locks/a/', b'/locks/a/_hidden', b'/locks/a/sub/x'])
def test_foreign_key_in_front_blocks_both_sides(client: getc.Client, go: Go, name: bytes) -> None:
    client.v3.kv.put(name, b'x')
    session = go.open_session(ttl=TTL)
    in_go = session.lock(KEY)
    wait_for(client, 2)
    lock = client.lock(KEY, ttl=TTL)
    waiting = gevent.spawn(lock.acquire)
    wait_for(client, 3)
    assert not in_go.is_done and not waiting.dead
    client.v3.kv.delete_range(name)
    assert in_go.result().key
    session.unlock(KEY).result()
    assert waiting.get(timeout=30) == lock.ensure()
    lock.release()
