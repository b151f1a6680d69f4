"""Semaphores on every backend.  Many cases are situations of kazoo's ``TestSemaphore``."""

from __future__ import annotations

import re
from typing import Any

import gevent
import pytest

import getc
from getc.recipes import ContenderState, Semaphore
from getc.testing import wait_until
from tests.contract.conftest import BackendUnderTest
from tests.support.waiter import Waiter

KEY = '/slots/a'
OUT, WAITING, HELD, LOST = ContenderState.OUT, ContenderState.WAITING, ContenderState.HELD, ContenderState.LOST


def values(client: getc.Client) -> list[str]:
    """Return the values of all contenders, in their order."""
    return [value.value for value in Semaphore(client, KEY, 1).contenders()]


def wait_for_contenders(client: getc.Client, count: int) -> None:
    wait_until(lambda: len(values(client)) == count)


# -- owners (kazoo test_basic, test_lock_one, test_reacquire, test_holders, test_non_blocking)


def test_semaphore_is_held_in_the_block_and_free_after_it(client: getc.Client, other: getc.Client) -> None:
    """kazoo test_basic."""
    semaphore = Semaphore(client, KEY, 2, value='me')
    assert semaphore.state is OUT
    with semaphore as token:
        assert (semaphore.token, semaphore.ensure(), semaphore.state.name) == (token, token, 'HELD')
        (owner,) = Semaphore(other, KEY, 2).holders()
        assert (owner.value, owner.created_index) == ('me', token)
        assert re.fullmatch(f'{KEY}/slots/[0-9a-f]{{16}}', owner.key)
        assert repr(semaphore) == f'<getc.Semaphore {KEY} HELD limit=2 ttl=10>'
    assert semaphore.token is None
    assert values(client) == []
    assert other.get(f'{KEY}/limit').value == '2'


def test_semaphore_can_be_acquired_again_after_release(client: getc.Client) -> None:
    """kazoo test_reacquire, test_acquire_after_cancelled."""
    semaphore = Semaphore(client, KEY, 1)
    tokens = []
    for _ in range(3):
        tokens.append(semaphore.acquire())
        semaphore.release()
    assert tokens == sorted(set(tokens))


def test_as_many_as_the_limit_hold_it(client: getc.Client, other: getc.Client) -> None:
    """kazoo test_non_blocking, test_non_blocking_release."""
    first, second, third = (
        Semaphore(each, KEY, 2, value=name) for each, name in zip((client, other, client), 'abc', strict=True)
    )
    first.acquire()
    second.acquire()
    assert third.try_acquire() is None
    assert [value.value for value in first.holders()] == ['a', 'b'] == values(client)
    with pytest.raises(RuntimeError, match=f'semaphore {KEY} is released by a greenlet that does not hold it'):
        third.release()
    second.release()
    third.acquire()
    assert [value.value for value in first.holders()] == ['a', 'c']
    first.release()
    third.release()
    assert values(client) == []


def test_greenlets_of_one_object_share_its_limit(client: getc.Client) -> None:
    semaphore = Semaphore(client, KEY, 3)
    most: list[int] = []
    inside: list[int] = []

    def work() -> None:
        for _ in range(3):
            with semaphore as token:
                inside.append(token)
                most.append(len(inside))
                gevent.sleep(0.001)
                inside.remove(token)

    gevent.joinall([gevent.spawn(work) for _ in range(8)], raise_error=True, timeout=60)
    assert len(most) == 24 and max(most) == 3
    assert values(client) == []


def test_waiter_gets_in_when_any_owner_releases(client: getc.Client, other: getc.Client) -> None:
    """kazoo test_lock_one; holders lists the owners only (test_holders)."""
    for number in range(3):
        owners = [Semaphore(client, KEY, 3, value=f'owner {each}') for each in range(3)]
        for owner in owners:
            owner.acquire()
        waiter = Waiter(Semaphore(other, KEY, 3, value='waiter'))
        wait_for_contenders(client, 4)
        assert [value.value for value in owners[0].holders()] == ['owner 0', 'owner 1', 'owner 2']
        assert not waiter.has_lock
        owners.pop(number).release()
        wait_until(lambda waiter=waiter: waiter.has_lock)  # type: ignore[misc]
        waiter.let_go()
        for owner in owners:
            owner.release()


