"""Limits of proxies: idle times, requests and streams of a connection, sizes of requests and responses."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

import getc
from getc import KeeperState
from getc.errors import HTTPError, ResourceExhausted
from getc.testing import EtcdServer, wait_until
from getc.v3.watch_stream import WatchStream
from tests.support.proxies import KINDS, RealProxy

pytestmark = pytest.mark.slow


IDLE_LIMITS = {
    'nginx': {f'{name} 1h': f'{name} 1s' for name in ('grpc_read_timeout', 'grpc_send_timeout', 'client_body_timeout')},
    'haproxy-h2': {'timeout client 1m': 'timeout client 1s', 'timeout server 1m': 'timeout server 1s'},
    'haproxy-tcp': {'timeout client 1m': 'timeout client 1s', 'timeout server 1m': 'timeout server 1s'},
}
"""Idle times below those of getc's health checks."""

KILOBYTE = 1024

OpenProxy = Callable[..., RealProxy]
OpenClient = Callable[..., getc.Client]


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[WatchStream]:
    """All watch streams that are opened during the test."""
    opened: list[WatchStream] = []
    original = WatchStream.__init__

    def record(self: WatchStream, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        opened.append(self)

    monkeypatch.setattr(WatchStream, '__init__', record)
    return opened


@pytest.mark.parametrize('name', IDLE_LIMITS)
def test_idle_limit_of_the_proxy_loses_neither_node_nor_change(
    name: str, open_proxy: OpenProxy, open_client: OpenClient, direct: getc.Client, streams: list[WatchStream]
) -> None:
    """The proxy ends the quiet watch stream again and again; the watch is created again each time."""
    client = open_client(open_proxy(KINDS[name], IDLE_LIMITS[name]).url)
    client.ready(timeout=60)
    changes: list[getc.EtcdResult] = []
    mirror = client.mirror('/cfg', timeout=60)
    client.on_change('/cfg', changes.append)
    keeper = client.keep_node('/servers/a', ttl=30)
    token = keeper.ensure()
    for number in range(3):
        opened = len(streams)
        wait_until(lambda: len(streams) >= opened + 3)  # noqa: B023
        direct.set('/cfg/a', str(number))
        wait_until(lambda: len(changes) == number + 1)  # noqa: B023
    wait_until(lambda: not mirror.is_stale and mirror['/cfg/a'] == '2')
    assert [(change.value, change.resync) for change in changes] == [('0', False), ('1', False), ('2', False)]
    assert (keeper.state, keeper.ensure()) == (KeeperState.KEPT, token)
    assert client.set('/cfg/b', '1').value == '1'


def test_connections_that_nginx_retires_after_some_requests_lose_no_call_and_no_change(
    open_proxy: OpenProxy, open_client: OpenClient, direct: getc.Client, streams: list[WatchStream]
) -> None:
    """nginx sends a GOAWAY after ``keepalive_requests``, 1,000 if not set.  Watches go on."""
    proxy = open_proxy(KINDS['nginx'], {'client_max_body_size 0;': 'client_max_body_size 0; keepalive_requests 20;'})
    client = open_client(proxy.url)
    client.ready(timeout=60)
    mirror = client.mirror('/cfg')

    def write(worker: int) -> None:
        for number in range(50):
            client.set(f'/cfg/{worker}', str(number))

    gevent.joinall([gevent.spawn(write, worker) for worker in range(8)], raise_error=True)
    expected = {f'/cfg/{worker}': '49' for worker in range(8)}
    wait_until(lambda: dict(mirror) == expected and not mirror.is_stale)
    assert {leaf.key: leaf.value for leaf in direct.get('/cfg').node.leaves()} == expected


def test_calls_wait_for_the_streams_that_haproxy_allows(open_proxy: OpenProxy, open_client: OpenClient) -> None:
    limit = {'defaults\n': 'global\n    tune.h2.max-concurrent-streams 4\n\ndefaults\n'}
    client = open_client(open_proxy(KINDS['haproxy-h2'], limit).url)
    client.ready(timeout=60)
    changes: list[getc.EtcdResult] = []
    client.on_change('/cfg', changes.append)
    writes = [gevent.spawn(client.set, f'/cfg/{number}', 'x') for number in range(100)]
    gevent.joinall(writes, raise_error=True)
    wait_until(lambda: len(changes) == 100)


def test_request_that_is_larger_than_nginx_allows_names_the_limit(
    open_proxy: OpenProxy, open_client: OpenClient
) -> None:
    """1 MiB if ``client_max_body_size`` is not set."""
    proxy = open_proxy(KINDS['nginx'], {'client_max_body_size 0;': ''})
    client = open_client(proxy.url)
    client.ready(timeout=60)
    with pytest.raises(HTTPError, match='client_max_body_size') as caught:
        client.set('/large', 'x' * (1200 * KILOBYTE))
    assert (caught.value.status_code, caught.value.maybe_applied, caught.value.endpoint) == (413, False, proxy.url)
    with pytest.raises(getc.KeyNotFound):
        client.get('/large')


def test_large_values_and_listings_pass_through_a_proxy(client: getc.Client, direct: getc.Client) -> None:
    """Values up to the limit of etcd, a response of 12 MiB, and events of 12 MiB."""
    values: dict[str, str | None] = {}
    mirror = client.mirror('/large')
    client.on_change('/large', lambda change: values.update({change.key: change.value}))
    expected = {f'/large/{number:02}': f'{number:02}' * (600 * KILOBYTE) for number in range(10)}
    for key, value in expected.items():
        client.set(key, value, timeout=60)
    assert {leaf.key: leaf.value for leaf in client.get('/large', timeout=60).node.leaves()} == expected
    wait_until(lambda: values == expected and dict(mirror) == expected)


def test_request_that_is_too_large_for_the_grpc_proxy_was_not_applied(
    open_proxy: OpenProxy, open_client: OpenClient, upstream: EtcdServer
) -> None:
    """The proxy sends no more than ``--max-send-bytes``, 1.5 MiB if not set, and reports it as etcd reports a response
    that is too large."""
    client = open_client(open_proxy(KINDS['grpc-proxy']).url)
    client.ready(timeout=60)
    with pytest.raises(ResourceExhausted) as caught:
        client.set('/large', 'x' * (1700 * KILOBYTE))
    assert caught.value.maybe_applied is False
    assert 'the request is larger than a proxy may send' in str(caught.value)
    with pytest.raises(getc.KeyNotFound):
        client.get('/large')
