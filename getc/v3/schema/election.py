"""The server's own election."""

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
    """Wait to be the leader, and be it as long as the ``lease`` lives; ``value`` is what the others see."""

    name: bytes = field(1)
    lease: int64 = field(2)
    value: bytes = field(3)


class CampaignResponse(Message):
    """Who has campaigned now leads, by this key."""

    header: ResponseHeader = field(1)
    leader: LeaderKey = field(2)


class LeaderKey(Message):
    """What a leader leads by: it does as long as ``key`` exists, and was created at the revision ``rev``."""

    name: bytes = field(1)
    key: bytes = field(2)
    rev: int64 = field(3)
    lease: int64 = field(4)


class LeaderRequest(Message):
    """Ask who leads."""

    name: bytes = field(1)


class LeaderResponse(Message):
    """The leader's key, and as its value what the leader has the others see."""

    header: ResponseHeader = field(1)
    kv: KeyValue = field(2)


class ResignRequest(Message):
    """Lead no more."""

    leader: LeaderKey = field(1)


class ResignResponse(Message):
    """The next one leads."""

    header: ResponseHeader = field(1)


class ProclaimRequest(Message):
    """Have the others see another value."""

    leader: LeaderKey = field(1)
    value: bytes = field(2)


class ProclaimResponse(Message):
    """They see it."""

    header: ResponseHeader = field(1)


build('v3electionpb', globals())


class Election:
    """The server's own election."""

    Campaign = Method('/v3electionpb.Election/Campaign', CampaignRequest, CampaignResponse, waits=True)
    Proclaim = Method('/v3electionpb.Election/Proclaim', ProclaimRequest, ProclaimResponse)
    Leader = Method('/v3electionpb.Election/Leader', LeaderRequest, LeaderResponse, reads=True)
    Observe = Method('/v3electionpb.Election/Observe', LeaderRequest, LeaderResponse, server_streaming=True, reads=True)
    Resign = Method('/v3electionpb.Election/Resign', ResignRequest, ResignResponse)
