"""Tests of a store that is restored from a backup, has the same id, and has grown past what the client has seen.

Its past is that of the original, so an old key proves nothing.  Followers must detect the restored store, show its
values and report the loss of history.
"""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import getc
from getc.backends.memory.backend import MemoryBackend
from getc.testing import EtcdServer, FaultProxy, VirtualTime, wait_until
from tests.support.api_support import skip_unless_supported
from tests.support.clients import client_on
from tests.support.fake_etcd import FakeEtcd
from tests.support.faulty import FaultyBackend


class Follower:
    """A mirror, and a map that is maintained by the results of on_change."""

    def __init__(self, client: getc.Client) -> None:
        self.mirror = client.mirror('/cfg')
        self.seen: dict[str, str] = {}
        self.resyncs = 0
        self.watcher = client.on_change('/cfg', self._on_change, initial=True, on_resync=self._on_resync)

    @property
    def is_live(self) -> bool:
        return not self.mirror.is_stale and not self.watcher.is_stale

    def _on_change(self, result: getc.EtcdResult) -> None:
        if isinstance(result, getc.Deleted):
            self.seen.pop(result.key, None)
        elif result.value is not None:
            self.seen[result.key] = result.value

    def _on_resync(self, _: object) -> None:
        self.resyncs += 1


class Notified:
    """A map that is maintained by the results of on_change, and read again when history is lost."""

    def __init__(self, client: getc.Client) -> None:
        self._client = client
        self.seen: dict[str, str] = {}
        self._on_resync(None)
        self.watcher = client.on_change('/cfg', self._on_change, on_resync=self._on_resync, resync='notify')

    def _on_change(self, result: getc.EtcdResult) -> None:
        if isinstance(result, getc.Deleted):
            self.seen.pop(result.key, None)
        elif result.value is not None:
            self.seen[result.key] = result.value

    def _on_resync(self, _: object) -> None:
        node = self._client.get('/cfg', recursive=True).node
        assert isinstance(node, getc.Directory)
        self.seen = {leaf.key: leaf.value for leaf in node.leaves()}


# -- real servers


@pytest.mark.parametrize(('api', 'was_delivered'), [('v2', True), ('v3', True), ('v3', False)])
def test_followers_detect_that_the_data_of_a_server_was_restored(
    etcd_server: EtcdServer, api: Any, was_delivered: bool, tmp_path: Path
) -> None:
    """Whether the last change was delivered as a change or listed at the start."""
    skip_unless_supported(api, etcd_server.binary)
    with FaultProxy(etcd_server.url) as proxy, getc.etcd(etcd_server.url, api=api) as other:
        for name in ('kept', 'deleted'):
            other.set(f'/cfg/{name}', '1')
        etcd_server.kill()
        shutil.copytree(etcd_server._data, tmp_path / 'saved')
        etcd_server.restart()
        with getc.etcd(proxy.url, api=api) as client:
            follower = Follower(client) if was_delivered else None
            other.set('/cfg/lost', '1')
            last = other.delete('/cfg/deleted').etcd_index
            other.set('/elsewhere', '1')
            follower = follower or Follower(client)
            wait_until(lambda: follower.seen == dict(follower.mirror) == {'/cfg/kept': '1', '/cfg/lost': '1'})
            proxy.stop()
            etcd_server.kill()
            shutil.rmtree(etcd_server._data)
            shutil.copytree(tmp_path / 'saved', etcd_server._data)
            etcd_server.restart()
            while other.set('/elsewhere', '2', timeout=30).etcd_index < last + 5:
                pass
            proxy.start()
            wait_until(lambda: follower.is_live and follower.resyncs == 1)
            assert follower.seen == dict(follower.mirror) == {'/cfg/kept': '1', '/cfg/deleted': '1'}
            other.set('/cfg/kept', '2')
            wait_until(lambda: follower.seen['/cfg/kept'] == follower.mirror['/cfg/kept'] == '2')


# -- in virtual time


