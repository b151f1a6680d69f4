"""``etcd.v3.maintenance``: status, alarms and snapshots."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

import getc
from getc.errors import (
    FailedPrecondition,
    FutureRevision,
    InvalidArgument,
    NoSpace,
    NotSupported,
    ProtocolError,
    Unavailable,
)
from getc.testing import EtcdServer
from getc.v3 import schema
from getc.v3.maintenance import Maintenance
from getc.v3.rpc import RpcClient
from getc.v3.schema.maintenance import AlarmRequest, AlarmType, DowngradeRequest, SnapshotResponse
from tests.support.fake_stream import FakeStream

SERVICE = schema.Maintenance

Action = AlarmRequest.AlarmAction
Downgrade = DowngradeRequest.DowngradeAction


@pytest.fixture
def maintenance(client: getc.Client) -> Maintenance:
    return client.v3.maintenance


@pytest.fixture
def own(own_server: EtcdServer) -> Iterator[getc.Client]:
    """A client of a server that only this test uses."""
    with getc.etcd(own_server.url) as client:
        yield client


def test_status_returns_version_size_and_leader(maintenance: Maintenance, server: EtcdServer) -> None:
    status = maintenance.status()
    assert status.version == server.version
    assert status.dbSize >= status.dbSizeInUse > 0
    assert status.leader == status.header.member_id
    assert not status.isLearner and list(status.errors) == []


def test_hashes_change_with_the_keys_only(client: getc.Client, maintenance: Maintenance) -> None:
    revision = client.v3.kv.put(b'/a', b'one').header.revision
    before = maintenance.hash_kv()
    assert maintenance.hash_kv().hash == before.hash
    database = maintenance.hash().hash
    client.v3.kv.put(b'/a', b'two')
    assert maintenance.hash_kv().hash != before.hash
    assert maintenance.hash_kv(revision).hash == before.hash
    assert maintenance.hash().hash != database
    with pytest.raises(FutureRevision):
        maintenance.hash_kv(revision + 100)


def test_defragment_shrinks_the_database(own: getc.Client) -> None:
    for number in range(50):
        own.v3.kv.put(b'/%d' % number, bytes(100_000))
    own.v3.kv.delete_range(b'/', range_end=b'0')
    own.v3.kv.compact(own.v3.kv.range(b'/').header.revision, physical=True)
    before = own.v3.maintenance.status().dbSize
    own.v3.maintenance.defragment(timeout=60)
    assert own.v3.maintenance.status().dbSize < before / 2


def test_alarm_is_raised_listed_and_cleared(own: getc.Client) -> None:
    member = own.v3.maintenance.status().header.member_id
    assert list(own.v3.maintenance.alarm().alarms) == []
    own.v3.maintenance.alarm(Action.ACTIVATE, memberID=member, alarm=AlarmType.NOSPACE)
    with pytest.raises(NoSpace):
        own.v3.kv.put(b'/a', b'one')
    assert [(alarm.memberID, alarm.alarm) for alarm in own.v3.maintenance.alarm().alarms] == [
        (member, AlarmType.NOSPACE)
    ]
    own.v3.maintenance.alarm(Action.DEACTIVATE, memberID=member, alarm=AlarmType.NOSPACE)
    assert list(own.v3.maintenance.alarm().alarms) == []
    own.v3.kv.put(b'/a', b'one')


@pytest.mark.parametrize('action', [Action.ACTIVATE, Action.DEACTIVATE])
@pytest.mark.parametrize('given', [{}, {'memberID': 1}, {'alarm': AlarmType.NOSPACE}])
def test_alarm_requires_member_and_type(maintenance: Maintenance, action: int, given: dict[str, int]) -> None:
    """etcd reports success for zeros, and changes nothing."""
    with pytest.raises(ValueError, match='memberID and alarm'):
        maintenance.alarm(action, **given)


def test_move_leader_to_the_leader_changes_nothing(maintenance: Maintenance) -> None:
    leader = maintenance.status().leader
    maintenance.move_leader(leader)
    assert maintenance.status().leader == leader


def test_move_leader_to_a_missing_member_raises(maintenance: Maintenance) -> None:
    with pytest.raises(FailedPrecondition, match='bad leader transferee'):
        maintenance.move_leader(4711)


def test_downgrade_is_validated_enabled_and_cancelled(own: getc.Client, own_server: EtcdServer) -> None:
    major, minor, _ = own_server.binary.version
    if (major, minor) < (3, 5):
        with pytest.raises(NotSupported, match='Downgrade'):
            own.v3.maintenance.downgrade(Downgrade.VALIDATE, '3.4.0')
        return
    older = f'{major}.{minor - 1}.0'
    version = own.v3.maintenance.downgrade(Downgrade.VALIDATE, older).version
    assert version in (f'{major}.{minor}.0', f'{major}.{minor}')  # the second from etcd 3.6 on
    assert 'in progress' in refusal(own.v3.maintenance, Downgrade.ENABLE, older)
    if (major, minor) < (3, 6):
        assert 'no inflight' in refusal(own.v3.maintenance, Downgrade.CANCEL, older)
    else:  # there it is no error that there is none
        for _ in range(2):
            assert own.v3.maintenance.downgrade(Downgrade.CANCEL, older).version == version
    with pytest.raises(InvalidArgument, match='target version'):
        own.v3.maintenance.downgrade(Downgrade.VALIDATE, f'{major}.{minor + 5}.0')


def refusal(maintenance: Maintenance, action: int, version: str) -> str:
    """Repeat a call until it is refused as already applied: etcd 3.5.1 does not report the first time."""
    while True:
        try:
            maintenance.downgrade(action, version, timeout=1)
        except FailedPrecondition as refused:
            return str(refused)
        except (getc.TimedOut, Unavailable):
            continue


# -- snapshots


def fill(client: getc.Client, megabytes: int) -> None:
    gevent.joinall(
        [gevent.spawn(client.v3.kv.put, b'/fill/%d' % number, os.urandom(1_000_000)) for number in range(megabytes)],
        raise_error=True,
    )


def test_snapshot_is_complete_and_reports_progress(own: getc.Client, tmp_path: Path) -> None:
    fill(own, 5)
    path = tmp_path / 'snapshot.db'
    progress: list[tuple[int, int]] = []
    size = own.v3.maintenance.snapshot(path, progress=lambda *so_far: progress.append(so_far))
    content = path.read_bytes()
    assert len(content) == size > 5_000_000
    assert content[-32:] == hashlib.sha256(content[:-32]).digest()
    sizes = [received for received, _ in progress]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes) > 10
    assert progress[-1] == (size, size)
    assert all(size - 32 <= total <= size for _, total in progress)
    assert [entry.name for entry in tmp_path.iterdir()] == ['snapshot.db']


def test_snapshot_replaces_an_older_file(maintenance: Maintenance, tmp_path: Path) -> None:
    path = tmp_path / 'snapshot.db'
    path.write_bytes(b'older')
    assert maintenance.snapshot(str(path)) == path.stat().st_size > 1000


def test_interrupted_snapshot_keeps_the_older_file_and_leaves_no_other(
    own: getc.Client, own_server: EtcdServer, tmp_path: Path
) -> None:
    fill(own, 20)
    path = tmp_path / 'snapshot.db'
    path.write_bytes(b'older')
    progress: list[tuple[int, int]] = []

    def kill(received: int, total: int) -> None:
        progress.append((received, total))
        if own_server.pid is not None and received > 1_000_000:
            own_server.kill()

    with pytest.raises(getc.ConnectionError):
        own.v3.maintenance.snapshot(path, progress=kill)
    assert progress[-1][0] < progress[-1][1]
    assert [entry.name for entry in tmp_path.iterdir()] == ['snapshot.db']
    assert path.read_bytes() == b'older'


def test_snapshot_times_out(own: getc.Client, own_server: EtcdServer, tmp_path: Path) -> None:
    fill(own, 20)
    with pytest.raises(getc.TimedOut):
        own.v3.maintenance.snapshot(tmp_path / 'snapshot.db', progress=lambda *_: own_server.pause(), timeout=1)
    own_server.resume()
    assert list(tmp_path.iterdir()) == []


def test_killed_snapshot_leaves_no_file(own: getc.Client, tmp_path: Path) -> None:
    fill(own, 5)
    seen: list[list[str]] = []

    def kill(*_: int) -> None:
        seen.append([entry.name for entry in tmp_path.iterdir()])
        writing.kill(block=False)

    writing = gevent.spawn(own.v3.maintenance.snapshot, tmp_path / 'snapshot.db', progress=kill)
    writing.join()
    assert isinstance(writing.value, gevent.GreenletExit)
    assert seen and re.fullmatch(r'snapshot\.db\.[0-9a-f]{8}\.part', seen[-1][0])
    assert list(tmp_path.iterdir()) == []
    assert own.v3.maintenance.snapshot(tmp_path / 'snapshot.db') > 5_000_000


def test_error_of_the_progress_callback_ends_the_snapshot(maintenance: Maintenance, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        maintenance.snapshot(tmp_path / 'snapshot.db', progress=lambda *_: 1 // 0)
    assert list(tmp_path.iterdir()) == []


def test_snapshot_raises_when_the_file_cannot_be_written(maintenance: Maintenance, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        maintenance.snapshot(tmp_path / 'none' / 'snapshot.db')


# -- snapshots of a server that says what it should not


@pytest.fixture
def stream() -> FakeStream:
    return FakeStream()


@pytest.fixture
def receiving(stream: FakeStream, unreachable: getc.Client, monkeypatch: pytest.MonkeyPatch) -> Maintenance:
    """Return a service whose snapshots come from ``stream``."""
    monkeypatch.setattr(RpcClient, 'open', lambda *_: stream)
    return unreachable.v3.maintenance


def chunks(content: bytes, size: int) -> list[Any]:
    """Return the content in the chunks that a server sends: ``remaining_bytes`` does not count the checksum."""
    sent = [content[at : at + size] for at in range(0, len(content), size)]
    remaining = [max(0, len(content) - 32 - at - size) for at in range(0, len(content), size)]
    return [SnapshotResponse(blob=blob, remaining_bytes=left) for blob, left in zip(sent, remaining, strict=True)]


DATABASE = os.urandom(4096)
WHOLE = DATABASE + hashlib.sha256(DATABASE).digest()


@pytest.mark.parametrize('size', [1, 31, 32, 33, 500, 4096, 4128])
def test_snapshot_accepts_chunks_of_any_size(
    stream: FakeStream, receiving: Maintenance, tmp_path: Path, size: int
) -> None:
    stream.push(*chunks(WHOLE, size))
    stream.end()
    assert receiving.snapshot(tmp_path / 'snapshot.db') == len(WHOLE)
    assert (tmp_path / 'snapshot.db').read_bytes() == WHOLE


@pytest.mark.parametrize(
    'content',
    [
        DATABASE[:-1] + bytes([DATABASE[-1] ^ 1]) + WHOLE[-32:],
        WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]),
        DATABASE,
        WHOLE[:-1],
        DATABASE[:100] + hashlib.sha256(DATABASE[:100]).digest(),
        b'',
    ],
    ids=['a bit of the database', 'a bit of the checksum', 'no checksum', 'a byte too few', 'no page', 'nothing'],
)
def test_snapshot_that_does_not_match_its_checksum_raises(
    stream: FakeStream, receiving: Maintenance, tmp_path: Path, content: bytes
) -> None:
    stream.push(*chunks(content, 512) or [SnapshotResponse()])
    stream.end()
    with pytest.raises(ProtocolError, match='checksum'):
        receiving.snapshot(tmp_path / 'snapshot.db')
    assert list(tmp_path.iterdir()) == []
    assert stream.is_cancelled


@pytest.mark.parametrize(('count', 'message'), [(0, 'without data'), (3, '2560 bytes too early')])
def test_snapshot_that_ends_too_early_with_status_ok_raises(
    stream: FakeStream, receiving: Maintenance, tmp_path: Path, count: int, message: str
) -> None:
    stream.push(*chunks(WHOLE, 512)[:count])
    stream.end()
    with pytest.raises(getc.ConnectionError, match=message) as caught:
        receiving.snapshot(tmp_path / 'snapshot.db')
    assert caught.value.endpoint == stream.url
    assert list(tmp_path.iterdir()) == []


def test_two_snapshots_to_one_path_do_not_share_a_file(own: getc.Client, tmp_path: Path) -> None:
    """The one that fails leaves the file of the other alone."""
    fill(own, 5)
    path = tmp_path / 'snapshot.db'
    failing = gevent.spawn(own.v3.maintenance.snapshot, path, progress=lambda *_: 1 // 0)
    size = own.v3.maintenance.snapshot(path)
    failing.join()
    assert isinstance(failing.exception, ZeroDivisionError)
    assert [entry.name for entry in tmp_path.iterdir()] == ['snapshot.db']
    content = path.read_bytes()
    assert len(content) == size and content[-32:] == hashlib.sha256(content[:-32]).digest()
