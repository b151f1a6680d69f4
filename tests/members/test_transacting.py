"""Transactions on three members whose leaders are lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc.recipes import STM
from getc.testing import EtcdCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ACCOUNTS = ('/gold/ann', '/gold/bob', '/gold/cid')
TOTAL = 300
ROUNDS = 3
PATIENT = 60.0


def move_one(stm: STM) -> None:
    """Move a piece of gold to another account, and count the move."""
    moves = int(stm.get('/moves').value or '')
    source, target = ACCOUNTS[moves % 3], ACCOUNTS[(moves + 1 + moves // 3 % 2) % 3]
    stm.set(source, str(int(stm.get(source).value or '') - 1))
    stm.set(target, str(int(stm.get(target).value or '') + 1))
    stm.set('/moves', str(moves + 1))


def test_money_moves_correctly_while_leaders_are_lost(
    cluster: EtcdCluster, open_client: Callable[..., getc.Client], wait_until: Any, spawn: Any
) -> None:
    """The sum is constant at every revision, and the number of moves lies between the sure and the possible ones."""
    clients = [open_client(first) for first in range(3)]
    for account in ACCOUNTS:
        clients[0].set(account, str(TOTAL // 3), timeout=PATIENT)
    clients[0].set('/moves', '0', timeout=PATIENT)
    sums: list[int] = []
    watcher = open_client(1)
    mirror = watcher.mirror('/gold', on_update=lambda _: sums.append(sum(map(int, mirror.values()))))
    counts = {'sure': 0, 'possible': 0}
    is_over = False

    def work(client: getc.Client) -> None:
        while not is_over:
            try:
                client.atomically(move_one, timeout=PATIENT)
                counts['sure'] += 1
            except getc.EtcException as error:
                counts['possible'] += error.maybe_applied
                gevent.sleep(0.05)

    workers = [spawn(work, client) for client in clients]
    for _ in range(ROUNDS):
        done = counts['sure']
        wait_until(lambda done=done: counts['sure'] >= done + 20)
        leader = cluster.leader()
        stop, start = (cluster.pause, cluster.resume) if cluster.binary.may_diverge else (cluster.kill, cluster.restart)
        stop(leader)
        done = counts['sure']
        wait_until(lambda done=done: counts['sure'] >= done + 20)
        start(leader)
    is_over = True
    gevent.joinall(workers, raise_error=True)
    final = sum(int(clients[0].get(account, timeout=PATIENT).value or '') for account in ACCOUNTS)
    moves = int(clients[0].get('/moves', timeout=PATIENT).value or '')
    assert final == TOTAL
    assert set(sums) <= {TOTAL}
    assert len(sums) >= 20
    assert counts['sure'] <= moves <= counts['sure'] + counts['possible']
