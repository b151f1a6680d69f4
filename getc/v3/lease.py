"""etcd's Lease service: grant, revoke, keep alive and list leases."""

from __future__ import annotations

from typing import Final

from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.keep_alive_stream import KeepAliveStream
from getc.v3.messages import build
from getc.v3.reopening import ReopeningStream
from getc.v3.rpc import RpcClient
from getc.v3.schema import lease as schema

__all__ = ['Lease']

RENEW: Final = schema.Lease.LeaseKeepAlive


class Lease:
    """``etcd.v3.lease``: one method for each RPC of etcd's Lease service.

    Lease ids are 1 to 2**63 - 1; times are whole seconds.  All methods block, take a ``timeout`` in seconds
    (None: no limit; left out: the client's), and raise :class:`~getc.EtcdError` or another :class:`~getc.EtcException`.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        # No reference to self: a cycle would delay closing the connections of a dropped client until it is collected.
        self._streams = ReopeningStream(lambda deadline: KeepAliveStream(rpc.open(RENEW, deadline.timeout_left())))

    def grant(self, TTL: int, *, ID: int = 0, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.LeaseGrantResponse:  # noqa: N803
        """Create a lease.

        Args:
            TTL: Seconds.  The server may grant more: see the TTL of the response.
            ID: The id; with 0 the server chooses one.
            timeout: Seconds.

        Raises:
            AlreadyExists: A lease with this id exists.
        """
        return self._rpc.call(schema.Lease.LeaseGrant, build(schema.LeaseGrantRequest, TTL=TTL, ID=ID), timeout)

    def revoke(self, ID: int, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.LeaseRevokeResponse:  # noqa: N803
        """Revoke a lease and delete its keys.

        Raises:
            LeaseNotFound: The lease does not exist, perhaps because an earlier attempt of this call has revoked it.
        """
        return self._rpc.call(schema.Lease.LeaseRevoke, build(schema.LeaseRevokeRequest, ID=ID), timeout)

    def keep_alive(self, ID: int, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.LeaseKeepAliveResponse:  # noqa: N803
        """Renew a lease once.  All renewals of a client share one stream, however many are in flight.

        Raises:
            LeaseNotFound: The lease has expired or was revoked.
        """
        request = build(schema.LeaseKeepAliveRequest, ID=ID)
        deadline = self._rpc.deadline(timeout)
        return self._streams.call(lambda stream: stream.renew(request, deadline), deadline)

    def time_to_live(
        self,
        ID: int,  # noqa: N803
        *,
        keys: bool = False,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> schema.LeaseTimeToLiveResponse:
        """Return the remaining time of a lease; a ``TTL`` of -1 means that the lease does not exist.

        Args:
            ID: The id.
            keys: Return the keys that are attached to the lease.
            timeout: Seconds.
        """
        request = build(schema.LeaseTimeToLiveRequest, ID=ID, keys=keys)
        return self._rpc.call(schema.Lease.LeaseTimeToLive, request, timeout)

    def leases(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.LeaseLeasesResponse:
        """Return all leases."""
        return self._rpc.call(schema.Lease.LeaseLeases, schema.LeaseLeasesRequest(), timeout)
