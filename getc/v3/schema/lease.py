"""Messages and RPCs of the Lease service.  All times are in seconds."""
# ruff: noqa: N815 - the names of the fields are etcd's

from __future__ import annotations

from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.table import Message, Method, Repeated, build, field, int64

__all__ = [
    'Lease',
    'LeaseCheckpoint',
    'LeaseCheckpointRequest',
    'LeaseCheckpointResponse',
    'LeaseGrantRequest',
    'LeaseGrantResponse',
    'LeaseKeepAliveRequest',
    'LeaseKeepAliveResponse',
    'LeaseLeasesRequest',
    'LeaseLeasesResponse',
    'LeaseRevokeRequest',
    'LeaseRevokeResponse',
    'LeaseStatus',
    'LeaseTimeToLiveRequest',
    'LeaseTimeToLiveResponse',
]


class LeaseGrantRequest(Message):
    """Create a lease.  With an ``ID`` of 0 the server chooses one."""

    TTL: int64 = field(1)
    ID: int64 = field(2)


class LeaseGrantResponse(Message):
    """The new lease.  Its ``TTL`` may be longer than requested."""

    header: ResponseHeader = field(1)
    ID: int64 = field(2)
    TTL: int64 = field(3)
    error: str = field(4)


class LeaseRevokeRequest(Message):
    """Revoke a lease and delete its keys."""

    ID: int64 = field(1)


class LeaseRevokeResponse(Message):
    """Confirms a revocation."""

    header: ResponseHeader = field(1)


class LeaseCheckpoint(Message):
    """Used between members only, not by an RPC for clients."""

    ID: int64 = field(1)
    remaining_TTL: int64 = field(2)


class LeaseCheckpointRequest(Message):
    """Used between members only, not by an RPC for clients."""

    checkpoints: Repeated[LeaseCheckpoint] = field(1)


class LeaseCheckpointResponse(Message):
    """Used between members only, not by an RPC for clients."""

    header: ResponseHeader = field(1)


class LeaseKeepAliveRequest(Message):
    """Renew a lease for its whole TTL."""

    ID: int64 = field(1)


class LeaseKeepAliveResponse(Message):
    """The renewed lease.  A ``TTL`` of 0 means that the lease does not exist."""

    header: ResponseHeader = field(1)
    ID: int64 = field(2)
    TTL: int64 = field(3)


class LeaseTimeToLiveRequest(Message):
    """Request the remaining time of a lease and, with ``keys``, the keys attached to it."""

    ID: int64 = field(1)
    keys: bool = field(2)


class LeaseTimeToLiveResponse(Message):
    """The remaining time.  A ``TTL`` of -1 means that the lease does not exist."""

    header: ResponseHeader = field(1)
    ID: int64 = field(2)
    TTL: int64 = field(3)
    grantedTTL: int64 = field(4)
    keys: Repeated[bytes] = field(5)


class LeaseLeasesRequest(Message):
    """Request all leases."""


class LeaseStatus(Message):
    """One entry in the list of leases."""

    ID: int64 = field(1)


class LeaseLeasesResponse(Message):
    """All leases."""

    header: ResponseHeader = field(1)
    leases: Repeated[LeaseStatus] = field(2)


build('etcdserverpb', globals())


class Lease:
    """The Lease service.  A grant with an ``ID`` of the caller may be repeated: the second one finds the id taken."""

    LeaseGrant = Method('/etcdserverpb.Lease/LeaseGrant', LeaseGrantRequest, LeaseGrantResponse)
    LeaseRevoke = Method('/etcdserverpb.Lease/LeaseRevoke', LeaseRevokeRequest, LeaseRevokeResponse, idempotent=True)
    LeaseKeepAlive = Method(
        '/etcdserverpb.Lease/LeaseKeepAlive',
        LeaseKeepAliveRequest,
        LeaseKeepAliveResponse,
        client_streaming=True,
        server_streaming=True,
        idempotent=True,
    )
    LeaseTimeToLive = Method(
        '/etcdserverpb.Lease/LeaseTimeToLive', LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, reads=True
    )
    LeaseLeases = Method('/etcdserverpb.Lease/LeaseLeases', LeaseLeasesRequest, LeaseLeasesResponse, reads=True)
