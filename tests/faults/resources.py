"""What getc holds of this process and of etcd: sockets, greenlets, objects, leases."""

from __future__ import annotations

import gc
import sys
import time
from typing import Final

import gevent
import gevent.socket

from tests.faults.checking.resources import BOUND, COUNTED
from tests.faults.cluster import Ground
from tests.faults.history import Resources

__all__ = ['measured', 'measured_at_rest']

PATIENCE: Final = 5.0
"""Seconds for etcd to answer."""

REST: Final = 0.5


def measured(when: str, ground: Ground) -> Resources:
    """Count them now.

    Memory is the size of all objects of getc's own classes: what the process has holds the history, too.
    """
    gc.collect()
    things = gc.get_objects()
    greenlets = [thing for thing in things if isinstance(thing, gevent.Greenlet) and not thing.dead]
    sockets = [thing for thing in things if isinstance(thing, gevent.socket.socket)]
    ports = ground.ports
    of_getc = [thing for thing in things if _is_getcs(type(thing))]
    return Resources(
        when,
        sockets=sum(_is_of_a_client(sock, ports) for sock in sockets),
        greenlets=sum(greenlet.name.startswith('getc ') for greenlet in greenlets),
        leases=ground.leases(PATIENCE),
        memory=sum(map(sys.getsizeof, of_getc)),
    )


def measured_at_rest(when: str, ground: Ground, before: Resources, timeout: float) -> Resources:
    """Count them as soon as there are no more than before, or when the time is over."""
    end = time.monotonic() + timeout
    while True:
        now = measured(when, ground)
        is_at_rest = all(getattr(now, what) <= getattr(before, what) for what in COUNTED)
        if (is_at_rest and now.memory - before.memory <= BOUND) or time.monotonic() > end:
            return now
        gevent.sleep(REST)


def _is_of_a_client(sock: gevent.socket.socket, ports: set[int]) -> bool:
    """True if it leads to a proxy of a client's, which is getc's then, once the probers have stopped."""
    try:
        return sock.fileno() != -1 and sock.getpeername()[1] in ports
    except OSError:
        return False  # it is not connected (any more)


def _is_getcs(cls: type) -> bool:
    module = cls.__module__
    return isinstance(module, str) and module.startswith('getc.') and not module.startswith('getc.testing.')
