"""Messages and RPCs of the Maintenance service.  All sizes are in bytes."""
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
    """The kinds of alarms; NONE stands for all of them."""

    NONE = 0
    NOSPACE = 1
    CORRUPT = 2


class AlarmRequest(Message):
    """List, raise or clear alarms; a ``memberID`` of 0 stands for every member."""

    class AlarmAction(IntEnum):
        """The operation."""

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
    """The alarms that were listed, raised or cleared."""

    header: ResponseHeader = field(1)
    alarms: Repeated[AlarmMember] = field(2)


class StatusRequest(Message):
    """Request the status of the member."""


class StatusResponse(Message):
    """The status of the member that answers.  A ``leader`` of 0 means that it has no leader."""

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
    """Whether a downgrade of the cluster is in progress, and to which version.  Since 3.6."""

    enabled: bool = field(1)
    targetVersion: str = field(2)


class DefragmentRequest(Message):
    """Defragment the database file of the member, which serves no other request meanwhile."""


class DefragmentResponse(Message):
    """Confirms a defragmentation."""

    header: ResponseHeader = field(1)


class HashRequest(Message):
    """Request a hash of the member's whole database."""


class HashResponse(Message):
    """The hash of the database."""

    header: ResponseHeader = field(1)
    hash: uint32 = field(2)


class HashKVRequest(Message):
    """Request a hash of the keys up to ``revision``; 0 means the latest."""

    revision: int64 = field(1)


class HashKVResponse(Message):
    """The hash, and the revisions that it covers: healthy members return equal fields."""

    header: ResponseHeader = field(1)
    hash: uint32 = field(2)
    compact_revision: int64 = field(3)
    hash_revision: int64 = field(4)  # since 3.6


class SnapshotRequest(Message):
    """Request the member's database file."""


class SnapshotResponse(Message):
    """A chunk of the file, and the number of bytes that follow."""

    header: ResponseHeader = field(1)
    remaining_bytes: uint64 = field(2)
    blob: bytes = field(3)
    version: str = field(4)  # since 3.6


class MoveLeaderRequest(Message):
    """Transfer leadership to another member.  Only the leader accepts this."""

    targetID: uint64 = field(1)


class MoveLeaderResponse(Message):
    """Confirms a transfer of leadership."""

    header: ResponseHeader = field(1)


class DowngradeRequest(Message):
    """Prepare the cluster for a downgrade of its members.  Since 3.5."""

    class DowngradeAction(IntEnum):
        """The operation."""

        VALIDATE = 0
        ENABLE = 1
        CANCEL = 2

    action: int = field(1, DowngradeAction)
    version: str = field(2)


class DowngradeResponse(Message):
    """The current version of the cluster.  Since 3.5."""

    header: ResponseHeader = field(1)
    version: str = field(2)


class DowngradeVersionTestRequest(Message):
    """Used by etcd's own tests only, not by an RPC.  Since 3.6."""

    ver: str = field(1)


build('etcdserverpb', globals())


class Maintenance:
    """The Maintenance service.  Alarm and Downgrade act on the cluster, the other RPCs on the member that answers."""

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
