"""One lease with the nodes on it, renewed together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import gevent

from getc import timing
from getc.backends.base import KeepListener, not_renewed, safety_margin
from getc.backends.tree.codec.keyspace import decode, encode
from getc.backends.tree.lease.key_watches import KeyWatches
from getc.backends.tree.lease.leased_node import LeasedNode, deletion_on_lease
from getc.errors import ConnectionError, EtcException, LeaseNotFound, NodeLost
from getc.timing import Backoff, Deadline
from getc.v3.lease import Lease as LeaseService
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeRequest
from getc.v3.schema.lease import Lease, LeaseTimeToLiveRequest

__all__ = ['SharedLease']

MAX_NODES: Final = 1000
"""Nodes on one lease: what is lost together if a lease is."""


class SharedLease:
    """One lease with the nodes on it.

    Attributes:
        id: Its number.
        ttl: Seconds it lives after a renewal.
        holds: What is held on it, by key.
        lost_at: When all that is on it counts as lost, in seconds of ``timing.now_with_suspend``.
        rpc: How RPCs are called.

    Args:
        number: Its number.
        ttl: Seconds.
        sent_at: When it was asked for.
        renewals: The stream of renewals.
        watches: The watches of the nodes' keys.
        on_over: Called once with it when nothing is held on it any more and nothing will be.
        on_revision: Called with the store's revision that a renewal has shown.
    """

    def __init__(
        self,
        rpc: RpcClient,
        number: int,
        ttl: int,
        sent_at: float,
        *,
        renewals: LeaseService,
        watches: KeyWatches,
        on_over: Callable[[SharedLease], None],
        on_revision: Callable[[int], object],
    ) -> None:
        self.rpc = rpc
        self.id = number
        self.ttl = ttl
        self.holds: dict[str, LeasedNode] = {}
        self._renewals = renewals
        self._watches = watches
        self._on_over = on_over
        self._on_revision = on_revision
        self._patience = ttl - safety_margin(ttl)
        self.lost_at = sent_at + self._patience
        self._reserved: set[str] = set()  # nodes that are being put there, or moved away
        self._leaving: Counter[str] = Counter()  # requests that take a node off, or may do so at any time
        self._last_error: EtcException | None = None
        self._is_over = False
        self._pid = os.getpid()
        self._renewal: gevent.Greenlet[[], None] | None = None
        self._end: gevent.Greenlet[[], None] | None = None
        self._renew_at(sent_at + ttl / 3)
        self._end_at(self.lost_at)

    @property
    def is_over(self) -> bool:
        """True if nothing can be held on it any more."""
        return self._is_over or not self.is_at_home() or timing.now_with_suspend() >= self.lost_at

    def is_at_home(self) -> bool:
        """False in a child that was forked off the process whose lease it is."""
        return os.getpid() == self._pid

    def is_taken(self, key: str) -> bool:
        """True if a keeper holds the node on it, writes it there or deletes it."""
        return key in self.holds or key in self._reserved or key in self._leaving

    def has_room_for(self, key: str) -> bool:
        """True if a node may be put on it now."""
        is_fresh = self.lost_at - timing.now_with_suspend() > self.ttl / 2 - safety_margin(self.ttl)
        has_room = len(self.holds) + len(self._reserved) < MAX_NODES
        return is_fresh and has_room and not self.is_over and not self.is_taken(key)

    @contextmanager
    def reserved(self, key: str) -> Iterator[None]:
        """Keep the place of a node while it is put there, which is free before, or moved to another lease."""
        self._reserved.add(key)
        try:
            yield
        finally:
            self._reserved.discard(key)

    @contextmanager
    def removing(self, key: str) -> Iterator[None]:
        """Let nobody put the node on it again while it is taken off.

        Nor ever after if there was no answer: the request may be done at any time, and would take off the new one.
        """
        self._leaving[key] += 1
        may_be_done_later = True  # also if this greenlet is killed
        try:
            yield
            may_be_done_later = False
        except EtcException as error:
            may_be_done_later = error.maybe_applied
            raise
        finally:
            if not may_be_done_later:
                self._leaving -= Counter((key,))

    def attach(self, key: str, token: int, member: KeepListener) -> LeasedNode:
        """The node was put on it.

        Raises:
            ConnectionError: The lease has ended meanwhile, so the node may be there or not.
        """
        if self.is_over:
            raise ConnectionError(f'the lease of {key} ended while it was written', maybe_applied=True)
        hold = self.holds[key] = LeasedNode(self, key, token, member, self._watches)
        return hold

    def remove(self, hold: LeasedNode) -> None:
        """The node is not ours any more, or not kept."""
        if self.holds.get(hold.key) is hold:
            del self.holds[hold.key]

    def on_gone(self) -> None:
        """The server does not know it: lose all that is on it."""
        self._lose_all(NodeLost(f'lease {self.id:x} has ended: it was revoked, or has expired'))

    def abandon(self) -> None:
        """Renew no more.  No I/O, does not block."""
        self._is_over = True
        self._on_over(self)
        for greenlet in (self._renewal, self._end):
            if greenlet is not None and greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)

    # -- renewing

    def _renew_at(self, at: float) -> None:
        if not self.is_over:
            self._renewal = gevent.spawn_later(max(0.0, at - timing.now_with_suspend()), self._renew)
            self._renewal.name = f'getc renewal of lease {self.id:x}'

    def _renew(self) -> None:
        if self.is_over:
            self._lose_if_due()  # timers do not count a suspend: the end's is late
            return
        next_at = timing.now_with_suspend() + self.ttl / 3  # also if this greenlet is killed on the way
        try:
            if not self.holds and not self._reserved:
                return self.abandon()  # it ends by itself, and so does what may have been left on it
            sent_at = self._renew_once()
            if sent_at is not None:
                next_at = sent_at + self.ttl / 3
        finally:
            self._renew_at(next_at)

    def _renew_once(self) -> float | None:
        """Renew until it is done or over; return when the renewal was sent."""
        backoff = Backoff(cap=min(1.0, self.ttl / 12))
        self._ask_members()
        while not self.is_over:
            held = list(self.holds.values())
            sent_at = timing.now_with_suspend()
            try:
                revision, keys = self._renewed_keys(Deadline(min(self.ttl / 6, self.lost_at - sent_at)))
            except LeaseNotFound:
                self.on_gone()
                return None
            except EtcException as error:
                self._suspect(error)
                gevent.sleep(backoff.next_delay())
                continue
            if self._is_over or timing.now_with_suspend() >= self.lost_at:
                return None  # too late
            self.lost_at = max(self.lost_at, sent_at + self._patience)
            self._last_error = None
            self._on_revision(revision)
            self._check(held, keys, revision)
            return sent_at
        return None

    def _ask_members(self) -> None:
        """Ask each whether it is well; who is not lets go, in a sixth of the TTL at most.

        All at once, and nobody is waited for longer: some who do not answer must not cost the others their time.
        """
        asked = [hold.member for hold in self.holds.values() if hold.member.has_liveness_check]
        gevent.joinall([gevent.spawn(member.check_liveness) for member in asked], timeout=self.ttl / 6)

    def _renewed_keys(self, deadline: Deadline) -> tuple[int, set[bytes]]:
        """Renew, and return the keys that are on the lease at this revision or a later one.

        etcd fills the header of a keep-alive's response before it renews, that of a TimeToLive's after it has looked.
        """
        left = deadline.timeout_left()
        revision = self._renewals.keep_alive(self.id, timeout=left).header.revision
        request = LeaseTimeToLiveRequest(ID=self.id, keys=True)
        response = self.rpc.call(Lease.LeaseTimeToLive, request, deadline.timeout_left())
        if response.TTL <= 0:
            raise LeaseNotFound('requested lease not found', f'{self.id:x}')
        return revision, set(response.keys)

    def _check(self, held: list[LeasedNode], keys: set[bytes], revision: int) -> None:
        """Compare what should be on the lease with what is."""
        for hold in held:
            if self.holds.get(hold.key) is not hold:
                continue
            if encode(hold.key) in keys:
                hold.on_renewed(revision)
            else:
                gevent.spawn(self._find_out, hold)
        known = {encode(key) for key in (*self.holds, *self._reserved, *(hold.key for hold in held))}
        for key in keys - known:
            gevent.spawn(self._drop, key)  # its keeper could not delete it

    def _find_out(self, hold: LeasedNode) -> None:
        """A node is not on the lease: it was deleted, or another has it."""
        try:
            response = self.rpc.call(KV.Range, RangeRequest(key=encode(hold.key), keys_only=True), self.ttl / 6)
            there = response.kvs
        except EtcException:
            there = []
        if there and there[0].lease == self.id:
            return  # it was written again meanwhile
        hold.on_taken(is_deleted=not there)

    def _drop(self, key: bytes) -> None:
        """Delete a node that is on the lease and that nobody holds.  If that fails the next renewal finds it again."""
        path = decode(key)
        if path in self.holds or path in self._reserved or self.is_over:
            return
        try:
            with self.removing(path):
                self.rpc.call(KV.Txn, deletion_on_lease(path, self.id), self.ttl / 6)
        except EtcException:
            pass

    def _suspect(self, error: EtcException) -> None:
        if not self.is_over:
            self._last_error = error
            for hold in list(self.holds.values()):
                hold.member.on_renewal_missed(error)

    # -- losing

    def _end_at(self, at: float) -> None:
        self._end = gevent.spawn_later(max(0.0, at - timing.now_with_suspend()), self._end_if_due)
        self._end.name = f'getc end of lease {self.id:x}'

    def _end_if_due(self) -> None:
        """Tell the loss in time, whatever the renewal waits for; later if there was one meanwhile."""
        self._lose_if_due()
        if not self._is_over and self.is_at_home():
            self._end_at(self.lost_at)

    def _lose_if_due(self) -> None:
        if not self._is_over and self.is_at_home() and timing.now_with_suspend() >= self.lost_at:
            self._lose_all(not_renewed(f'lease {self.id:x}', self.ttl, self._last_error))

    def _lose_all(self, error: NodeLost) -> None:
        holds = list(self.holds.values())
        self.abandon()
        for hold in holds:
            hold.lose(error)
