"""Processes of ``multiprocessing``: a fork takes a client along, and nothing else can."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest

import getc
from getc.testing import EtcdServer
from tests.processes.conftest import Run

pytestmark = pytest.mark.slow

REFUSAL = 'of getc: it is bound to its process'


@pytest.mark.skipif(sys.platform != 'linux', reason='a fork that goes on is not safe on other systems')
def test_client_works_in_a_process_that_was_forked(etcd_server: EtcdServer, api: str, run: Run) -> None:
    """The parent's keeper is not kept there; the child can keep nodes of its own."""
    ended = run('multiprocess.py', etcd_server.url, api, 'fork').end()
    assert (ended.status, ended.errors) == (0, '')
    assert json.loads(ended.output) == {
        'refused': '',
        'status': 0,
        'child': [
            '1',
            '/servers/parent is not kept: STOPPED: it is kept by the parent of this forked process',
            'STOPPED',
            'x',
        ],
        'said': 'KEPT',
        'keeper': ['KEPT', True],
    }


@pytest.mark.parametrize(('api', 'method'), [('v3', 'spawn'), ('v2', 'forkserver')], indirect=['api'])
def test_client_is_refused_where_a_process_is_made_anew(
    etcd_server: EtcdServer, api: str, run: Run, method: str
) -> None:
    """With a word about what to do, which then works."""
    ended = run('multiprocess.py', etcd_server.url, api, method).end()
    assert (ended.status, ended.errors) == (0, '')
    facts = json.loads(ended.output)
    assert (
        facts.pop('refused')
        == f'cannot pickle or copy Client {REFUSAL}.  Pass the URL and create a client in the other process'
    )
    assert facts == {'status': 0, 'child': '1', 'said': 'KEPT', 'keeper': ['KEPT', True]}


@pytest.mark.parametrize('put_away', [pickle.dumps, copy.copy, copy.deepcopy])
def test_client_and_daemons_are_not_copied(put_away: Callable[[Any], Any]) -> None:
    """What they return is: results, nodes and errors."""
    with getc.etcd('memory://') as client:
        living = [client, client.keep_node('/a'), client.on_change('/', print), client.mirror('/'), client.changes('/')]
        for thing in living:
            with pytest.raises(TypeError, match=f'cannot pickle or copy {type(thing).__name__} {REFUSAL}'):
                put_away(thing)
        assert put_away(client.get('/a'))
