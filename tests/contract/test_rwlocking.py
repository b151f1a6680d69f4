"""RW locks on every backend.  Some cases are situations of the suites of kazoo, tooz and Go's ``RWMutex``."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

import getc
from getc.recipes import ContenderState, ReadLock, WriteLock
from getc.testing import wait_until
from tests.contract.conftest import BackendUnderTest
from tests.support.waiter import Waiter

KEY = '/locks/a'
OUT, WAITING, HELD, LOST = ContenderState.OUT, ContenderState.WAITING, ContenderState.HELD, ContenderState.LOST


def keys(client: getc.Client) -> list[str]:
    """Return the keys of all contenders, in their order."""
    return [value.key for value in client.rwlock(KEY).contenders()]


def wait_for_contenders(client: getc.Client, count: int) -> list[str]:
    wait_until(lambda: len(keys(client)) == count)
    return keys(client)


# -- who may hold it (kazoo test_read_lock, test_write_lock; tooz get_shared_lock, locking_shared_and_exclusive, ...)


def test_many_readers_hold_it_and_no_writer(client: getc.Client, other: getc.Client) -> None:
    first, second = client.rwlock(KEY), other.rwlock(KEY)
    assert (first.read.state, first.read.token, first.read.remaining()) == (OUT, None, 0.0)
    with first.read as token, second.read as later:
        assert (first.read.ensure(), second.read.ensure()) == (token, later)
        assert first.read.token == token < later
        assert (first.read.state, second.read.state, first.write.state) == (HELD, HELD, OUT)
        assert 0 < first.read.remaining() <= first.ttl
        third = other.rwlock(KEY)
        assert third.write.try_acquire() is None
        assert len(keys(client)) == 2
        with third.read:
            assert len(keys(client)) == 3
    assert first.read.token is None
    with third.write as last:
        assert last > later
    assert keys(client) == []


def test_one_writer_holds_it_and_no_reader(client: getc.Client, other: getc.Client) -> None:
    lock, rival = client.rwlock(KEY), other.rwlock(KEY)
    with lock.write as token:
        assert (lock.write.ensure(), lock.write.state, lock.read.state) == (token, HELD, OUT)
        assert rival.read.try_acquire() is None
        assert rival.write.try_acquire() is None
        assert len(keys(client)) == 1
    with rival.read:
        pass
    assert keys(client) == []


def test_keys_are_below_read_and_write_with_value_and_ttl(client: getc.Client, other: getc.Client) -> None:
    lock = client.rwlock(KEY, 'me', ttl=20)
    for side, name in ((lock.read, 'read'), (lock.write, 'write')):
        with side as token:
            (owner,) = other.rwlock(KEY).contenders()
            assert (owner.value, owner.created_index) == ('me', token)
            assert re.fullmatch(f'{KEY}/{name}/[0-9a-f]{{16}}', owner.key)
            assert 0 < (other.get(owner.key).ttl or 0) <= 20
            assert side.contenders() == lock.contenders()
    assert client.rwlock(KEY).value == f'{os.getpid()}@{socket.gethostname()}'


def test_greenlets_of_one_object_read_at_the_same_time(client: getc.Client) -> None:
    lock = client.rwlock(KEY)
    readers = [Waiter(lock.read) for _ in range(3)]
    wait_until(lambda: all(reader.has_lock for reader in readers))
    assert len(keys(client)) == 3
    assert lock.read.state is OUT  # of this greenlet
    for reader in readers:
        reader.let_go()
    assert keys(client) == []


def test_greenlets_of_one_object_write_in_turn_with_one_key(client: getc.Client) -> None:
    lock = client.rwlock(KEY)
    order: list[int] = []

    def work(number: int) -> None:
        with lock.write:
            assert len(keys(client)) == 1
            order.append(number)

    gevent.joinall([gevent.spawn(work, number) for number in range(4)], raise_error=True)
    assert order == list(range(4))


# -- order (kazoo test_rw_lock; kazoo#649)


def test_contenders_hold_it_in_the_order_in_which_they_came(
    backend_under_test: BackendUnderTest, client: getc.Client
) -> None:
    """kazoo test_rw_lock and #649: a reader that came before a second writer does not wait for it."""
    observer = client.rwlock(KEY)
    observer.write.acquire()
    reader, writer, behind = (backend_under_test.open().rwlock(KEY) for _ in range(3))
    waiters: list[Waiter] = []
    for side in (reader.read, writer.write, behind.read):
        waiters.append(Waiter(side))
        wait_for_contenders(client, len(waiters) + 1)
    assert [waiter.lock.contenders()[0].key for waiter in waiters] == keys(client)[:1] * 3
    observer.write.release()
    for number, waiter in enumerate(waiters):
        wait_until(lambda waiter=waiter: waiter.has_lock)  # type: ignore[misc]
        assert len(wait_for_contenders(client, 3 - number)) == 3 - number
        assert [each.has_lock for each in waiters[number:]] == [True] + [False] * (2 - number)
        waiter.let_go()
    tokens = [waiter.tokens[0] for waiter in waiters]
    assert tokens == sorted(tokens)
    assert keys(client) == []


