"""``etcd.v3.lock`` between two clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc.errors import LeaseNotFound
from getc.v3 import schema

SERVICE = schema.Lock


@pytest.fixture
def mine(client: getc.Client) -> int:
    return client.v3.lease.grant(600).ID


@pytest.fixture
def theirs(other: getc.Client) -> int:
    return other.v3.lease.grant(600).ID


def queued(client: getc.Client) -> int:
    """Return how many requests hold the lock or wait for it."""
    return client.v3.kv.range(b'name/', range_end=b'name0', count_only=True).count


def test_lock_blocks_while_another_lease_holds_it(
    client: getc.Client, other: getc.Client, mine: int, theirs: int, spawn: Callable[..., Any], wait_until: Any
) -> None:
    held = client.v3.lock.lock(b'name', lease=mine)
    assert held.key.startswith(b'name/')
    waiting = spawn(other.v3.lock.lock, b'name', lease=theirs)
    wait_until(lambda: queued(client) == 2)
    assert not waiting.ready()
    client.v3.lock.unlock(held.key)
    assert waiting.get().key != held.key


def test_lock_is_released_when_its_lease_ends(
    client: getc.Client, other: getc.Client, mine: int, theirs: int, spawn: Callable[..., Any], wait_until: Any
) -> None:
    client.v3.lock.lock(b'name', lease=mine)
    waiting = spawn(other.v3.lock.lock, b'name', lease=theirs)
    wait_until(lambda: queued(client) == 2)
    client.v3.lease.revoke(mine)
    assert client.v3.kv.range(waiting.get().key).kvs[0].lease == theirs


def test_lock_is_reentrant_for_one_lease(client: getc.Client, mine: int) -> None:
    held = client.v3.lock.lock(b'name', lease=mine)
    assert client.v3.lock.lock(b'name', lease=mine).key == held.key


def test_killed_caller_leaves_the_queue(
    client: getc.Client, other: getc.Client, mine: int, theirs: int, spawn: Callable[..., Any], wait_until: Any
) -> None:
    held = client.v3.lock.lock(b'name', lease=mine)
    waiting = spawn(other.v3.lock.lock, b'name', lease=theirs)
    wait_until(lambda: queued(client) == 2)
    waiting.kill()
    wait_until(lambda: queued(client) == 1)
    client.v3.lock.unlock(held.key)
    assert queued(client) == 0


def test_lock_times_out(client: getc.Client, other: getc.Client, mine: int, theirs: int, wait_until: Any) -> None:
    client.v3.lock.lock(b'name', lease=mine)
    with pytest.raises(getc.TimedOut) as caught:
        other.v3.lock.lock(b'name', lease=theirs, timeout=0.2)
    assert caught.value.maybe_applied
    wait_until(lambda: queued(client) == 1)


def test_lock_with_a_missing_lease_raises(client: getc.Client) -> None:
    with pytest.raises(LeaseNotFound):
        client.v3.lock.lock(b'name', lease=4711)
    assert queued(client) == 0


def test_unlock_of_a_lock_that_is_not_held_does_nothing(client: getc.Client, mine: int) -> None:
    held = client.v3.lock.lock(b'name', lease=mine)
    client.v3.lock.unlock(held.key)
    client.v3.lock.unlock(held.key)
    assert queued(client) == 0


def test_lock_excludes_many_concurrent_holders(client: getc.Client, other: getc.Client) -> None:
    inside, most = 0, 0

    def work(on: getc.Client) -> None:
        nonlocal inside, most
        held = on.v3.lock.lock(b'name', lease=on.v3.lease.grant(600).ID, timeout=60)
        inside += 1
        most = max(most, inside)
        on.v3.kv.put(b'/work', b'')
        inside -= 1
        on.v3.lock.unlock(held.key)

    gevent.joinall([gevent.spawn(work, on) for on in [client, other] * 10], raise_error=True)
    assert most == 1
