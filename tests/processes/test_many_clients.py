"""Thousands of clients, opened and ended: nothing of them is left, here or in etcd."""

from __future__ import annotations

import itertools
import json
import sys

import pytest

import getc
from getc.testing import EtcdServer, wait_until
from tests.processes.conftest import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != 'linux', reason='counts the files of a process in /proc'),
    pytest.mark.timeout(300),
]

CLIENTS = 1000
_numbers = itertools.count()


def check(run: Run, url: str, api: str, end: str) -> None:
    """1,000 clients leave no file, no greenlet, and not one object for every ten of them."""
    ended = run('opening.py', url, api, end).end()
    assert (ended.status, ended.errors) == (0, '')
    left = json.loads(ended.output)
    assert (left['files'], left['greenlets']) == (0, 0)
    assert left['objects'] < CLIENTS / 10
    assert left['blocks'] < CLIENTS / 10


def leases_of(client: getc.Client) -> set[int]:
    """All that there are: those of other tests may be among them."""
    return {lease.ID for lease in client.v3.lease.leases().leases}


@pytest.mark.parametrize(
    ('api', 'end'),
    [('v3', 'unused'), ('v3', 'closed'), ('v3', 'left'), ('v3', 'dropped'), ('v2', 'left'), ('v2', 'dropped')],
    indirect=['api'],
)
def test_clients_leave_nothing_behind(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run, end: str
) -> None:
    """Nor do they leave a node, or a lease for longer than its TTL, in etcd."""
    leases = leases_of(client) if api == 'v3' else set()
    check(run, etcd_server.url, api, end)
    if api == 'v3':
        wait_until(lambda: leases_of(client) <= leases)
        assert client.get('/', recursive=True).nodes == ()
    else:
        assert [node.nodes for node in client.get('/', recursive=True).nodes] in ([], [()])  # v2 keeps the directory


@pytest.mark.parametrize('end', ['closed', 'dropped'])
def test_clients_of_a_store_in_memory_leave_nothing_behind(run: Run, end: str) -> None:
    """The store is there for as long as a client of it is."""
    check(run, f'memory://many-{next(_numbers)}', 'memory', end)
