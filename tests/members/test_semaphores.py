"""Semaphores while members of the cluster hang, are cut off, and the leader changes."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

import getc
from getc.recipes import Semaphore
from getc.testing import EtcdCluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = '/slots/a'
TTL = 10
LIMIT = 2


def test_no_more_certain_owners_than_the_limit_while_leaders_hang_and_are_cut_off(
    cluster: EtcdCluster, open_client: Callable[..., getc.Client]
) -> None:
    """The semaphore goes on after each fault, and no key is left at the end."""
    clients = [open_client(number % 3) for number in range(6)]
    semaphores = [Semaphore(client, KEY, LIMIT, ttl=TTL) for client in clients]
    done: list[int] = []
    most = 0
    is_over = False

    def certain_owners() -> int:
        return sum(bool(each.remaining()) for semaphore in semaphores for each in semaphore._holders.values())

    def work(semaphore: Semaphore) -> None:
        nonlocal most
        while not is_over:
            try:
                with semaphore as token:
                    most = max(most, certain_owners())
                    gevent.sleep(0.002)
                    most = max(most, certain_owners())
                    done.append(token)
            except getc.EtcException:
                pass

    workers = [gevent.spawn(work, semaphore) for semaphore in semaphores for _ in range(2)]

    def wait_for_progress() -> None:
        before = len(done)
        wait_until(lambda: len(done) >= before + 20)

    try:
        for fault in (cluster.pause, cluster.isolate):
            wait_for_progress()
            fault(cluster.leader())
            wait_for_progress()
            cluster.recover()
    finally:
        is_over = True
        cluster.recover()
        gevent.joinall(workers, timeout=120, raise_error=True)
    assert all(worker.dead for worker in workers)
    assert most == LIMIT
    wait_until(lambda: semaphores[0].contenders() == ())
