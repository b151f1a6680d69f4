"""Tests of watches that do not deliver changes that the client's own calls show, on a stream that seems healthy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import gevent
import pytest

import getc
from getc.backends.tree.watch.missed_changes import DELIVERY_TIMEOUT
from getc.testing import VirtualTime
from getc.v3.watch_health import BEHIND_TIMEOUT, CHECK_PROGRESS_TIMEOUT, CHECK_READ_TIMEOUT
from tests.support.fake_etcd import FakeEtcd

DETECTION_TIMEOUT = 2 * DELIVERY_TIMEOUT + 0.1
"""Seconds after which a missed change is detected."""


@pytest.fixture
def server(etcd_clock: VirtualTime) -> FakeEtcd:
    return FakeEtcd()


@pytest.fixture
def client(server: FakeEtcd) -> Iterator[getc.Client]:
    with server.open() as client:
        yield client


CALLS: dict[str, Callable[[getc.Client], object]] = {
    'get': lambda client: client.get('/cfg/a'),
    'get of a directory': lambda client: client.get('/cfg'),
    'recursive get from above': lambda client: client.get('/', recursive=True),
    'set': lambda client: client.set('/cfg/a', '2'),
    'delete': lambda client: client.delete('/cfg/a'),
}


@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_watch_that_lacks_a_change_that_a_call_returned_is_stale_and_created_again(
    server: FakeEtcd,
    client: getc.Client,
    etcd_clock: VirtualTime,
    caplog: pytest.LogCaptureFixture,
    call: Callable[[getc.Client], object],
) -> None:
    """The watch is created on another stream.  The proxy drops progress requests."""
    server.drops_progress = True
    server.put('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    (stream,) = server.streams
    stream.watches.clear()  # type: ignore[attr-defined]
    server.put('/cfg/a', '2')
    call(client)
    etcd_clock.advance(DELIVERY_TIMEOUT)
    assert not mirror.is_stale  # the event may be in flight
    server.refuses_streams = True
    etcd_clock.advance(DETECTION_TIMEOUT - DELIVERY_TIMEOUT)
    assert mirror.is_stale
    assert 'the watch of /cfg missed a change up to revision' in caplog.text
    server.refuses_streams = False
    etcd_clock.advance(3)
    assert not mirror.is_stale
    assert {key.decode(): kv.value.decode() for key, kv in server.keys.items()} == dict(mirror)
    assert stream not in server.streams


def test_change_in_flight_does_not_count_as_missed(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Nor does a change outside the watch, or one that this process was too slow to read."""
    server.put('/cfg/a', '1')
    watchers = [client.on_change('/cfg', print), client.on_change('/cfg/b', print, recursive=False)]
    etcd_clock.advance(1)
    streams = list(server.streams)
    for number in range(50):
        client.set('/cfg/a', str(number))
        client.set('/cfg/b/c', str(number))
        client.set('/cfg-not', str(number))
        client.get('/', recursive=True)
        etcd_clock.advance(0.5)
        etcd_clock.stall(2 * DETECTION_TIMEOUT)
    assert server.streams == streams
    assert not any(watcher.is_stale for watcher in watchers)


def test_deletion_of_an_implicit_directory_does_not_count_as_missed_by_a_watch_of_that_node(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """etcd has no key for the directory, so there is no event."""
    client.set('/cfg/a', '1')
    watcher = client.on_change('/cfg', print, recursive=False)
    client.delete('/cfg', recursive=True)
    etcd_clock.advance(2 * DETECTION_TIMEOUT)
    assert watcher.last_error is None


def test_renewals_with_a_higher_revision_show_that_the_watch_stream_is_lost(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Sooner than silence does, without reads or writes."""
    server.put('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    client.keep_node('/servers/a', ttl=3)
    etcd_clock.advance(100)
    assert not mirror.is_stale
    for stream in server.streams:
        getattr(stream, 'watches', {}).clear()
    server.put('/cfg/a', '2')
    etcd_clock.advance(1 + BEHIND_TIMEOUT + CHECK_PROGRESS_TIMEOUT + CHECK_READ_TIMEOUT + 1.5)
    assert (mirror.is_stale, mirror['/cfg/a']) == (False, '2')


def test_client_that_writes_continuously_sends_few_progress_requests(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Its writes pass the revision of a quiet watch again and again."""
    client.mirror('/cfg')
    etcd_clock.advance(60)
    (stream,) = server.streams
    stream.sent.clear()

    def write() -> None:
        while True:
            client.set('/elsewhere', 'x')
            gevent.sleep(0.01)

    writing = gevent.spawn(write)
    etcd_clock.advance(60)
    assert 20 < len(stream.sent) <= 31
    writing.kill()


def test_forked_child_does_not_count_changes_of_its_parents_watches_as_missed(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put('/cfg/a', '1')
    watcher = client.on_change('/cfg', print)
    streams = list(server.streams)
    streams[0].watches.clear()  # type: ignore[attr-defined]
    client.set('/cfg/a', '2')
    monkeypatch.setattr(os, 'getpid', lambda: -1)
    etcd_clock.advance(10 * DETECTION_TIMEOUT)
    assert (watcher.last_error, server.streams) == (None, streams)
