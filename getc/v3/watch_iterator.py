"""One watch, for those who read it."""

from __future__ import annotations

from collections import deque
from typing import Final

from gevent.event import Event

from getc.error_context import copy_error
from getc.errors import ConnectionError, EtcException, ResourceExhausted, TimedOut
from getc.timing import Deadline
from getc.v3.schema.watch import WatchCreateRequest, WatchResponse
from getc.v3.watch_stream import WatchStream

__all__ = ['WatchIterator']

BUFFER_BYTES: Final = 16 * 1024 * 1024
"""Bytes that wait to be taken from one watch; past it, it is ended: it would hold up the others of its stream."""

MIN_RESPONSES: Final = 1024
"""Bytes that protobuf takes for a response, however little is in it."""


class WatchIterator:
    """One watch.  An iterator over :class:`WatchResponse` with events, each a whole number of revisions.

    Also a context manager: leaving it cancels it.

    Attributes:
        revision: The store's when it was created: every later change of the range is told.
    """

    __slots__ = ('_error', '_has_news', '_held', '_is_over', '_received', '_stream', '_ticket', 'revision')

    def __init__(self, stream: WatchStream, request: WatchCreateRequest) -> None:
        self.revision = 0
        self._received: deque[tuple[WatchResponse, int]] | None = None  # most watches are quiet: there are thousands
        self._has_news: Event | None = None
        self._held = 0
        self._is_over = False
        self._error: EtcException | None = None
        self._stream = stream
        self._ticket = stream.add(request, self)

    @property
    def watch_id(self) -> int:
        """Its number on its stream."""
        return self._ticket.watch_id

    def receive(self, timeout: float | None = None) -> WatchResponse | None:
        """Return the next response with events; None after :meth:`cancel`.  Blocks.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimedOut: There was none in time: no sign of a fault.
            EventIndexCleared: The history from ``start_revision`` on was compacted.
            ResponseTooLarge: A response was larger than 16 MiB, and was not read; the watch has ended.
            ResourceExhausted: Too much waited to be taken, and was; watch again from the last revision taken.
            ConnectionError: The connection was lost; watch again from the last revision taken.
            ClientClosed: The client was closed.
        """
        deadline = Deadline.after(timeout)
        self._stream.home.check()
        while not self._received:
            if self._is_over and self._error is None:
                return None
            self._wait(deadline, f'no event of watch {self.watch_id}')
        response, size = self._received.popleft()
        self._held -= size
        return response

    def cancel(self) -> None:
        """End it.  What was not taken is dropped.  Does not block, may be called twice."""
        self._stream.home.check()
        self._stream.cancel(self._ticket)
        self._received = None
        self._held = 0
        self._is_over = True
        self._wake()

    def __iter__(self) -> WatchIterator:
        return self

    def __next__(self) -> WatchResponse:
        response = self.receive()
        if response is None:
            raise StopIteration
        return response

    def __enter__(self) -> WatchIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __repr__(self) -> str:
        state = 'over' if self._is_over else 'on'
        return f'<getc.v3.Watching {self.watch_id} {state} since revision {self.revision}>'

    # -- for the service, and for the stream (``Sink``)

    def wait_created(self, deadline: Deadline) -> WatchIterator:
        """Return it when the server has begun it; whoever gives up before leaves no watch.  Raises what ended it."""
        try:
            while not self.revision:
                self._wait(deadline, 'the watch was not created')
        except BaseException:
            self.cancel()
            raise
        self._has_news = None
        return self

    def on_created(self, response: WatchResponse) -> None:
        """The server has begun it."""
        self.revision = response.header.revision
        self._wake()

    def on_response(self, response: WatchResponse) -> None:
        """Something of its range has changed."""
        size = self._ticket.size + MIN_RESPONSES
        if self._received is None:
            self._received = deque()
        self._received.append((response, size))
        self._held += size
        if self._held > BUFFER_BYTES and len(self._received) > 1:
            self._stream.cancel(self._ticket)
            self.on_ended(
                ResourceExhausted(f'more than {BUFFER_BYTES} bytes wait to be taken', errno=ResourceExhausted.errno)
            )
        self._wake()

    def on_ended(self, error: EtcException) -> None:
        """Nothing more will come."""
        self._is_over = True
        self._error = error
        self._wake()

    # -- how it is done

    def _wait(self, deadline: Deadline, what: str) -> None:
        """Wait until something happens.  Raises what has ended it."""
        if self._error is not None:
            raise copy_error(self._error)  # which is that of the other watches, too
        if self._stream.home.in_forked_child:
            raise ConnectionError(f"watch {self.watch_id} was begun before the fork, and is the parent process's")
        if self._has_news is None:
            self._has_news = Event()
        self._has_news.clear()
        if not self._has_news.wait(deadline.timeout_left()):
            raise TimedOut(f'{what} within {deadline.timeout:g} s')

    def _wake(self) -> None:
        if self._has_news is not None:
            self._has_news.set()
