"""Watching on v3: all watches of a client on one stream, all followers of one range on one watch of the server's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final

import gevent

from getc.backends.base import Listener, Watch
from getc.backends.endings import Endings
from getc.backends.news import News
from getc.errors import ClientClosed, EtcException, EventIndexCleared, PermissionDenied
from getc.model import EtcdResult
from getc.operations import WatchSpec
from getc.rpc.caller import Rpc
from getc.rpc.watch_stream import Ticket, WatchStream
from getc.wire.schema.watch import Watch as Schema
from getc.wire.schema.watch import WatchResponse
from getc.wire.tree.events import leases_of, narrow_range, range_of, request_of, results_of
from getc.wire.tree.paths import Range

__all__ = ['Following']

REMEMBERED: Final = 100
"""Revisions that a source remembers for those who come a moment late."""

CLEARED: Final = 'The event in requested index is outdated and cleared'
ANOTHER_STORE: Final = 'the store is another one, or went back'


class Following:
    """All that is followed by one client.

    Args:
        rpc: How RPCs are called.
    """

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._endings = Endings(rpc)
        self._stream: WatchStream | None = None
        self._opening: gevent.Greenlet[..., None] | None = None
        self._waiting: list[_Source] = []  # for the stream
        self._sources: dict[Range, _Source] = {}  # those that others may join

    def follow(self, spec: WatchSpec, listener: Listener, after: Watch | None = None) -> Watch:
        """Tell a listener of changes, of the store that ``after`` followed.  Does not block."""
        store = after.store if isinstance(after, _Follower) else 0
        watched = range_of(spec)
        source = self._sources.get(watched)
        if source is None or not source.covers(spec.index):
            source = _Source(self, spec, watched, self._endings)
            self._sources.setdefault(watched, source)
            self._start(source)
        return source.join(spec, listener, store)

    def close(self) -> None:
        """Tell nobody anything more.  Does not block."""
        if self._opening is not None:
            self._opening.kill(block=False)
        if self._stream is not None:
            self._stream.close(ClientClosed('the client was closed'))

    # -- for the sources

    def begin(self, source: _Source) -> None:
        """Ask for a source's watch, once there is a stream."""
        self._start(source)

    def end(self, source: _Source, ticket: Ticket | None) -> None:
        """Nobody follows it any more."""
        if self._sources.get(source.watched) is source:
            del self._sources[source.watched]
        if source in self._waiting:
            self._waiting.remove(source)
        if ticket is not None and self._stream is not None:
            self._stream.cancel(ticket)

    def joinable(self, source: _Source) -> _Source | None:
        """The source of the same range that this one's followers could move to; None if it is that itself."""
        found = self._sources.setdefault(source.watched, source)
        return None if found is source else found

    def _start(self, source: _Source) -> None:
        if self._stream is not None and not self._stream.is_over:
            source.start(self._stream)
            return
        self._waiting.append(source)
        if self._opening is None:
            self._opening = gevent.spawn(self._open)
            self._opening.name = 'getc watch stream, opening'

    def _open(self) -> None:
        try:
            self._stream = WatchStream(self._rpc.open(Schema.Watch))
        except EtcException as error:
            self._opening = None
            waiting, self._waiting = self._waiting, []
            for source in waiting:
                source.on_ended(error)
            return
        self._opening = None
        waiting, self._waiting = self._waiting, []
        for source in waiting:
            source.start(self._stream)


class _Follower(News):
    """One who follows a source.

    Attributes:
        cursor: Every change up to this index has been told, or was not asked for.
        store: The id of the cluster that it follows; 0 while any will do.
    """

    __slots__ = ('cursor', 'store')

    def __init__(self, listener: Listener, on_close: Callable[[], object], cursor: int, store: int) -> None:
        super().__init__(listener, on_close)
        self.cursor = cursor
        self.store = store


