"""Distinguishes expiry from deletion: etcd v3 sends DELETE for both, so check whether the key's lease still exists."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import gevent
from gevent.event import Event

from getc import timing
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

EXPIRED: Final = -1.0

RETRY_INTERVAL: Final = 10.0
"""Seconds until a lookup that has failed is repeated for a further deleted key of its lease."""


class ExpiryCache:
    """Caches which leases of deleted keys have expired.

    A lease that exists is looked up again only for keys that are deleted once its TTL can have run out: many keys share
    a lease, and the first of them may be deleted long before the lease expires.

    Args:
        rpc: Calls TimeToLive.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._exists_until: dict[int, float] = {}  # by lease: when the last lookup stops to hold; -1 if it has expired
        self._pending: dict[int, Event] = {}  # by lease; set when the lease is resolved
        self._queue: deque[tuple[int, Deadline]] = deque()  # the lookups that were not started
        self._workers = 0

    def is_expired(self, lease: int) -> bool:
        """Return True if a lookup has shown that the lease does not exist any more."""
        return self._exists_until.get(lease) == EXPIRED

    def is_resolved(self, leases: Iterable[int]) -> bool:
        """Return True if no lookup is needed for a key of these leases that is deleted now."""
        time = timing.now_with_suspend()
        return all((until := self._exists_until.get(lease, 0.0)) == EXPIRED or time < until for lease in leases)

    def resolve(self, leases: Iterable[int]) -> None:
        """Look up the leases that are not resolved.  Blocks for ``TIMEOUT``, or a little longer.

        A lease whose lookup fails counts as not expired.
        """
        deadline = Deadline(TIMEOUT)
        for lease in leases:
            if lease not in self._pending and not self.is_resolved((lease,)):
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
        begin = timing.now_with_suspend()
        until = begin + RETRY_INTERVAL
        try:
            request = LeaseTimeToLiveRequest(ID=lease)
            ttl = self._rpc.call(Lease.LeaseTimeToLive, request, deadline).TTL
            # etcd rounds down, so the lease is not expired before.
            until = begin + ttl if ttl > 0 else EXPIRED
        except EtcException:
            pass
        finally:
            self._exists_until.pop(lease, None)  # the cache drops the oldest lookups first
            if len(self._exists_until) >= MAX_LEASES:
                del self._exists_until[next(iter(self._exists_until))]
            self._exists_until[lease] = until
            self._pending.pop(lease).set()
