"""Increments the counter at /counter while it owns /owner, once for each line that it reads.

    counting.py URL lock|keeper guarded|unguarded TTL

A client without fencing reads the counter, decides, and writes.  Prints ``read N`` when it owns /owner and has read the
counter, waits for a line, and writes N+1: then it prints ``wrote``, or ``lost`` if the write was refused.  After either
it gives up the ownership.  An empty line ends it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import gevent.socket

import getc

url, recipe, mode, ttl = sys.argv[1:]


def read_line() -> str:
    """Return the next line of stdin, without blocking other greenlets."""
    text = ''
    while not text.endswith('\n'):
        gevent.socket.wait_read(0)
        text += os.read(0, 1).decode()
    return text.strip()


def own() -> Any:
    if recipe == 'keeper':
        return etcd.keep_node('/owner', ttl=int(ttl), on_conflict='wait')
    lock = etcd.lock('/owner', ttl=int(ttl))
    lock.acquire()
    return lock


def give_up(owner: Any) -> None:
    try:
        owner.stop() if recipe == 'keeper' else owner.release()
    except getc.NodeLost:
        pass


def increment(owner: Any) -> None:
    """Write with the guard of the ownership under which the counter was read, or without."""
    if mode == 'unguarded':
        etcd.set('/counter', str(read() + 1))
        return
    with etcd.transaction(guard=owner) as t:
        t.set('/counter', str(read() + 1))


def read() -> int:
    value = int(etcd.get('/counter').value or '')
    print(f'read {value}', flush=True)
    if not read_line():
        raise SystemExit
    return value


with getc.etcd(url, api='v3') as etcd:
    while True:
        owner = own()
        try:
            increment(owner)
            print('wrote', flush=True)
        except getc.NodeLost:
            print('lost', flush=True)
        finally:
            give_up(owner)
