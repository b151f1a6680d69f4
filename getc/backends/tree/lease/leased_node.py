"""One node on a lease."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from getc import timing
from getc.backends.base import KeepListener, KeptNode
from getc.backends.tree.codec.keyspace import encode
from getc.backends.tree.codec.nodes import TTL, value_of
from getc.backends.tree.codec.shapes import misshapen
from getc.backends.tree.large_values import node_before
from getc.backends.tree.lease.key_watches import KeyWatches
from getc.errors import NodeLost, Overtaken, ProtocolError, ResponseTooLarge
from getc.operations import MAX_TTL
from getc.results import ComparedThenSwapped, EtcdResult, Node, Value
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import (
    KV,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from getc.v3.schema.lease import Lease, LeaseGrantRequest

__all__ = ['LeasedNode', 'deletion_on_lease', 'granted', 'on_lease', 'overtaken']


def on_lease(key: str, number: int) -> Compare:
    """Holds if the node hangs on that lease."""
    return Compare(key=encode(key), target=Compare.CompareTarget.LEASE, lease=number)


def deletion_on_lease(key: str, number: int) -> TxnRequest:
    """Deletes the node if it hangs on that lease."""
    delete = RequestOp(request_delete_range=DeleteRangeRequest(key=encode(key)))
    return TxnRequest(compare=[on_lease(key, number)], success=[delete])


def overtaken(key: str) -> Overtaken:
    """The error for a node that is on another lease now, or on none."""
    return Overtaken(f'{key} was taken by another')


def granted(rpc: RpcClient, ttl: int, deadline: Deadline) -> tuple[int, TTL]:
    """A new lease, and how long its keys live: at least so many seconds.

    Asking again after a lost answer does no harm: a lease without keys ends by itself.
    """
    request = LeaseGrantRequest(TTL=max(ttl, 1))
    response = rpc.call(Lease.LeaseGrant, request, deadline.timeout_left(), is_write=False)
    if response.ID <= 0 or not 0 < response.TTL <= 2 * MAX_TTL:
        raise ProtocolError('etcd v3: a lease that was granted without a number or a TTL')
    return response.ID, TTL.of(response.TTL, timing.wall_time())


class _Lease(Protocol):
    """The lease that it is on."""

    rpc: RpcClient
    id: int
    ttl: int
    lost_at: float

    def is_at_home(self) -> bool: ...

    def reserved(self, key: str) -> AbstractContextManager[None]: ...

    def removing(self, key: str) -> AbstractContextManager[None]: ...

    def remove(self, hold: LeasedNode) -> None: ...


class LeasedNode:
    """One node on a lease.

    Attributes:
        key: The node.
        token: The index of the write that took it.
        member: On whose behalf.
        known_at: The revision at which the node was last known to be on the lease.
    """

    __slots__ = ('_is_held', '_lease', '_watch', 'key', 'known_at', 'member', 'token')

    def __init__(self, lease: _Lease, key: str, token: int, member: KeepListener, watches: KeyWatches) -> None:
        self.key = key
        self.token = token
        self.member = member
        self.known_at = token
        self._lease = lease
        self._is_held = True
        self._watch = watches.watch(self)

    @property
    def lost_at(self) -> float:
        return self._lease.lost_at

    @property
    def raw_key(self) -> bytes:
        """The key, as etcd has it."""
        return encode(self.key)

    @property
    def lease_id(self) -> int:
        """The lease."""
        return self._lease.id

    def is_on_lease(self) -> Compare:
        """Holds if the node is the one that was put on the lease."""
        return on_lease(self.key, self._lease.id)

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        if not self._is_held:
            raise NodeLost(f'{self.key} is not held')
        request = PutRequest(key=encode(self.key), value=encode(value), lease=self._lease.id, prev_kv=True)
        before: Node
        prev_node: Node | None
        try:
            response = self._write(RequestOp(request_put=request), deadline)
        except ResponseTooLarge as error:  # by the previous value, which is left out then
            if not (error.succeeded and error.index):
                raise
            prev_node, index = None, error.index
            before, term = node_before(self._lease.rpc, self.key, index, deadline)
        else:
            before = prev_node = value_of(self.key, response.responses[0].response_put.prev_kv)
            index, term = response.header.revision, response.header.raft_term
        ttl, expiration = TTL.of(self._lease.ttl, timing.wall_time())
        node = Value(self.key, index, before.created_index, ttl, expiration, value)
        return ComparedThenSwapped(node, prev_node, index, 0, term)

    def release(self, deadline: Deadline) -> None:
        self.abandon()
        self._take_off(RequestOp(request_delete_range=DeleteRangeRequest(key=encode(self.key))), deadline)

    def detach(self, deadline: Deadline) -> None:
        with self._lease.reserved(self.key):  # a renewal meanwhile would delete what nobody holds
            self.abandon()
            if self._lease.is_at_home():
                number, _ = granted(self._lease.rpc, self._lease.ttl, deadline)
                request = PutRequest(key=encode(self.key), lease=number, ignore_value=True)
                self._take_off(RequestOp(request_put=request), deadline)

    def abandon(self) -> None:
        self._is_held = False
        self._lease.remove(self)
        self._watch.close()

    def on_renewed(self, revision: int) -> None:
        """A renewal was acknowledged, and at this revision or a later one the node was on the lease."""
        self.known_at = revision
        if self._watch.is_due:
            self._watch.begin_again()
        self.member.on_renewed()

    def on_taken(self, *, is_deleted: bool) -> None:
        """An event says that the node is not on the lease any more."""
        self.lose(NodeLost(f'{self.key} was deleted, or has expired') if is_deleted else overtaken(self.key))

    def lose(self, error: NodeLost) -> None:
        """It is not ours any more."""
        if self._is_held:
            self.abandon()
            self.member.on_lost(error)

    def _take_off(self, operation: RequestOp, deadline: Deadline) -> None:
        """Take the node off the lease if it is on it still."""
        if self._lease.is_at_home():
            with self._lease.removing(self.key):
                try:
                    self._write(operation, deadline)
                except NodeLost:
                    pass  # somebody else's, or nobody's

    def check(self, deadline: Deadline) -> None:
        """Read whether the node is on the lease.  Raises NodeLost if it is not."""
        self._write(RequestOp(request_range=RangeRequest(key=encode(self.key), keys_only=True)), deadline)

    def _write(self, operation: RequestOp, deadline: Deadline) -> TxnResponse:
        """Do it if the node is ours.  Raises NodeLost if it is not."""
        itself = RequestOp(request_range=RangeRequest(key=encode(self.key), keys_only=True))
        txn = TxnRequest(compare=[self.is_on_lease()], success=[operation], failure=[itself])
        response = self._lease.rpc.call(KV.Txn, txn, deadline.timeout_left())
        if not response.responses:
            raise misshapen(IndexError(), is_write=True)
        if response.succeeded:
            return response
        if response.responses[0].response_range.kvs:
            raise overtaken(self.key)
        raise NodeLost(f'{self.key} was deleted, or has expired')


_: type[KeptNode] = LeasedNode
