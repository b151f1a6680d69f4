"""Watching on v3: all watches of a client on one stream, all followers of one range on one watch of the server's."""

from __future__ import annotations

import gevent

from getc.backends.base import Watch, WatchListener
from getc.backends.monotonic import RevisionGuard
from getc.backends.tree.codec.events import range_of
from getc.backends.tree.codec.keyspace import Range
from getc.backends.tree.watch.catching_up import CatchingUp
from getc.backends.tree.watch.expiry import ExpiryCache
from getc.backends.tree.watch.missed_changes import MissedChanges
from getc.backends.tree.watch.replay_buffer import ReplayBuffer
from getc.backends.tree.watch.shared_watch import SharedWatch, Subscriber
from getc.errors import ClientClosed, EtcException
from getc.operations import WatchSpec
from getc.results import EtcdResult
from getc.v3.rpc import RpcClient
from getc.v3.schema.watch import Watch as Schema
from getc.v3.watch_stream import WatchStream

__all__ = ['WatchHub']


class WatchHub:
    """All that is followed by one client.

    Args:
        rpc: How RPCs are called.
        horizon: How far the client has seen.

    Attributes:
        rpc: The same.
        horizon: The same.
        endings: Which leases have ended.
        past: What was told lately.
        missed_changes: Compares what calls return with what the watches have delivered.
    """

    def __init__(self, rpc: RpcClient, horizon: RevisionGuard) -> None:
        self.rpc = rpc
        self.horizon = horizon
        self.endings = ExpiryCache(rpc)
        self.past = ReplayBuffer()
        self.missed_changes = MissedChanges()
        self._catching_up = CatchingUp()
        self._stream: WatchStream | None = None
        self._opening: gevent.Greenlet[..., None] | None = None
        self._waiting: dict[SharedWatch, None] = {}  # for the stream
        self._sources: dict[Range, SharedWatch] = {}  # those that others may join

    def follow(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        """Tell a listener of changes, of the store that ``after`` followed.  Does not block."""
        store = after.store if isinstance(after, Subscriber) else 0
        source = self._sources.get(range_of(spec))
        if source is not None and source.is_joinable(spec):
            return source.join(spec, listener, store)
        source = SharedWatch(self, spec)
        self._sources.setdefault(source.watched, source)
        self.missed_changes.add(source)
        follower = source.join(spec, listener, store)
        self.begin(source)
        return follower

    def close(self) -> None:
        """Tell nobody anything more.  Does not block."""
        self._catching_up.close()
        if self._opening is not None:
            self._opening.kill(block=False)
        if self._stream is not None:
            self._stream.close(ClientClosed('the client was closed'))

    # -- for the sources

    def begin(self, source: SharedWatch) -> None:
        """Ask for a source's watch, once there is a stream."""
        if self._stream is not None and not self._stream.is_over:
            source.start(self._stream)
            return
        self._waiting[source] = None
        if self._opening is None:
            self._opening = gevent.spawn(self._open)
            self._opening.name = 'getc watch stream, opening'

    def restart_with_new_stream(self, source: SharedWatch) -> None:
        """The same, on another stream than this source was refused on: a stream has the token that it began with.

        The watches that are on it go on there; who comes from now on is on the new one.
        """
        self.leave_stream(source)
        self.begin(source)

    def leave_stream(self, source: SharedWatch) -> None:
        """Open another stream for the next watch, unless this source's is not the current one any more."""
        if self._stream is not None and self._stream is source.stream:
            self._stream.leave()
            self._stream = None

    def end(self, source: SharedWatch) -> None:
        """Nobody follows it any more."""
        if self._sources.get(source.watched) is source:
            del self._sources[source.watched]
        self.missed_changes.remove(source)
        self._waiting.pop(source, None)

    def compare(self, result: EtcdResult) -> None:
        """A call has returned this: notice watches that should have delivered it.  Does not block."""
        if self._stream is not None and result.etcd_index > self._stream.revision:
            self._stream.on_revision(result.etcd_index)
        self.missed_changes.compare(result)

    def on_revision(self, revision: int) -> None:
        """The store has come to this revision, as a response of a server shows."""
        if self._stream is not None:
            self._stream.on_revision(revision)

    def catch_up(self, source: SharedWatch) -> None:
        """Find out when a source that has begun has caught up."""
        self._catching_up.add(source)

    def find_equal(self, source: SharedWatch) -> SharedWatch | None:
        """The source of the same range that this one's followers could move to; None if it is that itself."""
        found = self._sources.setdefault(source.watched, source)
        return None if found is source else found

    def _open(self) -> None:
        error: EtcException | None = None
        try:
            self._stream = WatchStream(self.rpc.open(Schema.Watch))
            self._catching_up.adopt(self._stream)
        except EtcException as trouble:
            error = trouble
        self._opening = None
        waiting, self._waiting = self._waiting, {}
        for source in waiting:
            if error is not None:
                source.on_ended(error)
            elif self._stream is not None:
                source.start(self._stream)
