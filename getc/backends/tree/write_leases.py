"""Leases of single writes: one for each write with a TTL."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gevent

from getc import timing
from getc.backends.tree.codec.keyspace import TTL
from getc.backends.tree.lease.grant import grant
from getc.errors import EtcException, LeaseNotFound
from getc.timing import Deadline
from getc.v3.lease import Lease as LeaseService
from getc.v3.rpc import RpcClient
from getc.v3.schema.lease import Lease, LeaseTimeToLiveRequest

__all__ = ['WriteLeases']

log = logging.getLogger(__name__)


class WriteLeases:
    """Grants leases for writes, and reads and renews the leases of nodes.

    Attributes:
        min_ttl: The shortest TTL that the server grants, in seconds, as far as it is known; else 0.

    Args:
        rpc: Calls etcd.
        service: The lease service of the client, which shares its keep-alive stream.
    """

    def __init__(self, rpc: RpcClient, service: LeaseService) -> None:
        self.min_ttl = 0
        self._rpc = rpc
        self._service = service

    @contextmanager
    def lease_for(self, ttl: int, deadline: Deadline) -> Iterator[tuple[int, TTL]]:
        """Grant a lease for the write in the block; revoke it if the write was refused.

        The lease is not revoked if the write may have been applied: the node would be deleted with it.
        A ``ttl`` of 0 expires the node at once: the lease is revoked after the write.

        Args:
            ttl: Seconds.
            deadline: The end of the call.
        """
        lease_id, granted = grant(self._rpc, ttl, deadline)
        assert granted.ttl is not None
        if ttl < granted.ttl:
            self.min_ttl = granted.ttl
        if ttl == 0:
            granted = TTL.of(0, timing.wall_time())
        is_unused = False
        try:
            yield lease_id, granted
        except EtcException as error:
            is_unused = not error.maybe_applied
            raise
        finally:
            if is_unused:
                gevent.spawn(self._revoke_unused, lease_id)
        if ttl == 0:
            self._expire(lease_id, deadline)

    def has_ttl(self, lease_id: int, ttl: int, deadline: Deadline) -> bool:
        """Read whether a lease was granted with a TTL; one shorter than the server's minimum counts as the minimum."""
        request = LeaseTimeToLiveRequest(ID=lease_id)
        response = self._rpc.call(Lease.LeaseTimeToLive, request, deadline)
        granted_ttl: int = response.grantedTTL
        return granted_ttl == max(ttl, self.min_ttl)

    def read_ttl(self, lease_id: int, deadline: Deadline) -> TTL:
        """Read the remaining TTL of a lease; a lease that has just expired counts as about to expire."""
        response = self._rpc.call(Lease.LeaseTimeToLive, LeaseTimeToLiveRequest(ID=lease_id), deadline)
        return TTL.of(min(max(response.TTL, 0) + 1, max(response.grantedTTL, 1)), timing.wall_time())

    def renew(self, lease_id: int, deadline: Deadline) -> TTL | None:
        """Renew a lease and return its TTL; None if the lease does not exist any more."""
        try:
            response = self._service.keep_alive(lease_id, timeout=deadline.timeout_left())
        except LeaseNotFound:
            return None
        return TTL.of(response.TTL, timing.wall_time())

    def _expire(self, lease_id: int, deadline: Deadline) -> None:
        """Revoke the lease of a node that was written with a TTL of 0; if that fails, the node expires later."""
        try:
            self._service.revoke(lease_id, timeout=deadline.timeout_left())
        except LeaseNotFound:
            pass  # expired, or revoked by an attempt whose response was lost
        except EtcException as error:
            log.warning('a node written with a TTL of 0 expires later, because its lease was not revoked: %s', error)

    def _revoke_unused(self, lease_id: int) -> None:
        try:
            self._service.revoke(lease_id)
        except EtcException:
            pass  # it expires
