"""The create requests of one watch stream, and which created response belongs to which request.

etcd answers create requests in their order, and uses the requested ids.  ``etcd grpc-proxy`` does neither: it counts
the watches of the stream from 0, creates them at the same time, and a created response names no key.  So a stream with
one request in flight shows which of the two it is, and behind the proxy no second request is sent before the first one
is answered.  Source: etcd 3.5 to 3.7, ``server/proxy/grpcproxy/watch.go``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from getc import timing

__all__ = ['CREATE_TIMEOUT', 'CreateQueue']

FIRST_PROXIED_ID: Final = 0
"""The id of the first watch on a stream of ``etcd grpc-proxy``.  getc requests ids from 1 on."""

CREATE_TIMEOUT: Final = 10.0
"""Seconds within which a server that answers reads has to create a watch."""

Watch = TypeVar('Watch')


class CreateQueue(Generic[Watch]):
    """Requests watches, and assigns each created response to its request.

    Until the first watch is created, and behind ``etcd grpc-proxy`` always, one request is in flight at a time.

    Args:
        send: Sends the create request of a watch with this id, unless the watch was cancelled; returns whether it was
            sent.  Raises EtcException if the stream has ended.

    Attributes:
        is_proxied: True if the watches are created by ``etcd grpc-proxy``, which assigns its own ids; None before
            a watch was created.
        waiting_since: When the oldest request in flight was sent, in seconds of ``timing.now``; ``math.inf`` without.
    """

    __slots__ = ('_in_flight', '_last_id', '_send', '_unsent', 'is_proxied', 'waiting_since')

    def __init__(self, send: Callable[[Watch, int], bool]) -> None:
        self.is_proxied: bool | None = None
        self.waiting_since = math.inf
        self._send = send
        self._last_id = 0
        self._in_flight: deque[Watch] = deque()
        self._unsent: deque[Watch] = deque()

    def add(self, watch: Watch) -> None:
        """Request a watch, now or later.  Does not block.

        Raises:
            EtcException: The stream has ended, with this error.
        """
        if self._in_flight and self.is_proxied is not False:
            self._unsent.append(watch)
        else:
            self._request(watch)

    def on_created(self, watch_id: int, *, is_refused: bool) -> Watch | None:
        """Return the watch that a created response is about; None if there is no request in flight.

        Args:
            watch_id: The id in the response.
            is_refused: The watch was not created, so the id says nothing.
        """
        if not self._in_flight:
            return None
        watch = self._in_flight.popleft()
        self.waiting_since = timing.now() if self._in_flight else math.inf
        if not is_refused and self.is_proxied is None:
            self.is_proxied = watch_id == FIRST_PROXIED_ID
        return watch

    @property
    def has_waiting(self) -> bool:
        """True if requests wait for earlier ones to be answered."""
        return bool(self._unsent)

    def send_waiting(self) -> None:
        """Send the requests that may be sent now.  Does not block.

        Raises:
            EtcException: The stream has ended, with this error; the requests that were not sent stay in the queue.
        """
        while self._unsent and not (self._in_flight and self.is_proxied is not False):
            self._request(self._unsent[0])
            self._unsent.popleft()

    def clear(self) -> list[Watch]:
        """Return the watches that were not created, and forget them."""
        watches = list(self)
        self._in_flight.clear()
        self._unsent.clear()
        self.waiting_since = math.inf
        return watches

    def _request(self, watch: Watch) -> None:
        if self._send(watch, self._last_id + 1):
            self._last_id += 1
            if not self._in_flight:
                self.waiting_since = timing.now()
            self._in_flight.append(watch)

    def __len__(self) -> int:
        return len(self._in_flight) + len(self._unsent)

    def __iter__(self) -> Iterator[Watch]:
        yield from self._in_flight
        yield from self._unsent
