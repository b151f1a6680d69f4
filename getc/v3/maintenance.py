"""The health of members and of their stores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Final

from gevent.hub import get_hub

from getc.errors import ConnectionError, ProtocolError
from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.rpc import RpcClient
from getc.v3.schema import maintenance as schema
from getc.v3.schema.maintenance import AlarmRequest, AlarmType, DowngradeRequest

__all__ = ['Maintenance']

Progress = Callable[[int, int], object]

PAGE: Final = 512
"""A snapshot is whole pages of the database, and the SHA-256 of them.  Source: etcd 3.5, ``etcdutl/snapshot``."""


class Maintenance:
    """``etcd.v3.maintenance``: one method for each RPC of etcd's Maintenance service.

    All of them are about the member that answers.  They block, take a ``timeout`` in seconds (None: no limit; left out:
    the client's), and raise :class:`~getc.EtcdError`, :class:`~getc.ConnectionError` and the like.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    def alarm(
        self,
        action: int = AlarmRequest.AlarmAction.GET,
        *,
        memberID: int = 0,  # noqa: N803
        alarm: int = AlarmType.NONE,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> schema.AlarmResponse:
        """Read alarms, or raise or clear one.

        Args:
            action: One of ``AlarmRequest.AlarmAction``.
            memberID: Of which member; 0 for all when reading.
            alarm: Which, of ``AlarmType``; NONE for all when reading.
            timeout: Seconds.

        Raises:
            ValueError: An alarm is to be raised or cleared, and ``memberID`` or ``alarm`` is left out: etcd would
                report success and change nothing.
        """
        is_write = action != AlarmRequest.AlarmAction.GET
        if is_write and not (memberID and alarm):
            raise ValueError('raising or clearing an alarm needs memberID and alarm: alarm() returns the active ones')
        request = build(AlarmRequest, action=action, memberID=memberID, alarm=alarm)
        return self._rpc.call(schema.Maintenance.Alarm, request, timeout, is_write=is_write)

    def status(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.StatusResponse:
        """Version, size, leader, and what is wrong."""
        return self._rpc.call(schema.Maintenance.Status, schema.StatusRequest(), timeout)

    def defragment(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.DefragmentResponse:
        """Give room in the file back to the disk.  The member answers nothing else meanwhile."""
        return self._rpc.call(schema.Maintenance.Defragment, schema.DefragmentRequest(), timeout)

    def hash(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.HashResponse:
        """The hash of the whole database, for tests of etcd."""
        return self._rpc.call(schema.Maintenance.Hash, schema.HashRequest(), timeout)

    def hash_kv(self, revision: int = 0, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.HashKVResponse:
        """The hash of all keys up to a revision (0: the newest), the same on each member that is well."""
        return self._rpc.call(schema.Maintenance.HashKV, build(schema.HashKVRequest, revision=revision), timeout)

    def move_leader(self, targetID: int, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.MoveLeaderResponse:  # noqa: N803
        """Make another member leader.  Raises FailedPrecondition unless the leader is asked."""
        return self._rpc.call(
            schema.Maintenance.MoveLeader, build(schema.MoveLeaderRequest, targetID=targetID), timeout
        )

    def downgrade(self, action: int, version: str, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.DowngradeResponse:
        """Prepare for an older etcd.  Raises NotSupported before etcd 3.5.

        Args:
            action: One of ``DowngradeRequest.DowngradeAction``.
            version: Such as ``'3.5.0'``.
            timeout: Seconds.
        """
        request = build(DowngradeRequest, action=action, version=version)
        is_write = action != DowngradeRequest.DowngradeAction.VALIDATE
        return self._rpc.call(schema.Maintenance.Downgrade, request, timeout, is_write=is_write)

    def snapshot(
        self, path: str | os.PathLike[str], *, progress: Progress | None = None, timeout: Timeout = None
    ) -> int:
        """Write a snapshot of the database to a file, check it, and return its size in bytes.

        The file is there under its name only when it is whole; until then it is ``path`` + ``.part``.

        Args:
            path: The file.
            progress: Called with the bytes that came and the bytes there are, for each piece.
            timeout: Seconds for all of it; None for no limit.

        Raises:
            ProtocolError: It is not what the server's checksum says.
            ConnectionError: It ended in the middle.
            OSError: The file cannot be written.
        """
        part = f'{os.fspath(path)}.part'
        try:
            with open(part, 'wb') as file:
                size = self._receive(file.write, progress, timeout)
                file.flush()
                get_hub().threadpool.apply(os.fsync, (file.fileno(),))  # a disk may take seconds
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.unlink(part)
        return size

    def _receive(self, write: Callable[[bytes], object], progress: Progress | None, timeout: Timeout) -> int:
        deadline = self._rpc.deadline(timeout)
        received, left = 0, 1
        check, tail = hashlib.sha256(), b''
        with self._rpc.open(schema.Maintenance.Snapshot, deadline.timeout_left()) as stream:
            stream.send(schema.SnapshotRequest())
            stream.finish()
            while (piece := stream.receive(deadline)) is not None:
                write(piece.blob)
                received += len(piece.blob)
                left = piece.remaining_bytes
                tail += piece.blob
                check.update(tail[: -check.digest_size])
                tail = tail[-check.digest_size :]
                if progress is not None:
                    progress(received, received + left)
        if left:
            raise ConnectionError(f'the snapshot ended {left} bytes too early')
        if received % PAGE != check.digest_size or tail != check.digest():
            raise ProtocolError('the snapshot is not what its checksum says')
        return received
