"""A counter in etcd that several processes increment, while their owner is stopped for longer than its TTL.

The docs use it as the example for ``transaction(guard=...)``.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import gevent
import pytest

import getc
from getc.testing import EtcdServer
from tests.support.programs import Program, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TTL = 2
ROUNDS = 3
INCREMENTS = 4
"""Increments of the second process while the first one is stopped."""


@pytest.fixture
def client(etcd_server: EtcdServer) -> Iterator[getc.Client]:
    with getc.etcd(etcd_server.url, api='v3') as client:
        client.set('/counter', '0')
        yield client


def line_of(program: Program) -> str:
    """Return the next line that the program prints, without blocking the hub."""
    line: str = gevent.get_hub().threadpool.apply(program.read_line)
    return line


def count_with_a_stopped_owner(run: Run, url: str, recipe: str, mode: str) -> tuple[int, set[str]]:
    """Stop the owner between its read and its write for three TTLs, several times.

    Meanwhile another process becomes the owner, and increments the counter.

    Returns:
        The number of increments that were reported as written, and what the stopped owners reported.
    """
    wrote = 0
    reported = set()
    for _ in range(ROUNDS):
        stopped = run('counting.py', url, recipe, mode, str(TTL))
        assert line_of(stopped).startswith('read ')
        other = run('counting.py', url, recipe, mode, str(TTL))
        stopped.send(signal.SIGSTOP)
        gevent.sleep(3 * TTL)
        for _ in range(INCREMENTS):
            assert line_of(other).startswith('read ')
            other.write('go\n')
            wrote += line_of(other) == 'wrote'
        assert line_of(other).startswith('read ')  # it owns the node when the first process goes on
        stopped.write('go\n')
        stopped.send(signal.SIGCONT)
        reported.add(line_of(stopped))
        wrote += mode == 'unguarded'
        other.write('go\n')
        wrote += line_of(other) == 'wrote'
        for program in stopped, other:
            program.kill()
    return wrote, reported


@pytest.mark.parametrize('recipe', ['lock', 'keeper'])
def test_guarded_counter_loses_no_update_when_its_owner_is_stopped(
    run: Run, etcd_server: EtcdServer, client: getc.Client, recipe: str
) -> None:
    """Every increment that was reported as written counts; the owner that was stopped is refused."""
    wrote, reported = count_with_a_stopped_owner(run, etcd_server.url, recipe, 'guarded')
    assert reported == {'lost'}
    assert int(client.get('/counter').value or '') == wrote > 0


@pytest.mark.parametrize('recipe', ['lock', 'keeper'])
def test_unguarded_counter_loses_updates_when_its_owner_is_stopped(
    run: Run, etcd_server: EtcdServer, client: getc.Client, recipe: str
) -> None:
    """Ownership alone does not protect other nodes: the late write of the former owner overwrites the others."""
    wrote, reported = count_with_a_stopped_owner(run, etcd_server.url, recipe, 'unguarded')
    assert reported == {'wrote'}
    assert int(client.get('/counter').value or '') < wrote
