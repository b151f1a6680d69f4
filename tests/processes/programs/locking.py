"""Forks while it holds a lock and waits for another one; parent and child each print a line of JSON.

    locking.py URL API

``/locks/held`` is held, ``/locks/busy`` is waited for, ``/locks/idle`` is an object that was used before.
"""

from __future__ import annotations

import json
import os
import sys

import gevent

import getc

url, api = sys.argv[1:3]


def error_of(function: object, *args: object) -> str:
    try:
        return f'returned {function(*args)!r}'  # type: ignore[operator]
    except Exception as error:
        return f'{type(error).__name__}: {error}'


etcd = getc.etcd(url, api=api)
held, busy, idle = (etcd.lock(f'/locks/{name}', ttl=60) for name in ('held', 'busy', 'idle'))
with idle:
    pass
token = held.acquire()
waiting = gevent.spawn(error_of, busy.acquire)
while len(busy.contenders()) < 2:
    gevent.sleep(0.01)

pid = gevent.fork()
if pid == 0:
    facts = {
        'ensure': error_of(held.ensure),
        'state': [held.state.name, busy.state.name],
        'remaining': held.remaining(),
        'token': held.token,
        'release': error_of(held.release),
        'again': held.try_acquire(),
        'idle': idle.acquire() > token,
        'new': etcd.lock('/locks/new').acquire() > token,
        'waiting': waiting.get(timeout=30),
        'contenders': [len(lock.contenders()) for lock in (held, busy, idle)],
    }
    idle.release()
    print(json.dumps(facts), flush=True)
    etcd.close()
    os._exit(0)
gevent.os.waitpid(pid, 0)
facts = {
    'ensure': held.ensure() == token,
    'state': [held.state.name, busy.state.name],
    'waiting': waiting.dead,
    'contenders': [len(lock.contenders()) for lock in (held, busy, idle)],
}
held.release()
print(json.dumps(facts | {'released': len(held.contenders())}), flush=True)
etcd.close()
