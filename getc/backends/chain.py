"""Keeping nodes alive where there are no leases: each node is refreshed on its own (v2, memory).

A node is provably ours while every change of it was ours: each refresh is sent under the condition
that the node's index is the one our last write gave it (the chain).  Only after a reply was lost the
chain has a gap; then the creation index and the value decide.

A held node has no greenlet of its own: a timer starts one for each renewal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore

from getc import timing
from getc.backends.base import Hold, LeaseGroup, Member, is_uncertain, may_renew, safety_margin
from getc.errors import (
    EtcException,
    KeyNotFound,
    NodeLost,
    Overtaken,
    TestFailed,
    TimedOut,
)
from getc.model import EtcdResult, Value
from getc.operations import Delete, Get, Operation, Put
from getc.timing import Backoff, Deadline

__all__ = ['ChainGroup', 'ChainHold']

Execute = Callable[[Operation, Deadline], EtcdResult]

RENEWALS_AT_ONCE: Final = 16
"""So many renewals of one TTL are under way at a time: sockets stay few, however many nodes are kept."""


class ChainHold:
    """One node, refreshed under the condition that nobody else changed it.

    Attributes:
        key: The node.
        token: The index of the write that took it.
        lost_at: When it counts as lost, in seconds of ``timing.now``.
    """

    __slots__ = (
        '_candidates',
        '_group',
        '_has_gap',
        '_index',
        '_is_held',
        '_lock',
        '_member',
        '_pid',
        '_timer',
        'created_index',
        'key',
        'lost_at',
        'token',
    )

    def __init__(self, group: ChainGroup, member: Member, result: EtcdResult, value: str, sent_at: float) -> None:
        self.key = result.key
        self.token = result.modified_index
        self.created_index = result.created_index
        self.lost_at = sent_at + group.patience
        self._group = group
        self._member = member
        self._index = result.modified_index
        self._candidates: tuple[str, ...] = (
            value,
        )  # what the node may hold if it is ours: two after a lost reply to update
        self._has_gap = False
        self._is_held = True
        self._lock = BoundedSemaphore(1)  # one write of ours at a time, or the chain breaks itself
        self._pid = os.getpid()
        self._timer: gevent.Greenlet[[], None] | None = None
        self._renew_in(group.interval)

    # -- what the owner asks for

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        with self._alone(deadline):
            if not self._is_held:
                raise NodeLost(f'{self.key} is not held')
            self._candidates = (*self._candidates[-1:], value)
            put = Put(self.key, value, ttl=self._group.ttl, prev_exist=True, prev_index=self._index)
            sent_at = timing.now()
            result = self._write(put, deadline)
            self._candidates = (value,)
            self._renewed(result, sent_at)
            return result

    def release(self, deadline: Deadline) -> None:
        self.abandon()
        if os.getpid() != self._pid:
            return
        with self._alone(deadline):
            try:
                self._write(Delete(self.key, prev_index=self._index), deadline)
            except (NodeLost, KeyNotFound):
                pass  # somebody else's, or nobody's

    def orphan(self, deadline: Deadline) -> None:
        self.abandon()

    def abandon(self) -> None:
        self._is_held = False
        self._group.forget(self)
        if self._timer is not None and self._timer is not gevent.getcurrent():
            self._timer.kill(block=False)
            self._timer = None

    # -- renewing

    def _renew_in(self, delay: float) -> None:
        if self._is_held:
            self._timer = gevent.spawn_later(max(0.0, delay), self._renew)
            self._timer.name = f'getc renewal of {self.key}'

    def _renew(self) -> None:
        """Renew once, trying until the node counts as lost."""
        last_error: EtcException | None = None
        backoff = Backoff(cap=min(1.0, self._group.patience / 6))
        while self._is_held and os.getpid() == self._pid:
            try:
                if self._renew_once():
                    return
                last_error = NodeLost(f'{self.key}: alive() says no, or does not answer')
            except NodeLost as error:
                return self._lose(error)
            except EtcException as error:
                last_error = error
                if self._is_held and timing.now() < self.lost_at:
                    self._member.on_suspect(error)
            left = self.lost_at - timing.now()
            if left <= 0:
                lost = NodeLost(f'{self.key} was not renewed within its TTL of {self._group.ttl} s: {last_error}')
                lost.__cause__ = last_error
                return self._lose(lost)
            gevent.sleep(min(left, backoff.next_delay()))

    def _renew_once(self) -> bool:
        """Send one renewal; False if the member will not have it."""
        left = Deadline(max(0.0, self.lost_at - timing.now()))
        with self._group.turn(left):
            if not may_renew(self._member, self._group.ttl):
                return False
            with self._alone(left):
                if not self._is_held:
                    return True
                sent_at = timing.now()
                put = Put(self.key, ttl=self._group.ttl, refresh=True, prev_exist=True, prev_index=self._index)
                result = self._write(put, left.share(1.0, at_most=self._group.ttl / 6))
                if self._is_held:
                    self._renewed(result, sent_at)
                    self._member.on_renewed()
        self._renew_in(sent_at + self._group.interval - timing.now())
        return True

    def _lose(self, error: NodeLost) -> None:
        if self._is_held:
            self.abandon()
            self._member.on_lost(error)

    def _renewed(self, result: EtcdResult, sent_at: float) -> None:
        self._index = result.modified_index
        self._has_gap = False
        self.lost_at = max(self.lost_at, sent_at + self._group.patience)

    # -- writing on the chain

    def _write(self, operation: Put | Delete, deadline: Deadline) -> EtcdResult:
        """Send a write on the condition that the node is ours.  Raises NodeLost if it is not."""
        try:
            return self._send(operation, deadline)
        except TestFailed:
            if not self._has_gap:
                raise Overtaken(f'{self.key} was written by another') from None
        except KeyNotFound:
            raise NodeLost(f'{self.key} was deleted, or has expired') from None
        # A reply of ours was lost: the node is ours if it is the one we made, with a value we wrote.
        self._bridge(deadline)
        return self._send(replace(operation, prev_index=self._index), deadline)

    def _send(self, operation: Put | Delete, deadline: Deadline) -> EtcdResult:
        has_gap = True  # also when this greenlet is killed on the way
        try:
            result = self._group.execute(operation, deadline)
            has_gap = False
        except EtcException as error:
            has_gap = is_uncertain(error)
            raise
        finally:
            self._has_gap = self._has_gap or has_gap
        return result

    def _bridge(self, deadline: Deadline) -> None:
        try:
            node = self._group.execute(Get(self.key, quorum=True), deadline).node
        except KeyNotFound:
            raise NodeLost(f'{self.key} was deleted, or has expired') from None
        if not self.is_ours(node):
            raise Overtaken(f'{self.key} was written by another')
        self._index = node.modified_index

    def is_ours(self, node: object) -> bool:
        """True if the node is the one that was held, as far as creation, TTL and value tell."""
        return (
            isinstance(node, Value)
            and node.created_index == self.created_index
            and node.ttl is not None
            and node.value in self._candidates
        )

    def _alone(self, deadline: Deadline) -> _Turn:
        return _Turn(self._lock, deadline, self.key)


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


class ChainGroup:
    """The nodes of one TTL, each renewed on its own at a third of it.

    Attributes:
        ttl: Seconds.
        interval: Seconds between renewals.
        patience: Seconds from the sending of the last acknowledged renewal until a node counts as lost.
        execute: How an operation is done.
    """

    def __init__(self, execute: Execute, ttl: int) -> None:
        self.ttl = ttl
        self.interval = ttl / 3
        self.patience = ttl - safety_margin(ttl)
        self.execute = execute
        self._semaphore = BoundedSemaphore(RENEWALS_AT_ONCE)
        self._holds: set[ChainHold] = set()

    def hold(self, put: Put, member: Member, deadline: Deadline) -> Hold:
        sent_at = timing.now()
        result = self.execute(replace(put, ttl=self.ttl), deadline)
        return self._held(member, result, put.value or '', sent_at)

    def adopt(self, key: str, value: str, previous: Hold, member: Member, deadline: Deadline) -> Hold | None:
        node = self.execute(Get(key, quorum=True), deadline).node
        if not isinstance(previous, ChainHold) or not previous.is_ours(node):
            return None
        sent_at = timing.now()
        put = Put(key, value, ttl=self.ttl, prev_exist=True, prev_index=node.modified_index)
        return self._held(member, self.execute(put, deadline), value, sent_at)

    def _held(self, member: Member, result: EtcdResult, value: str, sent_at: float) -> ChainHold:
        hold = ChainHold(self, member, result, value, sent_at)
        self._holds.add(hold)
        return hold

    def turn(self, deadline: Deadline) -> _Turn:
        """One of the places of the renewals that are under way."""
        return _Turn(self._semaphore, deadline, 'a renewal')

    def forget(self, hold: ChainHold) -> None:
        """The hold renews no more."""
        self._holds.discard(hold)

    def close(self) -> None:
        """Stop all renewals.  No I/O, does not block."""
        for hold in list(self._holds):
            hold.abandon()


_: type[LeaseGroup] = ChainGroup
