"""Thousands of clients that are opened and closed leave nothing behind, in the process and in etcd."""

from __future__ import annotations

import itertools
import json
import sys

import pytest

import getc
from getc.testing import EtcdServer, wait_until
from tests.support.programs import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != 'linux', reason='counts the files of a process in /proc'),
    pytest.mark.timeout(300),
]

CLIENTS = 1000
_numbers = itertools.count()


def check(run: Run, url: str, api: str, end: str) -> None:
    """Check that 1,000 clients leave no file and no greenlet, and fewer than 100 objects."""
    ended = run('opening.py', url, api, end).end()
    assert (ended.status, ended.errors) == (0, '')
    left = json.loads(ended.output)
    assert (left['files'], left['greenlets']) == (0, 0)
    assert left['objects'] < CLIENTS / 10
    assert left['blocks'] < CLIENTS / 10


def lease_ids(client: getc.Client) -> set[int]:
    """Return all leases of etcd, including those of other tests."""
    return {lease.ID for lease in client.v3.lease.leases().leases}


@pytest.mark.parametrize(
    ('api', 'end'),
    [('v3', 'unused'), ('v3', 'closed'), ('v3', 'left'), ('v3', 'dropped'), ('v2', 'left'), ('v2', 'dropped')],
    indirect=['api'],
)
def test_clients_leave_nothing_behind(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run, end: str
) -> None:
    """They also leave no node in etcd, and no lease after its TTL."""
    leases = lease_ids(client) if api == 'v3' else set()
    check(run, etcd_server.url, api, end)
    if api == 'v3':
        wait_until(lambda: lease_ids(client) <= leases)
        assert client.get('/', recursive=True).nodes == ()
    else:
        assert [node.nodes for node in client.get('/', recursive=True).nodes] in ([], [()])  # v2 keeps the directory


@pytest.mark.parametrize('end', ['closed', 'dropped'])
def test_memory_clients_leave_nothing_behind(run: Run, end: str) -> None:
    """A memory store lives as long as one of its clients."""
    check(run, f'memory://many-{next(_numbers)}', 'memory', end)
