"""How far a server watch has come: what it has delivered, what it has received, and what it still has to deliver."""

from __future__ import annotations

from collections.abc import Callable

from getc.backends.tree.codec.keyspace import Range
from getc.operations import WatchSpec
from getc.results import Directory, Node
from getc.timing import Deadline
from getc.v3.schema.kv import RangeRequest
from getc.v3.substream import Substream
from getc.v3.watch_stream import WatchStream

__all__ = ['WatchPosition']


class WatchPosition:
    """How far one server watch has come.

    Args:
        spec: What is watched, and from which index on.
        key_range: The range of the spec.
        on_caught_up: Called when the watch has received everything up to the target.  It must not block or raise.
        on_received: Called with a revision when everything up to it was received, while a later or an equal one is
            awaited.  It must not block or raise.
        on_missed: Called with an index when the watch has not delivered a change up to that index.  It must not block
            or raise.

    Attributes:
        spec: The same.
        range: The range of the spec.
        requested_range: The range that the server watches: a part of it, if the user may not read all of it.
        start_revision: The first revision to deliver; 0 for changes from now on.
        delivered: Every change up to this revision was delivered; None before the watch is live.
        received: The server has reached this revision and has sent every change of the range up to it.
        target: The revision at which the watch has caught up; None if it has.
        awaited: The latest revision whose delivery was requested to be reported; 0 if none is awaited.
        has_queued: Received changes wait for their delivery.
        is_over: The watch has ended.
        substream: The watch on the stream; None before it was requested, and between two streams.
        on_missed: The same.
    """

    __slots__ = (  # there are thousands
        '_on_caught_up',
        '_on_received',
        'awaited',
        'delivered',
        'has_queued',
        'is_over',
        'on_missed',
        'range',
        'received',
        'requested_range',
        'spec',
        'start_revision',
        'substream',
        'target',
    )

    def __init__(
        self,
        spec: WatchSpec,
        key_range: Range,
        *,
        on_caught_up: Callable[[], object],
        on_received: Callable[[int], object],
        on_missed: Callable[[int], object],
    ) -> None:
        self.spec = spec
        self.range = key_range
        self.requested_range = key_range
        self.start_revision = spec.index or 0
        self.delivered: int | None = None
        self.received = 0
        self.target: int | None = None
        self.awaited = 0
        self.has_queued = False
        self.is_over = False
        self.substream: Substream | None = None
        self.on_missed = on_missed
        self._on_caught_up = on_caught_up
        self._on_received = on_received

    @property
    def key(self) -> str:
        """The key of the watched node."""
        return self.spec.key

    @property
    def stream(self) -> WatchStream | None:
        """The stream that the watch was last requested on; None before."""
        return None if self.substream is None else self.substream.stream

    # -- catching up

    @property
    def goal(self) -> int:
        """The revision up to which the server has to send everything: the target, or a later one that is awaited."""
        return max(self.target or 0, self.awaited)

    @property
    def is_catching_up(self) -> bool:
        """True while changes up to the goal may still have to be delivered."""
        return (self.target is not None or self.awaited > 0) and not self.is_over

    def on_progress(self, revision: int) -> None:
        """Note that the server has sent all changes up to the revision on all watches that it had then."""
        if self.substream is not None and self.substream.covers(revision):
            self.on_nothing_pending(revision)

    def on_nothing_pending(self, revision: int) -> None:
        """Note that the watch has received everything up to the revision."""
        self.received = max(self.received, revision)
        if not self.has_queued:
            self.notify()

    def has_pending(self, deadline: Deadline) -> bool:
        """Read whether the range has a key that was changed after the position.  Blocks.

        The read is linearizable and served by the stream's own server: one that lags behind answers when it has caught
        up.  A key that was changed after the goal counts, since it may hide an earlier change.  A deletion leaves no
        key.

        Raises:
            EtcException: The read failed.
        """
        if (stream := self.stream) is None:
            return True
        assert self.delivered is not None
        (start, end), first = self.requested_range, self.delivered + 1
        request = RangeRequest(key=start, range_end=end, min_mod_revision=first, limit=1, keys_only=True)
        return bool(stream.read(request, deadline).kvs)

    def notify(self) -> None:
        """Report what was received, and delivered since, up to the target and to the awaited revision."""
        if self.target is not None and self.received >= self.target:
            self.target = None
            self._on_caught_up()
        if self.awaited and self.target is None:
            if self.received >= self.awaited:
                self.awaited = 0
            self._on_received(self.received)

    # -- missed changes

    def lacks(self, node: Node) -> bool:
        """Return True if the watch has to deliver the last change of this node and has not received it.

        A watch of one node without its children delivers nothing of a directory that ends with the last value in it.
        """
        return (
            self.delivered is not None
            and node.modified_index > self.delivered
            and self.target is None
            and not self.has_queued
            and not self.is_over
            and (self.spec.recursive or (node.key == self.spec.key and not isinstance(node, Directory)))
            and self.requested_range == self.range
        )
