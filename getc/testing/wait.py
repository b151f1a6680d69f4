"""Waiting for what must come to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gevent

__all__ = ['wait_until']

PAUSE: Final = 0.01
"""Seconds between two looks."""


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Let other greenlets run until the condition is true.

    For a real etcd, of which nobody knows how long it takes: the limit is for a test that fails, and should never
    decide about one that passes.  In virtual time these are virtual seconds.

    Args:
        condition: Called again and again, in this greenlet.
        seconds: The limit.

    Raises:
        AssertionError: It was not true in time.

    Example::

        from getc.testing import EtcdServer, wait_until

        with EtcdServer() as server, getc.etcd(server.url) as etcd:
            told = []
            etcd.on_change('/cfg', told.append)
            etcd.set('/cfg/rate', '20')
            wait_until(lambda: told)
    """
    with gevent.Timeout(seconds, AssertionError(f'not true within {seconds:g} s')):
        while not condition():
            gevent.sleep(PAUSE)
