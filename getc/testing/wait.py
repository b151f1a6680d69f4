"""Waiting for a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gevent

__all__ = ['wait_until']

POLL_INTERVAL: Final = 0.01
"""Seconds between two calls of the condition."""


def wait_until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Let other greenlets run until the condition is true.

    Meant for tests on a real etcd, whose response times vary: the timeout ends a test that fails, and should be so
    long that it never decides about one that passes.

    Args:
        condition: Called repeatedly, in the calling greenlet.
        timeout: Seconds; virtual ones under :class:`VirtualTime`.

    Raises:
        AssertionError: The condition did not become true within the timeout.

    Example::

        from getc.testing import EtcdServer, wait_until

        with EtcdServer() as server, getc.etcd(server.url) as etcd:
            changes = []
            etcd.on_change('/cfg', changes.append)
            etcd.set('/cfg/rate', '20')
            wait_until(lambda: changes)
    """
    with gevent.Timeout(timeout, AssertionError(f'the condition did not become true within {timeout:g} s')):
        while not condition():
            gevent.sleep(POLL_INTERVAL)
