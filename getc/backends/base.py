"""The contract of a backend: the interface between an etcd API and everything built on it.

A backend turns an operation into a result, notifies listeners of changes, and keeps nodes alive.  The packages
``tree``, ``v2`` and ``memory`` implement the protocols of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

from getc.errors import EtcException, NodeLost
from getc.operations import Contenders, Operation, Predecessor, Put, WatchSpec
from getc.results import ContendersResult, EtcdResult, PredecessorResult
from getc.timing import Deadline
from getc.transactions import Guard, Snapshot, SnapshotRead, Transaction, TransactionResult

__all__ = [
    'AcquiringWrite',
    'Backend',
    'KeepGroup',
    'KeepListener',
    'KeptNode',
    'Watch',
    'WatchListener',
]


class WatchListener(Protocol):
    """Callbacks of a watch.  They never block, switch greenlets or raise."""

    __slots__ = ()

    def on_live(self, index: int) -> None:
        """Every change after this index will be delivered, or the watch ends.

        Called once, before any change is delivered; with a ``WatchSpec.index``, the index is that minus one.
        """

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        """Deliver the changes of one revision.  Revisions are delivered in order."""

    def on_caught_up(self) -> None:
        """Every change that the store had when the watch was created has been delivered.

        Called once after ``on_live``, unless the watch ends before; repeated after the watch was created again.
        """

    def on_ended(self, error: EtcException) -> None:
        """The watch has ended.  Called at most once, as the last call, and not after ``Watch.close``.

        :class:`~getc.errors.EventIndexCleared`: history after the last delivered change is lost, or the store was
        replaced; list the nodes, compare them, and watch from the index of the listing.
        :class:`~getc.errors.ConnectionError`: the connection was lost.  Every revision delivered so far is complete;
        if the store is still the same, a watch from the index after the last one misses nothing.
        Any other error: the server refuses the watch.
        """


class Watch(Protocol):
    """A watch that is live or being created."""

    __slots__ = ()

    def request_progress(self, index: int, on_progress: Callable[[int], object]) -> None:
        """Call a function when the watch has delivered every change up to an index.  Does not block.

        Args:
            index: The index of the store, from :meth:`Backend.read_index`.
            on_progress: Called once with that index, or a later one which the watch has reached, in the order of the
                listener's calls; not called after the watch has ended.  It must not block, switch or raise.
        """

    def close(self) -> None:
        """End the watch: its listener is not called again.  Does not block, may be called twice."""


@dataclass(frozen=True, slots=True)
class AcquiringWrite:
    """A write that acquires a node.  Its ``repr`` does not show the value.

    Attributes:
        value: The value that it writes.
        is_create: True if it creates the node, False if it replaces the node of another owner.
    """

    value: str = field(repr=False)
    is_create: bool


class KeepListener(Protocol):
    """Callbacks from a keep group to the keeper of a node.  The ``on_`` methods never block, switch or raise.

    Attributes:
        has_liveness_check: True if ``check_liveness`` may return False; otherwise the group may skip the call.
        unanswered: Writes that were sent and may have acquired the node, or may acquire it yet: none was answered.
    """

    __slots__ = ()

    @property
    def has_liveness_check(self) -> bool: ...

    @property
    def unanswered(self) -> Collection[AcquiringWrite]: ...

    def on_writing(self, write: AcquiringWrite) -> None:
        """A write that acquires the node is about to be sent: from now on it counts as unanswered."""

    def check_liveness(self) -> bool:
        """Return False to stop the renewals of the node; the listener then deletes the node.

        Called before each renewal, in a greenlet, so it may block: for a sixth of the TTL at most.
        """

    def on_renewed(self) -> None:
        """A renewal was acknowledged."""

    def on_renewal_missed(self, error: EtcException) -> None:
        """An attempt to renew failed.  The node is still kept; renewing goes on."""

    def on_lost(self, error: NodeLost) -> None:
        """The node is no longer kept: it was deleted, overtaken, or not renewed in time.  The last call."""


class KeptNode(Protocol):
    """A node that is kept alive.

    Attributes:
        token: The index of the write that acquired the node: it grows from owner to owner.
        lost_at: The time (of ``timing.now_with_suspend``) at which the node counts as lost unless a renewal is
            acknowledged before: see :class:`getc.renewal.RenewalClock`.
        guard: The condition that the node is still kept as it is now: with it a transaction is applied only while this
            client owns the node.  Reading it performs no I/O and does not check the clock.
    """

    __slots__ = ()

    @property
    def token(self) -> int: ...

    @property
    def lost_at(self) -> float: ...

    @property
    def guard(self) -> Guard: ...

    def watch(self) -> None:
        """Watch the key, so that a foreign change is noticed before the next renewal.  Does not block.

        Nodes of ``KeepGroup.keep`` are watched from the start, those of ``KeepGroup.contend`` after this call.  Does
        nothing if the node is watched already, and where the number of watches is limited.
        """

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        """Write another value, and renew.  Raises like ``execute``, and ``NodeLost`` if another client owns the node.

        Blocks until the deadline at most.
        """

    def release(self, deadline: Deadline) -> bool:
        """Stop renewing, and delete the node if this client still owns it.  Raises ``ConnectionError``.

        Returns:
            False if the node was gone, or belonged to another client: also if an earlier call without an answer has
            deleted it.
        """

    def detach(self, deadline: Deadline) -> None:
        """Stop renewing, and let the TTL of the node run out."""

    def abandon(self) -> None:
        """Stop renewing.  No I/O, does not block."""


class KeepGroup(Protocol):
    """Nodes of one TTL that are renewed together.

    Attributes:
        ttl: Seconds that the server grants: at least the TTL that was requested.
    """

    __slots__ = ()

    @property
    def ttl(self) -> int: ...

    def keep(self, put: Put, listener: KeepListener, deadline: Deadline) -> KeptNode:
        """Write a node and keep it alive from then on.  Raises like ``execute``.

        The group sets the TTL of ``put``.  A node that an earlier, unanswered write of the same listener has created
        does not conflict: the group keeps that node.
        """

    def reclaim(
        self, key: str, value: str, previous: KeptNode, listener: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        """Keep the node of ``previous`` again if it is provably still the same node; else return None."""

    def contend(
        self, put: Put, listener: KeepListener, predecessor: Predecessor, deadline: Deadline
    ) -> tuple[KeptNode, PredecessorResult | None]:
        """Create a node with a random name and keep it alive, without a watch.  Raises like ``execute``.

        A node of that name exists only if an earlier call without an answer has created it: then it is kept.

        Args:
            put: The write, with ``prev_exist=False``; the group sets the TTL.
            listener: Receives the callbacks.
            predecessor: Finds the keys that were created before the node; its token is not used.
            deadline: The end of the call.

        Returns:
            The node, whose token is its ``created_index``, and the earlier keys if the API can find them in the same
            request; None if they have to be read by ``execute``.

        Raises:
            NodeLost: An earlier call has created the node, and it cannot be kept any more: take another name.
        """

    def delete_unanswered(self, key: str, listener: KeepListener, deadline: Deadline) -> None:
        """Delete the node that an unanswered write of the listener has created, if any.  Raises like ``execute``."""


class Backend(Protocol):
    """A client of one etcd API.

    Attributes:
        api: ``'v2'``, ``'v3'`` or ``'memory'``; None before the API is detected.
    """

    @property
    def api(self) -> str | None: ...

    def detect_api(self, deadline: Deadline) -> Backend:
        """Return the backend to use from now on, with a known API.  Blocks only while the API is being detected.

        Raises:
            EtcException: The version of no server could be read.
        """
        return self

    @overload
    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult: ...

    @overload
    def execute(self, operation: Predecessor, deadline: Deadline) -> PredecessorResult: ...

    @overload
    def execute(self, operation: Contenders, deadline: Deadline) -> ContendersResult: ...

    @overload
    def execute(self, operation: Transaction, deadline: Deadline) -> TransactionResult: ...

    @overload
    def execute(self, operation: SnapshotRead, deadline: Deadline) -> Snapshot: ...

    def execute(self, operation: Any, deadline: Deadline) -> Any:
        """Perform the operation and return its result.  Blocks until the deadline at most.

        Raises:
            ValueError: A transaction is too large; nothing was sent.
            NodeLost: The own key of a Predecessor is gone, or the guard of a transaction does not hold; nothing was
                written.
            EtcdError: The server refused the operation.
            ConnectionError: No response; ``maybe_applied`` is True if a write may have been applied.
            HTTPError, ProtocolError: The response is not etcd's.
            NotSupported: This API cannot do it; nothing was sent.
            ClientClosed: The backend was closed.
        """

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        """Notify the listener of changes until the watch is closed.  Does not block; errors go to ``on_ended``.

        ``after`` is an ended watch of this backend that the new one continues.  If the store was replaced since, as
        far as the backend can detect it, the new watch ends with ``EventIndexCleared``.
        """

    def read_index(self, spec: WatchSpec, deadline: Deadline) -> int:
        """Return the index of the store, by a linearizable read: every write that was answered before is included.

        Blocks until the deadline at most.

        Args:
            spec: A watch that the user may create: what is read has to be permitted.
            deadline: The end of the read.

        Raises:
            EtcException: The read failed, or was refused.
        """

    def keep_group(self, ttl: int) -> KeepGroup:
        """Return the keep group of this TTL, in seconds.  Does not block."""

    def ready(self, deadline: Deadline) -> None:
        """Return once a linearizable read was answered.  Raises what the last attempt raised."""

    def clear(self) -> None:
        """Close idle connections."""

    def close(self) -> None:
        """End every watch and every renewal without I/O, and close all connections.  Does not block."""
