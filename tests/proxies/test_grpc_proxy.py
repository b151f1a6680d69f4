"""What ``etcd grpc-proxy`` alone does: shared watches, a namespace, a cache, users."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest

import getc
from getc import KeeperState
from getc.backends.tree.watch import proxied_watches
from getc.testing import EtcdServer, wait_until
from getc.v3 import watch_health
from tests.support.proxies import KINDS, Kind, RealProxy

pytestmark = pytest.mark.slow


KIND = KINDS['grpc-proxy']

CREDENTIALS = {'username': 'root', 'password': 'correct horse'}

OpenClient = Callable[..., getc.Client]


@pytest.fixture
def kind() -> Kind:
    return KIND


@pytest.fixture(autouse=True)
def _check_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check watches sooner, so that no test waits for the time that users have."""
    monkeypatch.setattr(watch_health, 'WATCH_IDLE_TIMEOUT', 1.0)
    monkeypatch.setattr(proxied_watches, 'CHECK_INTERVAL', 1.0)


@pytest.fixture
def users(upstream: EtcdServer, direct: getc.Client) -> Iterator[None]:
    """Require users, and remove them after the test."""
    direct.v3.auth.user_add(CREDENTIALS['username'], CREDENTIALS['password'])
    direct.v3.auth.user_grant_role('root', 'root')
    direct.v3.auth.enable()
    yield
    upstream.restart(wipe=True)


def test_client_works_in_the_namespace_of_the_proxy(
    open_proxy: Callable[..., RealProxy], open_client: OpenClient, direct: getc.Client
) -> None:
    """The proxy adds its prefix to every key, also to those of leases and watches."""
    proxy = open_proxy(KIND, {'grpc-proxy start \\\n': 'grpc-proxy start --namespace=/team \\\n'})
    client = open_client(proxy.url)
    client.ready(timeout=60)
    changes: list[getc.EtcdResult] = []
    mirror = client.mirror('/')
    client.on_change('/cfg', changes.append)
    keeper = client.keep_node('/servers/a', 'here', ttl=5)
    client.set('/cfg/a', '1')
    direct.set('/team/cfg/b', '2')
    direct.set('/cfg/c', 'of nobody')
    wait_until(lambda: [change.key for change in changes] == ['/cfg/a', '/cfg/b'])
    wait_until(lambda: dict(mirror) == {'/cfg/a': '1', '/cfg/b': '2', '/servers/a': 'here'})
    assert {leaf.key for leaf in direct.get('/', recursive=True).node.leaves()} == {
        '/team/cfg/a',
        '/team/cfg/b',
        '/team/servers/a',
        '/cfg/c',
    }
    direct.set('/team/servers/a', 'taken')
    wait_until(lambda: keeper.state is not KeeperState.KEPT)


def test_history_is_complete_although_the_proxy_joins_watches(
    client: getc.Client, direct: getc.Client, proxy: RealProxy, open_client: OpenClient
) -> None:
    """The proxy drops what follows on the first 1,000 revisions if another client watches the same range."""
    other = open_client(proxy.url).mirror('/hot', timeout=60)

    def write(key: str) -> None:
        for number in range(400):
            direct.set(key, str(number))

    keys = [f'/hot/{number}' for number in range(6)]
    first = direct.set('/hot/0', 'first').index
    gevent.joinall([gevent.spawn(write, key) for key in keys], raise_error=True)
    expected = dict.fromkeys(keys, '399')
    wait_until(lambda: dict(other) == expected)
    shown: dict[str, str | None] = {}
    watcher = client.on_change('/hot', lambda change: shown.update({change.key: change.value}), index=first)
    wait_until(lambda: not watcher.is_stale and shown == expected)


@pytest.mark.usefixtures('users')
def test_watches_recover_when_etcd_with_users_was_restarted_behind_the_proxy(
    proxy: RealProxy, upstream: EtcdServer, open_client: OpenClient
) -> None:
    """The proxy watches no further with the old token, notifies nobody, and lets further clients join."""
    direct = open_client(upstream.url, api='v3', **CREDENTIALS)
    clients = [open_client(proxy.url, **CREDENTIALS) for _ in range(3)]
    direct.set('/cfg/a', '0')
    mirrors = [client.mirror('/cfg', timeout=60) for client in clients[:2]]
    direct.set('/cfg/a', '1')
    wait_until(lambda: all(mirror['/cfg/a'] == '1' for mirror in mirrors))
    upstream.restart()
    direct.ready(timeout=60)
    mirrors.append(clients[2].mirror('/cfg', timeout=60))
    direct.set('/cfg/a', '2', timeout=60)
    wait_until(lambda: all(mirror['/cfg/a'] == '2' and not mirror.is_stale for mirror in mirrors), timeout=120)


@pytest.mark.usefixtures('users')
def test_node_that_the_proxy_cannot_renew_is_lost_with_an_error_that_names_the_proxy(
    proxy: RealProxy, upstream: EtcdServer, open_client: OpenClient
) -> None:
    """Newer versions of etcd require a user for renewals, and the proxy renews without one."""
    client = open_client(proxy.url, **CREDENTIALS)
    losses: list[str] = []
    lost: Callable[[getc.Keeper], None] = lambda keeper: losses.append(str(keeper.last_error))  # noqa: E731
    keeper = client.keep_node('/servers/a', ttl=3, on_lost=lost, timeout=60)
    if upstream.binary.version < (3, 5, 2):
        wait_until(lambda: keeper.remaining() < 1.5 and keeper.ensure())
        wait_until(lambda: keeper.remaining() > 1.5 and keeper.ensure())
        assert not losses
        return
    wait_until(lambda: losses)
    assert f'{proxy.url} is an etcd grpc-proxy, and has not renewed the lease' in losses[0]


def test_read_from_the_cache_of_the_proxy_is_not_older_than_what_the_client_has_seen(
    client: getc.Client, direct: getc.Client
) -> None:
    """Only reads with ``quorum=False`` are answered from it, and then with data of any age."""
    client.set('/cfg/a', '1')
    assert client.get('/cfg/a').value == '1'  # cached
    direct.set('/cfg/a', '2')
    assert client.get('/cfg/a', quorum=False).value in ('1', '2')
    assert client.get('/cfg/a').value == '2'
    direct.set('/cfg/a', '3')
    client.set('/elsewhere', 'x')
    assert client.get('/cfg/a', quorum=False).value == '3'


def test_member_list_of_the_proxy_is_its_own_address(client: getc.Client, proxy: RealProxy) -> None:
    """Without the ids of members."""
    (member,) = client.v3.cluster.member_list().members
    assert (member.ID, list(member.clientURLs)) == (0, [proxy.url.partition('://')[2]])
