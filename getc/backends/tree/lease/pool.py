"""Keep nodes alive by leases, shared by the nodes of one TTL: 10,000 nodes take a handful of messages.

A node is ours while its key is on a lease of ours: no other program has the lease's ID, and no lease of ours ever
carries two kept nodes of one key.  The proof is the list of keys of the lease, read with each renewal.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, TypeVar

from gevent.lock import BoundedSemaphore

from getc import timing
from getc.backends.base import AcquiringWrite, KeepGroup, KeepListener, KeptNode
from getc.backends.tree.codec.contenders import parse_joined, txn_of_join
from getc.backends.tree.codec.keyspace import encode
from getc.backends.tree.codec.responses import PUT, RANGE, malformed, results_of_txn
from getc.backends.tree.codec.txn_failure import error_from_failure, failure_results
from getc.backends.tree.codec.write import check_put, parse_put, txn_of_put
from getc.backends.tree.lease.grant import grant
from getc.backends.tree.lease.key_watches import KeyWatches
from getc.backends.tree.lease.leased_node import LeasedNode, delete_on_lease, is_on_lease
from getc.backends.tree.lease.shared_lease import SharedLease
from getc.errors import LeaseNotFound, NodeExist, NodeLost, TimedOut
from getc.operations import Predecessor, Put
from getc.results import PredecessorResult
from getc.timing import Deadline
from getc.v3.lease import Lease as LeaseService
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse

__all__ = ['LeasePool']

Kept = TypeVar('Kept')

MAX_ENDED_IDS: Final = 1000
"""Remembered leases that are over here: until etcd expires one, a key without a keeper may be on it."""


class LeasePool(KeepGroup):
    """The nodes of one TTL, on leases that they share.

    Attributes:
        ttl: Seconds: the requested TTL, and the granted one once a lease was granted.

    Args:
        rpc: Calls etcd.
        keep_alives: Sends keep-alives.
        watches: The watches of the nodes' keys.
        ttl: The requested TTL in seconds.
        is_strict: See :class:`~getc.backends.tree.backend.TreeV3`.
        on_revision: Called with the store's revision of each renewal.
    """

    ttl: int

    __slots__ = (
        '_ended_ids',
        '_grant_lock',
        '_is_strict',
        '_keep_alives',
        '_leases',
        '_on_revision',
        '_requested_ttl',
        '_rpc',
        '_watches',
        'ttl',
    )

    def __init__(
        self,
        rpc: RpcClient,
        keep_alives: LeaseService,
        watches: KeyWatches,
        ttl: int,
        *,
        is_strict: bool,
        on_revision: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.ttl = ttl
        self._rpc = rpc
        self._keep_alives = keep_alives
        self._watches = watches
        self._requested_ttl = ttl
        self._is_strict = is_strict
        self._on_revision = on_revision
        self._leases: dict[int, SharedLease] = {}
        self._ended_ids: dict[int, None] = {}  # IDs of leases that are over here, the latest last
        self._grant_lock = BoundedSemaphore(1)

    # -- ``KeepGroup``

    def keep(self, put: Put, listener: KeepListener, deadline: Deadline) -> KeptNode:
        check_put(put)
        return self._on_lease(put.key, lambda lease: self._put_on(lease, put, listener, deadline), deadline)

    def reclaim(
        self, key: str, value: str, previous: KeptNode, listener: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        if not isinstance(previous, LeasedNode):
            return None
        condition = previous.condition
        return self._on_lease(key, lambda lease: self._move(key, value, condition, lease, listener, deadline), deadline)

    def contend(
        self, put: Put, listener: KeepListener, predecessor: Predecessor, deadline: Deadline
    ) -> tuple[KeptNode, PredecessorResult | None]:
        check_put(put)
        return self._on_lease(
            put.key, lambda lease: self._join_on(lease, put, listener, predecessor, deadline), deadline
        )

    def delete_unanswered(self, key: str, listener: KeepListener, deadline: Deadline) -> None:
        request = RangeRequest(key=encode(key))  # not keys_only: then etcd 3.7 leaves out the lease
        found = self._rpc.call(KV.Range, request, deadline).kvs
        lease_id = found[0].lease if found else 0
        if not self._is_ours_and_free(key, lease_id):
            return
        lease = self._leases.get(lease_id)
        with nullcontext() if lease is None else lease.keys.removing(key):
            self._rpc.call(KV.Txn, delete_on_lease(key, lease_id), deadline)

    def close(self) -> None:
        """Stop all renewals.  No I/O, does not block."""
        for lease in list(self._leases.values()):
            lease.abandon()

    # -- writes

    def _put_on(self, lease: SharedLease, put: Put, listener: KeepListener, deadline: Deadline) -> KeptNode:
        """Put a node on this lease."""
        txn = txn_of_put(put, lease=lease.id, is_strict=self._is_strict)
        listener.on_writing(AcquiringWrite(put.value or '', put.prev_exist is False))
        response = self._send(txn, deadline)
        if not response.succeeded:
            return self._recover_own_write(lease, put, response, listener, deadline)
        written = parse_put(put, response)
        return lease.attach(put.key, written.modified_index, written.created_index, listener)

    def _join_on(
        self, lease: SharedLease, put: Put, listener: KeepListener, predecessor: Predecessor, deadline: Deadline
    ) -> tuple[KeptNode, PredecessorResult | None]:
        """Create a contender on this lease; keep the key that an earlier call without an answer has created."""
        txn = txn_of_join(put, predecessor, lease=lease.id, is_strict=self._is_strict)
        listener.on_writing(AcquiringWrite(put.value or '', is_create=True))
        with lease.keys.joining(put.key):
            response = self._send(txn, deadline)
        if response.succeeded:
            joined = parse_joined(response)
            return lease.attach(put.key, joined.index, joined.index, listener, is_contender=True), joined
        refusal = error_from_failure(put, response, is_strict=self._is_strict)
        if not isinstance(refusal, NodeExist):
            raise refusal
        found = failure_results(put.key, response, is_strict=self._is_strict)[-1]
        ours = self._leases.get(found[0].lease) if found else None
        if ours is None or ours.is_over or (ours is not lease and ours.keys.is_taken(put.key)):
            raise NodeLost('{key} was created by a call without an answer, and its lease has ended', key=put.key)
        token = found[0].create_revision
        return ours.attach(put.key, token, token, listener, is_contender=True), None

    def _recover_own_write(
        self, lease: SharedLease, put: Put, response: TxnResponse, listener: KeepListener, deadline: Deadline
    ) -> KeptNode:
        """Keep the node that refused the put, if an earlier put of ours without a response made it.

        Only its lease proves that, not its value.  That lease may be over, since no node was kept on it: then the node
        moves to ``lease``.

        Raises:
            EtcdError: The node belongs to another client.
        """
        refusal = error_from_failure(put, response, is_strict=self._is_strict)
        found = failure_results(put.key, response, is_strict=self._is_strict)[-1]
        found_id = found[0].lease if found else 0
        ours = lease if found_id == lease.id else self._leases.get(found_id)
        if ours is not lease and not self._is_ours_and_free(put.key, found_id):
            raise refusal
        if ours is None or ours.is_over:
            moved = self._move(put.key, put.value or '', is_on_lease(put.key, found_id), lease, listener, deadline)
            if moved is None:
                raise refusal
            return moved
        node = ours.attach(put.key, found[0].mod_revision, found[0].create_revision, listener)
        try:
            if found[0].value != encode(put.value or ''):
                # The value may be that of an earlier keeper, on a lease that a restored backup has brought back: only
                # the write of this keeper makes a token that no keeper had before.
                node.token = node.update(put.value or '', deadline).index
            else:
                node.check(deadline)  # it may have been deleted before this response arrived
        except BaseException as error:
            node.abandon()  # the next attempt recovers it again
            if isinstance(error, NodeLost):  # deleted a moment ago
                raise refusal from error
            raise
        return node

    def _move(
        self, key: str, value: str, condition: Compare, lease: SharedLease, listener: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        """Move a node to this lease, with a new value, if the condition holds: that it is on another lease of ours."""
        read = RequestOp(request_range=RangeRequest(key=encode(key), keys_only=True))
        put = RequestOp(request_put=PutRequest(key=encode(key), value=encode(value), lease=lease.id))
        listener.on_writing(AcquiringWrite(value, is_create=False))
        response = self._send(TxnRequest(compare=[condition], success=[read, put]), deadline)
        if not response.succeeded:
            return None
        found, _ = results_of_txn(response, RANGE, PUT)
        if not found.kvs:
            raise malformed('the compares succeeded, but the response does not contain {key}', is_write=True, key=key)
        return lease.attach(key, response.header.revision, found.kvs[0].create_revision, listener)

    def _is_ours_and_free(self, key: str, lease_id: int) -> bool:
        """True if this is a lease of ours and the key on it is not kept, being put or being removed."""
        lease = self._leases.get(lease_id)
        return lease_id in self._ended_ids if lease is None else not lease.keys.is_taken(key)

    def _send(self, txn: TxnRequest, deadline: Deadline) -> TxnResponse:
        return self._rpc.call(KV.Txn, txn, deadline.timeout_left())

    # -- leases

    def _on_lease(self, key: str, put: Callable[[SharedLease], Kept], deadline: Deadline) -> Kept:
        """Call ``put`` with a lease for the key; again with another lease if etcd does not know the first any more."""
        while True:
            lease = self._lease_for(key, deadline)
            try:
                with lease.keys.reserve(key):
                    return put(lease)
            except LeaseNotFound:
                lease.on_gone()

    def _lease_for(self, key: str, deadline: Deadline) -> SharedLease:
        """Return a lease that has room for the key, granted if there is none."""
        lease = self._find_lease_for(key)
        if lease is not None:
            return lease
        if not self._grant_lock.acquire(timeout=deadline.timeout_left()):
            raise TimedOut(f'no lease was granted for {{key}} within {deadline.timeout:g} s', key=key)
        try:
            lease = self._find_lease_for(key)
            return self._grant_lease(deadline) if lease is None else lease
        finally:
            self._grant_lock.release()

    def _find_lease_for(self, key: str) -> SharedLease | None:
        for lease in self._leases.values():
            if lease.has_room_for(key):
                return lease
        return None

    def _grant_lease(self, deadline: Deadline) -> SharedLease:
        sent_at = timing.now_with_suspend()
        lease_id, granted = grant(self._rpc, self._requested_ttl, deadline)
        assert granted.ttl is not None
        self.ttl = granted.ttl
        lease = self._leases[lease_id] = SharedLease(
            self._rpc,
            lease_id,
            granted.ttl,
            sent_at,
            keep_alives=self._keep_alives,
            watches=self._watches,
            on_over=self._on_over,
            on_revision=self._on_revision,
        )
        return lease

    def _on_over(self, lease: SharedLease) -> None:
        self._leases.pop(lease.id, None)
        self._ended_ids[lease.id] = None
        if len(self._ended_ids) > MAX_ENDED_IDS:
            del self._ended_ids[next(iter(self._ended_ids))]
