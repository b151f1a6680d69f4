"""Keeping nodes alive by leases, shared by the nodes of one TTL: ten thousand nodes are a handful of messages.

A node is ours while it hangs on the lease that we put it on: no other program has that number, and no lease of ours
ever carries two holds of one key.  Proof is the list of the keys on the lease, asked for with each renewal: a renewal's
success alone proves nothing about a node.
"""

from __future__ import annotations

from gevent.lock import BoundedSemaphore

from getc import timing
from getc.backends.base import Hold, LeaseGroup, Member
from getc.backends.leased_hold import LeasedHold, granted
from getc.backends.shared_lease import SharedLease
from getc.errors import TimedOut
from getc.operations import Put
from getc.rpc.caller import Rpc
from getc.timing import Deadline
from getc.v3.lease import Lease as LeaseService
from getc.wire.schema.kv import KV, PutRequest, RequestOp, TxnRequest, TxnResponse
from getc.wire.tree import writing
from getc.wire.tree.paths import encoded

__all__ = ['LeasedGroup']


class LeasedGroup:
    """The nodes of one TTL.

    Attributes:
        ttl: Seconds that the server grants: known better once it has.

    Args:
        rpc: How RPCs are called.
        renewals: The stream of renewals.
        ttl: Seconds that are asked for.
        is_strict: As the backend's.
    """

    def __init__(self, rpc: Rpc, renewals: LeaseService, ttl: int, *, is_strict: bool) -> None:
        self.ttl = ttl
        self._rpc = rpc
        self._renewals = renewals
        self._asked_ttl = ttl
        self._is_strict = is_strict
        self._leases: dict[int, SharedLease] = {}
        self._granting = BoundedSemaphore(1)

    def hold(self, put: Put, member: Member, deadline: Deadline) -> Hold:
        writing.check(put)
        lease = self._lease_for(put.key, deadline)
        with lease.reserved(put.key):
            txn = writing.txn_of_put(put, lease=lease.id, is_strict=self._is_strict)
            response = self._call(txn, deadline)
            if not response.succeeded:
                return self._found_ours(put, response, member, deadline)
            result = writing.written(put, response)
            return lease.attach(put.key, result.modified_index, member)

    def _found_ours(self, put: Put, response: TxnResponse, member: Member, deadline: Deadline) -> Hold:
        """What is in the way may be what a write of ours made whose answer was lost: then it hangs on a lease of ours.

        Raises:
            EtcdError: It is another's.
        """
        found = response.responses[-1].response_range.kvs
        lease = self._leases.get(found[0].lease) if found else None
        if lease is None or not lease.is_free(put.key):
            writing.written(put, response)  # raises
        assert lease is not None
        hold = lease.attach(put.key, found[0].mod_revision, member)
        if found[0].value != encoded(put.value or ''):
            hold.update(put.value or '', deadline)
        return hold

    def adopt(self, key: str, value: str, previous: Hold, member: Member, deadline: Deadline) -> Hold | None:
        if not isinstance(previous, LeasedHold):
            return None
        lease = self._lease_for(key, deadline)
        with lease.reserved(key):
            request = PutRequest(key=encoded(key), value=encoded(value), lease=lease.id)
            success = [RequestOp(request_put=request)]
            response = self._call(TxnRequest(compare=[previous.is_on_lease()], success=success), deadline)
            return lease.attach(key, response.header.revision, member) if response.succeeded else None

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
                sent_at = timing.now()
                number, life = granted(self._rpc, self._asked_ttl, deadline)
                assert life.ttl is not None
                self.ttl = life.ttl
                lease = self._leases[number] = SharedLease(
                    self._rpc, number, life.ttl, sent_at, renewals=self._renewals, on_over=self._forget
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

    def close(self) -> None:
        """Stop all renewals.  No I/O, does not block."""
        for lease in list(self._leases.values()):
            lease.abandon()


_: type[LeaseGroup] = LeasedGroup
