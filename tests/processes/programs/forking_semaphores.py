"""Forks while one greenlet holds the only slot of ``/slots/a`` and another one waits; both print a line of JSON.

forking_semaphores.py URL API
"""

from __future__ import annotations

import json
import os
import sys

import gevent

import getc
from getc.recipes import Semaphore

url, api = sys.argv[1:]


def error_of(function: object, *args: object) -> str:
    try:
        return f'returned {function(*args)!r}'  # type: ignore[operator]
    except Exception as error:
        return type(error).__name__


etcd = getc.etcd(url, api=api)
semaphore = Semaphore(etcd, '/slots/a', 1, ttl=60)
token = semaphore.acquire()
waiting = gevent.spawn(error_of, semaphore.acquire)
while len(semaphore.contenders()) < 2:
    gevent.sleep(0.01)

pid = gevent.fork()
if pid == 0:
    facts = {
        'ensure': error_of(semaphore.ensure),
        'state': semaphore.state.name,
        'release': error_of(semaphore.release),
        'again': semaphore.try_acquire(),
        'wait': error_of(semaphore.acquire, 0.3),
        'waiting': waiting.get(timeout=30),
    }
    etcd.close()
    print(json.dumps(facts), flush=True)
    os._exit(0)
gevent.os.waitpid(pid, 0)
facts = {'ensure': semaphore.ensure() == token, 'waiting': waiting.dead, 'contenders': len(semaphore.contenders())}
semaphore.release()
print(json.dumps(facts | {'next': waiting.get(timeout=30).startswith('returned')}), flush=True)
etcd.close()