def test_reader_behind_a_waiting_writer_waits(client: getc.Client, other: getc.Client) -> None:
    """So readers cannot keep a writer waiting for ever."""
    lock = client.rwlock(KEY)
    lock.read.acquire()
    writer = Waiter(other.rwlock(KEY).write)
    wait_for_contenders(client, 2)
    late = other.rwlock(KEY)
    assert late.read.try_acquire() is None
    reader = Waiter(late.read)
    wait_for_contenders(client, 3)
    lock.read.release()
    wait_until(lambda: writer.has_lock)
    assert not reader.has_lock
    writer.let_go()
    wait_until(lambda: reader.has_lock)
    reader.let_go()


def test_writer_waits_for_the_last_of_the_readers_before_it(client: getc.Client, other: getc.Client) -> None:
    readers = [client.rwlock(KEY) for _ in range(3)]
    for reader in readers:
        reader.read.acquire()
    writer = Waiter(other.rwlock(KEY).write)
    wait_for_contenders(client, 4)
    for number in (1, 2, 0):
        assert not writer.has_lock
        readers[number].read.release()
    wait_until(lambda: writer.has_lock)
    writer.let_go()


def test_release_of_a_writer_lets_all_readers_up_to_the_next_writer_in(client: getc.Client, other: getc.Client) -> None:
    lock = client.rwlock(KEY)
    lock.write.acquire()
    crowd = other.rwlock(KEY)
    waiters: list[Waiter] = []
    for side in (crowd.read, crowd.read, crowd.read, crowd.write, crowd.read):
        waiters.append(Waiter(side))
        wait_for_contenders(client, len(waiters) + 1)
    lock.write.release()
    wait_until(lambda: [waiter.has_lock for waiter in waiters] == [True, True, True, False, False])
    for waiter in waiters:
        wait_until(lambda waiter=waiter: waiter.has_lock)  # type: ignore[misc]
        waiter.let_go()
    assert keys(client) == []


def test_waiting_writer_that_is_killed_lets_the_readers_behind_it_in(client: getc.Client, other: getc.Client) -> None:
    with client.rwlock(KEY).read:
        writer = Waiter(other.rwlock(KEY).write)
        wait_for_contenders(client, 2)
        reader = Waiter(other.rwlock(KEY).read)
        wait_for_contenders(client, 3)
        writer.greenlet.kill()
        wait_until(lambda: reader.has_lock)
        reader.let_go()


def test_no_writer_beside_another_owner_in_a_crowd(backend_under_test: BackendUnderTest, client: getc.Client) -> None:
    """Go RWMutexSingleNode and MultiNode, with writers and readers that really alternate."""
    readers: list[int] = []
    writers: list[int] = []
    seen: list[tuple[int, int]] = []

    def work(lock: getc.RWLock, number: int) -> None:
        for step in range(4):
            is_writer = (number + step) % 3 == 0
            with lock.write if is_writer else lock.read as token:
                mine = writers if is_writer else readers
                mine.append(token)
                seen.append((len(readers), len(writers)))
                gevent.sleep(0.001)
                mine.remove(token)

    clients = [backend_under_test.open() for _ in range(3)]
    workers = [gevent.spawn(work, each.rwlock(KEY), number) for each in clients for number in range(3)]
    gevent.joinall(workers, raise_error=True)
    assert len(seen) == 36
    assert all(writing == 0 or (reading, writing) == (0, 1) for reading, writing in seen)
    assert max(reading for reading, _ in seen) > 1
    assert keys(client) == []


# -- mistakes (tooz get_shared_lock_locking_same_lock_twice)


def test_upgrade_and_second_acquire_in_one_greenlet_are_runtime_errors(client: getc.Client) -> None:
    """They would wait for themselves.  Another greenlet may wait."""
    lock = client.rwlock(KEY)
    with lock.read:
        for acquire in (lock.write.acquire, lock.write.try_acquire, lambda: lock.write.acquire(0)):
            with pytest.raises(
                RuntimeError, match=f'this greenlet holds read lock {KEY}: .*release it before you write'
            ):
                acquire()
        with pytest.raises(RuntimeError, match=f'holds read lock {KEY} already: the lock is not re-entrant'):
            lock.read.acquire()
        writer = Waiter(lock.write)
        wait_for_contenders(client, 2)
        assert lock.read.ensure()
    wait_until(lambda: writer.has_lock)
    writer.let_go()
    with lock.write:
        with pytest.raises(RuntimeError, match=f'holds write lock {KEY}: .*release it before you read'):
            lock.read.acquire()
        with pytest.raises(RuntimeError, match=f'holds write lock {KEY} already: the lock is not re-entrant'):
            lock.write.acquire()
        assert len(keys(client)) == 1
    assert keys(client) == []


