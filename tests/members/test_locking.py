"""Locks while members of the cluster hang, are cut off, and the leader changes."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

import getc
from getc.testing import EtcdCluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = '/locks/a'
TTL = 10


def test_guarded_counter_loses_no_update_while_leaders_hang_and_are_cut_off(
    cluster: EtcdCluster, open_client: Callable[..., getc.Client]
) -> None:
    """Tokens rise with each owner, the lock goes on after each fault, and no key is left at the end."""
    clients = [open_client(number % 3) for number in range(6)]
    clients[0].set('/counter', '0')
    done: list[tuple[int, int]] = []  # index of the write, and token
    ambiguous: list[getc.EtcException] = []
    is_over = False

    def work(client: getc.Client) -> None:
        lock = client.lock(KEY, ttl=TTL)
        while not is_over:
            try:
                with lock as token:
                    transaction = client.transaction(guard=lock)
                    value = int(client.get('/counter').value or '')
                    with transaction as t:
                        t.set('/counter', str(value + 1))
                    done.append((t.index, token))
            except getc.EtcException as error:
                if error.maybe_applied:
                    ambiguous.append(error)

    workers = [gevent.spawn(work, client) for client in clients]
    try:
        for fault in (cluster.pause, cluster.isolate) * 2:
            so_far = len(done)
            wait_until(lambda count=so_far + 20: len(done) >= count)  # type: ignore[misc]
            leader = cluster.leader()
            fault(leader)
            during = len(done)
            wait_until(lambda count=during + 20: len(done) >= count)  # type: ignore[misc]
            cluster.recover()
    finally:
        is_over = True
        cluster.recover()
        gevent.joinall(workers, timeout=120, raise_error=True)
    assert all(worker.dead for worker in workers)
    counter = int(clients[0].get('/counter').value or '')
    assert len(done) <= counter <= len(done) + len(ambiguous)
    tokens = [token for _, token in sorted(done)]
    assert tokens == sorted(tokens)
    wait_until(lambda: clients[0].lock(KEY).contenders() == ())


def test_waiters_of_three_members_follow_in_order_while_the_leader_moves(
    cluster: EtcdCluster, open_client: Callable[..., getc.Client]
) -> None:
    """Go MutexLockMultiNode and TryLockMultiNode, with a leader that changes with each owner."""
    clients = [open_client(number) for number in range(3)]
    locks = [clients[number % 3].lock(KEY, ttl=TTL) for number in range(6)]
    observer = clients[0].lock(KEY)
    tokens: list[int] = []

    def work(lock: getc.Lock) -> None:
        with lock as token:
            tokens.append(token)
            cluster.move_leader((cluster.leader() + 1) % 3)
            assert all(client.lock(KEY).try_acquire() is None for client in clients)

    workers = []
    for number, lock in enumerate(locks):
        workers.append(gevent.spawn(work, lock))
        wait_until(lambda count=number: len(observer.contenders()) > count or tokens[count:])  # type: ignore[misc]
    gevent.joinall(workers, timeout=120, raise_error=True)
    assert len(tokens) == 6 and tokens == sorted(tokens)
