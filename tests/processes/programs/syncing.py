"""Forks a client with ``sync=``: the child syncs by itself, and the parent goes on; each prints a line of JSON.

syncing.py URL API patched|plain
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

if sys.argv[3] == 'patched':
    from gevent import monkey

    monkey.patch_all()

import gevent

import getc
from getc.backends.member_sync import MemberSync

url, api, _ = sys.argv[1:]
syncs: list[int] = []
sync = MemberSync.sync


def counted(self: MemberSync) -> None:
    syncs.append(os.getpid())
    sync(self)


MemberSync.sync = counted  # type: ignore[method-assign]
options: dict[str, Any] = {'api': api}
etcd = getc.etcd([url, 'http://127.0.0.1:1'], sync=1.0, **options)


def wait_for_syncs() -> tuple[str, ...]:
    """Use the client, and wait for two syncs of this process; the first one removes the address without a server."""
    etcd.set('/a', '1')
    before = len(syncs)
    while len(syncs) < before + 2:
        gevent.sleep(0.01)
    return etcd.endpoints


def print_facts(process: str) -> None:
    print(
        json.dumps({'process': process, 'endpoints': wait_for_syncs(), 'own': set(syncs) == {os.getpid()}}), flush=True
    )


print_facts('parent')
pid = os.fork()
if not pid:
    gevent.sleep(2.0)  # nothing is synced for the parent
    inherited = syncs.count(os.getpid())
    syncs.clear()
    assert inherited == 0
    print_facts('child')
    etcd.close()
    os._exit(0)
os.waitpid(pid, 0)
print_facts('parent')
etcd.close()
