"""Exit of a program: at once, with the right status and without output, in any state of getc and etcd."""

from __future__ import annotations

import signal

import pytest

import getc
from getc.testing import EtcdServer
from tests.support.programs import Ended, Run

pytestmark = pytest.mark.slow

EXITS = {
    'return': (0, ''),
    'exit': (3, ''),
    'raise': (1, 'ValueError: the end'),
    'interrupt': (-signal.SIGINT, 'KeyboardInterrupt'),
    'signal': (0, ''),
}
"""How a program exits: the status, and the last line of its stderr."""


def check(ended: Ended, ending: str) -> None:
    """Check that status and stderr are those of Python alone."""
    status, last = EXITS[ending]
    lines = ended.errors.splitlines() or ['']
    assert (ended.status, lines[-1]) == (status, last), ended.errors
    # A Ctrl-C interrupts any code: gevent may print the greenlet, and always prints where the main greenlet waits.
    tracebacks = {1, 2} if ending == 'interrupt' else {1} if last else {0}
    assert ended.errors.count('Traceback') in tracebacks, ended.errors
    assert 'Exception ignored' not in ended.errors
    assert 'getc.errors' not in ended.errors


def end(run: Run, url: str, api: str, ending: str, close: str) -> Ended:
    """Start the program, make it exit, and return its status and output."""
    program = run('ending.py', url, api, ending, close)
    assert program.read_line() == 'ready', program.end().errors
    if ending == 'signal':
        program.send(signal.SIGTERM)
    else:
        program.write('\n')
    if ending == 'interrupt':
        assert program.read_line() == 'waiting'
        program.send(signal.SIGINT)
    return program.end()


@pytest.mark.parametrize(
    ('api', 'ending', 'close'),
    [
        ('v3', 'return', 'closing'),
        ('v2', 'return', 'leaving'),
        ('v2', 'exit', 'closing'),
        ('v3', 'exit', 'leaving'),
        ('v3', 'raise', 'closing'),
        ('v2', 'raise', 'leaving'),
        ('v2', 'interrupt', 'closing'),
        ('v3', 'interrupt', 'leaving'),
        ('v3', 'signal', 'closing'),
        ('v2', 'signal', 'leaving'),
    ],
    indirect=['api'],
)
def test_program_exits(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run, ending: str, close: str
) -> None:
    """Its node is deleted at once if its client is closed; otherwise the node stays until its TTL ends."""
    check(end(run, etcd_server.url, api, ending, close), ending)
    servers = [node.key for node in client.get('/', recursive=True).node.leaves() if node.key.startswith('/servers/')]
    assert servers == ([] if close == 'closing' else ['/servers/a'])


@pytest.mark.parametrize(
    ('api', 'outage', 'ending', 'close'),
    [
        ('v3', 'paused', 'return', 'closing'),
        ('v2', 'paused', 'signal', 'closing'),
        ('v3', 'paused', 'signal', 'leaving'),
        ('v3', 'killed', 'signal', 'closing'),
        ('v2', 'killed', 'return', 'leaving'),
    ],
    indirect=['api'],
)
def test_program_exits_when_etcd_is_unreachable(
    etcd_server: EtcdServer, api: str, run: Run, outage: str, ending: str, close: str
) -> None:
    """A paused or killed etcd delays the exit by at most the timeout of ``close``."""
    program = run('ending.py', etcd_server.url, api, ending, close)
    assert program.read_line() == 'ready', program.end().errors
    try:
        etcd_server.pause() if outage == 'paused' else etcd_server.kill()
        program.send(signal.SIGTERM) if ending == 'signal' else program.write('\n')
        check(program.end(), ending)
    finally:
        etcd_server.resume() if outage == 'paused' else etcd_server.restart()


@pytest.mark.parametrize('ending', ['return', 'interrupt', 'signal'])
def test_program_with_a_memory_store_exits(run: Run, ending: str) -> None:
    check(end(run, 'memory://', 'memory', ending, 'leaving'), ending)
