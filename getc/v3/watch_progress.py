"""What the progress responses of a watch stream prove.

Servers from 3.4.25 and 3.5.8 on answer a progress request only when every watch of the stream has received everything
up to the revision of the answer; they drop the request while a watch lags behind, and while the stream has no watch.
Older servers always answer, and such an answer does not show what the watches have received.  ``etcd grpc-proxy`` drops
all progress requests.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from getc import timing

__all__ = ['WatchProgress']

RESPONSE_TIMEOUT: Final = 5.0
"""Seconds after which no response to a progress request is expected: the server has dropped the request."""


class WatchProgress:
    """The progress requests and responses of one watch stream.

    Attributes:
        has_responses: The server has sent a progress response.
        proves_delivery: False if a progress response does not show what the watches have received, which is so if the
            server sent one before the first watch was created.
    """

    def __init__(self) -> None:
        self.has_responses = False
        self.proves_delivery = True
        self._requests: deque[float] = deque()  # the times of those that were not answered yet
        self._responses = 0

    def on_request(self) -> None:
        """Note that a progress request was sent while the stream has a watch."""
        self._requests.append(timing.now())
        self._drop_unanswered()

    def on_response(self, *, is_first_watch_created: bool) -> None:
        """Note a progress response."""
        self.has_responses = True
        self._responses += 1
        if self._requests:
            self._requests.popleft()
        if not is_first_watch_created:
            self.proves_delivery = False

    def last_stale(self) -> int:
        """Return the number of the last response that may be sent before a watch that is requested now is created."""
        if self._requests:
            self._drop_unanswered()
        return self._responses + len(self._requests)

    def is_later_than(self, stale: int) -> bool:
        """Return True if a response was received after the one with this number."""
        return self._responses > stale

    def _drop_unanswered(self) -> None:
        while self._requests and timing.now() - self._requests[0] > RESPONSE_TIMEOUT:
            self._requests.popleft()
