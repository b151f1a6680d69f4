"""Keeping nodes alive where there are no leases: each node is refreshed on its own (v2, memory).

A node is provably ours while every change of it was ours: each refresh is sent under the condition
that the node's index is the one our last write gave it (the chain).  Only after a reply was lost the
chain has a gap; then the creation index and the value decide.

A watch of the node reports at once that another client has changed it.  It proves nothing, and only brings the renewal
forward.  Where a watch takes a connection, only some of the nodes have one.

A held node has no greenlet at work between renewals, only two that are due: the next renewal, and the
moment from which it counts as lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore

from getc import timing
from getc.backends.base import (
    AcquiringWrite,
    KeepGroup,
    KeepListener,
    KeptNode,
    Watch,
    WatchListener,
    not_renewed,
    safety_margin,
)
from getc.errors import (
    EtcException,
    KeyNotFound,
    NodeExist,
    NodeLost,
    Overtaken,
    TestFailed,
    TimedOut,
)
from getc.operations import Delete, Get, Operation, Put, WatchSpec
from getc.results import EtcdResult, Value
from getc.timing import Backoff, Deadline

__all__ = ['RefreshGroup', 'RefreshedNode']

Execute = Callable[[Operation, Deadline], EtcdResult]
StartWatch = Callable[[WatchSpec, WatchListener], Watch]

RENEWALS_AT_ONCE: Final = 16
"""So many renewals of one TTL are under way at a time: sockets stay few, however many nodes are kept."""


class RefreshedNode:
    """One node, refreshed under the condition that nobody else changed it.

    Attributes:
        key: The node.
        token: The index of the write that took it.
        lost_at: When it counts as lost, in seconds of ``timing.now_with_suspend``.
    """

    __slots__ = (
        '_end',
        '_group',
        '_has_changed',
        '_has_gap',
        '_index',
        '_is_held',
        '_is_renewing',
        '_last_error',
        '_lock',
        '_member',
        '_pid',
        '_renewal',
        '_sent_at',
        '_values',
        '_watch',
        'created_index',
        'key',
        'lost_at',
        'token',
    )

    def __init__(
        self, group: RefreshGroup, member: KeepListener, result: EtcdResult, value: str, sent_at: float
    ) -> None:
        self.key = result.key
        self.token = result.modified_index
        self.created_index = result.created_index
        self.lost_at = sent_at + group.patience
        self._group = group
        self._member = member
        self._index = result.modified_index
        self._values: tuple[str, ...] = (value,)  # what the node holds if it is ours; more after lost replies
        self._has_gap = False
        self._is_held = True
        self._is_renewing = False
        self._has_changed = False  # while a renewal was under way
        self._last_error: EtcException | None = None
        self._lock = BoundedSemaphore(1)  # one write of ours at a time, or the chain breaks itself
        self._pid = os.getpid()
        self._sent_at = sent_at  # of the latest write
        self._renewal: gevent.Greenlet[[], None] | None = None
        self._end: gevent.Greenlet[[], None] | None = None
        self._renew_at(sent_at + group.interval)
        self._end_at(self.lost_at)
        self._watch = group.watch(self, self._index + 1)

    # -- what the owner asks for

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        with self._alone(deadline):
            if not self._is_held:
                raise NodeLost(f'{self.key} is not held')
            result = self._write_value(value, deadline)
            self._renewed(result)
            return result

    def release(self, deadline: Deadline) -> None:
        self.abandon()
        if not self._is_at_home():
            return
        with self._alone(deadline):
            try:
                self._write(Delete(self.key), deadline)
            except NodeLost:
                pass  # somebody else's, or nobody's

    def detach(self, deadline: Deadline) -> None:
        self.abandon()

    def abandon(self) -> None:
        self._is_held = False
        self._group.forget(self)
        for greenlet in (self._renewal, self._end):
            if greenlet is not None and greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)
        self._renewal = self._end = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def reclaim(self, value: str, member: KeepListener, deadline: Deadline) -> RefreshedNode | None:
        """Write a node that is not held any more, if it is still there and ours; what holds it then, or None."""
        with self._alone(deadline):
            try:
                self._resync_index(deadline)
                result = self._write_value(value, deadline)
            except NodeLost:
                return None
            return RefreshedNode(self._group, member, result, value, self._sent_at)

    # -- renewing

    def _renew_at(self, at: float) -> None:
        if self._is_held and self._is_at_home() and timing.now_with_suspend() < self.lost_at:
            self._renewal = gevent.spawn_later(max(0.0, at - timing.now_with_suspend()), self._renew)
            self._renewal.name = f'getc renewal of {self.key}'

    def _renew(self) -> None:
        self._is_renewing = True
        self._has_changed = False
        next_at = timing.now_with_suspend() + self._group.interval  # also if this greenlet is killed on the way
        try:
            self._renew_once()
            next_at = self._sent_at + self._group.interval
        finally:
            self._is_renewing = False
            self._lose_if_due()  # timers do not count a suspend: the end's is late
            self._renew_at(timing.now_with_suspend() if self._has_changed else next_at)

    def _renew_once(self) -> None:
        """Renew, trying until it is done or the node is lost."""
        backoff = Backoff(cap=min(1.0, self._group.patience / 6))
        while self._is_held and self._is_at_home() and timing.now_with_suspend() < self.lost_at:
            if not self._member.check_liveness():
                return self.abandon()
            try:
                return self._refresh()
            except NodeLost as error:
                return self._lose(error)
            except EtcException as error:
                if self._is_held and timing.now_with_suspend() < self.lost_at:
                    self._last_error = error
                    self._member.on_renewal_missed(error)
            gevent.sleep(backoff.next_delay())

    def _refresh(self) -> None:
        left = Deadline(max(0.0, self.lost_at - timing.now_with_suspend()))
        with self._group.turn(left), self._alone(left):
            if self._is_held:
                put = Put(self.key, ttl=self._group.ttl, refresh=True, prev_exist=True)
                self._renewed(self._write(put, left.fraction(1.0, at_most=self._group.ttl / 6)))

    def _renewed(self, result: EtcdResult) -> None:
        """A write was acknowledged.  After the end that is too late, though the node may still be there."""
        self._index = result.modified_index
        self._has_gap = False
        self._last_error = None
        if self._is_held and timing.now_with_suspend() < self.lost_at:
            self.lost_at = max(self.lost_at, self._sent_at + self._group.patience)
            if self._watch is None:
                self._watch = self._group.watch(self, self._index + 1)
            self._member.on_renewed()

    # -- events of its watch (``WatchListener``)

    def on_live(self, index: int) -> None:
        pass

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        if all(result.modified_index <= self._index for result in results):
            return  # an update of ours
        if self._is_renewing:
            self._has_changed = True
        elif self._renewal is not None:
            self._renewal.kill(block=False)
            self._renew_at(timing.now_with_suspend())

    def on_ended(self, error: EtcException) -> None:
        self._watch = None  # it begins again with the next renewal
        self._group.unwatch(self)

    # -- losing

    def _end_at(self, at: float) -> None:
        self._end = gevent.spawn_later(max(0.0, at - timing.now_with_suspend()), self._end_if_due)
        self._end.name = f'getc end of {self.key}'

    def _end_if_due(self) -> None:
        """Tell the loss in time, whatever the renewal waits for; later if there was one meanwhile."""
        self._lose_if_due()
        if self._is_held and self._is_at_home():
            self._end_at(self.lost_at)

    def _lose_if_due(self) -> None:
        if self._is_held and self._is_at_home() and timing.now_with_suspend() >= self.lost_at:
            self._lose(not_renewed(self.key, self._group.ttl, self._last_error))

    def _lose(self, error: NodeLost) -> None:
        if self._is_held:
            self.abandon()
            self._member.on_lost(error)

    # -- writing on the chain

    def _write_value(self, value: str, deadline: Deadline) -> EtcdResult:
        self._values = (*(known for known in self._values if known != value), value)
        result = self._write(Put(self.key, value, ttl=self._group.ttl, prev_exist=True), deadline)
        self._values = (value,)
        return result

    def _write(self, operation: Put | Delete, deadline: Deadline) -> EtcdResult:
        """Send a write on the condition that the node is ours.  Raises NodeLost if it is not."""
        while True:
            try:
                return self._send(replace(operation, prev_index=self._index), deadline)
            except TestFailed:
                if not self._has_gap:
                    raise Overtaken(f'{self.key} was written by another') from None
            except KeyNotFound:
                raise NodeLost(f'{self.key} was deleted, or has expired') from None
            # A write of ours was not answered, and may still be on its way: look, and try again.
            if deadline.has_passed():
                raise TimedOut(f'{self.key} was not written within {deadline.timeout:g} s')
            self._resync_index(deadline)

    def _send(self, operation: Put | Delete, deadline: Deadline) -> EtcdResult:
        has_gap = True  # also when this greenlet is killed on the way
        self._sent_at = timing.now_with_suspend()
        try:
            result = self._group.execute(operation, deadline)
            has_gap = False
        except EtcException as error:
            has_gap = error.maybe_applied
            raise
        finally:
            self._has_gap = self._has_gap or has_gap
        return result

    def _resync_index(self, deadline: Deadline) -> None:
        """Look at the node, and go on from its index.  Raises NodeLost if it is not ours."""
        try:
            node = self._group.execute(Get(self.key, quorum=True), deadline).node
        except KeyNotFound:
            raise NodeLost(f'{self.key} was deleted, or has expired') from None
        if not self._is_ours(node):
            raise Overtaken(f'{self.key} was written by another')
        self._index = node.modified_index

    def _is_ours(self, node: object) -> bool:
        """True if the node is the one that was held: by the chain, or over a gap as far as the node tells."""
        if not isinstance(node, Value) or node.ttl is None or node.created_index != self.created_index:
            return False
        return node.modified_index == self._index or (self._has_gap and node.value in self._values)

    def _alone(self, deadline: Deadline) -> _Turn:
        return _Turn(self._lock, deadline, self.key)

    def _is_at_home(self) -> bool:
        """False in a child that was forked off the process that holds the node."""
        return os.getpid() == self._pid


class _Turn:
    """Hold a semaphore for a while, acquired before a deadline."""

    __slots__ = ('_deadline', '_semaphore', '_what')

    def __init__(self, semaphore: BoundedSemaphore, deadline: Deadline, what: str) -> None:
        self._semaphore = semaphore
        self._deadline = deadline
        self._what = what

    def __enter__(self) -> None:
        if not self._semaphore.acquire(timeout=self._deadline.timeout_left()):
            raise TimedOut(f'{self._what} had no turn within {self._deadline.timeout:g} s')

    def __exit__(self, *_: object) -> None:
        self._semaphore.release()


class RefreshGroup:
    """The nodes of one TTL, each renewed on its own at a third of it.

    Attributes:
        ttl: Seconds.
        interval: Seconds between renewals.
        patience: Seconds from the sending of the last acknowledged renewal until a node counts as lost.
        execute: How an operation is done.

    Args:
        execute: The same.
        start_watch: How a watch is begun.
        ttl: Seconds.
        most_watched: So many nodes are watched at most.
    """

    def __init__(self, execute: Execute, start_watch: StartWatch, ttl: int, *, most_watched: int) -> None:
        self.ttl = ttl
        self.interval = ttl / 3
        self.patience = ttl - safety_margin(ttl)
        self.execute = execute
        self._semaphore = BoundedSemaphore(RENEWALS_AT_ONCE)
        self._holds: set[RefreshedNode] = set()
        self._start_watch = start_watch
        self._most_watched = most_watched
        self._watched: set[RefreshedNode] = set()

    def keep(self, put: Put, member: KeepListener, deadline: Deadline) -> KeptNode:
        earlier = tuple(member.unanswered)
        try:
            return self._hold(put, member, deadline)
        except NodeExist:
            node = self._node_of(put.key, earlier, deadline)
            if node is None:
                raise
            ours = replace(put, prev_exist=True, prev_index=node.modified_index)
            try:
                return self._hold(ours, member, deadline)
            except (KeyNotFound, TestFailed):
                pass  # it has just changed
            raise

    def _hold(self, put: Put, member: KeepListener, deadline: Deadline) -> KeptNode:
        value = put.value or ''
        sent_at = timing.now_with_suspend()
        member.on_writing(AcquiringWrite(value, put.prev_exist is False))
        result = self.execute(replace(put, ttl=self.ttl), deadline)
        hold = RefreshedNode(self, member, result, value, sent_at)
        self._holds.add(hold)
        return hold

    def _node_of(self, key: str, writes: Collection[AcquiringWrite], deadline: Deadline) -> Value | None:
        """The node, if one of these unanswered writes may have made it, as far as its value and its indices tell."""
        if not writes:
            return None
        try:
            node = self.execute(Get(key, quorum=True), deadline).node
        except KeyNotFound:
            return None
        if not isinstance(node, Value) or node.ttl is None:
            return None
        # A keeper refreshes only what it holds: a node that was refreshed since its creation is held by another.
        is_new = node.modified_index == node.created_index
        is_ours = any(node.value == write.value and (is_new or not write.is_create) for write in writes)
        return node if is_ours else None

    def delete_unanswered(self, key: str, member: KeepListener, deadline: Deadline) -> None:
        node = self._node_of(key, member.unanswered, deadline)
        if node is not None:
            try:
                self.execute(Delete(key, prev_index=node.modified_index), deadline)
            except (KeyNotFound, TestFailed):
                pass  # it is gone, or another's by now

    def reclaim(
        self, key: str, value: str, previous: KeptNode, member: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        hold = previous.reclaim(value, member, deadline) if isinstance(previous, RefreshedNode) else None
        if hold is not None:
            self._holds.add(hold)
        return hold

    def turn(self, deadline: Deadline) -> _Turn:
        """One of the places of the renewals that are under way."""
        return _Turn(self._semaphore, deadline, 'a renewal')

    def forget(self, hold: RefreshedNode) -> None:
        """The hold renews no more."""
        self._holds.discard(hold)
        self._watched.discard(hold)

    def watch(self, hold: RefreshedNode, index: int) -> Watch | None:
        """Watch the node of a hold from an index on; None where as many are watched as may be."""
        if len(self._watched) >= self._most_watched:
            return None
        try:
            watch = self._start_watch(WatchSpec(hold.key, index), hold)
        except EtcException:
            return None
        self._watched.add(hold)
        return watch

    def unwatch(self, hold: RefreshedNode) -> None:
        """The watch of its node has ended."""
        self._watched.discard(hold)

    def close(self) -> None:
        """Stop all renewals.  No I/O, does not block."""
        for hold in list(self._holds):
            hold.abandon()


_: type[KeepGroup] = RefreshGroup
