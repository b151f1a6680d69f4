"""Messages and RPCs of the Cluster service."""
# ruff: noqa: N815 - the names of the fields are etcd's

from __future__ import annotations

from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.table import Message, Method, Repeated, build, field, uint64

__all__ = [
    'Cluster',
    'Member',
    'MemberAddRequest',
    'MemberAddResponse',
    'MemberListRequest',
    'MemberListResponse',
    'MemberPromoteRequest',
    'MemberPromoteResponse',
    'MemberRemoveRequest',
    'MemberRemoveResponse',
    'MemberUpdateRequest',
    'MemberUpdateResponse',
]


class Member(Message):
    """A member.  It has no name and no ``clientURLs`` before it was started.  A learner does not vote."""

    ID: uint64 = field(1)
    name: str = field(2)
    peerURLs: Repeated[str] = field(3)
    clientURLs: Repeated[str] = field(4)
    isLearner: bool = field(5)


class MemberAddRequest(Message):
    """Add a member, with the URLs at which the other members reach it."""

    peerURLs: Repeated[str] = field(1)
    isLearner: bool = field(2)


class MemberAddResponse(Message):
    """The new member, and all members."""

    header: ResponseHeader = field(1)
    member: Member = field(2)
    members: Repeated[Member] = field(3)


class MemberRemoveRequest(Message):
    """Remove a member."""

    ID: uint64 = field(1)


class MemberRemoveResponse(Message):
    """The remaining members."""

    header: ResponseHeader = field(1)
    members: Repeated[Member] = field(2)


class MemberUpdateRequest(Message):
    """Change the peer URLs of a member."""

    ID: uint64 = field(1)
    peerURLs: Repeated[str] = field(2)


class MemberUpdateResponse(Message):
    """All members."""

    header: ResponseHeader = field(1)
    members: Repeated[Member] = field(2)


class MemberListRequest(Message):
    """Request the members; with ``linearizable`` a quorum confirms the list."""

    linearizable: bool = field(1)  # since 3.5


class MemberListResponse(Message):
    """All members."""

    header: ResponseHeader = field(1)
    members: Repeated[Member] = field(2)


class MemberPromoteRequest(Message):
    """Promote a learner to a voting member."""

    ID: uint64 = field(1)


class MemberPromoteResponse(Message):
    """All members."""

    header: ResponseHeader = field(1)
    members: Repeated[Member] = field(2)


build('etcdserverpb', globals())


class Cluster:
    """The Cluster service."""

    MemberAdd = Method('/etcdserverpb.Cluster/MemberAdd', MemberAddRequest, MemberAddResponse)
    MemberRemove = Method('/etcdserverpb.Cluster/MemberRemove', MemberRemoveRequest, MemberRemoveResponse)
    MemberUpdate = Method('/etcdserverpb.Cluster/MemberUpdate', MemberUpdateRequest, MemberUpdateResponse)
    MemberList = Method('/etcdserverpb.Cluster/MemberList', MemberListRequest, MemberListResponse, reads=True)
    MemberPromote = Method('/etcdserverpb.Cluster/MemberPromote', MemberPromoteRequest, MemberPromoteResponse)
