"""``multiprocessing``: a client can be inherited over a fork, and cannot be pickled."""

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
from tests.support.programs import Run

pytestmark = pytest.mark.slow

REFUSAL = ': it is bound to its process'


@pytest.mark.skipif(sys.platform != 'linux', reason='a fork that goes on is not safe on other systems')
def test_client_works_in_a_forked_process(etcd_server: EtcdServer, api: str, run: Run) -> None:
    """The parent's keeper is stopped in the child; the child can keep nodes of its own."""
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
def test_client_cannot_be_passed_to_a_spawned_process(etcd_server: EtcdServer, api: str, run: Run, method: str) -> None:
    """The error names the remedy, which works."""
    ended = run('multiprocess.py', etcd_server.url, api, method).end()
    assert (ended.status, ended.errors) == (0, '')
    facts = json.loads(ended.output)
    assert (
        facts.pop('refused')
        == f'cannot pickle or copy getc.Client{REFUSAL}.  Pass the URL and create a client in the other process'
    )
    assert facts == {'status': 0, 'child': '1', 'said': 'KEPT', 'keeper': ['KEPT', True]}


@pytest.mark.parametrize('serialize', [pickle.dumps, copy.copy, copy.deepcopy])
def test_client_and_daemons_cannot_be_pickled_or_copied(serialize: Callable[[Any], Any]) -> None:
    """Results, nodes and errors can be."""
    with getc.etcd('memory://') as client:
        living = [client, client.keep_node('/a'), client.on_change('/', print), client.mirror('/'), client.changes('/')]
        for thing in living:
            with pytest.raises(TypeError, match=rf'cannot pickle or copy getc\.{type(thing).__name__}{REFUSAL}'):
                serialize(thing)
        assert serialize(client.get('/a'))
