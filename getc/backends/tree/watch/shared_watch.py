"""One watch of the server's, with those who follow it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import groupby
from typing import Final, Protocol

import gevent

from getc.backends.base import WatchListener
from getc.backends.delivery import EventQueue
from getc.backends.history import another_store
from getc.backends.monotonic import RevisionGuard
from getc.backends.tree.codec.events import leases_of, narrow_range, range_of, request_of, results_of
from getc.backends.tree.watch.expiry import ExpiryCache
from getc.backends.tree.watch.replay_buffer import RangeHistory, ReplayBuffer
from getc.errors import ConnectionError, EtcException, EventIndexCleared, PermissionDenied, Unauthorized
from getc.operations import WatchSpec
from getc.results import Directory, EtcdResult, Node
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeRequest
from getc.v3.schema.mvccpb import Event
from getc.v3.schema.watch import WatchResponse
from getc.v3.watch_stream import Substream, WatchStream

__all__ = ['SharedWatch', 'Subscriber']

FULL: Final = 1000
"""Revisions in one response from the history, at most: one with fewer is complete up to its header's revision.
Source: etcd 3.7, ``mvcc/watcher_group.go``, ``watchBatchMaxRevs``."""

PROOF_TIMEOUT: Final = 5.0
"""Seconds for etcd to say how far it has come."""


class _Following(Protocol):
    """All that is followed."""

    rpc: RpcClient
    endings: ExpiryCache
    past: ReplayBuffer
    horizon: RevisionGuard

    def begin(self, source: SharedWatch) -> None: ...

    def restart_with_new_stream(self, source: SharedWatch) -> None: ...

    def leave_stream(self, source: SharedWatch) -> None: ...

    def end(self, source: SharedWatch) -> None: ...

    def find_equal(self, source: SharedWatch) -> SharedWatch | None: ...

    def catch_up(self, source: SharedWatch) -> None: ...


class Subscriber(EventQueue):
    """One who follows a source.

    Attributes:
        cursor: Every change up to this index has been told, or was not asked for; -1 for one who begins now.
        store: The id of the cluster that it follows; 0 while any will do.
        source: What it follows.
    """

    __slots__ = ('cursor', 'source', 'store')

    def __init__(self, listener: WatchListener, cursor: int, store: int, source: SharedWatch) -> None:
        super().__init__(listener)
        self.cursor = cursor
        self.store = store
        self.source = source

    def _on_closed(self) -> None:
        self.source.leave(self)


class SharedWatch:
    """One watch of the server's, with those who follow it.

    Args:
        following: Where it belongs.
        spec: What is followed; with the first index of interest.

    Attributes:
        watched: The range, as its followers mean it.
        stream: Where it was asked for last; None before.
    """

    __slots__ = (  # there are thousands
        '_asked',
        '_first',
        '_followers',
        '_following',
        '_is_over',
        '_is_permitted',
        '_least',
        '_position',
        '_progress',
        '_responses',
        '_spec',
        '_store',
        '_story',
        '_target',
        '_telling',
        '_ticket',
        'stream',
        'watched',
    )

    def __init__(self, following: _Following, spec: WatchSpec) -> None:
        self.watched = range_of(spec)
        self._following = following
        self._spec = spec
        self._asked = self.watched  # the range, as the server is asked for it
        self._first = spec.index or 0  # revision; 0 is from now on
        self._least = 0  # revision; a server that has not come to it lags behind
        self._position: int | None = None  # every change up to it has been told; None before it is live
        self._store = 0  # the cluster's id, once it is known
        self._followers: dict[Subscriber, None] = {}
        self._story = RangeHistory(following.past)
        self._story.begin = self._first
        self._target: int | None = None  # the revision that is to be delivered before it has caught up
        self._progress = 0  # the server has come to this revision, and sent every change of interest up to it
        self._responses: deque[tuple[WatchResponse, int, bool]] | None = None  # to be told, their bytes, and is_whole
        self._telling: gevent.Greenlet[..., None] | None = None
        self.stream: WatchStream | None = None
        self._ticket: Substream | None = None
        self._is_permitted = False  # the user may read the range, or could when it was asked
        self._is_over = False

    # -- followers

    def is_joinable(self, spec: WatchSpec) -> bool:
        """True if a follower of this may join.  Never from "now", which the source has not come to.

        The server may lag behind what the follower was told by another one: then the source can not notify the follower
        that it has caught up.
        """
        if spec.index is None or not self._covers(spec.index):
            return False
        return not spec.is_seen or spec.index <= self._reached()

    def _covers(self, index: int) -> bool:
        """True if the followers miss nothing from this index on."""
        return 0 < self._story.begin <= index

    def _reached(self) -> int:
        """The revision that the server has come to before the followers are notified that they have caught up."""
        if self._position is None:
            return self._least
        return max(self._progress, self._target or 0)

    def join(self, spec: WatchSpec, listener: WatchListener, store: int) -> Subscriber:
        """Tell this listener, too, if this is its store; 0 for any."""
        follower = Subscriber(listener, (spec.index or 0) - 1, store, self)
        self._followers[follower] = None
        if self._position is not None:
            self._activate(follower)
        return follower

    def leave(self, follower: Subscriber) -> None:
        """Tell it nothing more."""
        self._followers.pop(follower, None)
        if not self._followers and not self._is_over:
            self._stop()

    def _activate(self, follower: Subscriber) -> None:
        """The source is live: so is the follower, and hears what it has missed."""
        assert self._position is not None
        if follower.store not in (0, self._store):
            follower.post(another_store(self._position))
            return
        follower.store = self._store
        if follower.cursor < 0:
            follower.cursor = self._position
        follower.post(follower.cursor)
        self._replay(follower)
        if self._target is None:
            follower.post(None)

    def _replay(self, follower: Subscriber) -> None:
        for revision, results in self._story.since(follower.cursor):
            follower.cursor = revision
            follower.post(results)

    def _stop(self) -> None:
        self._is_over = True
        self._responses = None
        ticket, self._ticket = self._ticket, None
        self._following.end(self)
        if ticket is not None and self.stream is not None:
            self.stream.cancel(ticket)

    def _merge_into(self) -> None:
        """Two sources of one range are one too many, as soon as the other knows all that is still to come."""
        other = self._following.find_equal(self)
        if other is None or other._position is None or other._store != self._store:
            return
        if self._target is not None or other._target is not None:
            return
        assert self._position is not None
        if other._covers(self._position + 1):
            followers, self._followers = self._followers, {}
            for follower in followers:
                other._followers[follower] = None
                follower.source = other
                other._replay(follower)
            self._stop()

    # -- the watch (``Sink``)

    def start(self, stream: WatchStream) -> None:
        """Ask for it on this stream."""
        self.stream = stream
        self._least = max(self._first - 1, self._following.horizon.index)
        try:
            self._ticket = stream.add(request_of(self._asked, self._first), self)
        except EtcException as error:
            self.on_ended(error)

    def on_created(self, response: WatchResponse) -> None:
        """It is on."""
        header = response.header
        self._store = header.cluster_id
        self._is_permitted = False
        if header.revision < self._first or not self._first:
            self._progress = max(self._progress, header.revision)
        if self._least > header.revision:
            self._tell_later(self._ask_whether_it_lags, header.revision)
        else:
            self._go_live(header.revision, header.revision)

    def on_response(self, response: WatchResponse) -> None:
        """Something changed."""
        assert self._ticket is not None
        if self._responses is None:
            self._responses = deque()
        self._responses.append((response, self._ticket.size, self._ticket.is_whole))
        if self._telling is None:
            self._tell_all()

    def on_ended(self, error: EtcException) -> None:
        """It is over; or, where another token or a narrower range may do, not yet."""
        self._ticket = None
        if isinstance(error, Unauthorized) and not self._is_permitted:
            if self._position is not None:
                self._first = self._position + 1
            self._tell_later(self._ask_whether_permitted)
        else:
            self._end(error)

    def _end(self, error: EtcException) -> None:
        self._stop()
        first = self._first if self._position is None else self._position + 1
        for follower in self._followers:
            if isinstance(error, EventIndexCleared) and follower.cursor >= first:
                # What is gone was asked for by others: it may have lost nothing, and finds out by asking for itself.
                follower.post(
                    ConnectionError(f'a watch of {self._spec.key} that others began earlier has ended: {error}')
                )
            else:
                follower.post(error)

    # -- whether it has missed something

    @property
    def key(self) -> str:
        """The node that is followed."""
        return self._spec.key

    def lacks(self, node: Node) -> bool:
        """True if the watch should deliver the last change of this node, and nothing of it has arrived.

        A watch of one node alone delivers nothing of a directory that goes with the last value in it.
        """
        return (
            self._position is not None
            and node.modified_index > self._position
            and self._target is None
            and not self._responses
            and not self._is_over
            and (self._spec.recursive or (node.key == self._spec.key and not isinstance(node, Directory)))
            and self._asked == self.watched
        )

    def on_missed(self, index: int) -> None:
        """It has not delivered a change up to this revision, which a call has returned: begin on another stream."""
        self._following.leave_stream(self)
        text = f'the watch of {self._spec.key} did not deliver a change up to revision {index}, which a call returned'
        error = ConnectionError(text, endpoint=None if self.stream is None else self.stream.url)
        error.is_outage = False
        self._end(error)

    # -- whether it is permitted

    def _ask_whether_permitted(self) -> None:
        """A watch was refused.  A stream has the token that it began with, which the server may have forgotten since.

        A read gets another one: where it is permitted, so is the watch, on a new stream.
        """
        start, end = self._asked
        request = RangeRequest(key=start, range_end=end, limit=1, keys_only=True, serializable=True)
        try:
            self._following.rpc.call(KV.Range, request, PROOF_TIMEOUT)
        except EtcException as error:
            if not self._is_over:
                self._on_not_permitted(error)
        else:
            if not self._is_over:
                self._is_permitted = True
                self._following.restart_with_new_stream(self)

    def _on_not_permitted(self, error: EtcException) -> None:
        narrow = narrow_range(self._spec)
        if isinstance(error, PermissionDenied) and self._asked != narrow:
            self._asked = narrow
            self._following.begin(self)
        else:
            self._end(error)

    # -- whether it is the store that was followed

    def _ask_whether_it_lags(self, revision: int) -> None:
        """The server does not know what was seen already: it may be one that lags behind the others, or went back."""
        request = RangeRequest(key=self._asked[0], keys_only=True)
        cluster_id = 0

        def read() -> int:
            nonlocal cluster_id
            header = self._following.rpc.call(KV.Range, request, PROOF_TIMEOUT).header
            cluster_id = header.cluster_id
            return int(header.revision)

        try:
            agreed = self._following.horizon.observe_quorum(read)
        except EtcException as error:
            if not self._is_over:
                self._end(error)
            return
        if self._is_over:
            return
        if cluster_id == self._store and self._least <= agreed:
            self._go_live(self._least, agreed)
        elif self._first:
            self._end(another_store(agreed))
        else:
            self._go_live(revision, revision)

    def _go_live(self, revision: int, target: int) -> None:
        """The server has begun; the watch has caught up when the server has sent everything up to the target."""
        is_new = self._position is None
        if self._position is None:
            self._position = self._first - 1 if self._first else revision
            self._story.begin = self._position + 1
        self._target = max(target, self._target or 0)
        if self._target <= self._progress:
            self._target = None
        if is_new:
            for follower in self._followers:
                self._activate(follower)
        if self._target is not None:
            self._following.catch_up(self)

    # -- whether it has caught up

    @property
    def is_catching_up(self) -> bool:
        """True while changes that the store had when the watch was created may still have to be delivered."""
        return self._target is not None and not self._is_over

    def on_progress(self, revision: int) -> None:
        """The server has sent everything up to this revision, on all watches that it had then."""
        if self._ticket is not None and self.stream is not None and self.stream.is_later(revision, self._ticket):
            self._on_received(revision)

    def on_nothing_pending(self) -> None:
        """Nothing is left of what the store had when the watch was created."""
        if self._target is not None:
            self._on_received(self._target)

    def _on_received(self, revision: int) -> None:
        self._progress = max(self._progress, revision)
        if not self._responses:
            self._check_target()

    def has_pending(self, deadline: Deadline) -> bool:
        """Read whether the range holds a key that was changed after the position.  Blocks.

        The read is linearizable, and done by the stream's own server: one that lags behind answers when it has caught
        up.  A key that was changed after the target counts, for it may hide an earlier change.  A deletion leaves no
        key.  Raises what the read does.
        """
        assert self._position is not None and self.stream is not None
        start, end = self._asked
        first = self._position + 1
        request = RangeRequest(key=start, range_end=end, min_mod_revision=first, limit=1, keys_only=True)
        return bool(self.stream.read(request, deadline).kvs)

    def _check_target(self) -> None:
        if self._target is not None and self._progress >= self._target:
            self._target = None
            for follower in self._followers:
                follower.post(None)

    # -- telling

    def _tell_all(self) -> None:
        """Tell what has come; where it must be asked first whether keys expired, later, and in order."""
        while self._responses:
            leases = leases_of(self._responses[0][0].events)
            if not self._following.endings.is_resolved(leases):
                self._tell_later(self._find_out, leases)
                return
            self._tell(*self._responses.popleft())
        self._responses = None
        if self._position is not None and not self._is_over:
            self._check_target()
            self._merge_into()

    def _find_out(self, leases: set[int]) -> None:
        self._following.endings.find_out(leases)
        if self._responses:
            self._tell(*self._responses.popleft())

    def _tell_later(self, find_out: Callable[..., None], *args: object) -> None:
        """Tell when something has been found out."""
        self._telling = gevent.spawn(self._find_out_and_tell, find_out, *args)
        self._telling.name = f'getc question for {self._spec.key}'

    def _find_out_and_tell(self, find_out: Callable[..., None], *args: object) -> None:
        try:
            find_out(*args)
        finally:
            self._telling = None
        self._tell_all()

    def _tell(self, response: WatchResponse, size: int, is_whole: bool) -> None:
        assert self._position is not None
        share = size // len(response.events)
        revisions = 0
        for revision, events in groupby(response.events, key=lambda event: event.kv.mod_revision):
            revisions += 1
            if revision <= self._position:  # etcd 3.4 may send an event twice
                continue
            self._position = revision
            self._progress = max(self._progress, revision)
            self._following.horizon.observe(revision)
            of_revision = list(events)
            results = self._results(response, of_revision)
            if results:
                self._story.add(revision, results, share * len(of_revision))
                for follower in self._followers:
                    if follower.cursor < revision:
                        follower.cursor = revision
                        follower.post(results)
        if self._target is not None and is_whole and revisions < FULL:
            self._progress = max(self._progress, response.header.revision)

    def _results(self, response: WatchResponse, events: list[Event]) -> list[EtcdResult]:
        header = response.header
        if len(events) > 1:  # twice in one response, too
            events = list({event.kv.key: event for event in events}.values())
        is_gone = self._following.endings.is_gone
        return list(results_of(self._spec, events, header.revision, header.raft_term, is_gone))
