"""Which leases have ended: v3 tells expiry and deletion alike, and only the key's lease knows which it was."""

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

REMEMBERED: Final = 10_000
TIMEOUT: Final = 2.0
"""Seconds after which a key counts as deleted: events do not wait longer for a word of difference."""

AT_ONCE: Final = 32
"""Questions under way at a time."""


class ExpiryCache:
    """What is known of leases whose keys have gone.  Each is asked about once."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._gone: dict[int, bool] = {}
        self._asking: dict[int, Event] = {}  # those that will be known, and who waits for it
        self._questions: deque[tuple[int, Deadline]] = deque()
        self._askers = 0

    def is_gone(self, lease: int) -> bool:
        """True if the lease is known to have ended."""
        return self._gone.get(lease, False)

    def is_resolved(self, leases: Iterable[int]) -> bool:
        """True if nothing would be asked about these."""
        return all(lease in self._gone for lease in leases)

    def find_out(self, leases: Iterable[int]) -> None:
        """Ask about those that are not known.  Blocks for ``TIMEOUT`` at most, or little longer, and raises nothing."""
        deadline = Deadline(TIMEOUT)
        for lease in leases:
            if lease not in self._gone and lease not in self._asking:
                self._asking[lease] = Event()
                self._questions.append((lease, deadline))
        while self._askers < min(AT_ONCE, len(self._asking)):
            self._askers += 1
            gevent.spawn(self._ask_all).name = 'getc questions about leases'
        gevent.wait([self._asking[lease] for lease in leases if lease in self._asking])

    def _ask_all(self) -> None:
        try:
            while self._questions:
                self._ask(*self._questions.popleft())
        finally:
            self._askers -= 1

    def _ask(self, lease: int, deadline: Deadline) -> None:
        is_gone = False
        try:
            request = LeaseTimeToLiveRequest(ID=lease)
            is_gone = self._rpc.call(Lease.LeaseTimeToLive, request, deadline).TTL <= 0
        except EtcException:
            pass
        finally:
            if len(self._gone) >= REMEMBERED:
                del self._gone[next(iter(self._gone))]
            self._gone[lease] = is_gone
            self._asking.pop(lease).set()
