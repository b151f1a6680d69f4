"""The contract of a backend: what everything above knows of etcd.

A backend turns an operation into a result, tells a listener of changes, and keeps nodes alive.  The
classes here are protocols and small values; ``tree_v3``, ``keys_v2`` and ``memory`` fill them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from getc.errors import EtcException, NodeLost
from getc.operations import Operation, Put, WatchSpec
from getc.results import EtcdResult
from getc.timing import Deadline

__all__ = [
    'AcquiringWrite',
    'Backend',
    'KeepGroup',
    'KeepListener',
    'KeptNode',
    'Watch',
    'WatchListener',
    'not_renewed',
    'safety_margin',
]


class WatchListener(Protocol):
    """Whom a watch tells.  Its methods never block, switch or raise: they note and return."""

    def on_live(self, index: int) -> None:
        """The watch is on: whatever changes after this index will be told, or the watch ends.

        Called once, before any change is told; with a ``WatchSpec.index`` it is that index less one.
        """

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        """These changes happened, all in one revision; calls come in the order of the revisions."""

    def on_caught_up(self) -> None:
        """Every change that the store had when the watch was created has been delivered.

        Called once after ``on_live``, unless the watch ends before; repeated after the watch was created again.
        """

    def on_ended(self, error: EtcException) -> None:
        """Nothing follows.  Called at most once, last, and not after ``Watch.close``.

        :class:`~getc.errors.EventIndexCleared`: history between the last change told and now is
        lost, or the store is another one; list, compare, and watch from there.
        :class:`~getc.errors.ConnectionError`: the connection was lost; what was told is whole, and
        if the store is still the same, a watch from the index after the last one told misses nothing.
        Anything else: the server refuses.
        """


class Watch(Protocol):
    """A watch that is on or being set up."""

    def close(self) -> None:
        """End it: its listener is not called again.  Does not block, may be called twice."""


@dataclass(frozen=True, slots=True)
class AcquiringWrite:
    """A write that takes a node.  Its ``repr`` does not show the value.

    Attributes:
        value: What it writes.
        is_create: True if it creates the node, False if it replaces the node of another owner.
    """

    value: str = field(repr=False)
    is_create: bool


class KeepListener(Protocol):
    """On whose behalf a node is kept.  The ``on_`` methods never block, switch or raise.

    Attributes:
        has_liveness_check: ``check_liveness`` may say no; else it need not be asked.
        unanswered: Writes that may have taken the node, or may take it yet: no answer to them came.
    """

    @property
    def has_liveness_check(self) -> bool: ...

    @property
    def unanswered(self) -> Collection[AcquiringWrite]: ...

    def on_writing(self, write: AcquiringWrite) -> None:
        """A write that takes the node is about to be sent: from now on it counts as unanswered."""

    def check_liveness(self) -> bool:
        """Asked before each renewal, in a greenlet, so it may block: for a sixth of the TTL at most.

        False lets the node be: it is not held any more, and whoever says so takes it away.
        """

    def on_renewed(self) -> None:
        """A renewal was acknowledged."""

    def on_renewal_missed(self, error: EtcException) -> None:
        """A renewal was missed.  The node is still held; renewing goes on."""

    def on_lost(self, error: NodeLost) -> None:
        """The node is not held any more: deleted, overtaken, or not renewed in time.  The last call."""


class KeptNode(Protocol):
    """One node that is being kept alive.

    Attributes:
        token: The index of the write that took the node: it grows from owner to owner.
        lost_at: The time (of ``timing.now_with_suspend``) at which the node counts as lost unless a renewal is
            acknowledged before: (when the last acknowledged one was *sent*) + TTL - ``safety_margin``.
    """

    @property
    def token(self) -> int: ...

    @property
    def lost_at(self) -> float: ...

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        """Write another value, and renew.  Raises like ``execute``; ``NodeLost`` if it is not ours."""

    def release(self, deadline: Deadline) -> None:
        """Stop renewing and delete the node if it is still ours.  Raises ``ConnectionError``."""

    def detach(self, deadline: Deadline) -> None:
        """Stop renewing and leave the node to its TTL."""

    def abandon(self) -> None:
        """Stop renewing.  No I/O, does not block."""


class KeepGroup(Protocol):
    """Nodes of one TTL that are renewed together.

    Attributes:
        ttl: Seconds that the server grants: at least what was asked for.
    """

    @property
    def ttl(self) -> int: ...

    def keep(self, put: Put, member: KeepListener, deadline: Deadline) -> KeptNode:
        """Write a node and keep it alive from then on.  Raises like ``execute``.

        The TTL of ``put`` is the group's business and left out.  A node that an earlier, unanswered write of the
        member has made is no conflict: it is held.
        """

    def reclaim(
        self, key: str, value: str, previous: KeptNode, member: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        """Go on with a node that ``previous`` held, if it is provably still that one; else None."""

    def delete_unanswered(self, key: str, member: KeepListener, deadline: Deadline) -> None:
        """Delete the node that an unanswered write of the member has made, if any.  Raises like ``execute``."""


class Backend(Protocol):
    """An etcd, of whichever API.

    Attributes:
        api: ``'v2'``, ``'v3'`` or ``'memory'``; None before it is chosen.
    """

    @property
    def api(self) -> str | None: ...

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        """Do it and return what happened.  Blocks the greenlet until the deadline at most.

        Raises:
            EtcdError: The server says no.
            ConnectionError: No answer; ``maybe_applied`` says whether a write may have happened.
            HTTPError, ProtocolError: The answer is not etcd's.
            NotSupported: This API cannot do it; nothing was sent.
            ClientClosed: The backend was closed.
        """

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        """Tell the listener of changes until closed.  Does not block; trouble comes by ``on_ended``.

        ``after`` is the watch of this backend that it goes on from, which has ended: where the store is
        another one by then, as far as can be told, the new one ends with ``EventIndexCleared``.
        """

    def keep(self, ttl: int) -> KeepGroup:
        """The group of the nodes of this TTL.  Does not block."""

    def ready(self, deadline: Deadline) -> None:
        """Return once a linearizable read was answered.  Raises what the last attempt did."""

    def clear(self) -> None:
        """Drop connections that are not in use."""

    def close(self) -> None:
        """End every watch and hold without I/O, and drop all connections.  Does not block."""


def not_renewed(what: str, ttl: int, error: EtcException | None) -> NodeLost:
    """The error for a node or a lease of which no renewal was acknowledged in time.

    Args:
        what: Names it.
        ttl: Seconds.
        error: What the last renewal met; None where none has failed.
    """
    reason = 'no renewal was sent: this process, its hub or the machine did not run' if error is None else error
    lost = NodeLost(f'{what} was not renewed within its TTL of {ttl} s: {reason}')
    lost.__cause__ = error
    return lost


def safety_margin(ttl: float) -> float:
    """Seconds before its TTL's end at which a node counts as lost: for clocks that differ in speed."""
    return max(0.5, ttl / 10)
