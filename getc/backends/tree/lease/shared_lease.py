"""One lease, renewed for all nodes on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gevent

from getc import timing
from getc.backends.base import KeepListener
from getc.backends.tree.codec.keyspace import decode, encode
from getc.backends.tree.lease.key_watches import KeyWatches
from getc.backends.tree.lease.leased_node import LeasedKeys, LeasedNode, delete_on_lease
from getc.errors import ConnectionError, EtcException, LeaseNotFound, NodeLost, TimedOut
from getc.renewal import Renewable, RenewalClock, RenewalLoop
from getc.v3.lease import Lease as LeaseService
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeRequest
from getc.v3.schema.lease import Lease, LeaseTimeToLiveRequest

__all__ = ['SharedLease']

MAX_NODES: Final = 1000
"""Nodes on one lease: those that are lost together if the lease is lost."""

MAX_RENEWALS_WHILE_EMPTY: Final = 3
"""Renewals of a lease that only has keys to be deleted on it: if they cannot be deleted, they expire with it."""


MAX_PROXIED_ATTEMPTS: Final = 4
"""Keep-alives without a response, in attempts of a sixth of the TTL, before a renewal behind a proxy counts as missed:
the proxy renews every third of the TTL, up to half a second late."""


class SharedLease(Renewable):
    """One lease, renewed while nodes are kept on it.

    A successful keep-alive proves nothing about a node, so each renewal also reads the keys of the lease.  A node whose
    key is missing is lost.  A key that is not kept is deleted: it is left from a write or a delete without a response.

    Attributes:
        id: The ID of the lease.
        keys: The keys of the lease.
        clock: When all nodes on the lease count as lost.

    Args:
        rpc: Calls etcd.
        lease_id: The ID of the lease.
        ttl: Its TTL in seconds.
        sent_at: When its grant was requested, in seconds of ``timing.now_with_suspend``.
        keep_alives: Sends keep-alives.
        watches: The watches of the nodes' keys.
        on_over: Called with this lease once nothing more will be kept on it.
        on_revision: Called with the store's revision of each renewal.
    """

    def __init__(
        self,
        rpc: RpcClient,
        lease_id: int,
        ttl: int,
        sent_at: float,
        *,
        keep_alives: LeaseService,
        watches: KeyWatches,
        on_over: Callable[[SharedLease], None],
        on_revision: Callable[[int], object],
    ) -> None:
        self.id = lease_id
        self.clock = RenewalClock(ttl, sent_at)
        self.keys = LeasedKeys(rpc, lease_id, self.clock)
        self._rpc = rpc
        self._keep_alives = keep_alives
        self._watches = watches
        self._on_over = on_over
        self._on_revision = on_revision
        self._renewals_while_empty = 0
        self._loop = RenewalLoop(self, self.clock, f'lease {lease_id:x}', gevent)

    @property
    def is_over(self) -> bool:
        """True if nothing can be kept on the lease any more."""
        return not self._loop.is_active

    def has_room_for(self, key: str) -> bool:
        """True if a node of this key may be put on the lease now."""
        return self.clock.is_fresh and self.keys.count < MAX_NODES and not self.is_over and not self.keys.is_taken(key)

    def attach(
        self, key: str, token: int, created_index: int, listener: KeepListener, *, is_contender: bool = False
    ) -> LeasedNode:
        """Keep a node whose key was put on the lease by the write of index ``token``.

        Raises:
            ConnectionError: The lease has ended meanwhile, so the node may exist or not.
        """
        if self.is_over:
            raise ConnectionError('the lease of {key} ended while {key} was written', maybe_applied=True, key=key)
        node = LeasedNode(self.keys, key, token, created_index, listener, self._watches, is_contender=is_contender)
        self.keys.nodes[key] = node
        return node

    def on_gone(self) -> None:
        """Lose all nodes on the lease: the server does not know it."""
        self._lose_all(NodeLost(f'lease {self.id:x} has ended: it was revoked, or has expired'))

    def abandon(self) -> None:
        """Stop renewing the lease.  No I/O, does not block."""
        self._loop.close()
        self._on_over(self)

    # -- renewals

    def before_renewal(self) -> None:
        """Run all liveness checks at the same time: a check that hangs must not cost the other nodes their time."""
        if self.keys.is_empty:
            if not self.keys.unfinished or self._renewals_while_empty == MAX_RENEWALS_WHILE_EMPTY:
                self.abandon()  # the lease expires, and with it whatever key may be left on it
                return
            self._renewals_while_empty += 1
        else:
            self._renewals_while_empty = 0
        listeners = [node.listener for node in self.keys.nodes.values() if node.listener.has_liveness_check]
        checks = [gevent.spawn(listener.check_liveness) for listener in listeners]
        gevent.joinall(checks, timeout=self.clock.attempt_timeout)

    def renew(self) -> None:
        nodes = list(self.keys.nodes.values())
        unfinished = self.keys.unfinished.copy()
        try:
            renewed_at, revision, keys = self._keep_alive()
        except LeaseNotFound:
            self.on_gone()
            return
        if not self._loop.is_closed and self.clock.acknowledge(renewed_at):
            if revision is not None:
                self._on_revision(revision)
            if not self._compare(nodes, keys, revision):
                self.keys.unfinished -= unfinished

    def on_renewal_missed(self, error: EtcException) -> None:
        for node in list(self.keys.nodes.values()):
            node.listener.on_renewal_missed(error)

    def on_expired(self) -> None:
        self._lose_all(self.clock.loss(f'lease {self.id:x}'))

    def _keep_alive(self) -> tuple[float, int | None, set[bytes]]:
        """Renew the lease.

        ``etcd grpc-proxy`` renews a lease every third of its TTL while a client of the proxy sends keep-alives, and
        answers these with the next renewal.  Without an answer in time, the remaining TTL shows the last renewal.

        Returns:
            The time of the renewal, or an earlier one; a revision, and the keys that are on the lease at this revision
            or a later one.  The revision is that of the keep-alive's response: etcd fills in the header of a keep-alive
            before it renews, and the header of a TimeToLive after it has read the keys.  It is None without a response.

        Raises:
            LeaseNotFound: The lease has ended.
            TimedOut: Nothing shows a renewal.
        """
        missed: TimedOut | None = None
        for _ in range(MAX_PROXIED_ATTEMPTS):
            sent_at, revision, deadline = timing.now_with_suspend(), None, self.clock.attempt_deadline()
            try:
                revision = self._keep_alives.keep_alive(self.id, timeout=deadline.timeout_left()).header.revision
            except TimedOut as error:
                if error.is_outage:
                    raise
                missed, deadline = _not_renewed_by_proxy(error), self.clock.attempt_deadline()
                self.clock.last_error = missed  # the reason if the time runs out before the last attempt
            read_at = timing.now_with_suspend()
            request = LeaseTimeToLiveRequest(ID=self.id, keys=True)
            response = self._rpc.call(Lease.LeaseTimeToLive, request, deadline.timeout_left())
            if response.TTL < 0:  # 0 in its last second
                raise LeaseNotFound('requested lease not found', f'{self.id:x}')
            if revision is not None:
                return sent_at, revision, set(response.keys)
            renewed_at = read_at + response.TTL - self.clock.ttl
            if self.clock.is_outdated_by(renewed_at):
                return renewed_at, None, set(response.keys)
        assert missed is not None
        raise missed

    # -- the keys that etcd has on the lease

    def _compare(self, nodes: list[LeasedNode], keys: set[bytes], revision: int | None) -> bool:
        """Compare the kept nodes with the keys that etcd has on the lease; return True if others are to be deleted.

        Args:
            nodes: Those that were kept when the renewal was sent.
            keys: Those that etcd has on the lease.
            revision: The revision of the renewal, or None.
        """
        for node in nodes:
            if self.keys.nodes.get(node.key) is not node:
                continue
            if node.raw_key in keys:
                node.on_renewed(node.known_at if revision is None else revision)
            else:
                gevent.spawn(self._on_missing, node)
        known = {encode(key) for key in (*self.keys.nodes, *self.keys.reserved, *(node.key for node in nodes))}
        strays = keys - known
        for raw_key in strays:
            gevent.spawn(self._delete_stray, raw_key)
        return bool(strays)

    def _on_missing(self, node: LeasedNode) -> None:
        """Read why a node is not on the lease, and lose the node: deleted, or written by another client."""
        try:
            request = RangeRequest(key=node.raw_key)  # not keys_only: then etcd 3.7 leaves out the lease
            found = self._rpc.call(KV.Range, request, self.clock.attempt_timeout).kvs
        except EtcException as error:
            text = '{key} is not on our lease any more: it was deleted, has expired, or was written by another client'
            lost = NodeLost(f'{text}; reading which of these has failed', key=node.key)
            lost.__cause__ = error
            node.lose(lost)
            return
        if found and found[0].lease == self.id:
            return  # written again meanwhile
        node.on_taken(is_deleted=not found)

    def _delete_stray(self, raw_key: bytes) -> None:
        """Delete a key that is on the lease and not kept.  If that fails, the next renewal finds the key again."""
        key = decode(raw_key)
        if key in self.keys.nodes or key in self.keys.reserved or self.keys.is_being_removed(key) or self.is_over:
            return
        try:
            with self.keys.removing(key):
                self._rpc.call(KV.Txn, delete_on_lease(key, self.id), self.clock.attempt_timeout)
        except EtcException:
            pass

    # -- the loss

    def _lose_all(self, error: NodeLost) -> None:
        nodes = list(self.keys.nodes.values())
        self.abandon()
        for node in nodes:
            node.lose(error)


def _not_renewed_by_proxy(error: TimedOut) -> TimedOut:
    text = (
        f'{error.endpoint} is an etcd grpc-proxy, and has not renewed the lease; it cannot while etcd requires users '
        f'for that, as newer versions do: {error}'
    )
    missed = TimedOut(text, maybe_applied=error.maybe_applied, endpoint=error.endpoint)
    missed.is_outage = False
    return missed
