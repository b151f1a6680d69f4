"""Distinguishes expiry from deletion: etcd v3 sends DELETE for both, so check whether the key's lease still exists."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import gevent
from gevent.event import Event

from getc.errors import EtcException
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.lease import Lease, LeaseTimeToLiveRequest

__all__ = ['ExpiryCache']

MAX_LEASES: Final = 10_000
"""Leases in the cache."""

TIMEOUT: Final = 2.0
"""Seconds after which a key counts as deleted: events are not delayed longer to distinguish the two."""

MAX_REQUESTS: Final = 32
"""Requests in flight."""


class ExpiryCache:
    """Caches which leases of deleted keys have expired.  Each lease is looked up once.

    Args:
        rpc: Calls TimeToLive.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._is_expired: dict[int, bool] = {}  # by lease
        self._pending: dict[int, Event] = {}  # by lease; set when the lease is resolved
        self._queue: deque[tuple[int, Deadline]] = deque()  # the lookups that were not started
        self._workers = 0

    def is_expired(self, lease: int) -> bool:
        """Return True if a lookup has shown that the lease does not exist any more."""
        return self._is_expired.get(lease, False)

    def is_resolved(self, leases: Iterable[int]) -> bool:
        """Return True if all of the leases are in the cache."""
        return all(lease in self._is_expired for lease in leases)

    def resolve(self, leases: Iterable[int]) -> None:
        """Look up the leases that are not in the cache.  Blocks for ``TIMEOUT``, or a little longer.

        A lease whose lookup fails counts as not expired.
        """
        deadline = Deadline(TIMEOUT)
        for lease in leases:
            if lease not in self._is_expired and lease not in self._pending:
                self._pending[lease] = Event()
                self._queue.append((lease, deadline))
        while self._workers < min(MAX_REQUESTS, len(self._pending)):
            self._workers += 1
            gevent.spawn(self._work).name = 'getc lease lookups'
        # Each lookup ends at its deadline; the timeout is for one whose greenlet was killed.
        gevent.wait([self._pending[lease] for lease in leases if lease in self._pending], timeout=2 * TIMEOUT)

    def _work(self) -> None:
        try:
            while self._queue:
                self._look_up(*self._queue.popleft())
        finally:
            self._workers -= 1

    def _look_up(self, lease: int, deadline: Deadline) -> None:
        is_expired = False
        try:
            request = LeaseTimeToLiveRequest(ID=lease)
            is_expired = self._rpc.call(Lease.LeaseTimeToLive, request, deadline).TTL <= 0
        except EtcException:
            pass
        finally:
            if len(self._is_expired) >= MAX_LEASES:
                del self._is_expired[next(iter(self._is_expired))]
            self._is_expired[lease] = is_expired
            self._pending.pop(lease).set()
