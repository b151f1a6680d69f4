"""Opens and ends 1,000 clients, and prints what they leave behind.

    opening.py URL API unused|closed|left|dropped

``closed`` clients are closed after use, ``left`` ones with a call in flight, ``dropped`` ones are not closed.
"""

from __future__ import annotations

import gc
import json
import os
import sys

import gevent

import getc
from getc.daemons import monitor

monitor.MAX_HUB_DELAY = 3600.0  # on a busy machine the hub may not run for seconds, which would be logged

url, api, end = sys.argv[1:]

CLIENTS = 1000
BATCH = 20


def wait(client: getc.Client) -> None:
    """Block until the client is closed."""
    try:
        client.wait('/never')
    except getc.ClientClosed:
        return
    raise AssertionError('it happened')


def use_clients() -> None:
    """Open, use and end a batch of clients."""
    clients = [getc.etcd(url, api=None if api == 'memory' else api) for _ in range(BATCH)]
    if end == 'unused':
        for client in clients:
            client.close()
        return
    gevent.joinall([gevent.spawn(client.get, '/') for client in clients], raise_error=True)
    with clients[0] as first:  # uses every kind of daemon
        with first.keep_node('/servers/a', ttl=10), first.mirror('/servers'), first.changes('/servers'):
            first.set('/servers/b', 'x', ttl=2)
            first.delete('/servers/b')
    if end == 'left':
        waiting = [gevent.spawn(wait, client) for client in clients[1:]]
        gevent.sleep(0)
        for client in clients:
            client.close()
        gevent.joinall(waiting, raise_error=True)
    elif end == 'closed':
        for client in clients:
            client.close()


def settle() -> None:
    """Collect garbage, and let greenlets end."""
    for _ in range(3):
        gc.collect()
        gevent.sleep(0.05)


def count() -> dict[str, int]:
    settle()
    objects = gc.get_objects()
    return {
        'files': len(os.listdir('/proc/self/fd')),
        'greenlets': sum(isinstance(thing, gevent.Greenlet) and not thing.dead for thing in objects),
        'objects': len(objects),
        'blocks': sys.getallocatedblocks(),
    }


def has_settled(before: dict[str, int], after: dict[str, int]) -> bool:
    """True if nothing is left; caches, which depend on the timing, may have grown by less than a tenth of an object."""
    left = {name: after[name] - before[name] for name in before}
    return max(left['files'], left['greenlets']) <= 0 and max(left['objects'], left['blocks']) < CLIENTS / 10


for _ in range(20):
    use_clients()  # fill the caches
before = count()
for _ in range(CLIENTS // BATCH):
    use_clients()
after = count()
with gevent.Timeout(60, False):  # what is left after that is reported
    while not has_settled(before, after):
        after = count()
print(json.dumps({name: after[name] - before[name] for name in before}))
