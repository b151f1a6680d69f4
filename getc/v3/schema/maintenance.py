"""The health of a member and of its store.  All sizes are in bytes."""
# ruff: noqa: N815 - the names of the fields are etcd's

from __future__ import annotations

from enum import IntEnum

from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.table import Message, Method, Repeated, build, field, int64, uint32, uint64

__all__ = [
    'AlarmMember',
    'AlarmRequest',
    'AlarmResponse',
    'AlarmType',
    'DefragmentRequest',
    'DefragmentResponse',
    'DowngradeInfo',
    'DowngradeRequest',
    'DowngradeResponse',
    'DowngradeVersionTestRequest',
    'HashKVRequest',
    'HashKVResponse',
    'HashRequest',
    'HashResponse',
    'Maintenance',
    'MoveLeaderRequest',
    'MoveLeaderResponse',
    'SnapshotRequest',
    'SnapshotResponse',
    'StatusRequest',
    'StatusResponse',
]


class AlarmType(IntEnum):
    """NONE asks for all of them."""

    NONE = 0
    NOSPACE = 1
    CORRUPT = 2


class AlarmRequest(Message):
    """Ask for alarms, raise one or end one; a ``memberID`` of 0 is every member."""

    class AlarmAction(IntEnum):
        """What to do."""

        GET = 0
        ACTIVATE = 1
        DEACTIVATE = 2

    action: int = field(1, AlarmAction)
    memberID: uint64 = field(2)
    alarm: int = field(3, AlarmType)


class AlarmMember(Message):
    """An alarm that a member has raised."""

    memberID: uint64 = field(1)
    alarm: int = field(2, AlarmType)


class AlarmResponse(Message):
    """The alarms that the request is about."""

    header: ResponseHeader = field(1)
    alarms: Repeated[AlarmMember] = field(2)


class StatusRequest(Message):
    """Ask the member how it is."""


class StatusResponse(Message):
    """How the asked member is.  A ``leader`` of 0 is none that it knows of."""

    header: ResponseHeader = field(1)
    version: str = field(2)
    dbSize: int64 = field(3)
    leader: uint64 = field(4)
    raftIndex: uint64 = field(5)
    raftTerm: uint64 = field(6)
    raftAppliedIndex: uint64 = field(7)
    errors: Repeated[str] = field(8)
    dbSizeInUse: int64 = field(9)
    isLearner: bool = field(10)
    storageVersion: str = field(11)  # since 3.6
    dbSizeQuota: int64 = field(12)  # since 3.6
    downgradeInfo: DowngradeInfo = field(13)  # since 3.6


class DowngradeInfo(Message):
    """Whether the cluster is on its way to an older version, and to which.  Since 3.6."""

    enabled: bool = field(1)
    targetVersion: str = field(2)


class DefragmentRequest(Message):
    """Have the member give room back to the disk.  It serves nobody while it does."""


class DefragmentResponse(Message):
    """It is done."""

    header: ResponseHeader = field(1)


class HashRequest(Message):
    """Ask for a hash of everything in the member's store."""


class HashResponse(Message):
    """The hash."""

    header: ResponseHeader = field(1)
    hash: uint32 = field(2)


class HashKVRequest(Message):
    """Ask for a hash of the keys up to ``revision``; 0 is the newest."""

    revision: int64 = field(1)


class HashKVResponse(Message):
    """The hash, and of which revisions: members agree if all of these do."""

    header: ResponseHeader = field(1)
    hash: uint32 = field(2)
    compact_revision: int64 = field(3)
    hash_revision: int64 = field(4)  # since 3.6


class SnapshotRequest(Message):
    """Ask for the member's store as a file."""


class SnapshotResponse(Message):
    """A piece of the file, and how much follows."""

    header: ResponseHeader = field(1)
    remaining_bytes: uint64 = field(2)
    blob: bytes = field(3)
    version: str = field(4)  # since 3.6


class MoveLeaderRequest(Message):
    """Have another member lead.  Only the leader can be asked."""

    targetID: uint64 = field(1)


class MoveLeaderResponse(Message):
    """It leads."""

    header: ResponseHeader = field(1)


class DowngradeRequest(Message):
    """Prepare the cluster for an older version of the servers.  Since 3.5."""

    class DowngradeAction(IntEnum):
        """What to do."""

        VALIDATE = 0
        ENABLE = 1
        CANCEL = 2

    action: int = field(1, DowngradeAction)
    version: str = field(2)


class DowngradeResponse(Message):
    """The version of the cluster at present.  Since 3.5."""

    header: ResponseHeader = field(1)
    version: str = field(2)


class DowngradeVersionTestRequest(Message):
    """Is there for etcd's own tests: no RPC carries it.  Since 3.6."""

    ver: str = field(1)


build('etcdserverpb', globals())


class Maintenance:
    """The member that is asked, for the most part; alarms and downgrades are the cluster's."""

    Alarm = Method('/etcdserverpb.Maintenance/Alarm', AlarmRequest, AlarmResponse)
    Status = Method('/etcdserverpb.Maintenance/Status', StatusRequest, StatusResponse, reads=True)
    Defragment = Method('/etcdserverpb.Maintenance/Defragment', DefragmentRequest, DefragmentResponse)
    Hash = Method('/etcdserverpb.Maintenance/Hash', HashRequest, HashResponse, reads=True)
    HashKV = Method('/etcdserverpb.Maintenance/HashKV', HashKVRequest, HashKVResponse, reads=True)
    Snapshot = Method(
        '/etcdserverpb.Maintenance/Snapshot', SnapshotRequest, SnapshotResponse, server_streaming=True, reads=True
    )
    MoveLeader = Method('/etcdserverpb.Maintenance/MoveLeader', MoveLeaderRequest, MoveLeaderResponse)
    Downgrade = Method('/etcdserverpb.Maintenance/Downgrade', DowngradeRequest, DowngradeResponse)  # since 3.5
