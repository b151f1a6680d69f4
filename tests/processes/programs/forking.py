"""Forks while it has daemons and calls in flight; parent and child each print a line of JSON.

    forking.py URL TTL API patched|plain [CA]

It reads a line before it makes the calls, so that etcd can be paused for them, and one before each process exits.
"""

from __future__ import annotations

import json
import os
import sys

if sys.argv[4] == 'patched':
    from gevent import monkey

    monkey.patch_all()

import gevent
import gevent.socket

import getc
from getc.daemons import monitor

monitor.MAX_HUB_DELAY = 3600.0  # on a busy machine the hub may not run for seconds, which would be logged

url, ttl, api, fork = sys.argv[1:5]
options = {'api': api, 'ca': sys.argv[5] if sys.argv[5:] else None}


def print_facts(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def read_line() -> None:
    gevent.socket.wait_read(0)
    os.read(0, 1)


def sockets() -> set[str]:
    """Return the sockets of this process by their inode, which is unique among all processes."""
    descriptors = [f'/proc/self/fd/{name}' for name in os.listdir('/proc/self/fd')]
    return {os.readlink(path) for path in descriptors if os.path.exists(path) and 'socket' in os.readlink(path)}


def error_of(function: object, *args: object) -> str:
    try:
        return f'returned {function(*args)!r}'  # type: ignore[operator]
    except Exception as error:
        return f'{type(error).__name__}: {error}'


lost: list[str] = []
seen: list[str] = []
states: list[str] = []

etcd = getc.etcd(url, **options)
etcd.on_state(lambda state: states.append(state.name))
etcd.set('/cfg/a', '0')
keeper = etcd.keep_node(
    '/servers/parent', 'x', ttl=int(ttl), on_lost=lambda keeper: lost.append(str(keeper.last_error))
)
watcher = etcd.on_change('/cfg', lambda result: seen.append(result.value))
mirror = etcd.mirror('/cfg')
changes = etcd.changes('/cfg')
waiting = [gevent.spawn(etcd.wait, '/later') for _ in range(3)]
gevent.sleep(0.1)

print_facts(ready=True)
read_line()
calls = [gevent.spawn(etcd.set, f'/calls/{number}', 'x') for number in range(5)]
calls += [gevent.spawn(etcd.get, '/cfg/a') for _ in range(5)]
gevent.sleep(0.1)
before = sockets()
token = keeper.ensure()

child = os.fork()
if not child:
    try:
        if fork == 'plain':
            gevent.reinit()
        print_facts(
            process='child',
            shared=len(before & sockets()),
            states=[keeper.state.name, watcher.state.name, mirror.state.name, changes.state.name],
            keeper=[keeper.remaining(), error_of(keeper.ensure), error_of(keeper.update, 'y', 1)],
            mirror=[dict(mirror), mirror.is_stale, error_of(mirror.wait, lambda _: False)],
            syncs=[error_of(mirror.sync, 1), error_of(watcher.sync, 1)],
            changes=error_of(changes.get, 1),
            ended=[keeper.stop(), keeper.orphan(), watcher.stop(), changes.close(), keeper.join()],
        )
        own = etcd.keep_node('/servers/child', 'x', ttl=3)
        followed: list[str | None] = []
        etcd.on_change('/cfg', lambda result: followed.append(result.value))
        with getc.etcd(url, **options) as another:
            another.set('/cfg/a', '1')
        while not followed:
            gevent.sleep(0.01)
        with gevent.Timeout(60):
            first = own.remaining()
            while own.remaining() <= first:  # wait for a renewal
                first = own.remaining()
                gevent.sleep(0.01)
        print_facts(process='child', followed=followed, value=etcd.get('/cfg/a').value, own=own.state.name)
        read_line()
        etcd.close()
        print_facts(process='child', closed=own.state.name)
    except BaseException as error:
        print_facts(process='child', failed=repr(error))
        raise
    finally:
        os._exit(0)

with gevent.Timeout(60):
    gevent.joinall(calls)
    while '1' not in seen or mirror['/cfg/a'] != '1':
        gevent.sleep(0.01)
    answers = [call.value.key if call.value else repr(call.exception) for call in calls]
    while not os.waitpid(child, os.WNOHANG)[0]:
        gevent.sleep(0.01)
    etcd.set('/later', 'x')
    gevent.joinall(waiting)
print_facts(
    process='parent',
    calls=answers,
    waiting=[wait.value.value for wait in waiting],
    changes=changes.get(timeout=10).value,
    seen=seen,
    lost=lost,
    states=states,
    keeper=[keeper.state.name, keeper.ensure() == token],
)
read_line()
etcd.close()
