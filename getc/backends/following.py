"""Watching on v3: all watches of a client on one stream, all followers of one range on one watch of the server's."""

from __future__ import annotations

import os

import gevent

from getc.backends.base import Listener, Watch
from getc.backends.endings import Endings
from getc.backends.past import Past
from getc.backends.source import Follower, Source
from getc.errors import ClientClosed, EtcException
from getc.operations import WatchSpec
from getc.rpc.caller import Rpc
from getc.rpc.watch_stream import Ticket, WatchStream
from getc.wire.schema.watch import Watch as Schema
from getc.wire.tree.events import range_of
from getc.wire.tree.paths import Range

__all__ = ['Following']


class Following:
    """All that is followed by one client.

    Args:
        rpc: How RPCs are called.

    Attributes:
        rpc: The same.
        endings: Which leases have ended.
        past: What was told lately.
    """

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc
        self.endings = Endings(rpc)
        self.past = Past()
        self._pid = os.getpid()
        self._stream: WatchStream | None = None
        self._opening: gevent.Greenlet[..., None] | None = None
        self._waiting: dict[Source, None] = {}  # for the stream
        self._sources: dict[Range, Source] = {}  # those that others may join

    def follow(self, spec: WatchSpec, listener: Listener, after: Watch | None = None) -> Watch:
        """Tell a listener of changes, of the store that ``after`` followed.  Does not block."""
        if os.getpid() != self._pid:
            self._begin_anew()
        store = after.store if isinstance(after, Follower) else 0
        source = self._sources.get(range_of(spec))
        if source is not None and source.covers(spec.index):
            return source.join(spec, listener, store)
        source = Source(self, spec)
        self._sources.setdefault(source.watched, source)
        follower = source.join(spec, listener, store)
        self.begin(source)
        return follower

    def close(self) -> None:
        """Tell nobody anything more.  Does not block."""
        if self._opening is not None:
            self._opening.kill(block=False)
        if self._stream is not None:
            self._stream.close(ClientClosed('the client was closed'))

    # -- for the sources

    def begin(self, source: Source) -> None:
        """Ask for a source's watch, once there is a stream."""
        if self._stream is not None and not self._stream.is_over:
            source.start(self._stream)
            return
        self._waiting[source] = None
        if self._opening is None:
            self._opening = gevent.spawn(self._open)
            self._opening.name = 'getc watch stream, opening'

    def end(self, source: Source, ticket: Ticket | None) -> None:
        """Nobody follows it any more."""
        if self._sources.get(source.watched) is source:
            del self._sources[source.watched]
        self._waiting.pop(source, None)
        if ticket is not None and self._stream is not None:
            self._stream.cancel(ticket)

    def joinable(self, source: Source) -> Source | None:
        """The source of the same range that this one's followers could move to; None if it is that itself."""
        found = self._sources.setdefault(source.watched, source)
        return None if found is source else found

    def _begin_anew(self) -> None:
        """In a forked child: what was followed before is the parent's."""
        self._pid = os.getpid()
        if self._opening is not None:
            self._opening.kill(block=False)
        self._stream = self._opening = None
        self._waiting, self._sources = {}, {}

    def _open(self) -> None:
        error: EtcException | None = None
        try:
            self._stream = WatchStream(self.rpc.open(Schema.Watch))
        except EtcException as trouble:
            error = trouble
        self._opening = None
        waiting, self._waiting = self._waiting, {}
        for source in waiting:
            if error is not None:
                source.on_ended(error)
            elif self._stream is not None:
                source.start(self._stream)
