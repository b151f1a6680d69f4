"""Locks on every backend.  Many cases are situations of the suites of kazoo, Go's clientv3, redis-py, tooz, jetcd."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

import getc
from getc.recipes import ContenderState, LockInterrupt
from getc.testing import wait_until
from tests.contract.conftest import BackendUnderTest
from tests.support.waiter import Waiter

KEY = '/locks/a'
OPTIONS = pytest.mark.parametrize('options', [{}, {'ttl': 3}, {'value': 'me'}], ids=['plain', 'ttl', 'value'])

OUT, WAITING, HELD, LOST = ContenderState.OUT, ContenderState.WAITING, ContenderState.HELD, ContenderState.LOST


def keys(client: getc.Client, key: str = KEY) -> list[str]:
    """Return the keys of the contenders, the owner first."""
    return [value.key for value in client.lock(key).contenders()]


def delete(client: getc.Client, key: str) -> None:
    client.delete(key)


def wait_for_contenders(client: getc.Client, count: int, key: str = KEY) -> list[str]:
    wait_until(lambda: len(keys(client, key)) == count)
    return keys(client, key)


# -- one owner (kazoo test_lock, test_lock_one; Go MutexLockSingleNode; redis-py test_lock; tooz lock_context_manager)


@OPTIONS
def test_lock_is_held_in_the_block_and_free_after_it(
    client: getc.Client, other: getc.Client, options: dict[str, Any]
) -> None:
    lock = client.lock(KEY, **options)
    assert (lock.state, lock.token) == (OUT, None)
    with lock as token:
        assert (lock.state, lock.token, lock.ensure()) == (HELD, token, token)
        assert 0 < lock.remaining() <= lock.ttl
        assert other.lock(KEY).try_acquire() is None
    assert (lock.state, lock.token, lock.remaining()) == (OUT, None, 0.0)
    assert keys(other) == []


def test_key_of_the_owner_has_its_value_and_creation(client: getc.Client, other: getc.Client) -> None:
    with client.lock(KEY, 'me') as token:
        (owner,) = other.lock(KEY).contenders()
        assert (owner.value, owner.created_index) == ('me', token)
        assert owner.key.startswith(f'{KEY}/') and len(owner.key) == len(KEY) + 17
        assert other.get(owner.key).ttl is not None


def test_value_is_pid_and_host_by_default(client: getc.Client) -> None:
    assert client.lock(KEY).value == f'{os.getpid()}@{socket.gethostname()}'
    assert client.lock(KEY, b'bytes').value == 'bytes'


def test_lock_can_be_acquired_again_after_release(client: getc.Client) -> None:
    """kazoo test_lock_reacquire; Go MutexUnlock."""
    lock = client.lock(KEY)
    tokens = []
    for _ in range(3):
        tokens.append(lock.acquire())
        lock.release()
    assert tokens == sorted(set(tokens))
    assert keys(client) == []


def test_two_locks_are_independent(client: getc.Client) -> None:
    """tooz get_lock_concurrency_locking_two_lock."""
    with client.lock('/locks/a'), client.lock('/locks/b') as token:
        assert client.lock('/locks/c').try_acquire() is not None
        assert token


def test_two_objects_of_one_client_contend(client: getc.Client) -> None:
    """Unlike Go's MutexSessionRelock, where a session locks twice."""
    first, second = client.lock(KEY), client.lock(KEY)
    first.acquire()
    assert second.try_acquire() is None
    waiter = Waiter(second)
    wait_for_contenders(client, 2)
    first.release()
    wait_until(lambda: waiter.has_lock)
    waiter.let_go()


# -- waiting (kazoo test_lock_timeout, non_blocking; redis-py blocking, blocking_timeout; tooz acquire_timeout)


def test_try_acquire_of_a_held_lock_returns_none_and_leaves_no_key(client: getc.Client, other: getc.Client) -> None:
    with client.lock(KEY):
        assert other.lock(KEY).try_acquire() is None
        assert len(keys(client)) == 1


