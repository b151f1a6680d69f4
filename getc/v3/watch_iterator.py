"""One watch as an iterator over its responses."""

from __future__ import annotations

from collections import deque
from typing import Final

from gevent.event import Event

from getc.error_context import copy_error
from getc.errors import ConnectionError, EtcException, ResourceExhausted, TimedOut
from getc.grpc.stalls import wait_ready
from getc.timing import Deadline
from getc.v3.schema.watch import WatchCreateRequest, WatchResponse
from getc.v3.substream import Substream
from getc.v3.watch_multiplexer import WatchMultiplexer
from getc.v3.watch_table import WatchHandler

__all__ = ['WatchIterator']

WATCH_BUFFER_BYTES: Final = 16 * 1024 * 1024
"""Bytes of responses buffered for one watch.  Beyond, the watch is ended: it would block the others of its stream."""

RESPONSE_OVERHEAD: Final = 1024
"""Bytes of memory that protobuf uses for a response, in addition to its contents."""


class WatchIterator(WatchHandler):
    """One watch: an iterator over :class:`WatchResponse` with events, each of which holds whole revisions.

    Also a context manager that cancels the watch.

    Args:
        request: The watch.

    Attributes:
        revision: The store's revision when the watch was created: every later change of the range is delivered.
    """

    __slots__ = ('_buffer', '_buffered_bytes', '_changed', '_error', '_is_over', '_substream', 'revision')

    def __init__(self, request: WatchCreateRequest) -> None:
        self.revision = 0
        self._buffer: deque[tuple[WatchResponse, int]] | None = None  # most watches are quiet: there are thousands
        self._buffered_bytes = 0
        self._changed: Event | None = None
        self._is_over = False
        self._error: EtcException | None = None
        self._substream = Substream(request, self)

    @property
    def watch_id(self) -> int:
        """The id of the watch on its stream."""
        return self._substream.watch_id

    def receive(self, timeout: float | None = None) -> WatchResponse | None:
        """Return the next response with events; None after :meth:`cancel`.  Blocks.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimedOut: No event arrived in time, which is not a fault.
            EventIndexCleared: The history from ``start_revision`` on was compacted.
            ResponseTooLarge: A response was larger than 16 MiB and was skipped; the watch has ended.
            ResourceExhausted: The buffer was full, and all of it has been returned; watch again from the last revision
                returned.
            ConnectionError: The connection was lost; watch again from the last revision returned.
            ClientClosed: The client was closed.
        """
        deadline = Deadline.after(timeout)
        self._check_thread()
        while not self._buffer:
            if self._is_over and self._error is None:
                return None
            self._wait(deadline, f'no event of watch {self.watch_id}')
        response, size = self._buffer.popleft()
        self._buffered_bytes -= size
        return response

    def cancel(self) -> None:
        """End the watch and drop buffered responses.  Does not block, may be called twice."""
        self._check_thread()
        self._substream.cancel()
        self._buffer = None
        self._buffered_bytes = 0
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
        return f'<getc.v3.WatchIterator {self.watch_id} {state} since revision {self.revision}>'

    # -- for the service, and callbacks (``WatchHandler``)

    def wait_created(self, watches: WatchMultiplexer, deadline: Deadline) -> WatchIterator:
        """Create the watch; return it when the server has confirmed that.  On failure, no watch is left.

        Raises:
            TimedOut: The server did not confirm in time.
            EtcException: The server refuses, or the connection was lost.
        """
        try:
            watches.add(self._substream)
            while not self.revision:
                self._wait(deadline, 'the watch was not created')
        except BaseException:
            self.cancel()
            raise
        self._changed = None
        return self

    def on_created(self, response: WatchResponse) -> None:
        self.revision = response.header.revision
        self._wake()

    def on_response(self, response: WatchResponse) -> None:
        size = self._substream.size + RESPONSE_OVERHEAD
        if self._buffer is None:
            self._buffer = deque()
        self._buffer.append((response, size))
        self._buffered_bytes += size
        if self._buffered_bytes > WATCH_BUFFER_BYTES and len(self._buffer) > 1:
            self._substream.cancel()
            text = (
                f'the buffer of watch {self.watch_id} is full: more than {WATCH_BUFFER_BYTES} bytes were not received'
            )
            self.on_ended(ResourceExhausted(text, errno=ResourceExhausted.errno))
        self._wake()

    def on_ended(self, error: EtcException) -> None:
        self._is_over = True
        self._error = error
        self._wake()

    # -- waiting

    def _check_thread(self) -> None:
        if self._substream.stream is not None:
            self._substream.stream.affinity.check()

    def _wait(self, deadline: Deadline, what: str) -> None:
        """Wait until the state changes.  Raises the error that has ended the watch."""
        if self._error is not None:
            raise copy_error(self._error)  # other watches raise the same one
        stream = self._substream.stream
        if stream is not None and stream.affinity.in_forked_child:
            raise ConnectionError(f'watch {self.watch_id} was created before the fork: only the parent process has it')
        if self._changed is None:
            self._changed = Event()
        self._changed.clear()
        if not wait_ready(self._changed, deadline):
            raise TimedOut(f'{what} within {deadline.timeout:g} s')

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
