"""RW locks of getc and Go's ``RWMutex`` of ``experimental/recipes`` in one queue, in both directions."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

import getc
from getc.recipes import ContenderState
from getc.testing import EtcdServer, wait_until
from tests.support.interop import Go

KEY = '/locks/a'
TTL = 30


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api='v3') as client:
        yield client


def keys(client: getc.Client) -> list[str]:
    return [value.key for value in client.rwlock(KEY).contenders()]


def wait_for(client: getc.Client, count: int) -> list[str]:
    wait_until(lambda: len(keys(client)) == count)
    return keys(client)


def test_writers_of_getc_wait_for_readers_of_go(client: getc.Client, go: Go) -> None:
    first, second = go.open_session(ttl=TTL), go.open_session(ttl=TTL)
    first.read_lock(KEY).result()
    second.read_lock(KEY).result()
    lock = client.rwlock(KEY, ttl=TTL)
    with lock.read:
        assert len(keys(client)) == 3
    assert lock.write.try_acquire() is None
    waiting = gevent.spawn(lock.write.acquire)
    wait_for(client, 3)
    second.read_unlock(KEY).result()
    wait_for(client, 2)
    client.get('/')
    assert not waiting.dead
    first.read_unlock(KEY).result()
    assert waiting.get(timeout=30) == lock.write.ensure()
    lock.write.release()


def test_readers_and_writers_of_getc_wait_for_a_writer_of_go(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    session.write_lock(KEY).result()
    lock, other = client.rwlock(KEY, ttl=TTL), client.rwlock(KEY, ttl=TTL)
    assert lock.read.try_acquire() is None
    assert lock.write.try_acquire() is None

    def read() -> int:
        with lock.read as token:
            return token

    reading = [gevent.spawn(read) for _ in range(2)]
    wait_for(client, 3)
    writing = gevent.spawn(other.write.acquire)
    wait_for(client, 4)
    assert not any(greenlet.dead for greenlet in reading)
    session.write_unlock(KEY).result()
    tokens = [greenlet.get(timeout=30) for greenlet in reading]
    assert writing.get(timeout=30) > max(tokens)
    other.write.release()


def test_writer_of_go_waits_for_readers_of_getc(client: getc.Client, go: Go) -> None:
    session = go.open_session(ttl=TTL)
    first, second = client.rwlock(KEY, ttl=TTL), client.rwlock(KEY, ttl=TTL)
    first.read.acquire()
    second.read.acquire()
    in_go = session.write_lock(KEY)
    wait_for(client, 3)
    second.read.release()
    wait_for(client, 2)
    client.get('/')
    assert not in_go.is_done
    first.read.release()
    in_go.result()
    assert first.read.try_acquire() is None
    session.write_unlock(KEY).result()
    wait_for(client, 0)


def test_readers_and_writers_of_go_wait_for_a_writer_of_getc(client: getc.Client, go: Go) -> None:
    reader, writer = go.open_session(ttl=TTL), go.open_session(ttl=TTL)
    lock = client.rwlock(KEY, ttl=TTL)
    lock.write.acquire()
    reading = reader.read_lock(KEY)
    wait_for(client, 2)
    writing = writer.write_lock(KEY)
    wait_for(client, 3)
    assert not reading.is_done
    lock.write.release()
    reading.result()
    assert not writing.is_done
    reader.read_unlock(KEY).result()
    writing.result()
    writer.write_unlock(KEY).result()
    wait_for(client, 0)


def test_order_is_one_for_both_clients(client: getc.Client, go: Go) -> None:
    """A reader behind a waiting writer waits, whichever client each of them uses."""
    held = client.rwlock(KEY, ttl=TTL)
    held.read.acquire()
    writer, reader = go.open_session(ttl=TTL), go.open_session(ttl=TTL)
    writing = writer.write_lock(KEY)
    wait_for(client, 2)
    late = client.rwlock(KEY, ttl=TTL)
    assert late.read.try_acquire() is None
    reading = [gevent.spawn(late.read.acquire)]
    wait_for(client, 3)
    reading_in_go = reader.read_lock(KEY)
    wait_for(client, 4)
    assert not writing.is_done and not reading[0].dead and not reading_in_go.is_done
    held.read.release()
    writing.result()
    assert not reading[0].dead and not reading_in_go.is_done
    writer.write_unlock(KEY).result()
    assert reading[0].get(timeout=30)
    reading_in_go.result()
    reader.read_unlock(KEY).result()
    assert len(wait_for(client, 1)) == 1


def test_no_overlap_and_no_starvation_in_a_mixed_crowd(client: getc.Client, go: Go) -> None:
    """Go's testRWMutex with writers and readers that really alternate: a writer reads a counter, and adds one."""
    client.set('/counter', '0')
    readers: list[int] = []
    writers: list[int] = []
    seen: list[tuple[int, int]] = []

    def hold(is_writer: bool, number: int) -> None:
        mine = writers if is_writer else readers
        mine.append(number)
        seen.append((len(readers), len(writers)))
        value = int(client.get('/counter').value or '')
        if is_writer:
            client.set('/counter', str(value + 1))
        assert int(client.get('/counter').value or '') == value + is_writer
        mine.remove(number)

    def work_in_go(number: int) -> None:
        session = go.open_session(ttl=TTL)
        for step in range(6):
            is_writer = (number + step) % 2 == 0
            (session.write_lock if is_writer else session.read_lock)(KEY).result()
            hold(is_writer, number)
            (session.write_unlock if is_writer else session.read_unlock)(KEY).result()

    def work(number: int) -> None:
        lock = client.rwlock(KEY, ttl=TTL)
        for step in range(6):
            is_writer = (number + step) % 2 == 0
            with lock.write if is_writer else lock.read:
                hold(is_writer, number)

    workers = [
        gevent.spawn(function, number) for number, function in enumerate((work, work, work_in_go, work_in_go) * 2)
    ]
    gevent.joinall(workers, raise_error=True, timeout=120)
    assert all(worker.dead for worker in workers)
    assert len(seen) == 48
    assert all(writing == 0 or (reading, writing) == (0, 1) for reading, writing in seen)
    assert client.get('/counter').value == '24'
    wait_for(client, 0)


