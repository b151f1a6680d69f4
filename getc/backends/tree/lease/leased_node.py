"""One node on a lease, and the keys of a lease: kept on it, being put on it, being removed from it.

Each write compares the key's lease with ours: no other program has its ID, so the node is ours while it is on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from getc import timing
from getc.backends.acquired import acquired
from getc.backends.base import KeepListener, KeptNode
from getc.backends.fifo_lock import FifoLock
from getc.backends.tree.codec.contenders import is_created_at
from getc.backends.tree.codec.keyspace import TTL, encode, value_of
from getc.backends.tree.codec.responses import DELETE, PUT, RANGE, results_of_txn
from getc.backends.tree.large_values import read_previous_node
from getc.backends.tree.lease.grant import grant
from getc.backends.tree.lease.key_watches import KeyWatch, KeyWatches
from getc.errors import EtcException, NodeLost, Overtaken, ResponseTooLarge
from getc.net.affinity import ThreadAffinity
from getc.renewal import RenewalClock
from getc.results import ComparedThenSwapped, EtcdResult, Node, Value
from getc.timing import Deadline
from getc.transactions import Guard
from getc.v3.rpc import RpcClient
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import (
    KV,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['LeasedKeys', 'LeasedNode', 'delete_on_lease', 'is_on_lease']

UPDATE_IN_FLIGHT: Final = 'an earlier update of it is in flight'


def is_on_lease(key: str, lease_id: int) -> Compare:
    """Compare: the key is on this lease."""
    return Compare(key=encode(key), target=Compare.CompareTarget.LEASE, lease=lease_id)


def delete_on_lease(key: str, lease_id: int) -> TxnRequest:
    """Delete the key if it is on this lease."""
    delete = RequestOp(request_delete_range=DeleteRangeRequest(key=encode(key)))
    return TxnRequest(compare=[is_on_lease(key, lease_id)], success=[delete])


class LeasedKeys:
    """One lease of this client and its keys.  At most one node of each key is kept on one lease.

    Attributes:
        rpc: Calls etcd.
        lease_id: The ID of the lease.
        clock: When the lease counts as lost, and with it all its keys.
        nodes: The kept nodes, by key.
        reserved: The keys that are being put on the lease, or moved from it to another one.
        unfinished: The keys that may be on the lease or come to it without being kept, after a write or a delete
            without an answer: until a renewal has shown that no such key is on it.
    """

    def __init__(self, rpc: RpcClient, lease_id: int, clock: RenewalClock) -> None:
        self.rpc = rpc
        self.lease_id = lease_id
        self.clock = clock
        self.nodes: dict[str, LeasedNode] = {}
        self.reserved: set[str] = set()
        self.unfinished: set[str] = set()
        self._removals: Counter[str] = Counter()  # deletes in flight, and those that etcd may still apply
        self._affinity = ThreadAffinity()

    @property
    def count(self) -> int:
        """The number of keys that are kept, being put or being moved."""
        return len(self.nodes) + len(self.reserved)

    @property
    def is_empty(self) -> bool:
        """True if no key is kept, being put or being moved."""
        return not self.nodes and not self.reserved

    @property
    def in_forked_child(self) -> bool:
        """True in a process that was forked off the one that granted the lease."""
        return self._affinity.in_forked_child

    def is_taken(self, key: str) -> bool:
        """True if the key is kept, being put or being removed: another node of this key needs another lease."""
        return key in self.nodes or key in self.reserved or key in self._removals

    def is_being_removed(self, key: str) -> bool:
        """True if a delete of the key is in flight, and its owner waits for the answer."""
        return key in self._removals and key not in self.unfinished

    @contextmanager
    def reserve(self, key: str) -> Iterator[None]:
        """Reserve the key while it is put on the lease, or moved to another one."""
        self.reserved.add(key)
        try:
            yield
        finally:
            self.reserved.discard(key)

    @contextmanager
    def joining(self, key: str) -> Iterator[None]:
        """Note that the key may be on the lease without being kept, if the write that creates it has no answer."""
        self.unfinished.add(key)  # also if this greenlet is killed
        try:
            yield
        except EtcException as error:
            if not error.maybe_applied:
                self.unfinished.discard(key)
            raise
        self.unfinished.discard(key)

    @contextmanager
    def removing(self, key: str) -> Iterator[None]:
        """Block re-attaching the key while its delete is in flight.

        After a delete without a response the key stays blocked on this lease: etcd may apply the delete at any time,
        and would delete the new node.
        """
        self._removals[key] += 1
        may_be_applied_later = True  # also if this greenlet is killed
        try:
            yield
            may_be_applied_later = False
        except EtcException as error:
            may_be_applied_later = error.maybe_applied
            raise
        finally:
            if may_be_applied_later:
                self.unfinished.add(key)
            else:
                self._removals -= Counter((key,))

    def forget_removals(self, key: str) -> None:
        """Note that a key is gone whose name is not used again: no delete of it can do harm."""
        del self._removals[key]  # a Counter: also without an entry

    def discard(self, key: str, node: LeasedNode) -> None:
        """Forget a node that is not kept any more; a later node of this key stays."""
        if self.nodes.get(key) is node:
            del self.nodes[key]


class LeasedNode(KeptNode):
    """One node on a lease.

    Attributes:
        key: The node.
        token: The index of the write that acquired it; of a contender, its create revision.
        created_index: Its creation index.
        listener: Receives the callbacks.
        known_at: The latest revision at which the node is known to have been on the lease.

    Args:
        lease: The lease and its keys.
        key: The node.
        token: The token.
        created_index: The creation index.
        listener: Receives the callbacks.
        watches: Watches the key.
        is_contender: The node has a random name and is in a queue; it is not watched before :meth:`watch`.
    """

    token: int

    __slots__ = (
        '_is_contender',
        '_is_kept',
        '_lease',
        '_mod_revision',
        '_updates',
        '_watch',
        '_watches',
        'created_index',
        'key',
        'known_at',
        'listener',
        'token',
    )

    def __init__(
        self,
        lease: LeasedKeys,
        key: str,
        token: int,
        created_index: int,
        listener: KeepListener,
        watches: KeyWatches,
        *,
        is_contender: bool = False,
    ) -> None:
        self.key = key
        self.token = token
        self.created_index = created_index
        self.listener = listener
        self._lease = lease
        self._is_kept = True
        self.known_at = token
        self._mod_revision = token  # of the latest write of ours that was acknowledged
        self._updates: FifoLock | None = None  # before the first one
        self._is_contender = is_contender
        self._watches = watches
        self._watch: KeyWatch | None = None
        if not is_contender:
            self.watch()

    @property
    def lost_at(self) -> float:
        return self._lease.clock.lost_at

    @property
    def guard(self) -> Guard:
        return Guard(self.key, self.created_index, 0 if self._is_contender else self._lease.lease_id)

    @property
    def raw_key(self) -> bytes:
        """The key in bytes."""
        return encode(self.key)

    @property
    def condition(self) -> Compare:
        """The compare that holds while the node is ours: on its lease; for a contender, created by this client.

        The name of a contender is used once, so its key is ours even after another program has overwritten it.
        """
        if self._is_contender:
            return is_created_at(self.key, self.created_index)
        return is_on_lease(self.key, self._lease.lease_id)

    # -- for the keeper

    def watch(self) -> None:
        if self._is_kept and self._watch is None:
            self._watch = self._watches.watch(self.raw_key, self._lease.lease_id, self.known_at, self.on_taken)

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        if self._updates is None:
            self._updates = FifoLock()
        with acquired(self._updates, deadline, 'write {key}', UPDATE_IN_FLIGHT, self.key):
            if not self._is_kept:
                raise NodeLost('{key} is not kept any more', key=self.key)
            return self._update(value, deadline)

    def _update(self, value: str, deadline: Deadline) -> EtcdResult:
        request = PutRequest(key=self.raw_key, value=encode(value), lease=self._lease.lease_id, prev_kv=True)
        previous: Node
        prev_node: Node | None
        try:
            header, written = self._write(RequestOp(request_put=request), PUT, deadline, in_order=True)
        except ResponseTooLarge as error:  # because of the previous value, so leave prev_node out
            if not error.succeeded or error.index is None or error.index < 1:
                raise
            prev_node, index = None, error.index
            previous, term = read_previous_node(self._lease.rpc, self.key, index, deadline)
        else:
            previous = prev_node = value_of(self.key, written.prev_kv)
            index, term = header.revision, header.raft_term
        self._mod_revision = index
        ttl, expiration = TTL.of(self._lease.clock.ttl, timing.wall_time())
        node = Value(self.key, index, previous.created_index, ttl, expiration, value)
        return ComparedThenSwapped(node, prev_node, index, 0, term)

    def release(self, deadline: Deadline) -> bool:
        self.abandon()
        return self._remove(RequestOp(request_delete_range=DeleteRangeRequest(key=self.raw_key)), DELETE, deadline)

    def detach(self, deadline: Deadline) -> None:
        with self._lease.reserve(self.key):  # a renewal meanwhile would delete the key, as not kept
            self.abandon()
            if not self._lease.in_forked_child:
                lease_id, _ = grant(self._lease.rpc, self._lease.clock.ttl, deadline)
                request = PutRequest(key=self.raw_key, lease=lease_id, ignore_value=True)
                self._remove(RequestOp(request_put=request), PUT, deadline)

    def abandon(self) -> None:
        self._is_kept = False
        self._lease.discard(self.key, self)
        if self._watch is not None:
            self._watch.close()

    # -- for the lease

    def check(self, deadline: Deadline) -> None:
        """Read whether the node is on the lease.  Raises NodeLost if it is not."""
        self._write(RequestOp(request_range=RangeRequest(key=self.raw_key, keys_only=True)), RANGE, deadline)

    def on_renewed(self, revision: int) -> None:
        """A renewal was acknowledged, and the node was on the lease at this revision or a later one."""
        self.known_at = revision
        if self._watch is not None:
            self._watch.known_at = revision
            if self._watch.is_due:
                self._watch.restart()
        self.listener.on_renewed()

    def on_taken(self, is_deleted: bool) -> None:
        """The node is not on the lease any more: the key was deleted, or written with another lease or none."""
        self.lose(self._gone() if is_deleted else self._overtaken())

    def lose(self, error: NodeLost) -> None:
        """Stop keeping the node, and notify the listener of the loss."""
        if self._is_kept:
            self.abandon()
            self.listener.on_lost(error)

    # -- requests

    def _remove(self, request: RequestOp, kind: str, deadline: Deadline) -> bool:
        """Remove the node from the lease by this request; return False if it was not on the lease any more."""
        if self._lease.in_forked_child:
            return False
        is_removed = False
        with self._lease.removing(self.key):
            try:
                self._write(request, kind, deadline)
                is_removed = True
            except NodeLost:
                pass  # it is deleted, or belongs to another client
        if self._is_contender:
            self._lease.forget_removals(self.key)
        return is_removed

    def _write(
        self, request: RequestOp, kind: str, deadline: Deadline, *, in_order: bool = False
    ) -> tuple[ResponseHeader, Any]:
        """Send a request that is executed if the node is on the lease, and return its result.

        Args:
            request: The request.
            kind: The kind of its result.
            deadline: The end of the call.
            in_order: Compare with the revision of the previous write, too: etcd may apply a write without a response at
                any time, but then not after this one.

        Raises:
            NodeLost: The node is not on the lease.
            ProtocolError: The response has another shape.
        """
        # With keys_only etcd 3.7 leaves out the lease.
        itself = RequestOp(request_range=RangeRequest(key=self.raw_key, keys_only=not in_order))
        while True:
            compare = [self.condition]
            if in_order:
                target = Compare.CompareTarget.MOD
                compare.append(Compare(key=self.raw_key, target=target, mod_revision=self._mod_revision))
            txn = TxnRequest(compare=compare, success=[request], failure=[itself])
            response = self._lease.rpc.call(KV.Txn, txn, deadline.timeout_left())
            if response.succeeded:
                (result,) = results_of_txn(response, kind)
                return response.header, result
            (found,) = results_of_txn(response, RANGE)
            if not found.kvs:
                raise self._gone()
            if not in_order or not self._is_ours(found.kvs[0]):
                raise self._overtaken()
            self._mod_revision = found.kvs[0].mod_revision  # of a write of ours that was not answered

    def _is_ours(self, kv: KeyValue) -> bool:
        """Return True if :attr:`condition` holds for the key."""
        if self._is_contender:
            return bool(kv.create_revision == self.created_index)
        return bool(kv.lease == self._lease.lease_id)

    def _gone(self) -> NodeLost:
        return NodeLost('{key} was deleted, or has expired', key=self.key)

    def _overtaken(self) -> Overtaken:
        return Overtaken('{key} was written by another client: it is not on our lease any more', key=self.key)
