"""Owners of a semaphore that die without a word, or fork."""

from __future__ import annotations

import json

import gevent
import pytest

import getc
from getc.recipes import Semaphore
from getc.testing import EtcdServer, wait_until
from tests.support.programs import Run

pytestmark = pytest.mark.slow

LIMIT = 2
TTL = 2


def test_killed_owner_admits_exactly_one_waiter(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run
) -> None:
    programs = [run('semaphores.py', etcd_server.url, api, str(LIMIT), str(TTL)) for _ in range(2)]
    for program in programs:
        assert program.read_line() == 'in'
    semaphores = [Semaphore(client, '/slots/a', LIMIT, ttl=60) for _ in range(3)]
    inside: list[int] = []

    def work(semaphore: Semaphore) -> None:
        inside.append(semaphore.acquire())

    waiting = [gevent.spawn(work, semaphore) for semaphore in semaphores]
    wait_until(lambda: len(semaphores[0].contenders()) == 5)
    assert inside == []
    victim, survivor = programs
    victim.kill()
    wait_until(lambda: len(inside) == 1)
    assert len(semaphores[0].contenders()) == 4
    assert [value.created_index for value in semaphores[0].holders()][1] == inside[0]
    assert sum(greenlet.dead for greenlet in waiting) == 1
    assert survivor.end('\n').status == 0
    wait_until(lambda: len(inside) == 2)
    assert len(semaphores[0].contenders()) == 3 and inside == sorted(inside)
    gevent.killall(waiting)


def test_semaphore_stays_with_the_parent_and_its_object_works_in_the_child(
    etcd_server: EtcdServer, api: str, run: Run
) -> None:
    program = run('forking_semaphores.py', etcd_server.url, api)
    line = program.read_line()
    assert line, program.end().errors
    assert json.loads(line) == {
        'ensure': 'NodeLost',
        'state': 'OUT',
        'release': 'NodeLost',
        'again': None,
        'wait': 'TimedOut',
        'waiting': 'ClientClosed',
    }
    assert json.loads(program.read_line()) == {'ensure': True, 'waiting': False, 'contenders': 2, 'next': True}
    assert program.end().errors == ''
