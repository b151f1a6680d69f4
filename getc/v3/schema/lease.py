"""Leases: keys that live as long as somebody says so.  All times are in seconds."""
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
    """An ``ID`` of 0 has the server choose one."""

    TTL: int64 = field(1)
    ID: int64 = field(2)


class LeaseGrantResponse(Message):
    """The ``TTL`` is what the server gives, which may be more than was asked for."""

    header: ResponseHeader = field(1)
    ID: int64 = field(2)
    TTL: int64 = field(3)
    error: str = field(4)


class LeaseRevokeRequest(Message):
    """End a lease; its keys go with it."""

    ID: int64 = field(1)


class LeaseRevokeResponse(Message):
    """It has ended."""

    header: ResponseHeader = field(1)


class LeaseCheckpoint(Message):
    """Members say this to each other: no RPC carries it."""

    ID: int64 = field(1)
    remaining_TTL: int64 = field(2)


class LeaseCheckpointRequest(Message):
    """Members say this to each other: no RPC carries it."""

    checkpoints: Repeated[LeaseCheckpoint] = field(1)


class LeaseCheckpointResponse(Message):
    """Members say this to each other: no RPC carries it."""

    header: ResponseHeader = field(1)


class LeaseKeepAliveRequest(Message):
    """Give a lease its whole time again."""

    ID: int64 = field(1)


class LeaseKeepAliveResponse(Message):
    """A ``TTL`` of 0 says that there is no such lease any more."""

    header: ResponseHeader = field(1)
    ID: int64 = field(2)
    TTL: int64 = field(3)


class LeaseTimeToLiveRequest(Message):
    """Ask for the rest of a lease's time; with ``keys``, also for what hangs on it."""

    ID: int64 = field(1)
    keys: bool = field(2)


class LeaseTimeToLiveResponse(Message):
    """A ``TTL`` of -1 says that there is no such lease any more."""

    header: ResponseHeader = field(1)
    ID: int64 = field(2)
    TTL: int64 = field(3)
    grantedTTL: int64 = field(4)
    keys: Repeated[bytes] = field(5)


class LeaseLeasesRequest(Message):
    """Ask for all leases."""


class LeaseStatus(Message):
    """One of all leases."""

    ID: int64 = field(1)


class LeaseLeasesResponse(Message):
    """All leases."""

    header: ResponseHeader = field(1)
    leases: Repeated[LeaseStatus] = field(2)


build('etcdserverpb', globals())


class Lease:
    """Leases.  A grant may be repeated if the caller chose the ``ID``: the second finds it taken."""

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
