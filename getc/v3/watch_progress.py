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
from getc.v3.schema.watch import WatchProgressRequest, WatchRequest, WatchResponse
from getc.v3.stream import MessageStream
from getc.v3.watch_table import WatchTable

__all__ = ['WatchProgress']

RESPONSE_TIMEOUT: Final = 5.0
"""Seconds after which no response to a progress request is expected: the server has dropped the request."""


class WatchProgress:
    """The progress requests and responses of one watch stream.

    Args:
        messages: The stream.
        watches: Its watches.

    Attributes:
        has_responses: The server has sent a progress response.
        proves_delivery: False if a progress response does not show what the watches have received, which is so if the
            server sent one before the first watch was created; and where none is sent, behind ``etcd grpc-proxy``.
    """

    def __init__(self, messages: MessageStream[WatchRequest, WatchResponse], watches: WatchTable) -> None:
        self.has_responses = False
        self.proves_delivery = True
        self._messages = messages
        self._watches = watches
        self._requests: deque[float] = deque()  # the times of those that were not answered yet
        self._responses = 0

    def request(self) -> None:
        """Request a progress response.  Does not block.

        Raises:
            EtcException: The stream has ended, with this error.
        """
        self._messages.send(WatchRequest(progress_request=WatchProgressRequest()))
        if not self._watches.is_empty:  # otherwise the server drops the request
            self._requests.append(timing.now())
            self._drop_unanswered()

    def is_answered_at(self, revision: int) -> bool:
        """Return True if a server at this revision answers progress requests, as it has done before."""
        return self.has_responses and (not self.proves_delivery or self._watches.has_started(revision))

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