class MemoryEtcd:
    """A server of API v2 in memory, whose state can be saved and restored."""

    def __init__(self) -> None:
        self._backend = FaultyBackend()
        self.go_down = self._backend.go_down
        self.recover = self._backend.recover

    @property
    def index(self) -> int:
        return self._backend.store._store.index

    @property
    def values(self) -> dict[str, str]:
        with self._other() as other:
            return {leaf.key: leaf.value for leaf in other.get('/cfg', recursive=True).node.leaves()}

    def open(self) -> getc.Client:
        return client_on(self._backend, url='memory://faulty')

    def put(self, key: str, value: str) -> None:
        with self._other() as other:
            other.set(key, value)

    def delete(self, key: str) -> None:
        with self._other() as other:
            other.delete(key)

    def save(self) -> Any:
        return copy.deepcopy(self._backend.store._store)

    def restore(self, saved: Any) -> None:
        self._backend.store._store = saved

    def _other(self) -> getc.Client:
        return client_on(MemoryBackend(self._backend.store), url='memory://other')


class RestorableEtcd(FakeEtcd):
    """A server of API v3 in memory, whose state can be saved and restored."""

    @property
    def index(self) -> int:
        return self.revision

    @property
    def values(self) -> dict[str, str]:
        return {key.decode(): kv.value.decode() for key, kv in self.keys.items() if key.startswith(b'/cfg/')}

    def save(self) -> Any:
        return self.revision, dict(self.keys), list(self._history)

    def restore(self, saved: Any) -> None:
        self.revision, self.keys, self._history = saved


@pytest.fixture(params=[MemoryEtcd, RestorableEtcd])
def etcd(request: pytest.FixtureRequest, etcd_clock: VirtualTime) -> Any:
    return request.param()


def change(etcd: Any, chance: random.Random) -> None:
    """Write or delete some nodes, most of which are followed."""
    for _ in range(chance.randrange(6)):
        key = chance.choice(('/cfg/a', '/cfg/b', '/cfg/c', '/cfg/d', '/elsewhere'))
        if chance.random() < 0.6:
            etcd.put(key, str(chance.randrange(3)))
        elif key in etcd.values:
            etcd.delete(key)


@pytest.mark.parametrize('seed', range(100))
def test_followers_show_the_existing_values_after_any_restore(etcd: Any, etcd_clock: VirtualTime, seed: int) -> None:
    """For any history, saved at any time, and any history after that."""
    chance = random.Random(seed)
    etcd.put('/cfg/kept', '0')
    save, begin = chance.randrange(4), chance.randrange(4)
    with etcd.open() as client:
        for number in range(4):
            change(etcd, chance)
            if number == save:
                saved = etcd.save()
                change(etcd, chance)
            if number == begin:
                follower, notified = Follower(client), Notified(client)
            etcd_clock.advance(1)
        last = etcd.index
        etcd.go_down()
        etcd.restore(saved)
        change(etcd, chance)
        while etcd.index < last + 2:
            etcd.put('/elsewhere', 'x')
        change(etcd, chance)
        etcd.recover()
        etcd_clock.advance(10)
        assert follower.is_live
        assert follower.seen == dict(follower.mirror) == notified.seen == etcd.values
        etcd.put('/cfg/a', 'new')
        etcd_clock.advance(1)
        assert follower.seen['/cfg/a'] == follower.mirror['/cfg/a'] == 'new'


@pytest.mark.parametrize('is_in_backup', [False, True])
def test_restore_is_detected_although_every_listed_value_exists_again(
    etcd: Any, etcd_clock: VirtualTime, is_in_backup: bool
) -> None:
    """It was written again past what the client has seen, as a new key or as one of the backup."""
    etcd.put('/elsewhere', '0')
    if is_in_backup:
        etcd.put('/cfg/a', '0')
    saved = etcd.save()
    etcd.put('/cfg/a', '1')
    etcd.put('/elsewhere', '1')
    with etcd.open() as client:
        follower = Follower(client)
        etcd_clock.advance(1)
        last = etcd.index
        etcd.go_down()
        etcd.restore(saved)
        while etcd.index < last + 2:
            etcd.put('/elsewhere', 'x')
        etcd.put('/cfg/a', '2')
        etcd.recover()
        etcd_clock.advance(10)
        assert follower.is_live
        assert follower.seen == dict(follower.mirror) == {'/cfg/a': '2'}
        assert follower.resyncs == 1
