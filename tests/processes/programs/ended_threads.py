"""Forks after threads have ended whose clients are still referenced; the child prints its facts.

    ended_threads.py URL [CA]

Each thread destroys its hub, as gevent requires, and with the hub the loop of its clients' connections.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from threading import Thread

import gevent
from gevent.hub import get_hub

import getc
from getc.daemons import monitor

monitor.MAX_HUB_DELAY = 3600.0  # on a busy machine the hub may not run for seconds, which would be logged

THREADS = 3

url = sys.argv[1]
options = {'api': 'v3', 'ca': sys.argv[2] if sys.argv[2:] else None}
clients: list[getc.Client] = []


def sockets_to_etcd(client: getc.Client) -> set[str]:
    """Return the sockets of this process to the port of etcd, as ``/proc`` names them."""
    port = f':{int(client.url.rpartition(":")[2]):04X}'
    with open('/proc/self/net/tcp') as table:
        lines = [line.split() for line in table.readlines()[1:]]
    inodes = {f'socket:[{fields[9]}]' for fields in lines if fields[2].endswith(port)}
    paths = [f'/proc/self/fd/{name}' for name in os.listdir('/proc/self/fd')]
    return {os.readlink(path) for path in paths if os.path.exists(path)} & inodes


def work(silent: str) -> None:
    connected, connecting = getc.etcd(url, **options), getc.etcd(silent, api='v3')  # type: ignore[arg-type]
    clients.extend((connected, connecting))
    connected.set('/a', '1')
    connected.on_change('/a', print)
    waiting = gevent.spawn(connecting.get, '/a')
    waiting.join(0.01)
    get_hub().destroy()


with socket.create_server(('127.0.0.1', 0)) as listening:
    unanswered = f'https://127.0.0.1:{listening.getsockname()[1]}'
    mine = getc.etcd(url, **options)  # type: ignore[arg-type]
    mine.set('/a', '1')
    for _ in range(THREADS):
        thread = Thread(target=work, args=(unanswered,))
        thread.start()
        thread.join()
    before = len(sockets_to_etcd(mine))
    child = os.fork()
    if not child:
        shared = len(sockets_to_etcd(mine))
        gevent.reinit()
        print(json.dumps({'before': before, 'shared': shared, 'value': mine.get('/a').value}), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
mine.close()
