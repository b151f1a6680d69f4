"""The members of the cluster."""
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
    """A member; without a name and ``clientURLs`` if it has not started yet.  A learner does not vote."""

    ID: uint64 = field(1)
    name: str = field(2)
    peerURLs: Repeated[str] = field(3)
    clientURLs: Repeated[str] = field(4)
    isLearner: bool = field(5)


class MemberAddRequest(Message):
    """Let a member in, by the URLs that the others reach it at."""

    peerURLs: Repeated[str] = field(1)
    isLearner: bool = field(2)


class MemberAddResponse(Message):
    """The new one, and all of them."""

    header: ResponseHeader = field(1)
    member: Member = field(2)
    members: Repeated[Member] = field(3)


class MemberRemoveRequest(Message):
    """Put a member out."""

    ID: uint64 = field(1)


class MemberRemoveResponse(Message):
    """Those that are left."""

    header: ResponseHeader = field(1)
    members: Repeated[Member] = field(2)


class MemberUpdateRequest(Message):
    """Move a member to other URLs."""

    ID: uint64 = field(1)
    peerURLs: Repeated[str] = field(2)


class MemberUpdateResponse(Message):
    """All of them."""

    header: ResponseHeader = field(1)
    members: Repeated[Member] = field(2)


class MemberListRequest(Message):
    """Ask for the members; ``linearizable``: for what a majority agrees on."""

    linearizable: bool = field(1)  # since 3.5


class MemberListResponse(Message):
    """All of them."""

    header: ResponseHeader = field(1)
    members: Repeated[Member] = field(2)


class MemberPromoteRequest(Message):
    """Let a learner vote."""

    ID: uint64 = field(1)


class MemberPromoteResponse(Message):
    """All of them."""

    header: ResponseHeader = field(1)
    members: Repeated[Member] = field(2)


build('etcdserverpb', globals())


class Cluster:
    """The members of the cluster."""

    MemberAdd = Method('/etcdserverpb.Cluster/MemberAdd', MemberAddRequest, MemberAddResponse)
    MemberRemove = Method('/etcdserverpb.Cluster/MemberRemove', MemberRemoveRequest, MemberRemoveResponse)
    MemberUpdate = Method('/etcdserverpb.Cluster/MemberUpdate', MemberUpdateRequest, MemberUpdateResponse)
    MemberList = Method('/etcdserverpb.Cluster/MemberList', MemberListRequest, MemberListResponse, reads=True)
    MemberPromote = Method('/etcdserverpb.Cluster/MemberPromote', MemberPromoteRequest, MemberPromoteResponse)