def test_waiters_get_in_in_the_order_in_which_they_came(
    backend_under_test: BackendUnderTest, client: getc.Client
) -> None:
    waiters = []
    for number in range(6):
        waiters.append(Waiter(Semaphore(backend_under_test.open(), KEY, 2)))
        wait_for_contenders(client, number + 1)
    for number in range(6):
        wait_until(lambda number=number: all(waiter.has_lock for waiter in waiters[number : number + 2]))  # type: ignore[misc]
        assert not any(waiter.has_lock for waiter in waiters[number + 2 :])
        waiters[number].let_go()
    tokens = [waiter.tokens[0] for waiter in waiters]
    assert tokens == sorted(tokens)


def test_waiter_that_is_killed_lets_those_behind_it_move_up(client: getc.Client, other: getc.Client) -> None:
    """kazoo test_semaphore_cancel."""
    owner = Semaphore(client, KEY, 1)
    owner.acquire()
    crowd = Semaphore(other, KEY, 1)
    killed = Waiter(crowd)
    wait_for_contenders(client, 2)
    behind = Waiter(crowd)
    wait_for_contenders(client, 3)
    killed.greenlet.kill()
    wait_for_contenders(client, 2)
    assert not behind.has_lock
    owner.release()
    wait_until(lambda: behind.has_lock)
    behind.let_go()


# -- the limit (kazoo test_inconsistent_max_leases, .._other_data)


def test_another_limit_is_a_value_error_that_names_both(client: getc.Client, other: getc.Client) -> None:
    with Semaphore(client, KEY, 1):
        semaphore = Semaphore(other, KEY, 2)
        for acquire in (semaphore.acquire, semaphore.try_acquire):
            with pytest.raises(
                ValueError, match=f'semaphore {KEY} has the limit 1 in {KEY}/limit, not 2: use the same'
            ):
                acquire()
        assert semaphore.state is OUT and len(values(client)) == 1
        client.set(f'{KEY}/limit', 'a$')
        with pytest.raises(ValueError, match=r'has the limit a\$ in'):
            semaphore.acquire()


def test_limit_can_be_changed_while_no_program_runs(client: getc.Client, other: getc.Client) -> None:
    with Semaphore(client, KEY, 1):
        pass
    other.delete(f'{KEY}/limit')
    with Semaphore(other, KEY, 2), pytest.raises(ValueError, match='has the limit 2'):
        Semaphore(client, KEY, 1).acquire()


@pytest.mark.parametrize(
    ('key', 'limit', 'options'),
    [('/', 1, {}), (KEY, 0, {}), (KEY, 1.5, {}), (KEY, True, {}), (KEY, 1, {'ttl': 0}), (KEY, 1, {'value': 7})],
)
def test_invalid_argument_raises_before_anything_is_sent(
    refusing: getc.Client, key: Any, limit: Any, options: Any
) -> None:
    with pytest.raises((TypeError, ValueError)):
        Semaphore(refusing, key, limit, **options)


@pytest.mark.parametrize('key', [KEY, f'{KEY}/slots'])
def test_value_at_the_key_is_refused(client: getc.Client, key: str) -> None:
    client.set(key, 'a value')
    with pytest.raises(getc.NotDir):
        Semaphore(client, KEY, 1).acquire()


# -- mistakes, timeouts, losses (kazoo test_multiple_acquire_and_release, test_timeout, test_handle_session_loss)


def test_same_greenlet_cannot_acquire_twice(client: getc.Client) -> None:
    semaphore = Semaphore(client, KEY, 2)
    with semaphore:
        for acquire in (semaphore.acquire, semaphore.try_acquire):
            with pytest.raises(RuntimeError, match=f'holds semaphore {KEY} already: .* is not re-entrant'):
                acquire()
    with pytest.raises(RuntimeError):
        semaphore.release()


@pytest.mark.parametrize('timeout', [0, 0.2])
def test_acquire_that_times_out_names_an_owner_and_leaves_no_key(
    client: getc.Client, other: getc.Client, timeout: float
) -> None:
    with Semaphore(client, KEY, 1, value='the owner') as token:
        with pytest.raises(getc.TimedOut) as caught:
            Semaphore(other, KEY, 1).acquire(timeout)
        assert str(caught.value).startswith(f'semaphore {KEY} was not acquired within {timeout:g} s: {KEY}/slots/')
        assert str(caught.value).endswith(f"is first, with the value 'the owner' and the index {token}")
        wait_until(lambda: values(client) == ['the owner'])


