"""A node without a lease, which is kept alive by refreshing it (v2, memory).

A node is provably ours while every change of it was ours: each refresh compares the node's index with the index that
our previous write returned.  Only after a write without an answer is our index uncertain; then the creation index and
the value decide.

A watch of the node shows at once that another client has changed it.  It proves nothing, and only makes the next
renewal come at once.  Where a watch takes a connection, only some of the nodes have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

import gevent

from getc import timing
from getc.backends.acquired import acquired
from getc.backends.base import KeepListener, KeptNode, WatchListener
from getc.backends.fifo_lock import FifoLock
from getc.backends.refresh_context import SLOTS_IN_USE, RefreshContext
from getc.errors import EtcException, KeyNotFound, NodeLost, Overtaken, TestFailed, TimedOut
from getc.operations import Delete, Get, Put
from getc.renewal import Renewable, RenewalClock, RenewalLoop
from getc.results import EtcdResult, Node, Value
from getc.timing import Backoff, Deadline
from getc.transactions import Guard

__all__ = ['RefreshedNode']

WRITE_IN_FLIGHT: Final = 'another write to it is in flight'


class RefreshedNode(KeptNode, Renewable, WatchListener):
    """One node, refreshed by compare-and-refresh on the index of its previous write.

    Attributes:
        key: The node.
        token: The index of the write that acquired it.
        created_index: Its creation index.

    Args:
        context: What the nodes of its TTL share.
        listener: Receives the callbacks.
        result: The result of the write that acquired the node.
        value: What that write wrote.
        sent_at: When it was sent, in seconds of ``timing.now_with_suspend``.
        is_watched: Watch the node from now on; else :meth:`watch` does.
    """

    token: int

    __slots__ = (
        '_blocker',
        '_clock',
        '_context',
        '_index',
        '_index_is_uncertain',
        '_is_watched',
        '_listener',
        '_loop',
        '_sent_at',
        '_updates',
        '_values',
        '_watch',
        '_write_lock',
        'created_index',
        'key',
        'token',
    )

    def __init__(
        self,
        context: RefreshContext,
        listener: KeepListener,
        result: EtcdResult,
        value: str,
        sent_at: float,
        *,
        is_watched: bool = True,
    ) -> None:
        self.key = result.key
        self.token = result.modified_index
        self.created_index = result.created_index
        self._context = context
        self._listener = listener
        self._index = result.modified_index
        self._index_is_uncertain = False  # a write of ours was not answered: it may have moved the index
        self._values: tuple[str, ...] = (value,)  # those the node may have if it is ours: several after lost answers
        self._write_lock = FifoLock()  # two writes at a time would compare with the same index
        self._updates = 0  # number of calls of `update`
        self._blocker: str | None = None  # what the renewal in flight waits for
        self._sent_at = sent_at  # of the latest write
        self._clock = RenewalClock(context.ttl, sent_at)
        self._loop = RenewalLoop(self, self._clock, self.key, gevent)
        self._is_watched = is_watched
        self._watch = context.watch(self.key, self._index + 1, self) if is_watched else None

    @property
    def lost_at(self) -> float:
        return self._clock.lost_at

    @property
    def guard(self) -> Guard:
        return Guard(self.key, self.created_index, is_ours=self._is_kept)

    # -- for the keeper

    def watch(self) -> None:
        self._is_watched = True
        if self._watch is None and not self._loop.is_closed:
            self._watch = self._context.watch(self.key, self._index + 1, self)

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        # A write without a response must not keep renewals waiting until the node is lost.  So an attempt takes as long
        # as one to renew, and the next attempt follows after the renewals that wait.
        self._updates += 1
        number = self._updates
        backoff = Backoff()
        was_tried = maybe_applied = False
        while True:
            with self._locked(deadline):
                if self._updates != number and was_tried:  # a later update must not be overwritten
                    text = '{key} was not written in time, and is left to a later update'
                    raise TimedOut(text, maybe_applied=maybe_applied, key=self.key)
                if self._loop.is_closed:
                    raise NodeLost('{key} is not kept any more', key=self.key)
                is_last = deadline.remaining() <= self._clock.attempt_timeout
                try:
                    result = self._write_value(value, deadline.fraction(1, self._clock.attempt_timeout))
                except TimedOut as error:
                    if self._updates != number:
                        raise
                    was_tried, maybe_applied = True, maybe_applied or error.maybe_applied
                    if is_last:
                        text = f'{{key}} was not written within {deadline.timeout:g} s: {error}'
                        raise TimedOut(text, maybe_applied=maybe_applied, key=self.key) from error
                else:
                    self._on_acknowledged(result)
                    return result
            gevent.sleep(min(backoff.next_delay(), deadline.remaining()))

    def release(self, deadline: Deadline) -> bool:
        self.abandon()
        if self._loop.in_forked_child:
            return False
        with self._locked(deadline):
            try:
                return bool(self._write(Delete(self.key), deadline))
            except NodeLost:
                return False  # it is deleted, or belongs to another client

    def detach(self, deadline: Deadline) -> None:
        self.abandon()

    def abandon(self) -> None:
        self._context.nodes.discard(self)
        self._context.forget_watch(self)
        self._loop.close()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def reclaim(self, value: str, listener: KeepListener, deadline: Deadline) -> RefreshedNode | None:
        """Write the lost node if it is provably still ours, and keep it from then on; return None if it is not ours."""
        with self._locked(deadline):
            try:
                self._resync_index(deadline)
                result = self._write_value(value, deadline)
            except NodeLost:
                return None
            return RefreshedNode(self._context, listener, result, value, self._sent_at)

    # -- renewals

    def before_renewal(self) -> None:
        if not self._listener.check_liveness():
            self.abandon()

    def renew(self) -> None:
        left = Deadline(self._clock.remaining())
        self._blocker = SLOTS_IN_USE
        try:
            with self._context.renewal_slot(self.key, left):
                self._blocker = WRITE_IN_FLIGHT
                with self._locked(left):
                    self._blocker = None
                    self._refresh()
        finally:
            self._blocker = None

    def _refresh(self) -> None:
        if self._loop.is_closed:
            return
        put = Put(self.key, ttl=self._context.ttl, refresh=True, prev_exist=True)
        try:
            result = self._write(put, self._clock.attempt_deadline())
        except NodeLost as error:
            self._lose(error)
        else:
            self._on_acknowledged(result)

    def on_renewal_missed(self, error: EtcException) -> None:
        self._listener.on_renewal_missed(error)

    def on_expired(self) -> None:
        if self._clock.last_error is None and self._blocker is not None:
            self._clock.last_error = TimedOut(f'no renewal was sent: {self._blocker}', key=self.key)
        self._lose(self._clock.loss('{key}', key=self.key))

    def _on_acknowledged(self, result: EtcdResult) -> None:
        """Note that a write succeeded.  Too late, it does not bring back a lost node, though the node may be there."""
        self._index = result.modified_index
        self._index_is_uncertain = False
        if not self._loop.is_closed and self._clock.acknowledge(self._sent_at):
            if self._watch is None and self._is_watched:
                self._watch = self._context.watch(self.key, self._index + 1, self)
            self._listener.on_renewed()

    def _lose(self, error: NodeLost) -> None:
        if not self._loop.is_closed:
            self.abandon()
            self._listener.on_lost(error)

    # -- events of the node's watch

    def on_live(self, index: int) -> None:
        pass

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        if any(result.modified_index > self._index for result in results):  # not just an update of ours
            self._loop.renew_now()

    def on_ended(self, error: EtcException) -> None:
        self._watch = None  # it starts again with the next renewal
        self._context.forget_watch(self)

    # -- writes, each with a compare on the index of the one before

    def _write_value(self, value: str, deadline: Deadline) -> EtcdResult:
        self._values = (*(known for known in self._values if known != value), value)
        result = self._write(Put(self.key, value, ttl=self._context.ttl, prev_exist=True), deadline)
        self._values = (value,)
        return result

    def _write(self, operation: Put | Delete, deadline: Deadline) -> EtcdResult:
        """Send a write with a compare on our index.  Raises NodeLost if the node is not ours."""
        while True:
            try:
                return self._send(replace(operation, prev_index=self._index), deadline)
            except TestFailed:
                if not self._index_is_uncertain:
                    raise self._overtaken() from None
            except KeyNotFound:
                raise self._gone() from None
            # An earlier write of ours was not answered, and may still be applied: read the node, and send it again.
            if deadline.has_passed():
                raise TimedOut(f'{{key}} was not written within {deadline.timeout:g} s', key=self.key)
            self._resync_index(deadline)

    def _send(self, operation: Put | Delete, deadline: Deadline) -> EtcdResult:
        is_uncertain = True  # also if this greenlet is killed
        self._sent_at = timing.now_with_suspend()
        try:
            result = self._context.execute(operation, deadline)
            is_uncertain = False
        except EtcException as error:
            is_uncertain = error.maybe_applied
            raise
        finally:
            self._index_is_uncertain = self._index_is_uncertain or is_uncertain
        return result

    def _resync_index(self, deadline: Deadline) -> None:
        """Read the node, and compare with the index that it has now.  Raises NodeLost if the node is not ours."""
        try:
            node = self._context.execute(Get(self.key, quorum=True), deadline).node
        except KeyNotFound:
            raise self._gone() from None
        if not self._is_ours(node):
            raise self._overtaken()
        self._index = node.modified_index

    def _is_ours(self, node: Node) -> bool:
        """True if all changes of the node were ours: by its index, or else as far as creation index and value show."""
        if not isinstance(node, Value) or node.ttl is None or node.created_index != self.created_index:
            return False
        return node.modified_index == self._index or (self._index_is_uncertain and node.value in self._values)

    def _is_kept(self, node: Node) -> bool:
        return not self._loop.is_closed and self._is_ours(node)

    def _gone(self) -> NodeLost:
        return NodeLost('{key} was deleted, or has expired', key=self.key)

    def _overtaken(self) -> Overtaken:
        return Overtaken('{key} was written by another client', key=self.key)

    def _locked(self, deadline: Deadline) -> AbstractContextManager[None]:
        return acquired(self._write_lock, deadline, 'write {key}', WRITE_IN_FLIGHT, self.key)