@pytest.mark.parametrize('side', ['read', 'write'])
def test_revoked_session_of_go_lets_a_writer_of_getc_in(client: getc.Client, go: Go, side: str) -> None:
    session = go.open_session(ttl=TTL)
    (session.read_lock if side == 'read' else session.write_lock)(KEY).result()
    lock = client.rwlock(KEY, ttl=TTL)
    waiting = gevent.spawn(lock.write.acquire)
    wait_for(client, 2)
    client.v3.lease.revoke(session.lease)
    assert waiting.get(timeout=30) == lock.write.ensure()
    lock.write.release()


@pytest.mark.parametrize('side', ['read', 'write'])
def test_owner_whose_lease_is_revoked_is_lost_and_go_is_next(client: getc.Client, go: Go, side: str) -> None:
    session = go.open_session(ttl=TTL)
    rwlock = client.rwlock(KEY, ttl=TTL)
    lock = rwlock.read if side == 'read' else rwlock.write
    lock.acquire()
    in_go = session.write_lock(KEY)
    own, _ = wait_for(client, 2)
    client.v3.lease.revoke(client.v3.kv.range(own.encode()).kvs[0].lease)
    in_go.result()
    wait_until(lambda: lock.state is ContenderState.LOST)
    with pytest.raises(getc.NodeLost):
        lock.release()
    assert len(keys(client)) == 1
    session.write_unlock(KEY).result()


def test_renewals_do_not_change_the_order_that_go_sees(client: getc.Client, go: Go) -> None:
    """Go's RWMutex looks at mod revisions: contenders of getc are never written again."""
    lock = client.rwlock(KEY, ttl=2)
    lock.read.acquire()
    session = go.open_session(ttl=TTL)
    in_go = session.write_lock(KEY)
    own, _ = wait_for(client, 2)
    before = lock.read.remaining()
    wait_until(lambda: lock.read.remaining() > before)  # it was renewed
    kv = client.v3.kv.range(own.encode()).kvs[0]
    assert kv.mod_revision == kv.create_revision == lock.read.token
    assert not in_go.is_done
    lock.read.release()
    in_go.result()
    session.write_unlock(KEY).result()
