"""One server watch that is shared by all subscribers of its range."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import gevent

from getc.backends.base import WatchListener
from getc.backends.history import another_store, dropped_by_proxy
from getc.backends.monotonic import RevisionGuard
from getc.backends.tree.codec.events import leases_of, narrow_range, request_of, results_of
from getc.backends.tree.codec.keyspace import Range
from getc.backends.tree.watch.catch_up import CatchUpDetector
from getc.backends.tree.watch.expiry import ExpiryCache
from getc.backends.tree.watch.missed_changes import MissedChanges
from getc.backends.tree.watch.position import WatchPosition
from getc.backends.tree.watch.proxied_watches import ProxiedWatches
from getc.backends.tree.watch.replay_buffer import RangeHistory, ReplayBuffer
from getc.backends.tree.watch.store_identity import read_identity
from getc.backends.tree.watch.subscriber import Subscriber
from getc.errors import ConnectionError, EtcException, EventIndexCleared, PermissionDenied, Unauthorized
from getc.operations import WatchSpec
from getc.v3.rpc import RpcClient
from getc.v3.schema.watch import WatchResponse
from getc.v3.substream import Substream
from getc.v3.watch_multiplexer import WatchMultiplexer
from getc.v3.watch_table import WatchHandler

__all__ = ['SharedWatch', 'WatchContext']

MAX_HISTORY_BATCH: Final = 1000
"""Maximum number of revisions in one response from the history: one with fewer is complete up to its header's revision.
Source: etcd 3.7, ``mvcc/watcher_group.go``, ``watchBatchMaxRevs``."""

SHARED_WATCH_ENDED: Final = (
    'the shared watch of {key}, which other subscribers started at an earlier revision, has ended'
)


@dataclass(frozen=True, slots=True)
class WatchContext:
    """What the shared watches of a client have in common.

    Attributes:
        rpc: Calls RPCs.
        watches: Creates watches.
        revision_guard: What the client has seen.
        expiry_cache: Which leases have expired.
        replay_buffer: Bounds the recent revisions.
        catch_up: Notifies watches when they have caught up.
        missed_changes: Notifies watches that have missed a change.
        proxied: Checks the watches behind ``etcd grpc-proxy``.
        by_range: The watch of each range that new subscribers may join.
    """

    rpc: RpcClient
    watches: WatchMultiplexer
    revision_guard: RevisionGuard
    expiry_cache: ExpiryCache
    replay_buffer: ReplayBuffer
    catch_up: CatchUpDetector
    missed_changes: MissedChanges
    proxied: ProxiedWatches
    by_range: dict[Range, SharedWatch]


class SharedWatch(WatchHandler):
    """One server watch, with the subscribers of its range.

    Each change is delivered to each subscriber once, in the order of the revisions, from the subscriber's cursor on.
    The watch is cancelled when its last subscriber leaves.

    Args:
        context: What the watches of the client have in common.
        spec: What to watch, and from which index on.
        key_range: The range of the spec.
    """

    __slots__ = (  # there are thousands
        '_check',
        '_cluster_id',
        '_context',
        '_history',
        '_min_revision',
        '_position',
        '_queue',
        '_subscribers',
    )

    def __init__(self, context: WatchContext, spec: WatchSpec, key_range: Range) -> None:
        self._context = context
        self._position = WatchPosition(
            spec, key_range, on_caught_up=self._on_caught_up, on_received=self._on_received, on_missed=self._on_missed
        )
        self._min_revision = 0  # a server with an earlier revision lags behind
        self._cluster_id = 0  # 0 before it is known
        self._subscribers: dict[Subscriber, None] = {}
        self._history = RangeHistory(context.replay_buffer)
        self._history.first_revision = self._position.start_revision
        self._queue: deque[tuple[WatchResponse, int, bool]] | None = None  # to deliver: response, bytes, is_whole
        self._check: gevent.Greenlet[..., None] | None = None  # delivery waits for it
        context.by_range.setdefault(key_range, self)
        context.missed_changes.add(self._position)

    # -- subscribers

    def is_joinable(self, spec: WatchSpec) -> bool:
        """Return True if a subscriber with this spec may join.

        A subscriber that starts from now may not: the watch has not reached that revision.  Neither may one that has
        seen a later revision than the server has shown: the watch could not notify it that it has caught up.
        """
        if spec.index is None or spec.hidden is not self._position.spec.hidden or not self._covers(spec.index):
            return False
        return not spec.is_seen or spec.index <= self._server_revision()

    def _covers(self, revision: int) -> bool:
        """Return True if every change from this revision on can be delivered."""
        return 0 < self._history.first_revision <= revision

    def _server_revision(self) -> int:
        """Return the revision that the server has reached before subscribers are notified that they have caught up."""
        if self._position.delivered is None:
            return self._min_revision
        return max(self._position.received, self._position.target or 0)

    def subscribe(self, spec: WatchSpec, listener: WatchListener, cluster_id: int) -> Subscriber:
        """Notify this listener of changes from ``spec.index`` on, if the cluster has this id; 0 for any."""
        subscriber = Subscriber(
            listener, (spec.index or 0) - 1, cluster_id, unsubscribe=self.unsubscribe, await_revision=self._await
        )
        self._subscribers[subscriber] = None
        if self._position.delivered is not None:
            self._activate(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscriber; cancel the watch after the last one."""
        self._subscribers.pop(subscriber, None)
        if not self._subscribers and not self._position.is_over:
            self._stop()

    def _activate(self, subscriber: Subscriber) -> None:
        """Notify a subscriber that the watch is live, and replay what it has not received."""
        position = self._position
        assert position.delivered is not None
        if subscriber.go_live(position.delivered, self._cluster_id, self._history) and position.target is None:
            subscriber.post(subscriber.listener.on_caught_up)

    def _merge(self) -> None:
        """Move the subscribers to another watch of the range if that one delivers all that they still need."""
        position = self._position
        assert position.delivered is not None
        other = self._context.by_range.setdefault(position.range, self)
        if other is self or other._position.delivered is None or other._cluster_id != self._cluster_id:
            return
        if position.is_catching_up or other._position.is_catching_up:
            return
        if position.spec.hidden is not other._position.spec.hidden:
            return
        if other._covers(position.delivered + 1):
            subscribers, self._subscribers = self._subscribers, {}
            other._subscribers |= subscribers
            for subscriber in subscribers:
                subscriber.unsubscribe = other.unsubscribe
                subscriber.await_revision = other._await
                subscriber.replay(other._history)
            self._stop()

    # -- the server's watch (``WatchHandler``)

    def start(self) -> None:
        """Create the watch, after the position if it was live before.  Does not block."""
        position = self._position
        if position.delivered is not None:
            position.start_revision = position.delivered + 1
        self._min_revision = max(position.start_revision - 1, self._context.revision_guard.index)
        requested_range, proxied = position.requested_range, self._context.proxied
        if proxied.suffix is not None:
            requested_range = proxied.range_to_request(requested_range)
        position.substream = Substream(request_of(requested_range, position.start_revision), self)
        self._context.watches.add(position.substream)

    def on_created(self, response: WatchResponse) -> None:
        header, position = response.header, self._position
        if not header.cluster_id and position.stream is not None and position.stream.is_proxied:
            self._deliver_after(self._go_live_behind_proxy)
            return
        self._cluster_id = header.cluster_id
        if header.revision < position.start_revision or not position.start_revision:
            position.received = max(position.received, header.revision)
        if self._min_revision > header.revision:
            self._deliver_after(self._check_store, header.revision)
        else:
            self._go_live(header.revision, header.revision)

    def on_response(self, response: WatchResponse) -> None:
        substream = self._position.substream
        assert substream is not None
        if self._queue is None:
            self._queue = deque()
            self._position.has_queued = True
        self._queue.append((response, substream.size, substream.is_whole))
        if self._check is None:
            self._deliver_queued()

    def on_ended(self, error: EtcException) -> None:
        position = self._position
        was_created = position.substream is not None and position.substream.created_revision > 0
        position.substream = None
        narrow = narrow_range(position.spec)
        if was_created and isinstance(error, Unauthorized):
            self.start()  # the stream's token is stale, or a permission was revoked: creating the watch shows which
        elif isinstance(error, PermissionDenied) and position.requested_range != narrow:
            position.requested_range = narrow
            self.start()
        else:
            self._end(error)

    def _end(self, error: EtcException) -> None:
        """Notify the subscribers that the watch has ended."""
        self._stop()
        position = self._position
        first = position.start_revision if position.delivered is None else position.delivered + 1
        for subscriber in self._subscribers:
            if isinstance(error, EventIndexCleared) and subscriber.cursor >= first:
                # The history that is gone was requested by others.  The next watch of this one shows if it lost any.
                text = f'{SHARED_WATCH_ENDED}: {error}; watch again'
                subscriber.end(ConnectionError(text, endpoint=error.endpoint, key=position.key))
            else:
                subscriber.end(error)

    def _stop(self) -> None:
        """Cancel the watch; it is not joinable any more."""
        position = self._position
        position.is_over = True
        self._queue = None
        if self._context.by_range.get(position.range) is self:
            del self._context.by_range[position.range]
        self._context.missed_changes.remove(position)
        substream, position.substream = position.substream, None
        if substream is not None:
            substream.cancel()

    def _on_missed(self, index: int) -> None:
        """End the watch: it has not delivered a change up to this index.  Further watches are on another stream."""
        stream = self._position.stream
        missed = f'the watch of {{key}} missed a change up to revision {index}, which a read has shown'
        text = f'{missed}; watching again on a new stream'
        error = ConnectionError(text, endpoint=None if stream is None else stream.url, key=self._position.key)
        error.is_outage = False
        if stream is not None:
            self._context.watches.retire(stream)
        self._end(error)

    # -- going live

    def _check_store(self, revision: int) -> None:
        """Check by reads whether a server that is behind what the client has seen lags, or has another store.

        Args:
            revision: The revision of the server.
        """
        try:
            store = read_identity(self._context.rpc, self._context.revision_guard, self._position.requested_range[0])
        except EtcException as error:
            if not self._position.is_over:
                self._end(error)
            return
        if self._position.is_over:
            return
        if store.continues(self._cluster_id, self._min_revision):
            self._go_live(self._min_revision, store.revision)
        elif self._position.start_revision:
            self._end(another_store(store.revision))
        else:
            self._go_live(revision, revision)

    def _go_live_behind_proxy(self) -> None:
        """Read what the created response of ``etcd grpc-proxy`` omits if other clients watch the range: it has no
        cluster id, and the requested revision instead of that of the store."""
        try:
            store = read_identity(self._context.rpc, self._context.revision_guard, self._position.requested_range[0])
        except EtcException as error:
            if not self._position.is_over:
                self._end(error)
            return
        if self._position.is_over:
            return
        self._cluster_id = store.cluster_id
        if store.revision < self._min_revision:
            self._end(another_store(store.revision))
        else:
            self._go_live(store.revision, store.revision)

    def _go_live(self, revision: int, target: int) -> None:
        """Notify the subscribers that the watch is live.

        Args:
            revision: The position of a watch that starts from now.
            target: The watch has caught up when the server has sent everything up to this revision.
        """
        position = self._position
        if is_new := position.delivered is None:
            position.delivered = position.start_revision - 1 if position.start_revision else revision
            self._history.first_revision = position.delivered + 1
        position.target = max(target, position.target or 0)
        if position.target <= position.received:
            position.target = None
        if is_new:
            for subscriber in self._subscribers:
                self._activate(subscriber)
        if position.target is not None or position.awaited:
            self._context.catch_up.add(position)
        substream = position.substream
        if substream is not None and substream.stream is not None and substream.stream.is_proxied:
            self._context.proxied.add(position)

    def _await(self, revision: int) -> None:
        """Report to the subscribers when everything up to this revision was received, and delivered."""
        position = self._position
        position.awaited = max(position.awaited, revision)
        if position.delivered is None:
            return  # not live yet
        if not position.has_queued:
            position.notify()
        if position.is_catching_up:
            self._context.catch_up.raise_goal(position)

    def _on_received(self, revision: int) -> None:
        for subscriber in self._subscribers:
            subscriber.on_received(revision)

    def _on_caught_up(self) -> None:
        for subscriber in self._subscribers:
            subscriber.post(subscriber.listener.on_caught_up)

    # -- delivery

    def _deliver_queued(self) -> None:
        """Deliver the queued responses in order; wait where leases of deleted keys have to be looked up first."""
        while self._queue:
            leases = leases_of(self._queue[0][0].events)
            if leases and not self._context.expiry_cache.is_resolved(leases):
                self._deliver_after(self._resolve_and_deliver, leases)
                return
            self._deliver(*self._queue.popleft())
        self._queue = None
        self._position.has_queued = False
        if self._position.delivered is not None and not self._position.is_over:
            self._position.notify()
            self._merge()

    def _resolve_and_deliver(self, leases: set[int]) -> None:
        # The cache is bounded, and may have dropped one of the leases when is_resolved looks again: deliver now.
        self._context.expiry_cache.resolve(leases)
        if self._queue:
            self._deliver(*self._queue.popleft())

    def _deliver_after(self, check: Callable[..., None], *args: object) -> None:
        """Deliver what is queued after a check that blocks."""
        self._check = gevent.spawn(self._run_check, check, *args)
        self._check.name = f'getc watch of {self._position.key}, {check.__name__.strip("_")}'
        self._check.rawlink(self._on_check_over)

    def _run_check(self, check: Callable[..., None], *args: object) -> None:
        check(*args)
        self._check = None
        self._deliver_queued()

    def _on_check_over(self, check: object) -> None:
        """End the watch if the check was killed or has failed: delivery would wait for it forever."""
        if check is self._check:
            self._check = None
            if not self._position.is_over:
                self._end(ConnectionError('a check of the watch of {key} was killed', key=self._position.key))

    def _deliver(self, response: WatchResponse, size: int, is_whole: bool) -> None:
        position = self._position
        assert position.delivered is not None
        header, is_expired = response.header, self._context.expiry_cache.is_expired
        event_bytes = size // len(response.events)
        revisions = 0
        for revision, events in groupby(response.events, key=lambda event: event.kv.mod_revision):
            revisions += 1
            if revision <= position.delivered:  # etcd 3.4 may send an event twice
                continue
            position.delivered = revision
            position.received = max(position.received, revision)
            self._context.revision_guard.observe(revision)
            of_revision = list(events)
            results = list(results_of(position.spec, of_revision, header.revision, header.raft_term, is_expired))
            if results:
                self._history.add(revision, results, event_bytes * len(of_revision))
                for subscriber in self._subscribers:
                    if subscriber.cursor < revision:
                        subscriber.cursor = revision
                        subscriber.post(subscriber.listener.on_changes, results)
        if revisions >= MAX_HISTORY_BATCH:
            stream = position.stream
            if stream is not None and stream.is_proxied:
                # The proxy takes the header's revision for that of the last event: it may continue this watch as
                # another one of the same range, which is ahead.  Source: etcd 3.7, ``grpcproxy/watch_broadcast.go``.
                self._end(dropped_by_proxy(position.delivered, stream.url))
        elif (position.target is not None or position.awaited) and is_whole:
            position.received = max(position.received, header.revision)
