"""One stream with any number of watches on it, each of which tells a sink.

Facts that this stands on (etcd 3.5, ``server/etcdserver/api/v3rpc/watch.go``): created replies come in the order of the
creates; a refused watch is ``created`` and ``canceled`` at once, with a ``watch_id`` of -1, or in etcd 3.4 and 3.5.1
the one that was asked for, 0 where none was.  Those then tell nothing more of the watch 0 that there may be, so the
numbers are ours, from 1 on.  A progress response that is for all watches has a ``watch_id`` of -1.

Servers from 3.4.25 and 3.5.8 on answer a progress request only when every watch of the stream has received
everything up to the revision of the answer; they drop it while one lags behind, or while there is none.  Older servers
always answer, and such an answer says nothing of the watches.  ``etcd grpc-proxy`` drops all of them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import gevent

from getc import timing
from getc.errors import ConnectionError, EtcException, EventIndexCleared, ResponseTooLarge
from getc.grpc.framing import Status
from getc.net.affinity import ThreadAffinity
from getc.timing import Deadline
from getc.v3.schema.kv import KV, RangeRequest, RangeResponse
from getc.v3.schema.watch import (
    Watch,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from getc.v3.status_errors import error_of_status
from getc.v3.stream import MessageStream
from getc.v3.watch_pulse import WatchPulse

__all__ = ['Substream', 'WatchHandler', 'WatchStream']

log = logging.getLogger('getc')

FOR_ALL: Final = -1
"""The ``watch_id`` of what is about no watch, or about all."""

INVALID_ARGUMENT: Final = 3
PERMISSION_DENIED: Final = 7

ANSWER_TIMEOUT: Final = 5.0
"""Seconds after which no response to a progress request is expected: the server has dropped the request."""


class WatchHandler(Protocol):
    """Whom a watch tells.  None of its methods blocks, switches or raises."""

    def on_created(self, response: WatchResponse) -> None:
        """The watch is on.  Whatever changes after the response's revision will be told, or it ends."""

    def on_response(self, response: WatchResponse) -> None:
        """Events of whole revisions: pieces have been put together.  The ticket's ``size`` is what it came in."""

    def on_ended(self, error: EtcException) -> None:
        """It was refused, ended by the server, or lost with the stream.  Called once, last; not after a cancel.

        The error is that of the other watches, too, where the stream was lost.
        """


class Substream:
    """One watch of a stream, from the moment it is asked for.

    Attributes:
        watch_id: Its number; -1 before it is created.
        is_over: Its sink hears nothing more.
        size: Bytes, roughly, of the response that its sink is told.
        is_whole: The response that was passed to the sink last came in one piece.
        key: The first key of its range.
        first: The first revision of interest; 0 for what comes from now on.
        created: The revision of the server when it created the watch; 0 before.
        early: The number of the last progress response that may have been sent before the watch was created.
    """

    __slots__ = ('created', 'early', 'first', 'is_over', 'is_whole', 'key', 'partial', 'sink', 'size', 'watch_id')

    def __init__(self, request: WatchCreateRequest, sink: WatchHandler) -> None:
        self.sink = sink
        self.key = request.key
        self.first = request.start_revision
        self.created = 0
        self.early = 0
        self.is_whole = True
        self.watch_id = FOR_ALL
        self.is_over = False
        self.size = 0
        self.partial: WatchResponse | None = None  # a revision of which more follows

    def take(self, response: WatchResponse, size: int) -> None:
        """Something of it came, so many bytes.  Each revision is told when it is whole."""
        self.size += size
        self.is_whole = self.partial is None and not response.fragment
        if self.partial is not None:
            joined, self.partial = self.partial, None
            joined.events.extend(response.events)  # type: ignore[attr-defined]
            joined.fragment = response.fragment
            response = joined
        if response.fragment:
            if response.events[0].kv.mod_revision == response.events[-1].kv.mod_revision:
                self.partial = response  # there may be a million events, in many pieces: none is copied twice
                return
            self.partial = _last_revision(response)
            response.fragment = False
        self.sink.on_response(response)
        self.size = 0

    def end(self, error: EtcException) -> None:
        """Tell the sink that it is over, unless it knows."""
        if not self.is_over:
            self.is_over = True
            self.partial = None
            self.sink.on_ended(error)


