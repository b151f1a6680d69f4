"""Measures the resources that getc uses: sockets, greenlets, objects and leases."""

from __future__ import annotations

import gc
import sys
import time
from typing import Final

import gevent
import gevent.socket

from tests.faults.checking.resources import COUNTED, MAX_MEMORY_GROWTH
from tests.faults.cluster import ProxiedCluster
from tests.faults.history import Resources

__all__ = ['measure', 'measure_when_settled']

REQUEST_TIMEOUT: Final = 5.0
"""Seconds for a response of etcd."""

POLL_INTERVAL: Final = 0.5


def measure(when: str, cluster: ProxiedCluster) -> Resources:
    """Measure now.

    Memory is the size of all objects of getc's classes, because the memory of the process includes the history.
    """
    gc.collect()
    things = gc.get_objects()
    greenlets = [thing for thing in things if isinstance(thing, gevent.Greenlet) and not thing.dead]
    sockets = [thing for thing in things if isinstance(thing, gevent.socket.socket)]
    ports = cluster.ports
    of_getc = [thing for thing in things if _is_of_getc(type(thing))]
    return Resources(
        when,
        sockets=sum(_belongs_to_client(sock, ports) for sock in sockets),
        greenlets=sum(greenlet.name.startswith('getc ') for greenlet in greenlets),
        leases=cluster.leases(REQUEST_TIMEOUT),
        memory=sum(map(sys.getsizeof, of_getc)),
    )


def measure_when_settled(when: str, cluster: ProxiedCluster, before: Resources, timeout: float) -> Resources:
    """Measure when the resources are down to those of before, or at the timeout."""
    end = time.monotonic() + timeout
    while True:
        now = measure(when, cluster)
        is_settled = all(getattr(now, what) <= getattr(before, what) for what in COUNTED)
        if (is_settled and now.memory - before.memory <= MAX_MEMORY_GROWTH) or time.monotonic() > end:
            return now
        gevent.sleep(POLL_INTERVAL)


def _belongs_to_client(sock: gevent.socket.socket, ports: set[int]) -> bool:
    """Return whether the socket is connected to a proxy of a client; probers have to be stopped before."""
    try:
        return sock.fileno() != -1 and sock.getpeername()[1] in ports
    except OSError:
        return False  # it is not connected


def _is_of_getc(cls: type) -> bool:
    module = cls.__module__
    return isinstance(module, str) and module.startswith('getc.') and not module.startswith('getc.testing.')