def test_release_of_what_this_greenlet_does_not_hold_is_a_runtime_error(client: getc.Client) -> None:
    lock = client.rwlock(KEY)
    with pytest.raises(RuntimeError, match=f'write lock {KEY} is released without being held'):
        lock.write.release()
    reader = Waiter(lock.read)
    wait_until(lambda: reader.has_lock)
    with pytest.raises(RuntimeError, match=f'read lock {KEY} is released by a greenlet that does not hold it'):
        lock.read.release()
    with pytest.raises(getc.NodeLost, match=f'read lock {KEY} is not held: it has no key'):
        lock.read.ensure()
    reader.let_go()


def test_write_lock_may_be_released_by_another_greenlet(client: getc.Client) -> None:
    lock = client.rwlock(KEY)
    gevent.spawn(lock.write.acquire).get(timeout=30)
    lock.write.release()
    assert keys(client) == []


@pytest.mark.parametrize('timeout', [-1, 'x', True])
def test_invalid_timeout_raises_before_anything_is_sent(refusing: getc.Client, timeout: Any) -> None:
    lock = refusing.rwlock(KEY)
    calls: list[Callable[[Any], object]] = [lock.contenders]
    for side in (lock.read, lock.write):
        calls += [side.acquire, side.release, side.contenders]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match='timeout'):
            call(timeout)


