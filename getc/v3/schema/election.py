"""Messages and RPCs of the Election service."""

from __future__ import annotations

from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.mvccpb import KeyValue
from getc.v3.schema.table import Message, Method, build, field, int64

__all__ = [
    'CampaignRequest',
    'CampaignResponse',
    'Election',
    'LeaderKey',
    'LeaderRequest',
    'LeaderResponse',
    'ProclaimRequest',
    'ProclaimResponse',
    'ResignRequest',
    'ResignResponse',
]


class CampaignRequest(Message):
    """Wait for leadership, and keep it until the ``lease`` ends; ``value`` is published to observers."""

    name: bytes = field(1)
    lease: int64 = field(2)
    value: bytes = field(3)


class CampaignResponse(Message):
    """The campaign was won; ``leader`` identifies the leadership."""

    header: ResponseHeader = field(1)
    leader: LeaderKey = field(2)


class LeaderKey(Message):
    """A leadership: it lasts while ``key``, created at the revision ``rev``, exists."""

    name: bytes = field(1)
    key: bytes = field(2)
    rev: int64 = field(3)
    lease: int64 = field(4)


class LeaderRequest(Message):
    """Request the current leader."""

    name: bytes = field(1)


class LeaderResponse(Message):
    """The key of the leader, with the value that it has proclaimed."""

    header: ResponseHeader = field(1)
    kv: KeyValue = field(2)


class ResignRequest(Message):
    """Give up a leadership."""

    leader: LeaderKey = field(1)


class ResignResponse(Message):
    """Confirms a resignation."""

    header: ResponseHeader = field(1)


class ProclaimRequest(Message):
    """Publish another value as the leader."""

    leader: LeaderKey = field(1)
    value: bytes = field(2)


class ProclaimResponse(Message):
    """Confirms a proclamation."""

    header: ResponseHeader = field(1)


build('v3electionpb', globals())


class Election:
    """The Election service."""

    Campaign = Method('/v3electionpb.Election/Campaign', CampaignRequest, CampaignResponse, waits=True)
    Proclaim = Method('/v3electionpb.Election/Proclaim', ProclaimRequest, ProclaimResponse)
    Leader = Method('/v3electionpb.Election/Leader', LeaderRequest, LeaderResponse, reads=True)
    Observe = Method('/v3electionpb.Election/Observe', LeaderRequest, LeaderResponse, server_streaming=True, reads=True)
    Resign = Method('/v3electionpb.Election/Resign', ResignRequest, ResignResponse)
