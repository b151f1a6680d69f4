"""Free ports on the loopback interface for servers that are stopped and restarted."""

from __future__ import annotations

import random
from collections.abc import Iterator

import gevent.socket

__all__ = ['HOST', 'PORTS', 'free_ports', 'listen']

HOST = '127.0.0.1'

PORTS = range(20_000, 32_000)
"""Below the ephemeral ports of the system.  A client that keeps reconnecting to a stopped server on an ephemeral port
would one day be assigned that port for its own end, and connect to itself."""


def free_ports(count: int) -> list[int]:
    """Return distinct ports that are free now.

    Raises:
        OSError: There are fewer free ports than ``count``.
    """
    found: list[int] = []
    for sock in _bound(PORTS):
        found.append(sock.getsockname()[1])
        sock.close()
        if len(found) == count:
            return found
    raise OSError(f'found only {len(found)} of {count} free ports between {PORTS.start} and {PORTS.stop}')


def listen(port: int = 0) -> gevent.socket.socket:
    """Return a listening socket.

    Args:
        port: The port; 0 for a free one.

    Raises:
        OSError: The port is in use, or none is free.
    """
    for sock in _bound(range(port, port + 1) if port else PORTS):
        sock.listen(128)
        return sock
    raise OSError(
        f'{HOST}:{port} is already in use' if port else f'no port is free between {PORTS.start} and {PORTS.stop}'
    )


def _bound(ports: range) -> Iterator[gevent.socket.socket]:
    for port in random.sample(ports, len(ports)):
        sock = gevent.socket.socket()
        if len(ports) == 1:  # reuse our own port although connections from before are in TIME_WAIT
            sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            sock.close()
            continue
        yield sock
