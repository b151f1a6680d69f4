"""Restarts of the proxy and of etcd, and an etcd that is down or hangs, behind each kind of proxy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import getc
from getc import KeeperState
from getc.errors import ConnectionError, HTTPError, TimedOut, Unavailable
from getc.testing import EtcdServer, wait_until
from getc.v3 import watch_health
from tests.support.proxies import Kind, RealProxy

pytestmark = pytest.mark.slow


NO_ETCD = (ConnectionError, HTTPError, Unavailable)
"""What a call raises when the proxy has no etcd."""


@pytest.fixture(autouse=True)
def _check_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check watch streams sooner, so that no test waits for the time that users have."""
    monkeypatch.setattr(watch_health, 'WATCH_IDLE_TIMEOUT', 1.0)
    monkeypatch.setattr(watch_health, 'CHECK_READ_TIMEOUT', 2.0)


class Followed:
    """A mirror and a watcher of ``/cfg``, and a kept node."""

    def __init__(self, client: getc.Client) -> None:
        self.changes: list[getc.EtcdResult] = []
        self.mirror = client.mirror('/cfg', timeout=60)
        client.on_change('/cfg', self.changes.append)
        self.keeper = client.keep_node('/servers/a', 'here', ttl=10)

    def has(self, values: dict[str, str]) -> bool:
        return not self.mirror.is_stale and dict(self.mirror) == values and self.keeper.state is KeeperState.KEPT


def test_restart_of_the_proxy_loses_neither_node_nor_change(
    client: getc.Client, direct: getc.Client, proxy: RealProxy
) -> None:
    direct.set('/cfg/a', '0')
    followed = Followed(client)
    token = followed.keeper.ensure()
    for number in '12':
        proxy.stop()
        direct.set('/cfg/a', number)
        proxy.start()
    wait_until(lambda: followed.has({'/cfg/a': '2'}) and len(followed.changes) == 2)
    assert [(change.value, change.resync) for change in followed.changes] == [('1', False), ('2', False)]
    assert followed.keeper.ensure() == token
    assert client.set('/cfg/a', '3', timeout=60).value == '3'


def test_restart_of_etcd_behind_the_proxy_loses_neither_node_nor_change(
    client: getc.Client, direct: getc.Client, upstream: EtcdServer
) -> None:
    direct.set('/cfg/a', '0')
    followed = Followed(client)
    upstream.restart()
    direct.ready(timeout=60)
    direct.set('/cfg/a', '1', timeout=60)
    client.ready(timeout=60)
    wait_until(lambda: followed.has({'/cfg/a': '1'}) and followed.changes)
    direct.set('/cfg/a', '2')
    wait_until(lambda: len(followed.changes) == 2)
    assert [(change.value, change.resync) for change in followed.changes] == [('1', False), ('2', False)]


@pytest.mark.parametrize('writes', [1, 60], ids=['with a lower revision', 'with a higher revision'])
def test_other_store_behind_the_proxy_is_shown(
    client: getc.Client, direct: getc.Client, upstream: EtcdServer, writes: int
) -> None:
    """The difference is delivered, marked as a resync."""
    upstream.restart(wipe=True)
    direct.ready(timeout=60)
    for number in range(20):
        direct.set('/cfg/a', str(number), timeout=60)
    client.ready(timeout=60)
    followed = Followed(client)
    direct.set('/cfg/a', '20')
    wait_until(lambda: followed.has({'/cfg/a': '20'}))
    upstream.restart(wipe=True)
    direct.ready(timeout=60)
    for number in range(writes):
        direct.set('/cfg/b', str(number), timeout=60)
    wait_until(lambda: followed.has({'/cfg/b': str(writes - 1)}))
    wait_until(lambda: ('/cfg/a', True) in [(change.key, change.resync) for change in followed.changes])


def test_call_without_an_etcd_behind_the_proxy_names_the_proxy(
    client: getc.Client, proxy: RealProxy, upstream: EtcdServer, open_client: Callable[..., getc.Client]
) -> None:
    client.set('/cfg/a', '1')
    upstream.kill()
    for each in (client, open_client(proxy.url), open_client(proxy.url, api='v3')):
        for call in (lambda: each.get('/cfg/a', timeout=2), lambda: each.set('/cfg/a', '2', timeout=2)):  # noqa: B023
            with pytest.raises(NO_ETCD) as caught:
                call()
            assert caught.value.endpoint == proxy.url
            assert proxy.url in str(caught.value) or isinstance(caught.value, (HTTPError, Unavailable))
            assert caught.value.is_outage
    upstream.start()
    client.ready(timeout=60)
    assert client.set('/cfg/a', '3', timeout=60).value == '3'


def test_watch_is_stale_while_etcd_hangs_behind_the_proxy(
    client: getc.Client, direct: getc.Client, proxy: RealProxy, upstream: EtcdServer
) -> None:
    """It continues with etcd, and misses nothing.  Proxies that speak HTTP/2 answer PINGs meanwhile."""
    direct.set('/cfg/a', '0')
    followed = Followed(client)
    upstream.pause()
    wait_until(lambda: followed.mirror.is_stale)
    with pytest.raises((ConnectionError, HTTPError)) as caught:
        client.set('/cfg/b', '1', timeout=2)
    assert (caught.value.endpoint, caught.value.maybe_applied) == (proxy.url, True)
    with pytest.raises((TimedOut, ConnectionError, HTTPError)):
        client.get('/cfg/a', timeout=1)
    upstream.resume()
    direct.ready(timeout=60)
    direct.set('/cfg/a', '1', timeout=60)
    wait_until(lambda: not followed.mirror.is_stale and followed.mirror['/cfg/a'] == '1')
    wait_until(lambda: followed.keeper.state is KeeperState.KEPT)
    assert not any(change.resync for change in followed.changes)


def test_nodes_and_changes_are_shared_through_several_proxies(
    kind: Kind, direct: getc.Client, open_proxy: Callable[..., RealProxy], open_client: Callable[..., getc.Client]
) -> None:
    """One of two proxies is stopped: the other one is used."""
    proxies = [open_proxy(kind), open_proxy(kind)]
    client = open_client([proxy.url for proxy in proxies])
    client.ready(timeout=60)
    followed = Followed(client)
    for number, proxy in enumerate(proxies):
        proxy.stop()
        direct.set('/cfg/a', str(number))
        wait_until(lambda: followed.has({'/cfg/a': str(number)}))  # noqa: B023
        proxy.start()
    assert [change.resync for change in followed.changes] == [False, False]


def test_node_is_kept_when_one_of_two_proxies_hangs(
    kind: Kind, open_proxy: Callable[..., RealProxy], open_client: Callable[..., getc.Client]
) -> None:
    """Renewals move to the other proxy in time, and so does the watch."""
    if kind.name == 'nginx':
        pytest.skip('the workers of nginx are other processes')
    proxies = [open_proxy(kind), open_proxy(kind)]
    client = open_client([proxy.url for proxy in proxies])
    client.ready(timeout=60)
    losses: list[getc.Keeper] = []
    keeper = client.keep_node('/servers/a', ttl=15, on_lost=losses.append)
    changes: list[getc.EtcdResult] = []
    client.on_change('/cfg', changes.append)
    wait_until(lambda: keeper.remaining() < 11)
    wait_until(lambda: keeper.remaining() > 11)  # it was renewed
    proxies[0].pause()
    for _ in range(2):
        wait_until(lambda: keeper.remaining() < 9)
        wait_until(lambda: keeper.remaining() > 9 or losses)
    assert losses == []
    client.set('/cfg/a', '1', timeout=60)
    wait_until(lambda: changes)
