"""etcd's Maintenance service: status, alarms, defragmentation, hashes and snapshots."""

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

PAGE_BYTES: Final = 512
"""A snapshot consists of whole pages of the database and their SHA-256.  Source: etcd 3.5, ``etcdutl/snapshot``."""


class Maintenance:
    """``etcd.v3.maintenance``: one method for each RPC of etcd's Maintenance service.

    All of them act on the member that answers.  They block, take a ``timeout`` in seconds (None: no limit; left out:
    the client's), and raise :class:`~getc.EtcdError` or another :class:`~getc.EtcException`.
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
        """List alarms, or raise or clear one.

        Args:
            action: One of ``AlarmRequest.AlarmAction``.
            memberID: The member; 0 lists the alarms of all members.
            alarm: One of ``AlarmType``; NONE lists alarms of all types.
            timeout: Seconds.

        Raises:
            ValueError: The action raises or clears an alarm, and ``memberID`` or ``alarm`` is left out: etcd would
                report success and change nothing.
        """
        is_write = action != AlarmRequest.AlarmAction.GET
        if is_write and not (memberID and alarm):
            raise ValueError('raising or clearing an alarm needs memberID and alarm: alarm() returns the active ones')
        request = build(AlarmRequest, action=action, memberID=memberID, alarm=alarm)
        return self._rpc.call(schema.Maintenance.Alarm, request, timeout, is_write=is_write)

    def status(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.StatusResponse:
        """Return the version, database size, leader and errors of the member."""
        return self._rpc.call(schema.Maintenance.Status, schema.StatusRequest(), timeout)

    def defragment(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.DefragmentResponse:
        """Defragment the database file.  The member answers no other request meanwhile."""
        return self._rpc.call(schema.Maintenance.Defragment, schema.DefragmentRequest(), timeout)

    def hash(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.HashResponse:
        """Return the hash of the whole database.  It is meant for tests of etcd."""
        return self._rpc.call(schema.Maintenance.Hash, schema.HashRequest(), timeout)

    def hash_kv(self, revision: int = 0, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.HashKVResponse:
        """Return the hash of all keys up to a revision (0: the latest), which is equal on all healthy members."""
        return self._rpc.call(schema.Maintenance.HashKV, build(schema.HashKVRequest, revision=revision), timeout)

    def move_leader(self, targetID: int, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.MoveLeaderResponse:  # noqa: N803
        """Transfer leadership to another member.  Raises FailedPrecondition if the server is not the leader."""
        return self._rpc.call(
            schema.Maintenance.MoveLeader, build(schema.MoveLeaderRequest, targetID=targetID), timeout
        )

    def downgrade(self, action: int, version: str, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.DowngradeResponse:
        """Validate, enable or cancel a downgrade of the cluster.  Raises NotSupported before etcd 3.5.

        Args:
            action: One of ``DowngradeRequest.DowngradeAction``.
            version: The target version, such as ``'3.5.0'``.
            timeout: Seconds.
        """
        request = build(DowngradeRequest, action=action, version=version)
        is_write = action != DowngradeRequest.DowngradeAction.VALIDATE
        return self._rpc.call(schema.Maintenance.Downgrade, request, timeout, is_write=is_write)

    def snapshot(
        self, path: str | os.PathLike[str], *, progress: Progress | None = None, timeout: Timeout = None
    ) -> int:
        """Write a snapshot of the database to a file, verify its checksum, and return its size in bytes.

        Until the snapshot is complete, the file has a name of its own: ``path``, a random part and ``.part``.

        Args:
            path: The file.
            progress: Called after each chunk, with the bytes received and the bytes in total.
            timeout: Seconds for the whole snapshot; None for no limit.

        Raises:
            ProtocolError: The snapshot does not match its checksum.
            ConnectionError: The stream ended before the snapshot was complete.
            OSError: The file cannot be written.
        """
        part = f'{os.fspath(path)}.{os.urandom(4).hex()}.part'  # another snapshot may be written to the same path
        try:
            with open(part, 'xb') as file:
                size = self._receive(file.write, progress, timeout)
                file.flush()
                get_hub().threadpool.apply(os.fsync, (file.fileno(),))  # in a thread: a disk may take seconds
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.unlink(part)
        return size

    def _receive(self, write: Callable[[bytes], object], progress: Progress | None, timeout: Timeout) -> int:
        deadline = self._rpc.deadline(timeout)
        received, left = 0, -1  # -1: until the first chunk is received
        check, tail = hashlib.sha256(), b''
        with self._rpc.open(schema.Maintenance.Snapshot, deadline.timeout_left()) as stream:
            stream.send(schema.SnapshotRequest())
            stream.finish()
            while (chunk := stream.receive(deadline)) is not None:
                write(chunk.blob)
                received += len(chunk.blob)
                left = chunk.remaining_bytes
                tail += chunk.blob
                check.update(tail[: -check.digest_size])
                tail = tail[-check.digest_size :]
                if progress is not None:
                    progress(received, received + left)
        if left:
            what = 'without data' if left < 0 else f'{left} bytes too early'
            raise ConnectionError(f'{stream.url} ended the snapshot stream {what}', endpoint=stream.url)
        if received % PAGE_BYTES != check.digest_size or tail != check.digest():
            raise ProtocolError(f'the snapshot of {stream.url} does not match its checksum', endpoint=stream.url)
        return received