class _Source:
    """One watch of the server's, with those who follow it.

    Attributes:
        watched: The range, as its followers mean it.
    """

    def __init__(self, following: Following, spec: WatchSpec, watched: Range, endings: Endings) -> None:
        self.watched = watched
        self._following = following
        self._spec = spec
        self._asked = watched  # the range, as the server is asked for it
        self._endings = endings
        self._first = spec.index or 0  # revision; 0 is from now on
        self._position: int | None = None  # every change up to it has been told; None before it is live
        self._store = 0  # the cluster's id, once it is live
        self._followers: dict[_Follower, None] = {}
        self._history: deque[tuple[int, list[EtcdResult]]] = deque(maxlen=REMEMBERED)
        self._reaches_back_to = self._first
        self._responses: deque[WatchResponse] = deque()
        self._telling: gevent.Greenlet[..., None] | None = None
        self._ticket: Ticket | None = None

    # -- followers

    def covers(self, index: int | None) -> bool:
        """True if whoever joins misses nothing from this index on; never from "now", which it has not come to."""
        return index is not None and bool(self._reaches_back_to) and self._reaches_back_to <= index

    def join(self, spec: WatchSpec, listener: Listener, store: int) -> Watch:
        """Tell this listener, too, if this is its store; 0 for any."""
        follower = _Follower(listener, lambda: self._leave(follower), (spec.index or 0) - 1, store)
        self._followers[follower] = None
        if self._position is not None:
            self._set_off(follower)
        return follower

    def adopt(self, follower: _Follower) -> None:
        """Go on telling a follower of another source that has come as far."""
        self._followers[follower] = None
        follower.move(lambda: self._leave(follower))

    def _set_off(self, follower: _Follower) -> None:
        """The source is live: so is the follower, and hears what it has missed."""
        assert self._position is not None
        if follower.store not in (0, self._store):
            follower.tell(EventIndexCleared(CLEARED, ANOTHER_STORE, self._position))
            return
        follower.store = self._store
        if follower.cursor < 0:
            follower.cursor = self._position
        follower.tell(follower.cursor)
        for revision, results in self._history:
            if revision > follower.cursor:
                follower.cursor = revision
                follower.tell(results)

    def _leave(self, follower: _Follower) -> None:
        self._followers.pop(follower, None)
        if not self._followers:
            self._stop()

    def _stop(self) -> None:
        ticket, self._ticket = self._ticket, None
        self._responses.clear()
        self._following.end(self, ticket)

    def _move_to_others(self) -> None:
        """Two sources of one range that have come equally far are one too many."""
        other = self._following.joinable(self)
        if other is None or other._position is None or other._position != self._position or other._responses:
            return
        followers, self._followers = self._followers, {}
        for follower in followers:
            other.adopt(follower)
        self._stop()

    # -- the watch (``Sink``)

    def start(self, stream: WatchStream) -> None:
        """Ask for it on this stream."""
        try:
            self._ticket = stream.add(request_of(self._asked, self._first), self)
        except EtcException as error:
            self.on_ended(error)

    def on_created(self, response: WatchResponse) -> None:
        """It is on."""
        revision = response.header.revision
        if self._first > revision + 1:
            ticket, self._ticket = self._ticket, None
            self._following.end(self, ticket)
            self.on_ended(EventIndexCleared(CLEARED, ANOTHER_STORE, revision))
            return
        self._store = response.header.cluster_id
        self._position = self._first - 1 if self._first else revision
        self._reaches_back_to = self._position + 1
        for follower in list(self._followers):
            self._set_off(follower)

    def on_response(self, response: WatchResponse) -> None:
        """Something changed."""
        self._responses.append(response)
        if self._telling is None:
            self._tell_all()

    def on_ended(self, error: EtcException) -> None:
        """It is over; or, where only the range was too wide for the user, not yet."""
        self._ticket = None
        narrow = narrow_range(self._spec)
        if isinstance(error, PermissionDenied) and self._asked != narrow:
            self._asked = narrow
            self._following.begin(self)
            return
        self._following.end(self, None)
        for follower in list(self._followers):
            follower.tell(error)

    # -- telling

    def _tell_all(self) -> None:
        """Tell what has come; where it must be asked first whether keys expired, later, and in order."""
        while self._responses:
            leases = leases_of(self._responses[0].events)
            if not self._endings.are_known(leases):
                self._telling = gevent.spawn(self._ask_and_tell, leases)
                return
            self._tell(self._responses.popleft())
        self._move_to_others()

    def _ask_and_tell(self, leases: set[int]) -> None:
        try:
            self._endings.find_out(leases)
        finally:
            self._telling = None
        self._tell_all()

    def _tell(self, response: WatchResponse) -> None:
        assert self._position is not None
        for revision, results in self._revisions(response):
            if revision <= self._position:  # etcd 3.4 may send an event twice
                continue
            self._position = revision
            if not results:
                continue
            if len(self._history) == REMEMBERED:
                self._reaches_back_to = self._history[0][0] + 1
            self._history.append((revision, results))
            for follower in list(self._followers):
                if follower.cursor < revision:
                    follower.cursor = revision
                    follower.tell(results)

    def _revisions(self, response: WatchResponse) -> Iterator[tuple[int, list[EtcdResult]]]:
        header = response.header
        for revision, events in groupby(response.events, key=lambda event: event.kv.mod_revision):
            is_gone = self._endings.is_gone
            yield revision, list(results_of(self._spec, events, header.revision, header.raft_term, is_gone))