@pytest.mark.parametrize(
    ('key', 'options'),
    [('/', {}), (7, {}), (KEY, {'ttl': 0}), (KEY, {'ttl': None}), (KEY, {'ttl': 1.5}), (KEY, {'value': 7})],
)
def test_invalid_argument_raises_before_anything_is_sent(refusing: getc.Client, key: Any, options: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        refusing.rwlock(key, **options)


@pytest.mark.parametrize('key', [KEY, f'{KEY}/read', f'{KEY}/write'])
def test_value_at_the_key_of_the_lock_is_refused(client: getc.Client, key: str) -> None:
    client.set(key, 'a value')
    lock = client.rwlock(KEY)
    sides = {f'{KEY}/read': [lock.read], f'{KEY}/write': [lock.write]}.get(key, [lock.read, lock.write])
    for side in sides:
        with pytest.raises(getc.NotDir):
            side.acquire()
        assert side.state is OUT


# -- timeouts


@pytest.mark.parametrize('timeout', [0, 0.2])
def test_acquire_that_times_out_names_who_is_first_and_leaves_no_key(
    client: getc.Client, other: getc.Client, timeout: float
) -> None:
    """A writer names the first owner, a reader the first writer."""
    rwlock = client.rwlock(KEY, 'the owner')
    for held, refused in ((rwlock.read, ['write']), (rwlock.write, ['read', 'write'])):
        token = held.acquire()
        for name in refused:
            with pytest.raises(getc.TimedOut) as caught:
                getattr(other.rwlock(KEY), name).acquire(timeout)
            (owner,) = wait_for_contenders(client, 1)
            expected = f"{owner} is first, with the value 'the owner' and the index {token}"
            assert str(caught.value) == f'{name} lock {KEY} was not acquired within {timeout:g} s: {expected}'
            assert not caught.value.maybe_applied and not caught.value.is_outage
        held.release()


def test_writer_that_waits_for_a_greenlet_of_its_object_says_so(client: getc.Client) -> None:
    writer = Waiter(client.rwlock(KEY).write)
    wait_until(lambda: writer.has_lock)
    with pytest.raises(getc.TimedOut, match='another greenlet of this process holds it: <Greenlet'):
        writer.lock.acquire(0.05)
    writer.let_go()


# -- losses


def test_reader_whose_key_is_deleted_is_lost_and_the_writer_holds_the_lock(
    client: getc.Client, other: getc.Client
) -> None:
    lock = client.rwlock(KEY)
    losses: list[object] = []
    lock.read.on_lost(losses.append)
    lock.read.acquire()
    unharmed = Waiter(lock.read)
    wait_for_contenders(client, 2)
    writer = Waiter(other.rwlock(KEY).write)
    own, *_, last = wait_for_contenders(client, 3)
    other.delete(own)
    wait_until(lambda: lock.read.state is LOST)
    with pytest.raises(getc.NodeLost, match=f'read lock {KEY} is not held: .*was deleted'):
        lock.read.ensure()
    with pytest.raises(getc.NodeLost):
        lock.read.guard
    wait_until(lambda: losses == [lock.read])
    assert unharmed.has_lock and not writer.has_lock
    unharmed.let_go()
    wait_until(lambda: writer.has_lock)
    with pytest.raises(getc.NodeLost, match='was deleted'):
        lock.read.release()
    assert (lock.read.state, keys(client)) == (OUT, [last])
    writer.let_go()


def test_waiter_whose_key_is_deleted_rejoins_at_the_end(client: getc.Client, other: getc.Client) -> None:
    owner = client.rwlock(KEY, ttl=3)
    owner.write.acquire()
    writer = Waiter(other.rwlock(KEY, 'writer', ttl=3).write)
    wait_for_contenders(client, 2)
    reader = Waiter(other.rwlock(KEY, 'reader', ttl=3).read)
    first, second, third = wait_for_contenders(client, 3)
    other.delete(second)
    wait_until(lambda: len(keys(client)) == 3 and keys(client)[:2] == [first, third])
    assert [value.value for value in owner.contenders()][1:] == ['reader', 'writer']
    owner.write.release()
    wait_until(lambda: reader.has_lock)
    assert not writer.has_lock
    reader.let_go()
    wait_until(lambda: writer.has_lock)
    writer.let_go()


@pytest.mark.parametrize('name', ['read', 'write'])
def test_block_of_interrupting_ends_with_node_lost_at_the_loss(
    client: getc.Client, other: getc.Client, name: str
) -> None:
    side: ReadLock | WriteLock = getattr(client.rwlock(KEY), name)
    side.acquire()
    gevent.spawn_later(0.01, other.delete, keys(other)[0])
    with pytest.raises(getc.NodeLost, match='was deleted'), side.interrupting() as token:
        assert token
        Event().wait()
    with pytest.raises(getc.NodeLost):
        side.release()


# -- closing, namespaces, guards


def test_close_ends_owners_and_waiters(backend_under_test: BackendUnderTest, client: getc.Client) -> None:
    closing = backend_under_test.open()
    lock = closing.rwlock(KEY)
    lock.read.acquire()
    waiting = [gevent.spawn(lock.write.acquire) for _ in range(2)]
    wait_for_contenders(client, 2)
    waiting.append(gevent.spawn(lock.read.acquire))
    wait_for_contenders(client, 3)
    closing.close()
    for greenlet in waiting:
        with pytest.raises(getc.ClientClosed):
            greenlet.get(timeout=30)
    wait_for_contenders(client, 0)
    with pytest.raises(getc.NodeLost, match='the client was closed'):
        lock.read.ensure()
    lock.read.release()
    for side in (lock.read, lock.write):
        with pytest.raises(getc.ClientClosed):
            side.acquire()


def test_lock_is_relative_to_the_namespace(backend_under_test: BackendUnderTest, client: getc.Client) -> None:
    inside = backend_under_test.open(namespace=(backend_under_test.namespace or '') + '/locks')
    with client.rwlock(KEY, 'outside').read:
        with inside.rwlock('/a').read, pytest.raises(getc.TimedOut) as caught:
            gevent.spawn(inside.rwlock('/a').write.acquire, 0).get(timeout=30)
        text = str(caught.value)
        assert text.startswith('write lock /a was not acquired') and '/a/read/' in text and '/locks/a' not in text
        assert [value.value for value in inside.rwlock('/a').contenders()] == ['outside']


@pytest.mark.transactions
@pytest.mark.parametrize('name', ['read', 'write'])
def test_guarded_write_is_applied_only_while_the_lock_is_held(
    client: getc.Client, other: getc.Client, name: str
) -> None:
    """G3 for readers and writers."""
    side: ReadLock | WriteLock = getattr(client.rwlock(KEY), name)
    side.acquire()
    guard = side.guard
    assert guard.key.startswith(f'{KEY}/{name}/') and guard.created_index == side.token
    with client.transaction(guard=side) as t:
        t.set('/score', '1')
    late = client.transaction(guard=side)
    other.delete(keys(other)[0])
    with pytest.raises(getc.NodeLost), late as t:
        t.set('/score', '2')
    assert other.get('/score').value == '1'
    with pytest.raises(getc.NodeLost):
        side.release()


def test_repr_shows_both_sides(client: getc.Client) -> None:
    lock = client.rwlock(KEY, ttl=7)
    with lock.read:
        assert repr(lock) == f'<getc.RWLock {KEY} read=HELD write=OUT ttl=7>'
        assert repr(lock.read) == f'<getc.ReadLock {KEY} HELD ttl=7>'
    assert repr(lock.write) == f'<getc.WriteLock {KEY} OUT ttl=7>'
    assert (lock.key, lock.read.key, lock.write.key, lock.write.ttl) == (KEY, KEY, KEY, 7)
