"""The basics of the client through each kind of proxy."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

import getc
from getc import KeeperState
from getc.backends.member_sync import MemberSync
from getc.testing import EtcdServer, wait_until
from getc.v3 import range_stream
from tests.support.proxies import RealProxy

pytestmark = pytest.mark.slow


def test_client_detects_the_api_behind_a_proxy(proxy: RealProxy, open_client: Callable[..., getc.Client]) -> None:
    client = open_client(proxy.url)
    client.ready(timeout=60)
    assert f'{proxy.url} v3' in repr(client)


def test_sync_keeps_the_address_of_the_proxy(
    proxy: RealProxy, open_client: Callable[..., getc.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A voter of the cluster answers there; the list of ``grpc-proxy`` has only its own address, without a scheme."""
    original, syncs = MemberSync.sync, []

    def sync(self: MemberSync) -> None:
        original(self)
        syncs.append(self)

    monkeypatch.setattr(MemberSync, 'sync', sync)
    client = open_client(proxy.url, sync=1.0)
    client.ready(timeout=60)
    wait_until(lambda: len(syncs) >= 2)
    assert client.endpoints == (proxy.url,)
    assert client.set('/cfg/a', '1').value == '1'


def test_values_are_written_and_read_behind_a_proxy(client: getc.Client, direct: getc.Client) -> None:
    made = client.create('/cfg/rate', '20', ttl=60)
    assert (made.value, client.get('/cfg/rate').ttl, direct.get('/cfg/rate').value) == ('20', 60, '20')
    assert client.update('/cfg/rate', '21', prev_value='20').prev_node == made.node or client.get('/cfg/rate').value
    with pytest.raises(getc.TestFailed):
        client.set('/cfg/rate', '22', prev_value='20')
    with pytest.raises(getc.NodeExist):
        client.create('/cfg/rate', '1')
    assert [client.append('/queue', value).value for value in 'ab'] == ['a', 'b']
    client.delete('/cfg', recursive=True)
    with pytest.raises(getc.KeyNotFound):
        client.get('/cfg/rate')


def test_listing_of_several_pages_is_complete_behind_a_proxy(
    client: getc.Client, direct: getc.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By RangeStream where etcd and the proxy have it, else in pages."""
    monkeypatch.setattr(range_stream, 'MAX_PAGE_KEYS', 20)
    keys = [f'/many/{number:03}' for number in range(100)]
    gevent.joinall([gevent.spawn(direct.set, key, 'x' * 1000) for key in keys], raise_error=True)
    found = client.get('/many', recursive=True, sorted=True)
    assert [leaf.key for leaf in found.node.leaves()] == keys
    assert [kv.key.decode() for kv in client.v3.kv.scan(b'/many/', range_end=b'/many0')] == keys


def test_changes_are_delivered_once_and_in_order_behind_a_proxy(client: getc.Client, direct: getc.Client) -> None:
    """To a watcher, a mirror and ``wait``."""
    mirror = client.mirror('/cfg')
    values: list[str | None] = []
    client.on_change('/cfg', lambda change: values.append(change.value))
    waiting = gevent.spawn(client.wait, '/cfg/50', timeout=60)
    gevent.idle()
    expected = [str(number) for number in range(100)]
    wait_until(lambda: not mirror.is_stale)
    for number in expected:
        direct.set(f'/cfg/{number}', number)
        direct.set('/elsewhere', number)
    wait_until(lambda: len(values) >= 100)
    assert values == expected
    assert waiting.get(timeout=60).value == '50'
    assert dict(mirror) == {f'/cfg/{number}': number for number in expected}


def test_mirror_shows_every_earlier_change_after_sync_behind_a_proxy(client: getc.Client, direct: getc.Client) -> None:
    """Also deletions, and where the last write was elsewhere."""
    mirror = client.mirror('/synced')
    for number in range(4):
        direct.set('/synced/a', str(number))
        elsewhere = direct.set('/elsewhere', str(number))
        assert mirror.sync(60) >= elsewhere.etcd_index
        assert dict(mirror) == {'/synced/a': str(number)}
        deleted = direct.delete('/synced/a')
        assert mirror.sync(60) >= deleted.etcd_index
        assert dict(mirror) == {}


def test_each_watch_receives_its_own_changes_behind_a_proxy(
    client: getc.Client, direct: getc.Client, proxy: RealProxy, open_client: Callable[..., getc.Client]
) -> None:
    """``etcd grpc-proxy`` creates watches in any order, and those that another client has at once."""
    other = open_client(proxy.url)
    other.mirror('/shared')
    direct.set('/shared/a', '0')
    changes: dict[str, list[str]] = {}

    def watch(key: str) -> None:
        changes[key] = []
        client.on_change(key, lambda change: changes[key].append(change.key))

    keys = [f'/own/{number}' for number in range(10)]
    keys.insert(5, '/shared')
    gevent.joinall([gevent.spawn(watch, key) for key in keys], raise_error=True)
    for key in keys:
        direct.set(f'{key}/a', '1')
    wait_until(lambda: all(changes.values()))
    assert changes == {key: [f'{key}/a'] for key in keys}


def test_node_is_kept_behind_a_proxy(client: getc.Client, direct: getc.Client) -> None:
    """Over two renewals; other clients see no change."""
    keeper = client.keep_node('/servers/a', 'here', ttl=10)
    changes: list[getc.EtcdResult] = []
    direct.on_change('/servers/a', changes.append)
    for _ in range(2):
        wait_until(lambda: keeper.remaining() < 6.5)
        wait_until(lambda: keeper.remaining() > 6.5)
    assert (keeper.state in (KeeperState.KEPT, KeeperState.SUSPECT), changes) == (True, [])
    assert direct.get('/servers/a').value == 'here'
    keeper.stop()
    wait_until(lambda: changes)


def test_owner_is_notified_behind_a_proxy_when_its_node_is_taken(client: getc.Client, direct: getc.Client) -> None:
    keepers = [client.keep_node(f'/servers/{number}', ttl=60) for number in range(3)]
    direct.set('/servers/1', 'taken')
    wait_until(lambda: keepers[1].state is not KeeperState.KEPT)
    assert [keeper.state for keeper in keepers[::2]] == [KeeperState.KEPT] * 2


def test_names_of_versions_are_those_of_etcd_behind_a_proxy(client: getc.Client, upstream: EtcdServer) -> None:
    assert client.v3.maintenance.status().version == upstream.version
