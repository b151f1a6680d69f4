"""Creates the watches of a client on one shared stream, which it opens and reopens as needed.

All watches of getc are created here.  Each kind of watch (those of :class:`getc.v3.watch.Watch`, of the directory tree,
and of the keys of kept nodes) has its own multiplexer and stream.  Opening streams, recovery from a stale token and the
health check (of :class:`~getc.v3.watch_stream.WatchStream`) are implemented here only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gevent

from getc.errors import ConnectionError, EtcException
from getc.timing import DEFAULT_TIMEOUT, Deadline
from getc.v3.reopening import ReopeningStream
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeRequest
from getc.v3.schema.watch import Watch
from getc.v3.substream import Substream
from getc.v3.watch_stream import WatchStream

__all__ = ['WatchMultiplexer']

PERMISSION_READ_TIMEOUT: Final = 5.0
"""Seconds for the read that checks a permission."""


class WatchMultiplexer:
    """Any number of watches on one stream.

    A watch ends with its stream: its handler is notified, and may add another watch, which a new stream is opened for.

    Args:
        rpc: Calls the RPCs.
        on_open: Called with each stream before the first watch is added.  It must not block; an EtcException that it
            raises counts as a failure to open the stream.

    Attributes:
        streams: Opens the stream, and another one after that has ended.
    """

    def __init__(self, rpc: RpcClient, on_open: Callable[[WatchStream], object] = lambda stream: None) -> None:
        self._rpc = rpc
        self._waiting: list[Substream] = []  # for a stream
        self._opener: gevent.Greenlet[[], None] | None = None
        self._closed_with: EtcException | None = None

        def open_stream(deadline: Deadline) -> WatchStream:
            stream = WatchStream(rpc.open(Watch.Watch, deadline.timeout_left()))
            on_open(stream)
            return stream

        # No reference to self: a cycle would delay closing the connections of a dropped client until it is collected.
        self.streams = ReopeningStream(open_stream)

    def add(self, substream: Substream, *, recovers: bool = True) -> None:
        """Create a watch, as soon as a stream is open.  Does not block.

        A failure is passed to the handler.

        Args:
            substream: The watch.
            recovers: If the watch is refused as unauthorized before it was created, create it once more on another
                stream, provided that a read of its range is permitted.
        """
        if recovers:
            substream.on_unauthorized = self._recover
        self._request(substream)

    def retire(self, stream: WatchStream) -> None:
        """Create further watches on another stream than this one, which closes with the last of its watches.

        Does not block.
        """
        self.streams.retire(stream)
        stream.close_when_empty()

    def close(self, error: EtcException) -> None:
        """End all watches with this error.  Does not block."""
        self._closed_with = error
        if self._opener is not None:
            self._opener.kill(block=False)
        waiting, self._waiting = self._waiting, []
        for substream in waiting:
            substream.on_ended(error)
        if self.streams.current is not None:
            self.streams.current.close(error)

    def _request(self, substream: Substream) -> None:
        stream = self.streams.current
        if self._closed_with is not None:
            substream.on_ended(self._closed_with)
            return
        if stream is None:
            self._waiting.append(substream)
            if self._opener is None:
                self._opener = gevent.spawn(self._open)
                self._opener.name = 'getc watch stream, opening'
                self._opener.rawlink(self._on_opener_over)
            return
        try:
            substream.request_on(stream)
        except EtcException as error:
            substream.on_ended(error)

    def _open(self) -> None:
        failure: EtcException | None = None
        try:
            stream = self.streams.get(self._rpc.deadline(DEFAULT_TIMEOUT))
            if self._closed_with is not None:  # closed in the turn in which the stream was opened
                stream.close(self._closed_with)
        except EtcException as error:
            failure = error
        self._opener = None
        self._on_open(failure)

    def _on_opener_over(self, opener: object) -> None:
        """End the watches that wait if the greenlet was killed or has failed: they would wait forever."""
        if opener is self._opener:
            self._opener = None
            self._on_open(ConnectionError('the greenlet that opened the watch stream was killed'))

    def _on_open(self, failure: EtcException | None) -> None:
        """Request the watches that wait for a stream, or end them with the reason why there is none."""
        waiting, self._waiting = self._waiting, []
        for substream in waiting:
            if substream.is_over:
                continue
            if failure is None:
                self._request(substream)
            else:
                substream.on_ended(failure)

    # -- stale tokens

    def _recover(self, substream: Substream) -> None:
        gevent.spawn(self._retry_if_permitted, substream).name = 'getc watch stream, checking permission'

    def _retry_if_permitted(self, substream: Substream) -> None:
        """Create a refused watch on another stream if a read of its range is permitted.

        A stream keeps the token that it was opened with, which the server may have forgotten since.  Old servers refuse
        a stale token as "permission denied".  A read that is refused gets a new token; if it is then permitted, so is
        the watch, on a new stream.
        """
        request = substream.request
        if request is None:
            return  # cancelled meanwhile
        start, end = request.key, request.range_end
        readable = RangeRequest(key=start, range_end=end, limit=1, keys_only=True, serializable=True)
        try:
            self._rpc.call(KV.Range, readable, PERMISSION_READ_TIMEOUT)
        except EtcException as error:
            substream.on_ended(error)
            return
        if not substream.is_over:
            if substream.stream is not None:
                self.retire(substream.stream)
            self._request(substream)
