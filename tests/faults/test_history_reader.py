"""The archivist: what it reads is all there was, or it says so."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.gateway import Refused
from tests.faults.history import Change, History
from tests.faults.history_reader import Archivist, IncompleteArchive


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def put(revision: int, key: str, value: str, version: int = 1) -> dict[str, Any]:
    """An event as the gateway tells it."""
    kv = {'key': packed(key), 'value': packed(value), 'version': str(version), 'mod_revision': str(revision)}
    return {'kv': {**kv, 'create_revision': str(revision - version + 1)}}


def delete(revision: int, key: str) -> dict[str, Any]:
    return {'type': 'DELETE', 'kv': {'key': packed(key), 'mod_revision': str(revision)}}


class Etcd:
    """A ground with one member that says what it is told to."""

    era = 0
    urls = ('here',)

    def __init__(self, *responses: list[dict[str, Any]], there: dict[str, int], **said: Any) -> None:
        self.responses = [{'events': events} for events in responses] + ([said] if said else [])
        self.there = there
        self.refusals = 0

    def gateway(self, url: str, *, timeout: float) -> Etcd:
        return self

    def ask(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        if self.refusals:
            self.refusals -= 1
            raise Refused('no leader')
        revisions = [int(event['kv']['mod_revision']) for each in self.responses for event in each.get('events', ())]
        kvs = [{'key': packed(key), 'mod_revision': str(revision)} for key, revision in self.there.items()]
        return {'header': {'revision': str(max(revisions, default=1))}, 'kvs': kvs}

    def watch(self, first: int) -> Iterator[dict[str, Any]]:
        yield from self.responses
        raise OSError('it is over')

    def close(self) -> None: ...


Read = Callable[[Etcd], list[Change]]


@pytest.fixture
def read() -> Read:
    """Read all there is, and check it."""

    def read(etcd: Etcd) -> list[Change]:
        history = History(0)
        Archivist(etcd, history).check(timeout=0.2)  # type: ignore[arg-type]
        return history.of(Change)

    return read


def test_every_change_is_noted_with_its_place_in_its_revision(read: Read) -> None:
    """In the order in which etcd tells them; what it tells twice is one."""
    etcd = Etcd(
        [put(2, '/a', '1')],
        [put(3, '/a', '2', 2), put(3, '/b', 'x'), put(3, '/b', 'x'), delete(4, '/a')],
        there={'/b': 3},
    )
    changes = read(etcd)
    assert [(each.revision, each.order, each.key, each.value, each.version) for each in changes] == [
        (2, 0, '/a', '1', 1),
        (3, 0, '/a', '2', 2),
        (3, 1, '/b', 'x', 1),
        (4, 0, '/a', None, 0),
    ]


def test_member_that_refuses_is_asked_again(read: Read) -> None:
    """An outage is no hole."""
    etcd = Etcd([put(2, '/a', '1')], there={'/a': 2})
    etcd.refusals = 2
    assert [change.value for change in read(etcd)] == ['1']


@pytest.mark.parametrize(
    'etcd',
    [
        Etcd([put(2, '/a', '1'), put(4, '/a', '3', 3)], there={'/a': 4}),
        Etcd([put(2, '/a', '1'), put(3, '/a', '3', 3)], there={'/a': 3}),
        Etcd([put(2, '/a', '1'), put(3, '/b', 'x')], there={'/b': 3}),
        Etcd([put(2, '/a', '1'), put(3, '/b', 'x')], there={'/a': 2, '/b': 3, '/c': 3}),
        Etcd([put(2, '/a', '1'), delete(3, '/b')], there={'/a': 2}),
        Etcd([], there={}, compact_revision='5', events=[put(6, '/a', '1')]),
    ],
    ids=['a revision', 'a version', 'a deletion', 'a key of a revision', 'a creation', 'all that was compacted'],
)
def test_what_is_missing_is_noticed(read: Read, etcd: Etcd) -> None:
    """Nothing can be said about a history with a hole."""
    with pytest.raises(IncompleteArchive):
        read(etcd)


def test_revision_with_a_deletion_is_not_compactable() -> None:
    """Older etcds would forget it without a word."""
    etcd = Etcd([put(2, '/a', '1'), put(3, '/b', '1'), put(4, '/c', '1'), delete(4, '/a'), delete(5, '/b')], there={})
    archivist = Archivist(etcd, History(0))  # type: ignore[arg-type]
    archivist.catch_up(0.2)
    assert (archivist.revision, archivist.compactable) == (5, 3)
