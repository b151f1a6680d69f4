"""Tests that watchers deliver the history of the server: no change lost, doubled or out of order.

Watchers start, stop, fall behind a slow callback, leave their shared watch and join it again, while several writers
write unique values.  The results of each watcher are compared with the history that the server itself remembers.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import gevent
import pytest

import getc
from getc.backends.tree.watch import replay_buffer
from getc.daemons import follower
from getc.errors import ConnectionError
from getc.testing import EtcdServer, VirtualTime, wait_until
from getc.v3 import txn
from tests.support.fake_etcd import FakeEtcd

KEYS = ('/cfg/a', '/cfg/b', '/cfg/d/x', '/cfg/d/y', '/cfg/e', '/cfg-not')
FOLLOWED = ('/cfg', '/cfg', '/cfg', '/cfg/d', '/cfg/a', '/')

Change = tuple[int, str, str | None]
"""The revision, the key, and the value; None for a deletion."""


@dataclass
class Observation:
    """What one watcher has delivered.

    Attributes:
        key: The key that it follows.
        recursive: It includes every node below the key.
        first: The first revision that it has to deliver.
        changes: The delivered changes in order.
        is_whole: It was not stopped before the end.
        is_from_now: It started "from now on" before ``first`` was read, and may have delivered earlier changes.
    """

    key: str
    recursive: bool
    first: int
    changes: list[Change] = field(default_factory=list)
    is_whole: bool = True
    is_from_now: bool = False

    def check(self, history: list[Change]) -> None:
        """Compare the results with the history of the server."""
        first = min([self.first, *(change[0] for change in self.changes if self.is_from_now)])
        expected = [change for change in history if change[0] >= first and self._is_followed(change[1])]
        if not self.is_whole:
            expected = expected[: len(self.changes)]
        assert self.changes == expected, self

    def note(self, result: getc.EtcdResult) -> None:
        """Record a result."""
        assert not result.resync
        self.changes.append((result.modified_index, result.key, result.value))

    def _is_followed(self, key: str) -> bool:
        return key == self.key or (self.recursive and key.startswith(self.key.rstrip('/') + '/'))


class Scenario:
    """Writers and watchers on one etcd.

    Args:
        seed: The seed of all random decisions.
        clients: One or more clients of the etcd.
    """

    def __init__(self, seed: int, clients: list[getc.Client]) -> None:
        self._rng = random.Random(seed)
        self._clients = clients
        self._values = itertools.count(1)
        self.observations: list[Observation] = []
        self.begin = clients[0].set('/begin', 'x').etcd_index

    def play(self, *, writers: int, watchers: int, steps: int) -> None:
        """Run so many steps, wait until every change was delivered, and check."""
        writing = [gevent.spawn(self._write, random.Random(self._rng.random()), steps * 3) for _ in range(writers)]
        following = [gevent.spawn(self._follow, random.Random(self._rng.random()), steps) for _ in range(watchers)]
        permanent = [
            (observation, self._clients[0].on_change(observation.key, observation.note, index=self.begin + 1))
            for observation in (Observation('/', True, self.begin + 1), Observation('/cfg', True, self.begin + 1))
        ]
        gevent.joinall([*writing, *following], raise_error=True)
        end = self._clients[0].set('/cfg/z', 'the end').modified_index  # every watcher receives it
        for observation, watcher in permanent:
            self.observations.append(observation)
            wait_until(lambda observation=observation: observation.changes and observation.changes[-1][0] == end)
            watcher.stop()
        history = self._history(end)
        assert len(history) > steps
        for observation in self.observations:
            observation.check(history)

    def _history(self, end: int) -> list[Change]:
        """Return the history that the server remembers."""
        found: dict[Change, None] = {}  # etcd 3.4 may send an event twice
        last = 0
        with self._clients[0].v3.watch.create(b'/', range_end=b'0', start_revision=self.begin + 1) as watch:
            while last < end:
                response = watch.receive(30)
                assert response is not None
                for event in response.events:
                    value = None if event.type else event.kv.value.decode()
                    last = event.kv.mod_revision
                    found[last, event.kv.key.decode(), value] = None
        return list(found)

    # -- writers

    def _write(self, rng: random.Random, steps: int) -> None:
        for _ in range(steps):
            client = rng.choice(self._clients)
            keys = rng.sample(KEYS, rng.choice((1, 1, 1, 2, 4)))
            if rng.random() < 0.2:
                operations = [txn.delete(key.encode()) for key in keys]
            else:
                operations = [txn.put(key.encode(), str(next(self._values)).encode()) for key in keys]
            client.v3.kv.when().then(*operations).commit()
            if rng.random() < 0.3:
                gevent.sleep(rng.random() * 0.02)

    # -- watchers

    def _follow(self, rng: random.Random, steps: int) -> None:
        for _ in range(steps):
            client = rng.choice(self._clients)
            key, recursive = rng.choice(FOLLOWED), rng.random() < 0.9
            rng.choice((self._on_change, self._on_change, self._changes, self._wait))(rng, client, key, recursive)

    def _first(self, rng: random.Random, client: getc.Client) -> int | None:
        """Choose where to start: now, at the beginning, or shortly before now."""
        now = client.get('/begin').etcd_index
        return rng.choice((None, None, self.begin + 1, max(self.begin + 1, now - rng.randrange(30)), now + 1))

    def _on_change(self, rng: random.Random, client: getc.Client, key: str, recursive: bool) -> None:
        first = self._first(rng, client)
        observation = Observation(key, recursive, first or 0, is_whole=False, is_from_now=first is None)
        slowness = rng.choice((0.0, 0.0, 0.0, 0.002, 0.01))

        def callback(result: getc.EtcdResult) -> None:
            observation.note(result)
            if slowness:
                gevent.sleep(slowness * rng.random())

        watcher = client.on_change(key, callback, recursive=recursive, index=first)
        observation.first = first or watcher.index + 1
        self.observations.append(observation)
        gevent.sleep(rng.random() * 0.5)
        watcher.stop()

    def _changes(self, rng: random.Random, client: getc.Client, key: str, recursive: bool) -> None:
        first = self._first(rng, client)
        with client.changes(key, recursive=recursive, index=first) as changes:
            begin = first or changes.index + 1
            observation = Observation(key, recursive, begin, is_whole=False, is_from_now=first is None)
            self.observations.append(observation)
            for _ in range(rng.randrange(40)):
                try:
                    observation.note(changes.get(timeout=0.1))
                except ConnectionError:
                    break

    def _wait(self, rng: random.Random, client: getc.Client, key: str, recursive: bool) -> None:
        index = self._first(rng, client) or client.get('/begin').etcd_index + 1
        for _ in range(rng.randrange(10)):
            observation = Observation(key, recursive, index, is_whole=False)
            try:
                observation.note(client.wait(key, index, recursive=recursive, timeout=0.1))
            except ConnectionError:
                break
            self.observations.append(observation)
            index = observation.changes[0][0] + 1


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the bounds, so that all of them are reached."""
    monkeypatch.setattr(follower, 'MAX_BACKLOG', 20)
    monkeypatch.setattr(replay_buffer, 'BUFFER_BYTES', 20 * replay_buffer.MIN_BYTES)


