"""Fork: the child opens its own connections, and the parent is not disturbed."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import pytest

import getc
from getc.testing import Certificates, EtcdBinary, EtcdServer, wait_until
from tests.support.api_support import skip_unless_supported
from tests.support.programs import Program, Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != 'linux', reason='looks at the sockets of a process in /proc'),
]


def read_facts(program: Program) -> Any:
    """Return the next line of JSON that the program prints."""
    line = program.read_line()
    assert line, program.end().errors
    return json.loads(line)


def start(run: Run, server: EtcdServer, *arguments: str, ttl: int = 60) -> tuple[Program, Any]:
    """Start the program; return it and the facts of its child, which is forked while a paused etcd blocks the calls."""
    program = run('forking.py', server.url, str(ttl), *arguments)
    read_facts(program)
    server.pause()
    try:
        program.write('\n')
        facts = read_facts(program)
    finally:
        server.resume()
    return program, facts


@pytest.mark.parametrize(('api', 'kind'), [('v3', 'plain'), ('v2', 'patched')], indirect=['api'])
def test_forked_child_opens_its_own_connections_and_does_not_disturb_its_parent(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run, kind: str
) -> None:
    """Keepers, watchers, mirrors and calls in flight belong to the parent; the child's client supports every call."""
    check(client, *start(run, etcd_server, api, kind))


@pytest.mark.parametrize(('api', 'kind'), [('v3', 'patched'), ('v2', 'plain')], indirect=['api'])
def test_forked_child_sends_no_tls_close_notify(etcd_binary: EtcdBinary, api: Any, run: Run, kind: str) -> None:
    """A close_notify alert would end the connections of the parent."""
    with Certificates() as certificates, EtcdServer(binary=etcd_binary.path, tls=certificates.one_way()) as server:
        with getc.etcd(server.url, api=api, ca=certificates.ca) as client:
            check(client, *start(run, server, api, kind, certificates.ca))


def check(client: getc.Client, program: Program, facts: Any) -> None:
    """Check the facts that the program prints, and the nodes in etcd."""
    assert facts == {
        'process': 'child',
        'shared': 0,
        'states': ['STOPPED'] * 4,
        'keeper': [
            0.0,
            'NodeLost: /servers/parent is not kept: STOPPED: it is kept by the parent of this forked process',
            'NodeLost: /servers/parent is not kept: STOPPED: it is kept by the parent of this forked process',
        ],
        'mirror': [{'/cfg/a': '0'}, True, 'ClientClosed: mirror /cfg belongs to the parent of this forked process'],
        'syncs': [
            'ClientClosed: mirror /cfg belongs to the parent of this forked process',
            'ClientClosed: on_change /cfg belongs to the parent of this forked process',
        ],
        'changes': 'ClientClosed: changes /cfg belongs to the parent of this forked process',
        'ended': [None, None, None, None, True],
    }
    assert read_facts(program) == {'process': 'child', 'followed': ['1'], 'value': '1', 'own': 'KEPT'}
    assert {node.key for node in client.get('/servers').nodes} == {'/servers/parent', '/servers/child'}
    program.write('\n')
    assert read_facts(program) == {'process': 'child', 'closed': 'STOPPED'}
    assert {node.key for node in client.get('/servers').nodes} == {'/servers/parent'}
    assert read_facts(program) == {
        'process': 'parent',
        'calls': [*(f'/calls/{number}' for number in range(5)), *['/cfg/a'] * 5],
        'waiting': ['x'] * 3,
        'changes': '1',
        'seen': ['1'],
        'lost': [],
        'states': ['CONNECTED'],
        'keeper': ['KEPT', True],
    }
    ended = program.end('\n')
    assert (ended.status, ended.output, ended.errors) == (0, '', '')


def test_nodes_of_a_killed_parent_expire_while_its_child_runs(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run
) -> None:
    """The child renews the nodes that it keeps itself."""
    program, _ = start(run, etcd_server, api, 'plain', ttl=2)
    read_facts(program)
    program.send(signal.SIGKILL)
    wait_until(lambda: {node.key for node in client.get('/servers').nodes} == {'/servers/child'})


@pytest.mark.parametrize('is_secure', [False, True], ids=['plain', 'TLS'])
def test_forked_child_closes_connections_of_threads_that_have_ended(
    etcd_binary: EtcdBinary, run: Run, is_secure: bool
) -> None:
    """Their hubs are destroyed, so gevent cannot close their connections; the fork still has to close the others."""
    with Certificates() as certificates:
        tls = certificates.one_way() if is_secure else None
        with EtcdServer(binary=etcd_binary.path, tls=tls) as server:
            program = run('ended_threads.py', server.url, *([str(certificates.ca)] if is_secure else []))
            ended = program.end()
    assert ended.errors == ''
    assert json.loads(ended.output) == {'before': 4, 'shared': 0, 'value': '1'}


@pytest.mark.parametrize(('api', 'kind'), [('v3', 'plain'), ('v2', 'patched')], indirect=['api'])
def test_forked_child_syncs_its_endpoints_by_itself(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run, kind: str
) -> None:
    """From its first call on; the sync of the parent does not run there."""
    program = run('syncing.py', etcd_server.url, api, kind)
    for process in ('parent', 'child', 'parent'):
        assert read_facts(program) == {'process': process, 'endpoints': [etcd_server.url], 'own': True}
    ended = program.end()
    assert ended.status == 0, ended.errors


@pytest.mark.parametrize('kind', ['plain', 'patched'])
def test_parent_and_child_find_their_servers_by_dns(etcd_server: EtcdServer, run: Run, kind: str) -> None:
    """With monkey patching, dnspython runs on patched sockets in a thread."""
    skip_unless_supported('v3', etcd_server.binary)
    program = run('looking_up.py', etcd_server.url, kind)
    expected = etcd_server.url.replace('127.0.0.1', 'localhost')
    assert [program.read_line().split() for _ in range(2)] == [['parent', '1', expected], ['child', '1', expected]]
    ended = program.end()
    assert ended.status == 0, ended.errors
