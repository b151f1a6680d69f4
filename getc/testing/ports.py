"""Free ports of the loopback interface for servers that come and go."""

from __future__ import annotations

import random
from collections.abc import Iterator

import gevent.socket

__all__ = ['HOST', 'PORTS', 'free_ports', 'listener']

HOST = '127.0.0.1'

PORTS = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections: a client that keeps trying to reach a
dead server there would one day be given the server's own port, and connect to itself."""


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens now.

    Raises:
        OSError: There are not so many.
    """
    found: list[int] = []
    for sock in _bound(PORTS):
        found.append(sock.getsockname()[1])
        sock.close()
        if len(found) == count:
            return found
    raise OSError(f'no {count} free ports between {PORTS.start} and {PORTS.stop}')


def listener(port: int = 0) -> gevent.socket.socket:
    """A listening socket, on a free port unless one is named.

    Raises:
        OSError: The port is taken, or none is free.
    """
    for sock in _bound(range(port, port + 1) if port else PORTS):
        sock.listen(128)
        return sock
    raise OSError(f'somebody listens on {HOST}:{port}' if port else 'no port is free')


def _bound(ports: range) -> Iterator[gevent.socket.socket]:
    for port in random.sample(ports, len(ports)):
        sock = gevent.socket.socket()
        if len(ports) == 1:  # ours, a moment ago: its old connections are no hindrance
            sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            sock.close()
            continue
        yield sock
