"""Tests of the history reader: it records every change, or raises."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.gateway import RequestRefused
from tests.faults.history import Change, History
from tests.faults.history_reader import HistoryReader, IncompleteHistory


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def put(revision: int, key: str, value: str, version: int = 1) -> dict[str, Any]:
    """Return an event as the gateway sends it."""
    kv = {'key': base64_of(key), 'value': base64_of(value), 'version': str(version), 'mod_revision': str(revision)}
    return {'kv': {**kv, 'create_revision': str(revision - version + 1)}}


def delete(revision: int, key: str) -> dict[str, Any]:
    return {'type': 'DELETE', 'kv': {'key': base64_of(key), 'mod_revision': str(revision)}}


class FakeGateway:
    """Replaces the cluster and its gateway: a member with scripted responses."""

    era = 0
    urls = ('here',)

    def __init__(self, *responses: list[dict[str, Any]], keys: dict[str, int], **response: Any) -> None:
        self.responses = [{'events': events} for events in responses] + ([response] if response else [])
        self.keys = keys
        self.refusals = 0

    def gateway(self, url: str, *, timeout: float) -> FakeGateway:
        return self

    def request(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.refusals:
            self.refusals -= 1
            raise RequestRefused('no leader')
        revisions = [int(event['kv']['mod_revision']) for each in self.responses for event in each.get('events', ())]
        kvs = [{'key': base64_of(key), 'mod_revision': str(revision)} for key, revision in self.keys.items()]
        return {'header': {'revision': str(max(revisions, default=1))}, 'kvs': kvs}

    def watch(self, first: int) -> Iterator[dict[str, Any]]:
        yield from self.responses
        raise OSError('it is over')

    def close(self) -> None: ...


Read = Callable[[FakeGateway], list[Change]]


@pytest.fixture
def read() -> Read:
    """Read and check the history."""

    def read(etcd: FakeGateway) -> list[Change]:
        history = History(0)
        HistoryReader(etcd, history).check(timeout=0.2)  # type: ignore[arg-type]
        return history.of(Change)

    return read


def test_every_change_is_recorded_in_order(read: Read) -> None:
    """In etcd's order; a change that etcd sends twice is recorded once."""
    etcd = FakeGateway(
        [put(2, '/a', '1')],
        [put(3, '/a', '2', 2), put(3, '/b', 'x'), put(3, '/b', 'x'), delete(4, '/a')],
        keys={'/b': 3},
    )
    changes = read(etcd)
    assert [(each.revision, each.order, each.key, each.value, each.version) for each in changes] == [
        (2, 0, '/a', '1', 1),
        (3, 0, '/a', '2', 2),
        (3, 1, '/b', 'x', 1),
        (4, 0, '/a', None, 0),
    ]


def test_request_is_retried_when_a_member_refuses(read: Read) -> None:
    etcd = FakeGateway([put(2, '/a', '1')], keys={'/a': 2})
    etcd.refusals = 2
    assert [change.value for change in read(etcd)] == ['1']


@pytest.mark.parametrize(
    'etcd',
    [
        FakeGateway([put(2, '/a', '1'), put(4, '/a', '3', 3)], keys={'/a': 4}),
        FakeGateway([put(2, '/a', '1'), put(3, '/a', '3', 3)], keys={'/a': 3}),
        FakeGateway([put(2, '/a', '1'), put(3, '/b', 'x')], keys={'/b': 3}),
        FakeGateway([put(2, '/a', '1'), put(3, '/b', 'x')], keys={'/a': 2, '/b': 3, '/c': 3}),
        FakeGateway([put(2, '/a', '1'), delete(3, '/b')], keys={'/a': 2}),
        FakeGateway([], keys={}, compact_revision='5', events=[put(6, '/a', '1')]),
    ],
    ids=['a revision', 'a version', 'a deletion', 'a key of a revision', 'a creation', 'all that was compacted'],
)
def test_missing_changes_are_detected(read: Read, etcd: FakeGateway) -> None:
    with pytest.raises(IncompleteHistory):
        read(etcd)


def test_revision_with_a_deletion_is_not_compactable() -> None:
    """Older etcds would lose the deletion."""
    etcd = FakeGateway(
        [put(2, '/a', '1'), put(3, '/b', '1'), put(4, '/c', '1'), delete(4, '/a'), delete(5, '/b')], keys={}
    )
    history_reader = HistoryReader(etcd, History(0))  # type: ignore[arg-type]
    history_reader.catch_up(0.2)
    assert (history_reader.revision, history_reader.compactable_revision) == (5, 3)
