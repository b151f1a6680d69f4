"""gunicorn with gevent workers, with and without loading the program before the fork (``--preload``)."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import getc
from getc.testing import EtcdServer, wait_until
from tests.support.programs import Program, Run

pytest.importorskip('gunicorn')
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == 'win32', reason='gunicorn is for Unix')]

WORKERS = 2


def start(run: Run, server: EtcdServer, api: str, home: Path, *options: str) -> tuple[Program, str]:
    """Start gunicorn on a free port, and return its URL."""
    environment = {'ETCD_URL': server.url, 'ETCD_API': api, 'PYTHONPATH': 'tests/processes/programs', 'HOME': str(home)}
    command = ['-m', 'gunicorn', *options, '-k', 'gevent', '-w', str(WORKERS), '-b', '127.0.0.1:0', 'web:application']
    program = run(*command, environment=environment)
    facts = []
    while (line := program.read_error()) and 'Listening at' not in line:
        facts.append(line)
    found = re.search(r'http://127\.0\.0\.1:\d+', line)
    assert found is not None, '\n'.join(facts)
    return program, found.group()


def query_workers(url: str) -> dict[int, Any]:
    """Return the answer of each worker.  A worker that is still starting would delay gunicorn's exit."""
    answers: dict[int, Any] = {}

    def query() -> bool:
        with urllib.request.urlopen(url, timeout=60) as response:
            answer = json.load(response)
        answers[answer.pop('pid')] = answer
        return len(answers) == WORKERS

    wait_until(query)
    return answers


def test_client_created_by_the_master_works_in_every_worker(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run, tmp_path: Path
) -> None:
    """Its daemons belong to the master and raise in the workers, which keep and delete nodes of their own."""
    program, url = start(run, etcd_server, api, tmp_path, '--preload')
    answers = query_workers(url)
    expected = {
        'is_master': False,
        'booted': True,
        'written': True,
        'keeper': 'NodeLost: /servers/master is not kept: STOPPED: it is kept by the parent of this forked process',
        'mirror': [True, 'ClientClosed: mirror /cfg belongs to the parent of this forked process'],
        'own': 'KEPT',
    }
    assert list(answers.values()) == [expected] * WORKERS
    kept = {node.key for node in client.get('/servers').nodes}
    assert kept == {'/servers/master', *(f'/servers/{pid}' for pid in answers)}
    writers = {node.value for node in client.get('/requests').nodes}
    assert writers == {str(pid) for pid in answers}
    program.send(signal.SIGTERM)
    ended = program.end()
    assert ended.status == 0
    assert 'Traceback' not in ended.errors
    if api == 'v3':  # the v2 calls in the master import urllib3 before gunicorn patches
        assert 'MonkeyPatchWarning' not in ended.errors
    assert not any(os.path.exists(f'/proc/{pid}') for pid in answers)


def test_each_worker_creates_its_client_without_preload(
    etcd_server: EtcdServer, client: getc.Client, api: str, run: Run, tmp_path: Path
) -> None:
    program, url = start(run, etcd_server, api, tmp_path)
    for answer in query_workers(url).values():
        assert (answer['is_master'], answer['written'], answer['own']) == (True, True, 'KEPT')
        assert answer['keeper'].startswith(
            ('returned ', 'Overtaken: /servers/master ')
        )  # the other worker keeps it, too
    program.send(signal.SIGTERM)
    assert program.end().status == 0
