"""Tests of a server that stops answering while a proxy in front of it still answers HTTP/2 PINGs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import getc
from getc import WatcherState
from getc.errors import ConnectionError, PermissionDenied
from getc.testing import EtcdServer, VirtualTime, wait_until
from getc.testing.ports import free_ports
from getc.v3 import watch_health
from getc.v3.watch_health import CHECK_PROGRESS_TIMEOUT, CHECK_READ_TIMEOUT, WATCH_IDLE_TIMEOUT
from tests.support.fake_etcd import FakeEtcd

DETECTION_TIMEOUT = WATCH_IDLE_TIMEOUT + CHECK_PROGRESS_TIMEOUT + CHECK_READ_TIMEOUT


@pytest.fixture
def server(etcd_clock: VirtualTime) -> FakeEtcd:
    return FakeEtcd()


@pytest.fixture
def client(server: FakeEtcd) -> Iterator[getc.Client]:
    with server.open() as client:
        yield client


@pytest.mark.parametrize('drops_progress', [False, True])
def test_watch_is_stale_when_only_its_connection_answers(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, drops_progress: bool
) -> None:
    """It recovers when etcd answers again."""
    server.drops_progress = drops_progress
    server.put('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    etcd_clock.advance(100)
    assert not mirror.is_stale
    server.go_silent()
    etcd_clock.advance(DETECTION_TIMEOUT + 0.1)
    assert mirror.is_stale
    assert isinstance(mirror.last_error, ConnectionError)
    assert 'does not answer: no response on the watch stream for' in str(mirror.last_error)
    server.put('/cfg/a', '2')
    server.recover()
    etcd_clock.advance(DETECTION_TIMEOUT + 2)
    assert not mirror.is_stale
    assert mirror['/cfg/a'] == '2'


def test_stream_that_falls_silent_alone_is_reopened(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """The server answers reads, and has answered progress requests before."""
    server.put('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    etcd_clock.advance(100)
    (stream,) = server.streams
    stream.watches.clear()  # type: ignore[attr-defined]
    server.put('/cfg/a', '2')
    etcd_clock.advance(DETECTION_TIMEOUT + CHECK_READ_TIMEOUT + 2)
    assert server.streams != [stream]
    assert (mirror.is_stale, mirror['/cfg/a']) == (False, '2')


@pytest.mark.parametrize('obstacle', ['proxy', 'future revision', 'forbidden'])
def test_quiet_watch_stays_live_when_a_healthy_server_sends_no_progress(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, obstacle: str
) -> None:
    """A read shows that the server is healthy, also one that is refused."""
    server.put('/cfg/a', '1')
    watcher = client.on_change('/cfg', print)
    etcd_clock.advance(100)
    (stream,) = server.streams
    server.drops_progress = True
    if obstacle == 'future revision':
        client.on_change('/elsewhere', print, index=server.revision + 100)
    elif obstacle == 'proxy':
        watcher.stop()
        server.break_streams()
        watcher = client.on_change('/cfg', print)
        etcd_clock.advance(0)
        (stream,) = server.streams
    else:
        server.fault = forbid
    etcd_clock.advance(1000)
    assert watcher.state is WatcherState.LIVE
    assert server.streams == [stream]


def forbid(*_: object) -> Any:
    raise PermissionDenied('permission denied')


def test_quiet_client_sends_six_health_checks_a_minute(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """One small message each, however many watches there are."""
    for number in range(50):
        client.on_change(f'/{number}', print)
    etcd_clock.advance(60)
    (stream,) = server.streams
    server.calls.clear()
    stream.sent.clear()
    etcd_clock.advance(600)
    assert 50 <= len(stream.sent) <= 60
    assert not server.calls


# -- a real proxy


@pytest.fixture
def proxy_url(etcd_server: EtcdServer) -> Iterator[str]:
    """Yield the URL of an ``etcd grpc-proxy``, which answers PINGs itself."""
    (port,) = free_ports(1)
    command = [etcd_server.binary.path, 'grpc-proxy', 'start', f'--endpoints={etcd_server.url}']
    process = subprocess.Popen(
        [*command, f'--listen-addr=127.0.0.1:{port}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield f'http://127.0.0.1:{port}'
    process.kill()
    process.wait()


def test_watch_behind_a_proxy_that_answers_pings_is_stale_when_etcd_hangs(
    etcd_server: EtcdServer, proxy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It recovers when etcd continues."""
    monkeypatch.setattr(watch_health, 'WATCH_IDLE_TIMEOUT', 0.5)
    monkeypatch.setattr(watch_health, 'CHECK_READ_TIMEOUT', 1.0)
    with getc.etcd(proxy_url, api='v3') as client, getc.etcd(etcd_server.url, api='v3') as other:
        client.ready(timeout=60)
        other.set('/cfg/a', '1')
        mirror = client.mirror('/cfg')
        wait_until(lambda: not mirror.is_stale)
        etcd_server.pause()
        wait_until(lambda: mirror.is_stale)
        etcd_server.resume()
        other.set('/cfg/a', '2', timeout=60)
        wait_until(lambda: not mirror.is_stale and mirror['/cfg/a'] == '2')


def test_stream_whose_last_watch_ends_during_a_health_check_stays_open(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncaught: list[object] = []
    monkeypatch.setattr(gevent.get_hub(), 'handle_error', lambda *error: uncaught.append(error))
    watcher = client.on_change('/cfg', print)
    server.drops_progress = True
    etcd_clock.advance(WATCH_IDLE_TIMEOUT + CHECK_PROGRESS_TIMEOUT / 2)
    watcher.stop()
    etcd_clock.advance(DETECTION_TIMEOUT)
    assert uncaught == []