def test_owner_whose_key_is_deleted_is_lost_and_one_waiter_gets_in(client: getc.Client, other: getc.Client) -> None:
    semaphore = Semaphore(client, KEY, 2)
    losses: list[object] = []
    semaphore.on_lost(losses.append)
    semaphore.acquire()
    unharmed = Waiter(semaphore)
    wait_for_contenders(client, 2)
    waiters = [Waiter(Semaphore(other, KEY, 2)) for _ in range(2)]
    wait_for_contenders(client, 4)
    other.delete(semaphore.holders()[0].key)
    wait_until(lambda: semaphore.state is LOST and any(waiter.has_lock for waiter in waiters))
    with pytest.raises(getc.NodeLost, match=f'semaphore {KEY} is not held: .*was deleted'):
        semaphore.ensure()
    wait_until(lambda: losses == [semaphore])
    with pytest.raises(getc.NodeLost):
        semaphore.release()
    assert unharmed.has_lock and [waiter.has_lock for waiter in waiters].count(True) == 1
    unharmed.let_go()
    wait_until(lambda: all(waiter.has_lock for waiter in waiters))
    for waiter in waiters:
        waiter.let_go()


def test_waiter_whose_key_is_deleted_rejoins_at_the_end(client: getc.Client, other: getc.Client) -> None:
    with Semaphore(client, KEY, 1, ttl=3, value='owner'):
        first = Waiter(Semaphore(other, KEY, 1, ttl=3, value='first'))
        wait_for_contenders(client, 2)
        second = Waiter(Semaphore(other, KEY, 1, ttl=3, value='second'))
        wait_for_contenders(client, 3)
        other.delete(first.lock.contenders()[1].key)
        wait_until(lambda: values(client) == ['owner', 'second', 'first'])
    for waiter in (second, first):
        wait_until(lambda waiter=waiter: waiter.has_lock)  # type: ignore[misc]
        waiter.let_go()


def test_close_ends_owners_and_waiters(backend_under_test: BackendUnderTest, client: getc.Client) -> None:
    closing = backend_under_test.open()
    semaphore = Semaphore(closing, KEY, 1)
    semaphore.acquire()
    waiting = [gevent.spawn(semaphore.acquire) for _ in range(2)]
    wait_for_contenders(client, 3)
    closing.close()
    for greenlet in waiting:
        with pytest.raises(getc.ClientClosed):
            greenlet.get(timeout=30)
    wait_for_contenders(client, 0)
    with pytest.raises(getc.NodeLost, match='the client was closed'):
        semaphore.ensure()
    semaphore.release()
    with pytest.raises(getc.ClientClosed):
        semaphore.acquire()


def test_deletion_of_the_directory_lets_waiters_rejoin(client: getc.Client, other: getc.Client) -> None:
    owner = Semaphore(client, KEY, 1, ttl=3)
    owner.acquire()
    waiter = Waiter(Semaphore(other, KEY, 1, ttl=3))
    wait_for_contenders(client, 2)
    other.delete(f'{KEY}/slots', recursive=True)
    wait_until(lambda: owner.state is LOST and waiter.has_lock)
    with pytest.raises(getc.NodeLost):
        owner.release()
    waiter.let_go()


def test_semaphore_is_relative_to_the_namespace(backend_under_test: BackendUnderTest, client: getc.Client) -> None:
    inside = backend_under_test.open(namespace=(backend_under_test.namespace or '') + '/slots')
    with Semaphore(client, KEY, 1, value='outside'):
        waiter = Waiter(Semaphore(inside, '/a', 1))
        wait_for_contenders(client, 2)
        assert [value.value for value in Semaphore(inside, '/a', 1).holders()] == ['outside']
        with pytest.raises(ValueError, match='semaphore /a has the limit 1 in /a/limit, not 2'):
            Semaphore(inside, '/a', 2).acquire()
    wait_until(lambda: waiter.has_lock)
    waiter.let_go()


@pytest.mark.transactions
def test_guarded_write_is_applied_only_while_the_slot_is_held(client: getc.Client, other: getc.Client) -> None:
    semaphore = Semaphore(client, KEY, 2)
    semaphore.acquire()
    with client.transaction(guard=semaphore) as t:
        t.set('/score', '1')
    late = client.transaction(guard=semaphore)
    other.delete(semaphore.holders()[0].key)
    with pytest.raises(getc.NodeLost), late as t:
        t.set('/score', '2')
    assert other.get('/score').value == '1'
    with pytest.raises(getc.NodeLost):
        semaphore.release()