@pytest.mark.parametrize('seed', range(10))
def test_watchers_deliver_the_history(tight: None, etcd_clock: VirtualTime, seed: int) -> None:
    """The server sends events twice, and the connection breaks now and then."""
    server = FakeEtcd()
    server.duplicates_events = True
    rng = random.Random(seed)

    def break_now_and_then() -> None:
        while True:
            gevent.sleep(rng.random() * 2)
            server.break_streams()

    breaking = gevent.spawn(break_now_and_then)
    with server.open() as client, server.open() as other:
        Scenario(seed, [client, other]).play(writers=3, watchers=8, steps=12)
    breaking.kill()


@pytest.fixture
def clients(etcd_server: EtcdServer) -> Iterator[list[getc.Client]]:
    with getc.etcd(etcd_server.url, api='v3') as client, getc.etcd(etcd_server.url, api='v3') as other:
        yield [client, other]


@pytest.mark.parametrize('seed', range(3))
def test_watchers_deliver_the_history_of_a_real_etcd(tight: None, clients: list[getc.Client], seed: int) -> None:
    Scenario(seed, clients).play(writers=4, watchers=10, steps=10)


def test_check_detects_missing_doubled_and_misordered_changes() -> None:
    history: list[Change] = [(2, '/a', '1'), (3, '/a', '2'), (3, '/b', '3'), (4, '/a', None)]
    good = Observation('/', True, 2, list(history))
    good.check(history)
    wrong: list[Callable[[list[Change]], object]] = [
        lambda changes: changes.pop(1),
        lambda changes: changes.insert(1, changes[1]),
        lambda changes: changes.reverse(),
        lambda changes: changes.pop(0),
    ]
    for spoil in wrong:
        changes = list(history)
        spoil(changes)
        with pytest.raises(AssertionError):
            Observation('/', True, 2, changes, is_whole=False).check(history)
