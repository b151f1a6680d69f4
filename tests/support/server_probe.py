"""Observes a server from outside: its metrics, its threads, and the connections of this process."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from getc.testing import EtcdServer, wait_until
from getc.testing.admin import Requests

__all__ = ['connections_to', 'metric', 'pause']


def metric(url: str, name: str) -> int:
    """Return a metric of the server."""
    with Requests(url) as requests:
        found = re.search(rf'^{name} (\S+)$', requests.request('GET', '/metrics'), re.MULTILINE)
    assert found is not None, name
    return int(float(found.group(1)))


def pause(server: EtcdServer) -> None:
    """Pause the server, and return when none of its threads is running: a running thread might still respond."""
    server.pause()
    tasks = [task / 'stat' for task in Path(f'/proc/{server.pid}/task').iterdir()]
    wait_until(lambda: all(task.read_text().rpartition(')')[2].split()[0] == 'T' for task in tasks))


def connections_to(url: str) -> int:
    """Return the number of connections of this process to a server."""
    port = f'{urlsplit(url).port:04X}'
    sockets = set()
    for line in Path('/proc/self/net/tcp').read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2].endswith(f':{port}') and fields[3] == '01':
            sockets.add(f'socket:[{fields[9]}]')
    return sum(_target(entry) in sockets for entry in os.listdir('/proc/self/fd'))


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f'/proc/self/fd/{descriptor}')
    except OSError:  # it was closed meanwhile, or is the descriptor of the listing
        return ''
