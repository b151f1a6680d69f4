"""RW locks while members of the cluster hang, are cut off, and the leader changes."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

import getc
from getc.testing import EtcdCluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = '/locks/a'
TTL = 10


def test_readers_see_no_write_while_leaders_hang_and_are_cut_off(
    cluster: EtcdCluster, open_client: Callable[..., getc.Client]
) -> None:
    """A reader reads a counter twice; writers lose no update; both go on after each fault, and no key is left."""
    clients = [open_client(number % 3) for number in range(6)]
    clients[0].set('/counter', '0')
    done = {'read': 0, 'write': 0}
    ambiguous: list[getc.EtcException] = []
    is_over = False

    def counter(client: getc.Client) -> int:
        return int(client.get('/counter').value or '')

    def write(lock: getc.RWLock, client: getc.Client) -> None:
        with lock.write:
            transaction = client.transaction(guard=lock.write)
            value = counter(client)
            with transaction as t:
                t.set('/counter', str(value + 1))
            done['write'] += 1

    def read(lock: getc.RWLock, client: getc.Client) -> None:
        with lock.read:
            before = counter(client)
            gevent.sleep(0.001)
            after = counter(client)
            lock.read.ensure()
            assert before == after, 'a writer has written while this reader held the lock'
            done['read'] += 1

    def work(client: getc.Client, action: Callable[[getc.RWLock, getc.Client], None]) -> None:
        lock = client.rwlock(KEY, ttl=TTL)
        while not is_over:
            try:
                action(lock, client)
            except getc.EtcException as error:
                if error.maybe_applied:
                    ambiguous.append(error)

    def wait_for_progress() -> None:
        before = dict(done)
        wait_until(lambda: failed() or all(done[side] >= before[side] + 10 for side in done))
        assert not failed()

    def failed() -> bool:
        return any(worker.dead for worker in workers)

    workers = [gevent.spawn(work, client, write if number < 2 else read) for number, client in enumerate(clients)]
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
    assert done['write'] <= counter(clients[0]) <= done['write'] + len(ambiguous)
    wait_until(lambda: clients[0].rwlock(KEY).contenders() == ())