@pytest.mark.parametrize('timeout', [0, 0.2])
def test_acquire_that_times_out_names_the_owner_and_leaves_no_key(
    client: getc.Client, other: getc.Client, timeout: float
) -> None:
    with client.lock(KEY, 'the owner') as token:
        lock = other.lock(KEY)
        with pytest.raises(getc.TimedOut) as caught:
            lock.acquire(timeout)
        wait_until(lambda: lock.state is OUT)
        (owner,) = keys(client)
        expected = f"{owner} is first, with the value 'the owner' and the index {token}"
        assert str(caught.value) == f'lock {KEY} was not acquired within {timeout:g} s: {expected}'
        assert (caught.value.key, caught.value.maybe_applied, caught.value.is_outage) == (KEY, False, False)


def test_timeout_says_that_the_first_key_has_no_ttl(client: getc.Client, other: getc.Client) -> None:
    other.set(f'{KEY}/forgotten', 'x' * 200)
    with pytest.raises(getc.TimedOut, match='it has no TTL, so it blocks the queue until it is deleted') as caught:
        client.lock(KEY).acquire(timeout=0)
    assert len(str(caught.value)) < 350


def test_waiter_gets_the_lock_when_the_owner_releases_it(client: getc.Client, other: getc.Client) -> None:
    """Go MutexWaitsOnCurrentHolder; kazoo test_lock."""
    owner = client.lock(KEY)
    token = owner.acquire()
    waiter = Waiter(other.lock(KEY))
    wait_for_contenders(client, 2)
    assert waiter.lock.state is WAITING
    owner.release()
    wait_until(lambda: waiter.has_lock)
    assert waiter.tokens[0] > token
    waiter.let_go()


def test_waiter_gets_the_lock_when_the_owner_closes_its_client(
    backend_under_test: BackendUnderTest, client: getc.Client
) -> None:
    dying = backend_under_test.open()
    lock = dying.lock(KEY)
    lock.acquire()
    waiter = Waiter(client.lock(KEY))
    wait_for_contenders(client, 2)
    dying.close()
    wait_until(lambda: waiter.has_lock)
    with pytest.raises(getc.NodeLost, match='the client was closed'):
        lock.ensure()
    lock.release()  # its key is deleted already
    waiter.let_go()


def test_owners_follow_in_the_order_in_which_they_came(
    backend_under_test: BackendUnderTest, client: getc.Client
) -> None:
    """G5, and G4: tokens rise.  kazoo TestSequence, Go MutexLockMultiNode."""
    waiters = []
    for number in range(6):
        waiters.append(Waiter(backend_under_test.open().lock(KEY)))
        wait_for_contenders(client, number + 1)
    tokens = []
    for number, waiter in enumerate(waiters):
        wait_until(lambda waiter=waiter: waiter.has_lock)  # type: ignore[misc]
        assert [each.has_lock for each in waiters] == [each is waiter for each in waiters], number
        tokens += waiter.tokens
        waiter.let_go()
    assert tokens == sorted(tokens)


def test_waiter_that_gives_up_in_the_middle_does_not_disturb_the_others(
    backend_under_test: BackendUnderTest, client: getc.Client
) -> None:
    """Go MutexLockSessionExpired: the waiter behind it must not take its deletion for its own turn."""
    first, second, third = (Waiter(client.lock(KEY)) for _ in range(3))
    wait_for_contenders(client, 3)
    second_in_line = next(waiter for waiter in (first, second, third) if not waiter.has_lock)
    second_in_line.greenlet.kill()
    wait_for_contenders(client, 2)
    assert sum(waiter.has_lock for waiter in (first, second, third)) == 1
    rest = [waiter for waiter in (first, second, third) if waiter is not second_in_line]
    for _ in rest:
        wait_until(lambda: any(waiter.has_lock for waiter in rest))
        next(waiter for waiter in rest if waiter.has_lock).let_go()


def test_no_two_owners_at_a_time_in_a_crowd(backend_under_test: BackendUnderTest, client: getc.Client) -> None:
    """G1.  kazoo test_lock_many_threads, Go MutexLock with many nodes."""
    owners: list[int] = []
    most: list[int] = []
    tokens: list[int] = []

    def work(lock: getc.Lock) -> None:
        for _ in range(4):
            with lock as token:
                owners.append(token)
                most.append(len(owners))
                tokens.append(token)
                gevent.sleep(0.001)
                owners.remove(token)

    clients = [backend_under_test.open() for _ in range(4)]
    gevent.joinall([gevent.spawn(work, each.lock(KEY)) for each in clients for _ in range(3)], raise_error=True)
    assert len(tokens) == 48 and max(most) == 1
    assert tokens == sorted(set(tokens))
    assert keys(client) == []


