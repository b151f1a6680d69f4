"""Detects watches that ``etcd grpc-proxy`` has stopped serving, by reads.

The proxy shares one watch of etcd among all clients that watch the same range.  If etcd ends that watch, for example
because a token is not valid after a restart, the proxy neither notifies the clients nor watches again, and further
clients join the dead watch.  Source: etcd 3.5 to 3.7, ``grpcproxy/watcher.go``; etcd issues 16112 and 19296.
"""

from __future__ import annotations

import os
from typing import Final

import gevent

from getc.backends.tree.codec.keyspace import Range
from getc.backends.tree.watch.position import WatchPosition
from getc.errors import EtcException
from getc.net.affinity import ThreadAffinity, kill_soon
from getc.timing import Deadline

__all__ = ['ProxiedWatches']

CHECK_INTERVAL: Final = 10.0
"""Seconds between two rounds of checks."""

MAX_CHECKS: Final = 100
"""Watches that are checked in one round, with one read each."""

DELIVERY_TIMEOUT: Final = 2.0
"""Seconds for the watch to deliver a change that a read has shown."""

READ_TIMEOUT: Final = 5.0
"""Seconds for a read."""

BEYOND_TEXT: Final = b'\xff' * 8
"""Sorts after all text, of which no byte is 0xff in UTF-8."""


class ProxiedWatches:
    """Checks the watches on streams to ``etcd grpc-proxy``.  Without such a watch there is no greenlet.

    Attributes:
        suffix: The end of the ranges that no other client shares; None until a watch has missed a change.
    """

    def __init__(self) -> None:
        self._positions: dict[WatchPosition, None] = {}  # the next to check is the first
        self.suffix: bytes | None = None
        self._poller: gevent.Greenlet[[], None] | None = None
        self._affinity = ThreadAffinity()

    def add(self, position: WatchPosition) -> None:
        """Check this watch from now on, while it is on a stream to a proxy.  Does not block."""
        self._positions[position] = None
        if self._poller is None or self._poller.ready():  # ready: it was killed before it ran
            self._poller = gevent.spawn(self._poll)
            self._poller.name = 'getc watches behind a proxy'

    def range_to_request(self, key_range: Range) -> Range:
        """Return the range to request for a range: after a missed change, one that no other client shares.

        It has no keys in common with other ranges but those of the given one, and all of them that are text.
        """
        start, end = key_range
        if self.suffix is None or not end or not end[-1]:
            return key_range
        return start, end[:-1] + bytes([end[-1] - 1]) + BEYOND_TEXT + self.suffix

    def close(self) -> None:
        """Stop checking.  Does not block."""
        self._positions.clear()
        if self._poller is not None:
            kill_soon(self._poller)

    def _poll(self) -> None:
        try:
            while self._positions:
                gevent.sleep(CHECK_INTERVAL)
                if self._affinity.in_forked_child:
                    return  # the watches are the parent's
                for position in list(self._positions)[:MAX_CHECKS]:
                    del self._positions[position]
                    if self._is_checked(position):
                        self._positions[position] = None
                        self._check(position)
        finally:
            self._poller = None

    def _is_checked(self, position: WatchPosition) -> bool:
        stream = position.stream
        return not position.is_over and stream is not None and stream.is_proxied

    def _check(self, position: WatchPosition) -> None:
        delivered = position.delivered
        for is_last in (False, True):
            try:
                if not position.has_pending(Deadline(READ_TIMEOUT)):
                    return
            except EtcException:
                return  # the health check of the stream detects a server that does not answer
            if not self._is_checked(position) or position.delivered != delivered or position.has_queued:
                return
            if is_last:
                self.suffix = os.urandom(4).hex().encode()
                position.on_missed((delivered or 0) + 1)
            else:
                gevent.sleep(DELIVERY_TIMEOUT)
