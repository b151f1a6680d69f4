"""Events of a watch as results."""

from __future__ import annotations

import pytest

from getc.backends.tree.codec.events import leases_of, narrow_range, range_of, request_of, results_of
from getc.operations import WatchSpec
from getc.results import Deleted, Directory, EtcdResult, Expired, Node, Set, Value
from getc.v3.schema.mvccpb import Event, KeyValue


def put(raw: bytes, version: int = 2, before: KeyValue | None = None) -> Event:
    kv = KeyValue(key=raw, value=b'new', mod_revision=9, create_revision=3, version=version, lease=7)
    return Event(type=Event.EventType.PUT, kv=kv, prev_kv=before)


def delete(raw: bytes, before: KeyValue | None = None) -> Event:
    return Event(type=Event.EventType.DELETE, kv=KeyValue(key=raw, mod_revision=9), prev_kv=before)


def old(raw: bytes, lease: int = 0) -> KeyValue:
    return KeyValue(key=raw, value=b'old', mod_revision=5, create_revision=3, lease=lease)


def seen(spec: WatchSpec, *events: Event, gone: tuple[int, ...] = ()) -> list[EtcdResult]:
    return list(results_of(spec, events, 20, 2, lambda lease: lease in gone))


DEEP, FLAT = WatchSpec('/a', recursive=True), WatchSpec('/a')


def test_put_is_a_set_whichever_operation_wrote_it() -> None:
    """etcd v3 does not report the operation; the node is new if its version is 1."""
    before = Value('/a', 5, 3, None, None, 'old')
    node = Value('/a', 9, 3, None, None, 'new')
    assert seen(FLAT, put(b'/a', before=old(b'/a'))) == [Set(node, before, 20, 0, 2, False)]
    assert seen(FLAT, put(b'/a', version=1)) == [Set(node, None, 20, 0, 2, True)]


def test_marker_is_a_directory() -> None:
    deleted = Deleted(Directory('/a', 9, 3), Directory('/a', 5, 3), 20, 0, 2)
    assert seen(FLAT, put(b'/a/', version=1)) == [Set(Directory('/a', 9, 3), None, 20, 0, 2, True)]
    assert seen(FLAT, delete(b'/a/', old(b'/a/'))) == [deleted]


def test_event_that_is_sent_twice_has_one_result() -> None:
    """etcd 3.4 may send an event twice in one response."""
    (result,) = seen(FLAT, put(b'/a', version=1), put(b'/a', version=1))
    assert result.key == '/a'


@pytest.mark.parametrize(
    ('lease', 'gone', 'kind'), [(0, (), Deleted), (7, (), Deleted), (7, (7,), Expired), (7, (8,), Deleted)]
)
def test_deleted_key_has_expired_only_when_its_lease_is_gone(lease: int, gone: tuple[int, ...], kind: type) -> None:
    event = delete(b'/a', old(b'/a', lease))
    assert leases_of([event, put(b'/b')]) == ({lease} if lease else set())
    assert seen(FLAT, event, gone=gone) == [kind(Node('/a', 9, 3), Value('/a', 5, 3, None, None, 'old'), 20, 0, 2)]


def test_deletion_has_no_previous_node_when_that_was_compacted() -> None:
    assert seen(FLAT, delete(b'/a')) == [Deleted(Node('/a', 9, 0), None, 20, 0, 2)]
    assert leases_of([delete(b'/a')]) == set()


@pytest.mark.parametrize(
    ('raw', 'deep', 'flat'),
    [
        (b'/a', True, True),
        (b'/a/', True, True),
        (b'/a/b', True, False),
        (b'/a/b/', True, False),
        (b'/a-b', False, False),
        (b'/a.b', False, False),
        (b'/a/_b', False, False),
        (b'/a/b/_c/d', False, False),
        (b'/a//b', False, False),
        (b'/a/../b', False, False),
        (b'/a/\xff', True, False),
    ],
)
def test_event_has_a_result_only_for_subscribers_of_its_node(raw: bytes, deep: bool, flat: bool) -> None:
    """The watched range contains other keys, keys that are not paths, and hidden ones."""
    assert bool(seen(DEEP, put(raw))) is deep
    assert bool(seen(FLAT, put(raw))) is flat


def test_hidden_node_has_results_when_it_is_watched_itself() -> None:
    spec = WatchSpec('/_a', recursive=True)
    assert [result.key for result in seen(spec, put(b'/_a'), put(b'/_a/b'), put(b'/_a/_b'))] == ['/_a', '/_a/b']


def test_ranges_contain_the_node_its_marker_and_all_keys_below() -> None:
    """In one range, since two watches would have no mutual order."""
    assert range_of(DEEP) == (b'/a', b'/a0')
    assert range_of(FLAT) == (b'/a', b'/a/\0')
    assert range_of(WatchSpec('/', recursive=True)) == (b'/', b'0')
    assert narrow_range(DEEP) == (b'/a/', b'/a0')
    assert narrow_range(FLAT) == (b'/a', b'')


def test_watch_requests_previous_values_and_fragments() -> None:
    request = request_of((b'/a', b'/a0'), 7)
    assert (request.key, request.range_end, request.start_revision) == (b'/a', b'/a0', 7)
    assert request.prev_kv and request.fragment
