"""Keeping nodes alive by leases, shared by the nodes of one TTL: ten thousand nodes are a handful of messages.

A node is ours while it hangs on the lease that we put it on: no other program has that number, and no lease of ours
ever carries two holds of one key.  Proof is the list of the keys on the lease, asked for with each renewal: a renewal's
success alone proves nothing about a node.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, TypeVar

from gevent.lock import BoundedSemaphore

from getc import timing
from getc.backends.base import AcquiringWrite, KeepGroup, KeepListener, KeptNode
from getc.backends.tree.codec import write
from getc.backends.tree.codec.keyspace import encode
from getc.backends.tree.codec.shapes import MISSHAPEN, misshapen
from getc.backends.tree.codec.txn_failure import error_from_failure
from getc.backends.tree.lease.key_watches import KeyWatches
from getc.backends.tree.lease.leased_node import LeasedNode, deletion_on_lease, granted, on_lease
from getc.backends.tree.lease.shared_lease import SharedLease
from getc.errors import LeaseNotFound, NodeLost, TimedOut
from getc.operations import Put
from getc.timing import Deadline
from getc.v3.lease import Lease as LeaseService
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse

__all__ = ['LeasePool']

Held = TypeVar('Held')

MAX_EXPIRED_IDS: Final = 1000
"""Leases that are remembered after their end: until the server ends one, a node that nobody knows of may hang on it."""


class LeasePool:
    """The nodes of one TTL.

    Attributes:
        ttl: Seconds that the server grants: known better once it has.

    Args:
        rpc: How RPCs are called.
        renewals: The stream of renewals.
        watches: The watches of the nodes' keys.
        ttl: Seconds that are asked for.
        is_strict: As the backend's.
        on_revision: Called with the store's revision that a renewal has shown.
    """

    def __init__(
        self,
        rpc: RpcClient,
        renewals: LeaseService,
        watches: KeyWatches,
        ttl: int,
        *,
        is_strict: bool,
        on_revision: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.ttl = ttl
        self._rpc = rpc
        self._renewals = renewals
        self._watches = watches
        self._asked_ttl = ttl
        self._is_strict = is_strict
        self._on_revision = on_revision
        self._leases: dict[int, SharedLease] = {}
        self._expired_ids: dict[int, None] = {}  # the numbers of leases that are over, the latest last
        self._granting = BoundedSemaphore(1)

    def keep(self, put: Put, member: KeepListener, deadline: Deadline) -> KeptNode:
        write.check(put)
        try:
            return self._on_lease(put.key, lambda lease: self._hold_on(lease, put, member, deadline), deadline)
        except MISSHAPEN as error:
            raise misshapen(error, is_write=True) from error

    def _hold_on(self, lease: SharedLease, put: Put, member: KeepListener, deadline: Deadline) -> KeptNode:
        txn = write.txn_of_put(put, lease=lease.id, is_strict=self._is_strict)
        member.on_writing(AcquiringWrite(put.value or '', put.prev_exist is False))
        response = self._call(txn, deadline)
        if not response.succeeded:
            return self._recover_own_write(lease, put, response, member, deadline)
        return lease.attach(put.key, write.written(put, response).modified_index, member)

    def _recover_own_write(
        self, lease: SharedLease, put: Put, response: TxnResponse, member: KeepListener, deadline: Deadline
    ) -> KeptNode:
        """What is in the way may be what a write of ours made whose answer was lost: then it hangs on a lease of ours.

        Nothing else shows that, least of all its value.  That lease may be over, for nothing was held on it: then the
        node moves to another one.

        Raises:
            EtcdError: It is another's.
        """
        found = response.responses[-1].response_range.kvs
        number = found[0].lease if found else 0
        ours = lease if number == lease.id else self._leases.get(number)
        if ours is not lease and not self._is_unheld(put.key, number):
            raise error_from_failure(put, response)
        if ours is None or ours.is_over:
            moved = self._moved(put.key, put.value or '', on_lease(put.key, number), lease, member, deadline)
            if moved is None:
                raise error_from_failure(put, response)
            return moved
        hold = ours.attach(put.key, found[0].mod_revision, member)
        try:
            if found[0].value != encode(put.value or ''):
                hold.update(put.value or '', deadline)
            else:
                hold.check(deadline)  # it may have been deleted before this response arrived
        except BaseException as error:
            hold.abandon()  # it will be found again
            if isinstance(error, NodeLost):  # it has just gone
                raise error_from_failure(put, response) from error
            raise
        return hold

    def _is_unheld(self, key: str, number: int) -> bool:
        """True if this is a lease of ours, and no keeper holds the node on it, writes it there or deletes it."""
        lease = self._leases.get(number)
        return number in self._expired_ids if lease is None else not lease.is_taken(key)

    def delete_unanswered(self, key: str, member: KeepListener, deadline: Deadline) -> None:
        request = RangeRequest(key=encode(key), keys_only=True)
        found = self._rpc.call(KV.Range, request, deadline).kvs
        number = found[0].lease if found else 0
        if not self._is_unheld(key, number):
            return
        txn = deletion_on_lease(key, number)
        lease = self._leases.get(number)
        with nullcontext() if lease is None else lease.removing(key):
            self._rpc.call(KV.Txn, txn, deadline)

    def reclaim(
        self, key: str, value: str, previous: KeptNode, member: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        if not isinstance(previous, LeasedNode):
            return None
        condition = previous.is_on_lease()
        return self._on_lease(key, lambda lease: self._moved(key, value, condition, lease, member, deadline), deadline)

    def _moved(
        self, key: str, value: str, condition: Compare, lease: SharedLease, member: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        """Put a node on this lease if the condition holds, which is that it is on another one of ours."""
        request = PutRequest(key=encode(key), value=encode(value), lease=lease.id)
        member.on_writing(AcquiringWrite(value, is_create=False))
        response = self._call(TxnRequest(compare=[condition], success=[RequestOp(request_put=request)]), deadline)
        return lease.attach(key, response.header.revision, member) if response.succeeded else None

    def _on_lease(self, key: str, put: Callable[[SharedLease], Held], deadline: Deadline) -> Held:
        """Have the node put on a lease; on another one where the server does not know that any more."""
        while True:
            lease = self._lease_for(key, deadline)
            try:
                with lease.reserved(key):
                    return put(lease)
            except LeaseNotFound:
                lease.on_gone()

    def _call(self, txn: TxnRequest, deadline: Deadline) -> TxnResponse:
        return self._rpc.call(KV.Txn, txn, deadline.timeout_left())

    def _lease_for(self, key: str, deadline: Deadline) -> SharedLease:
        """A lease with room for the node, and with over half of its time left."""
        lease = self._fitting(key)
        if lease is not None:
            return lease
        if not self._granting.acquire(timeout=deadline.timeout_left()):
            raise TimedOut(f'no lease for {key} within {deadline.timeout:g} s')
        try:
            lease = self._fitting(key)
            if lease is None:
                sent_at = timing.now_with_suspend()
                number, life = granted(self._rpc, self._asked_ttl, deadline)
                assert life.ttl is not None
                self.ttl = life.ttl
                lease = self._leases[number] = SharedLease(
                    self._rpc,
                    number,
                    life.ttl,
                    sent_at,
                    renewals=self._renewals,
                    watches=self._watches,
                    on_over=self._forget,
                    on_revision=self._on_revision,
                )
            return lease
        finally:
            self._granting.release()

    def _fitting(self, key: str) -> SharedLease | None:
        for lease in self._leases.values():
            if lease.has_room_for(key):
                return lease
        return None

    def _forget(self, lease: SharedLease) -> None:
        """The lease is over."""
        self._leases.pop(lease.id, None)
        self._expired_ids[lease.id] = None
        if len(self._expired_ids) > MAX_EXPIRED_IDS:
            del self._expired_ids[next(iter(self._expired_ids))]

    def close(self) -> None:
        """Stop all renewals.  No I/O, does not block."""
        for lease in list(self._leases.values()):
            lease.abandon()


_: type[KeepGroup] = LeasePool