# -- greenlets of one object


def test_same_greenlet_cannot_acquire_twice(client: getc.Client) -> None:
    """kazoo test_same_thread_no_block, tooz acquire_twice_no_deadlock_releasing: never a deadlock."""
    lock = client.lock(KEY)
    with lock:
        for acquire in (lock.acquire, lock.try_acquire, lambda: lock.acquire(0)):
            with pytest.raises(RuntimeError, match='the lock is not re-entrant'):
                acquire()
        assert len(keys(client)) == 1
    assert lock.try_acquire() is not None


def test_greenlets_of_one_object_take_turns_in_order_with_one_key(client: getc.Client) -> None:
    lock = client.lock(KEY)
    order: list[int] = []

    def work(number: int) -> None:
        with lock:
            order.append(number)
            assert len(keys(client)) == 1
            gevent.sleep(0.001)

    gevent.joinall([gevent.spawn(work, number) for number in range(5)], raise_error=True)
    assert order == list(range(5))


def test_acquire_times_out_while_another_greenlet_of_the_object_holds_the_lock(client: getc.Client) -> None:
    waiter = Waiter(client.lock(KEY))
    wait_until(lambda: waiter.has_lock)
    assert waiter.lock.try_acquire() is None
    for timeout in (0, 0.05):
        with pytest.raises(getc.TimedOut, match='another greenlet of this process holds it: <Greenlet'):
            waiter.lock.acquire(timeout)
    waiter.let_go()


def test_killed_greenlet_gives_its_turn_to_the_next(client: getc.Client) -> None:
    lock = client.lock(KEY)
    first, second, third = (Waiter(lock) for _ in range(3))
    wait_until(lambda: first.has_lock)
    second.greenlet.kill()
    first.let_go()
    wait_until(lambda: third.has_lock)
    third.let_go()
    assert keys(client) == []


def test_lock_may_be_released_by_another_greenlet(client: getc.Client) -> None:
    lock = client.lock(KEY)
    gevent.spawn(lock.acquire).get(timeout=30)
    lock.release()
    assert keys(client) == []


# -- releasing (redis-py releasing_unlocked_lock_raises; tooz get_lock_release_broken; Go MutexUnlock twice)


def test_release_of_a_lock_that_is_not_held_is_a_runtime_error(client: getc.Client) -> None:
    lock = client.lock(KEY)
    with pytest.raises(RuntimeError, match=f'lock {KEY} is released without being held'):
        lock.release()
    lock.acquire()
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()


@pytest.mark.parametrize('timeout', [-1, 'x', True])
def test_invalid_timeout_raises_before_anything_is_sent(refusing: getc.Client, timeout: Any) -> None:
    lock = refusing.lock(KEY)
    for call in (lock.acquire, lock.release, lock.contenders):
        with pytest.raises((TypeError, ValueError), match='timeout'):
            call(timeout)  # type: ignore[operator]


