"""The end of a program: at once, with the right status and without noise, whatever goes on and however etcd is."""

from __future__ import annotations

import signal

import pytest

import getc
from getc.testing import EtcdServer
from tests.processes.conftest import Ended, Run

pytestmark = pytest.mark.slow

ENDINGS = {
    'return': (0, ''),
    'exit': (3, ''),
    'raise': (1, 'ValueError: the end'),
    'interrupt': (-signal.SIGINT, 'KeyboardInterrupt'),
    'signal': (0, ''),
}
"""What ends a program; its status, and the last line of what it says of it."""


def check(ended: Ended, ending: str) -> None:
    """The status and the words are Python's own: no more and no less."""
    status, last = ENDINGS[ending]
    lines = ended.errors.splitlines() or ['']
    assert (ended.status, lines[-1]) == (status, last), ended.errors
    # A Ctrl-C strikes whatever runs: gevent may show the greenlet, and always shows where the program waits.
    tracebacks = {1, 2} if ending == 'interrupt' else {1} if last else {0}
    assert ended.errors.count('Traceback') in tracebacks, ended.errors
    assert 'Exception ignored' not in ended.errors
    assert 'getc.errors' not in ended.errors


def end(run: Run, url: str, api: str, ending: str, close: str) -> Ended:
    """Start the program, end it, and return what it said."""
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
def test_program_ends(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run, ending: str, close: str
) -> None:
    """Its node goes at once if its client is closed; else it stays until its TTL ends."""
    check(end(run, etcd_server.url, api, ending, close), ending)
    servers = [node.key for node in client.get('/', recursive=True).node.leaves() if node.key.startswith('/servers/')]
    assert servers == ([] if close == 'closing' else ['/servers/a'])


@pytest.mark.parametrize(
    ('api', 'death', 'ending', 'close'),
    [
        ('v3', 'paused', 'return', 'closing'),
        ('v2', 'paused', 'signal', 'closing'),
        ('v3', 'paused', 'signal', 'leaving'),
        ('v3', 'killed', 'signal', 'closing'),
        ('v2', 'killed', 'return', 'leaving'),
    ],
    indirect=['api'],
)
def test_program_ends_though_etcd_is_dead(
    etcd_server: EtcdServer, api: str, run: Run, death: str, ending: str, close: str
) -> None:
    """Silent or gone, it holds up nobody for longer than the timeout of ``close``."""
    program = run('ending.py', etcd_server.url, api, ending, close)
    assert program.read_line() == 'ready', program.end().errors
    try:
        etcd_server.pause() if death == 'paused' else etcd_server.kill()
        program.send(signal.SIGTERM) if ending == 'signal' else program.write('\n')
        check(program.end(), ending)
    finally:
        etcd_server.resume() if death == 'paused' else etcd_server.restart()


@pytest.mark.parametrize('ending', ['return', 'interrupt', 'signal'])
def test_program_with_a_store_in_memory_ends(run: Run, ending: str) -> None:
    """The same."""
    check(end(run, 'memory://', 'memory', ending, 'leaving'), ending)
