"""Forks while it reads and waits for a writer; parent and child each print a line of JSON.

    rwlocking.py URL API

``/locks/held`` is read, ``/locks/busy`` is waited for by a reader and a writer.
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
held, busy = (etcd.rwlock(f'/locks/{name}', ttl=60) for name in ('held', 'busy'))
token = held.read.acquire()
waiting = [gevent.spawn(error_of, side.acquire) for side in (busy.read, busy.write)]
while len(busy.contenders()) < 3:
    gevent.sleep(0.01)

pid = gevent.fork()
if pid == 0:
    facts = {
        'ensure': error_of(held.read.ensure),
        'state': [held.read.state.name, busy.write.state.name],
        'token': held.read.token,
        'release': error_of(held.read.release),
        'write': held.write.try_acquire(),
        'read': held.read.acquire() > token,
        'waiting': [greenlet.get(timeout=30) for greenlet in waiting],
        'contenders': [len(lock.contenders()) for lock in (held, busy)],
    }
    held.read.release()
    print(json.dumps(facts), flush=True)
    etcd.close()
    os._exit(0)
gevent.os.waitpid(pid, 0)
facts = {
    'ensure': held.read.ensure() == token,
    'state': [held.read.state.name, busy.write.state.name],
    'waiting': [greenlet.dead for greenlet in waiting],
    'contenders': [len(lock.contenders()) for lock in (held, busy)],
}
held.read.release()
print(json.dumps(facts | {'released': len(held.contenders())}), flush=True)
etcd.close()