@pytest.mark.parametrize(
    ('key', 'options'),
    [('/', {}), (7, {}), (KEY, {'ttl': 0}), (KEY, {'ttl': None}), (KEY, {'ttl': 1.5}), (KEY, {'value': 7})],
)
def test_invalid_argument_raises_before_anything_is_sent(refusing: getc.Client, key: Any, options: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        refusing.lock(key, **options)


def test_value_at_the_key_of_the_lock_is_refused(client: getc.Client) -> None:
    client.set(KEY, 'a value')
    lock = client.lock(KEY)
    with pytest.raises(getc.NotDir, match=r'a value exists at or above .*: delete it, or use another key'):
        lock.acquire()
    assert lock.state is OUT


# -- losses


def test_owner_whose_key_is_deleted_is_lost_and_the_next_one_holds_the_lock(
    client: getc.Client, other: getc.Client
) -> None:
    """redis-py releasing_lock_no_longer_owned_raises_error; kazoo lock_reconnect: harmless to the next owner."""
    lock = client.lock(KEY)
    losses: list[getc.Lock] = []
    assert lock.on_lost(losses.append) == losses.append
    token = lock.acquire()
    waiter = Waiter(other.lock(KEY))
    owner, next_one = wait_for_contenders(client, 2)
    delete(other, owner)
    wait_until(lambda: lock.state is LOST and waiter.has_lock)
    with pytest.raises(getc.NodeLost, match=f'lock {KEY} is not held: .*was deleted'):
        lock.ensure()
    with pytest.raises(getc.NodeLost):
        lock.guard
    assert (lock.token, lock.remaining()) == (None, 0.0)
    wait_until(lambda: losses == [lock])
    with pytest.raises(getc.NodeLost, match='was deleted'):
        lock.release()
    assert keys(client) == [next_one] and waiter.tokens[0] > token
    assert lock.state is OUT
    waiter.let_go()


def test_with_raises_node_lost_after_a_loss_unless_the_block_raised(client: getc.Client, other: getc.Client) -> None:
    lock = client.lock(KEY)

    def lose() -> None:
        delete(other, keys(other)[0])
        wait_until(lambda: lock.state is LOST)

    with pytest.raises(getc.NodeLost), lock:
        lose()
    with pytest.raises(ZeroDivisionError), lock:
        lose()
        raise ZeroDivisionError
    with lock as token:
        assert token


def test_waiter_whose_key_is_deleted_rejoins_at_the_end(client: getc.Client, other: getc.Client) -> None:
    """G5: a lost contender goes to the end.  Go: the lock of an expired session fails instead."""
    with client.lock(KEY, ttl=3):
        first = Waiter(other.lock(KEY, 'first', ttl=3))
        wait_for_contenders(client, 2)
        second = Waiter(client.lock(KEY, 'second', ttl=3))
        own = wait_for_contenders(client, 3)
        delete(client, own[1])
        wait_until(lambda: keys(client)[:1] == own[:1] and keys(client)[1:2] == own[2:] and len(keys(client)) == 3)
        assert [value.value for value in client.lock(KEY).contenders()][1:] == ['second', 'first']
    wait_until(lambda: second.has_lock)
    assert not first.has_lock
    second.let_go()
    wait_until(lambda: first.has_lock)
    assert first.tokens > second.tokens
    first.let_go()


def test_block_of_interrupting_ends_with_node_lost_at_the_loss(client: getc.Client, other: getc.Client) -> None:
    """A ``BaseException`` that ``except Exception`` in the block cannot swallow."""
    lock = client.lock(KEY)
    seen: list[type[BaseException]] = []

    def work() -> None:
        with lock.interrupting() as token:
            assert token == lock.token
            try:
                try:
                    Event().wait()
                except Exception as error:
                    seen.append(type(error))
            except BaseException as error:
                seen.append(type(error))
                raise

    def lose() -> None:
        delete(other, keys(other)[0])

    lock.acquire()
    gevent.spawn_later(0.01, lose)
    with pytest.raises(getc.NodeLost, match='was deleted') as caught:
        work()
    assert isinstance(caught.value.__cause__, (LockInterrupt, getc.NodeLost))
    assert seen == [LockInterrupt]
    with pytest.raises(getc.NodeLost):
        lock.interrupting().__enter__()
    with pytest.raises(getc.NodeLost):
        lock.release()


@pytest.mark.parametrize('end', [lambda lock, client: lock.release(), lambda lock, client: client.close()])
def test_block_of_interrupting_ends_when_another_greenlet_gives_up_the_lock(
    client: getc.Client, end: Callable[[getc.Lock, getc.Client], None]
) -> None:
    lock = client.lock(KEY)
    lock.acquire()
    gevent.spawn_later(0.01, end, lock, client)
    with pytest.raises(getc.NodeLost, match=f'lock {KEY} is not held'), lock.interrupting():
        Event().wait(30)


def test_block_of_interrupting_runs_on_when_it_gives_up_the_lock_itself(client: getc.Client) -> None:
    lock = client.lock(KEY)
    lock.acquire()
    with lock.interrupting():
        lock.release()
        gevent.sleep(0.01)
    lock.acquire()
    with lock.interrupting():
        client.close()
        gevent.sleep(0.01)


def test_nothing_is_thrown_after_the_block_of_interrupting(client: getc.Client, other: getc.Client) -> None:
    lock = client.lock(KEY)
    lock.acquire()
    with lock.interrupting():
        pass
    delete(other, keys(other)[0])
    wait_until(lambda: lock.state is LOST)
    gevent.sleep(0.01)
    with pytest.raises(getc.NodeLost):
        lock.release()


def test_interrupting_a_lock_that_is_not_held_raises(client: getc.Client) -> None:
    with pytest.raises(getc.NodeLost, match=f'lock {KEY} is not held: it has no key'):
        client.lock(KEY).interrupting()


# -- killed and struck greenlets (kazoo test_lock_cancel)


@pytest.mark.parametrize('strike', ['kill', 'timeout'])
def test_waiter_that_is_struck_leaves_no_key(client: getc.Client, other: getc.Client, strike: str) -> None:
    with client.lock(KEY):
        lock = other.lock(KEY)
        caught: list[BaseException] = []
        struck_by = gevent.GreenletExit() if strike == 'kill' else gevent.Timeout(0.2)  # which is not started

        def wait() -> None:
            try:
                lock.acquire()
            except BaseException as error:
                caught.append(error)

        waiting = gevent.spawn(wait)
        wait_for_contenders(client, 2)
        waiting.kill(struck_by)
        assert caught == [struck_by]
        wait_for_contenders(client, 1)
    assert lock.try_acquire() is not None


def test_waiter_raises_client_closed_when_its_client_is_closed(
    backend_under_test: BackendUnderTest, client: getc.Client
) -> None:
    """Also a greenlet that waits for its turn at the object."""
    closing = backend_under_test.open()
    with client.lock(KEY):
        lock = closing.lock(KEY)
        waiting = [gevent.spawn(lock.acquire) for _ in range(2)]
        wait_for_contenders(client, 2)
        closing.close()
        for greenlet in waiting:
            with pytest.raises(getc.ClientClosed):
                greenlet.get(timeout=30)
        wait_for_contenders(client, 1)
        with pytest.raises(getc.ClientClosed):
            lock.acquire()
        with pytest.raises(getc.ClientClosed):
            lock.try_acquire()


def test_lock_is_usable_while_the_api_is_detected(backend_under_test: BackendUnderTest) -> None:
    """The first call of a client."""
    if backend_under_test.name == 'v2':
        pytest.skip('the detection finds v3')
    with getc.etcd(backend_under_test.url, namespace=backend_under_test.namespace) as client, client.lock(KEY) as token:
        assert token


# -- namespaces (jetcd SegregationByNamespaces)


def test_lock_is_relative_to_the_namespace(backend_under_test: BackendUnderTest, client: getc.Client) -> None:
    inside = backend_under_test.open(namespace=(backend_under_test.namespace or '') + '/locks')
    with client.lock('/locks/a', 'outside'), client.lock('/a'):
        with pytest.raises(getc.TimedOut) as caught:
            inside.lock('/a').acquire(timeout=0)
        text = str(caught.value)
        assert text.startswith('lock /a was not acquired') and '/a/' in text and '/locks/a' not in text
        assert [value.value for value in inside.lock('/a').contenders()] == ['outside']
    with inside.lock('/a') as token:
        assert token
        guard = inside.lock('/b')
        guard.acquire()
        assert guard.guard.key.startswith('/b/') and guard.guard.created_index == guard.token


def test_release_raises_node_lost_when_the_loss_was_not_noticed_before(client: getc.Client, other: getc.Client) -> None:
    """The same case, without a watch or a renewal in between: the answer to the delete shows it."""
    lock = client.lock(KEY)
    lock.acquire()
    delete(other, keys(other)[0])
    with pytest.raises(getc.NodeLost, match=f'lock {KEY} (was lost before it was released|is not held): .*was deleted'):
        lock.release()
    assert lock.state is OUT