class WatchStream:
    """A stream of the Watch service.

    Args:
        messages: The stream, which is this one's from now on.

    Attributes:
        home: The process and the thread that it belongs to.
        on_progress: Called with the revision of each progress response for all watches.  It must not block or raise.
        revision: The latest that a response of the server has shown.
        has_progress: The server has sent a progress response.
        proves_progress: False if a progress response says nothing of the watches, as one that comes before the first.
    """

    def __init__(self, messages: MessageStream[WatchRequest, WatchResponse]) -> None:
        self.home = ThreadAffinity()
        self.home.check()
        self._messages = messages
        self._tickets: dict[int, Substream] = {}
        self._asked: deque[Substream] = deque()
        self._progress: list[Callable[[int | EtcException], object]] = []
        self.on_progress: Callable[[int], object] | None = None
        self.revision = 0
        self.has_progress = False
        self.proves_progress = True
        self._has_created = False
        self._requested: deque[float] = deque()  # when progress was requested that was not answered yet
        self._answers = 0  # progress responses
        self._last_id = 0
        self._is_left = False
        self._pulse = WatchPulse(self)
        self._reader = gevent.spawn(self._read)
        self._reader.name = 'getc watch stream'

    @property
    def is_over(self) -> bool:
        """True if no watch can be added any more."""
        return self._messages.is_over

    @property
    def has_watches(self) -> bool:
        """True if a watch is open, or was asked for."""
        return bool(self._tickets or self._asked)

    def add(self, request: WatchCreateRequest, sink: WatchHandler) -> Substream:
        """Ask for a watch.  Does not block.  Raises what ended the stream."""
        ticket = Substream(request, sink)
        message = WatchRequest(create_request=request)
        self._last_id += 1
        message.create_request.watch_id = self._last_id
        self._messages.send(message)
        ticket.early = self._answers + self._unanswered()
        self._asked.append(ticket)
        return ticket

    def cancel(self, ticket: Substream) -> None:
        """End a watch; its sink hears nothing more.  Does not block, may be called twice, and with another's ticket."""
        ticket.is_over = True
        ticket.partial = None
        if self._tickets.get(ticket.watch_id) is not ticket:
            return
        del self._tickets[ticket.watch_id]
        if not self.is_over:
            self._messages.send(WatchRequest(cancel_request=WatchCancelRequest(watch_id=ticket.watch_id)))
            self._end_if_empty()

    def ask_progress(self, tell: Callable[[int | EtcException], object]) -> None:
        """Have it told which revision the server has come to, or what ended the stream.  Does not block.

        From etcd 3.5.8 on the server does not answer while the stream has no watch.
        """
        self.request_progress()
        self._progress.append(tell)

    def request_progress(self) -> None:
        """Request progress, of which ``on_progress`` is notified.  Does not block.  Raises what ended the stream."""
        self._messages.send(WatchRequest(progress_request=WatchProgressRequest()))
        if self.has_watches:  # else it is dropped
            self._requested.append(timing.now())
            self._unanswered()

    def is_later(self, revision: int, ticket: Substream) -> bool:
        """True if the latest progress response, of this revision, was certainly sent after the watch was created.

        etcd sends the created response of a watch and the progress responses from two queues, in any order.
        """
        return revision > ticket.created or self._answers > ticket.early

    def _unanswered(self) -> int:
        """Return how many progress requests may still be answered."""
        while self._requested and timing.now() - self._requested[0] > ANSWER_TIMEOUT:
            self._requested.popleft()
        return len(self._requested)

    def on_revision(self, revision: int) -> None:
        """The store has come to this revision, as another response of a server shows.  Does not block."""
        if self.has_progress and revision > self.revision:
            self._pulse.on_passed()

    # -- whether the server answers (for ``WatchPulse``)

    @property
    def url(self) -> str:
        """The server."""
        return self._messages.url

    @property
    def is_idle(self) -> bool:
        """True if nothing is expected from the server."""
        return self.is_over or self.home.in_forked_child or not (self._tickets or self._asked)

    def expects_progress(self, revision: int) -> bool:
        """True if a server that has come to this revision answers progress requests, as it has done before."""
        if not self.proves_progress:
            return self.has_progress
        return self.has_progress and all(ticket.first <= revision for ticket in self._tickets.values())

    def read_revision(self, deadline: Deadline) -> int:
        """Read a watched key, linearizable, from the stream's own server.  Blocks.  Raises what it met."""
        ticket = next(iter((*self._asked, *self._tickets.values())))
        request = RangeRequest(key=ticket.key, keys_only=True)
        return int(self.read(request, deadline).header.revision)

    def read(self, request: RangeRequest, deadline: Deadline) -> RangeResponse:
        """Read from the stream's own server.  Blocks.  Raises what it met."""
        return self._messages.ask(KV.Range, request, deadline)

    def lose(self, error: ConnectionError) -> None:
        """The server does not answer: end all watches with this error.  Does not block."""
        if error.is_outage:
            self._messages.blame(error)
        self.close(error)

    # -- the end

    def leave(self) -> None:
        """End the stream with the last of its watches: no more will be added.  Does not block."""
        self._is_left = True
        self._end_if_empty()

    def close(self, error: EtcException) -> None:
        """End all watches with this error.  Does not block."""
        self._reader.kill(block=False)
        self._end(error)

    # -- the reader

    def _read(self) -> None:
        error: EtcException = ConnectionError('the server ended the stream of watches')
        try:
            while (response := self._received()) is not None:
                self._on_response(response)
        except EtcException as trouble:
            error = trouble
        except Exception as failure:
            log.exception('the stream of watches failed')
            error = ConnectionError(f'the stream of watches failed: {type(failure).__name__}')
        finally:
            self._end(error)

    def _received(self) -> WatchResponse | None:
        """The next response that is not too large: one that is ends the watch that it was for, and no other."""
        while True:
            try:
                return self._messages.receive(Deadline(None))
            except ResponseTooLarge as error:
                assert self._messages.beginning is not None
                self._on_too_large(self._messages.beginning.watch_id, error)

    def _on_too_large(self, watch_id: int, error: ResponseTooLarge) -> None:
        ticket = self._tickets.get(watch_id)
        if ticket is not None:
            self.cancel(ticket)
            ticket.sink.on_ended(error)

    def _on_response(self, response: WatchResponse) -> None:
        self.revision = max(self.revision, response.header.revision)
        self._pulse.on_message()
        if response.created:
            self._on_created(response)
        elif response.canceled:
            ticket = self._tickets.pop(response.watch_id, None)
            if ticket is not None:
                ticket.end(self._refusal(response))
                self._end_if_empty()
        elif response.events:
            ticket = self._tickets.get(response.watch_id)
            if ticket is not None:
                ticket.take(response, self._messages.size)
        elif response.watch_id == FOR_ALL:
            self._on_progress(response.header.revision)

    def _on_progress(self, revision: int) -> None:
        self.has_progress = True
        self._answers += 1
        if self._requested:
            self._requested.popleft()
        if not self._has_created:
            self.proves_progress = False
        if self.on_progress is not None:
            self.on_progress(revision)
        asked, self._progress = self._progress, []
        for tell in asked:
            tell(revision)

    def _on_created(self, response: WatchResponse) -> None:
        self._has_created = True
        if not self._asked:
            return
        ticket = self._asked.popleft()
        if response.canceled:
            ticket.end(self._refusal(response))
            self._end_if_empty()
            return
        ticket.watch_id = response.watch_id
        ticket.created = response.header.revision
        self._tickets[response.watch_id] = ticket
        if ticket.is_over:
            self.cancel(ticket)  # nobody wants it any more
        else:
            ticket.sink.on_created(response)

    def _end_if_empty(self) -> None:
        if self._is_left and not self._tickets and not self._asked:
            self._messages.cancel()

    def _refusal(self, response: WatchResponse) -> EtcException:
        """Why the server ended a watch: its text is that of a gRPC status, perhaps with the name of the code."""
        url = self._messages.url
        if response.compact_revision:
            cause = f'up to {response.compact_revision}'
            return EventIndexCleared('mvcc: required revision has been compacted', cause, endpoint=url)
        text = response.cancel_reason.rpartition('desc = ')[2] or 'the server cancelled the watch'
        code = PERMISSION_DENIED if 'permission denied' in text else INVALID_ARGUMENT
        secrets = self._messages.secrets
        return error_of_status(Status(code, text), Watch.Watch.path, is_write=False, url=url, secrets=secrets)

    def _end(self, error: EtcException) -> None:
        self._pulse.close()
        self._messages.cancel()
        tickets = [*self._tickets.values(), *self._asked]
        progress, self._progress = self._progress, []
        self._tickets.clear()
        self._asked.clear()
        for ticket in tickets:
            ticket.end(error)
        for tell in progress:
            tell(error)


def _last_revision(response: WatchResponse) -> WatchResponse:
    """Take the events of the last revision out of several, into a response of their own."""
    events = response.events
    last = events[-1].kv.mod_revision
    at = len(events) - 1
    while events[at - 1].kv.mod_revision == last:
        at -= 1
    taken = WatchResponse(header=response.header, watch_id=response.watch_id, events=events[at:])
    del events[at:]  # type: ignore[attr-defined]
    return taken
