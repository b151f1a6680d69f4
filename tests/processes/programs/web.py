"""A WSGI program for gunicorn, whose client is created at import, by the master with ``--preload``.

Each request is answered with a line of JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import getc

MASTER = os.getpid()

etcd = getc.etcd(os.environ['ETCD_URL'], api=os.environ['ETCD_API'])  # type: ignore[arg-type]
etcd.set('/booted', str(MASTER))
keeper = etcd.keep_node('/servers/master', 'x', ttl=60)
cfg = etcd.mirror('/cfg')
own: list[getc.Keeper] = []


def error_of(function: Callable[[], Any]) -> str:
    try:
        return f'returned {function()!r}'
    except getc.EtcException as error:
        return f'{type(error).__name__}: {error}'


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if not own:
        own.append(etcd.keep_node(f'/servers/{os.getpid()}', 'x', ttl=60))
    facts = {
        'pid': os.getpid(),
        'is_master': os.getpid() == MASTER,
        'booted': etcd.get('/booted').value == str(MASTER),
        'written': etcd.append('/requests', str(os.getpid())).key.startswith('/requests/'),
        'keeper': error_of(keeper.ensure),
        'mirror': [cfg.is_stale, error_of(lambda: cfg.wait(lambda _: False, timeout=0))],
        'own': own[0].state.name,
    }
    start_response('200 OK', [('Content-Type', 'application/json')])
    return [json.dumps(facts).encode()]
