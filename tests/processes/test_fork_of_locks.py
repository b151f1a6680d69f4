"""Fork: locks that are held or waited for stay with the parent; others work in the child."""

from __future__ import annotations

import json

import pytest

import getc
from getc.testing import EtcdServer
from tests.support.programs import Run

pytestmark = pytest.mark.slow


def test_locks_stay_with_the_parent_and_new_ones_work_in_the_child(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run
) -> None:
    with client.lock('/locks/busy', ttl=60):
        program = run('locking.py', etcd_server.url, api)
        line = program.read_line()
        assert line, program.end().errors
        child = json.loads(line)
        parent = json.loads(program.read_line())
        assert program.end().errors == ''
    reason = 'lock /locks/held is not held: it belongs to the parent of this forked process'
    assert child == {
        'ensure': f'NodeLost: {reason}',
        'state': ['OUT', 'OUT'],
        'remaining': 0.0,
        'token': None,
        'release': f'NodeLost: {reason}',
        'again': None,
        'idle': True,
        'new': True,
        'waiting': 'ClientClosed: lock /locks/busy belongs to the parent of this forked process',
        'contenders': [1, 2, 1],
    }
    assert parent == {
        'ensure': True,
        'state': ['HELD', 'WAITING'],
        'waiting': False,
        'contenders': [1, 2, 0],
        'released': 0,
    }


def test_rw_locks_stay_with_the_parent_and_work_in_the_child(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run
) -> None:
    with client.rwlock('/locks/busy', ttl=60).write:
        program = run('rwlocking.py', etcd_server.url, api)
        line = program.read_line()
        assert line, program.end().errors
        child = json.loads(line)
        parent = json.loads(program.read_line())
        assert program.end().errors == ''
    reason = 'read lock /locks/held is not held: it belongs to the parent of this forked process'
    closed = 'lock /locks/busy belongs to the parent of this forked process'
    assert child == {
        'ensure': f'NodeLost: {reason}',
        'state': ['OUT', 'OUT'],
        'token': None,
        'release': f'NodeLost: {reason}',
        'write': None,
        'read': True,
        'waiting': [f'ClientClosed: read {closed}', f'ClientClosed: write {closed}'],
        'contenders': [2, 3],
    }
    assert parent == {
        'ensure': True,
        'state': ['HELD', 'WAITING'],
        'waiting': [False, False],
        'contenders': [1, 3],
        'released': 0,
    }
