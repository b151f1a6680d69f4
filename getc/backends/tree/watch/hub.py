"""Watches of the tree: one stream for all of a client, and one server watch for all subscribers of a range."""

from __future__ import annotations

from getc.backends.base import Watch, WatchListener
from getc.backends.monotonic import RevisionGuard
from getc.backends.tree.codec.events import range_of
from getc.backends.tree.watch.catch_up import CatchUpDetector
from getc.backends.tree.watch.expiry import ExpiryCache
from getc.backends.tree.watch.missed_changes import MissedChanges
from getc.backends.tree.watch.proxied_watches import ProxiedWatches
from getc.backends.tree.watch.replay_buffer import ReplayBuffer
from getc.backends.tree.watch.shared_watch import SharedWatch, WatchContext
from getc.backends.tree.watch.subscriber import Subscriber
from getc.errors import ClientClosed
from getc.operations import WatchSpec
from getc.results import EtcdResult
from getc.v3.rpc import RpcClient
from getc.v3.watch_multiplexer import WatchMultiplexer

__all__ = ['WatchHub']


class WatchHub:
    """Subscribes listeners to changes of the tree.

    Args:
        rpc: Calls RPCs and opens the watch stream.
        revision_guard: What the client has seen.

    Attributes:
        missed_changes: Compares what calls return with what the watches have delivered.
    """

    def __init__(self, rpc: RpcClient, revision_guard: RevisionGuard) -> None:
        self.missed_changes = MissedChanges()
        self._catch_up = CatchUpDetector()
        self._proxied = ProxiedWatches()
        self._watches = WatchMultiplexer(rpc, self._catch_up.attach)
        self._context = WatchContext(
            rpc=rpc,
            watches=self._watches,
            revision_guard=revision_guard,
            expiry_cache=ExpiryCache(rpc),
            replay_buffer=ReplayBuffer(),
            catch_up=self._catch_up,
            missed_changes=self.missed_changes,
            proxied=self._proxied,
            by_range={},
        )

    def subscribe(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        """Notify a listener of changes.  Does not block.

        Args:
            spec: What to watch, and from which index on.
            listener: The listener.
            after: The watch that this one continues, which has ended: the new one ends if the store is another one.
        """
        cluster_id = after.cluster_id if isinstance(after, Subscriber) else 0
        key_range = range_of(spec)
        watch = self._context.by_range.get(key_range)
        if watch is not None and watch.is_joinable(spec):
            return watch.subscribe(spec, listener, cluster_id)
        watch = SharedWatch(self._context, spec, key_range)
        subscriber = watch.subscribe(spec, listener, cluster_id)
        watch.start()
        return subscriber

    def close(self) -> None:
        """End all watches with ClientClosed.  Does not block."""
        self._catch_up.close()
        self._proxied.close()
        self._watches.close(ClientClosed('the client was closed'))

    def compare(self, result: EtcdResult) -> None:
        """Detect watches that have missed the change that a call has returned.  Does not block."""
        stream = self._watches.streams.latest
        if stream is not None and result.etcd_index > stream.revision:
            stream.on_revision(result.etcd_index)
        self.missed_changes.compare(result)

    def on_revision(self, revision: int) -> None:
        """Check the stream soon if it has not shown this revision of the store, which another response has shown."""
        stream = self._watches.streams.latest
        if stream is not None:
            stream.on_revision(revision)
