"""A process that forks: the child has nothing of its parent's but the wish to go on, and the parent does not notice."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import pytest

import getc
from getc.testing import Certificates, EtcdBinary, EtcdServer, wait_until
from tests.processes.conftest import Program, Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != 'linux', reason='looks at the sockets of a process in /proc'),
]


def said_by(program: Program) -> Any:
    """What the program tells next."""
    line = program.read_line()
    assert line, program.end().errors
    return json.loads(line)


def start(run: Run, server: EtcdServer, *arguments: str, ttl: int = 60) -> tuple[Program, Any]:
    """The program, and what its child has told: it was forked while calls were under way, for etcd did not run."""
    program = run('forking.py', server.url, str(ttl), *arguments)
    said_by(program)
    server.pause()
    try:
        program.write('\n')
        told = said_by(program)
    finally:
        server.resume()
    return program, told


@pytest.mark.parametrize(('api', 'kind'), [('v3', 'plain'), ('v2', 'patched')], indirect=['api'])
def test_forked_child_has_connections_of_its_own_and_its_parent_does_not_notice(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run, kind: str
) -> None:
    """Keepers, watchers, mirrors and calls under way are the parent's; the child's client can do all there is."""
    check(client, *start(run, etcd_server, api, kind))


@pytest.mark.parametrize(('api', 'kind'), [('v3', 'patched'), ('v2', 'plain')], indirect=['api'])
def test_forked_child_says_no_goodbye_over_tls(etcd_binary: EtcdBinary, api: Any, run: Run, kind: str) -> None:
    """It would be the end of its parent's connections."""
    with Certificates() as certificates, EtcdServer(binary=etcd_binary.path, tls=certificates.serving()) as server:
        with getc.etcd(server.url, api=api, ca=certificates.ca) as client:
            check(client, *start(run, server, api, kind, certificates.ca))


def check(client: getc.Client, program: Program, told: Any) -> None:
    """What the program tells, and what others see of it."""
    assert told == {
        'process': 'child',
        'shared': 0,
        'states': ['STOPPED'] * 4,
        'keeper': [
            0.0,
            'NodeLost: /servers/parent is not kept: STOPPED: it is kept by the parent of this forked process',
            'NodeLost: /servers/parent is not kept: STOPPED: it is kept by the parent of this forked process',
        ],
        'mirror': [{'/cfg/a': '0'}, True, 'ClientClosed: mirror /cfg belongs to the parent of this forked process'],
        'changes': 'ClientClosed: changes /cfg belongs to the parent of this forked process',
        'ended': [None, None, None, None, True],
    }
    assert said_by(program) == {'process': 'child', 'followed': ['1'], 'value': '1', 'own': 'KEPT'}
    assert {node.key for node in client.get('/servers').nodes} == {'/servers/parent', '/servers/child'}
    program.write('\n')
    assert said_by(program) == {'process': 'child', 'closed': 'STOPPED'}
    assert {node.key for node in client.get('/servers').nodes} == {'/servers/parent'}
    assert said_by(program) == {
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


def test_nodes_of_a_parent_that_died_go_though_its_child_lives(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run
) -> None:
    """The child renews what it keeps itself."""
    program, _ = start(run, etcd_server, api, 'plain', ttl=2)
    said_by(program)
    program.send(signal.SIGKILL)
    wait_until(lambda: {node.key for node in client.get('/servers').nodes} == {'/servers/child'})


@pytest.mark.parametrize('is_secure', [False, True], ids=['plain', 'TLS'])
def test_forked_child_of_a_process_whose_threads_have_ended_has_no_connection_of_theirs(
    etcd_binary: EtcdBinary, run: Run, is_secure: bool
) -> None:
    """Their hubs were destroyed: gevent can close nothing for them, which must not keep the fork from the others."""
    with Certificates() as certificates:
        tls = certificates.serving() if is_secure else None
        with EtcdServer(binary=etcd_binary.path, tls=tls) as server:
            program = run('ended_threads.py', server.url, *([str(certificates.ca)] if is_secure else []))
            ended = program.end()
    assert ended.errors == ''
    assert json.loads(ended.output) == {'before': 4, 'shared': 0, 'value': '1'}
