"""A watch that does not deliver what the client's own calls show, on a stream that seems to be well."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import gevent
import pytest

import getc
from getc.backends.tree.watch.missed_changes import DELIVERY_TIMEOUT
from getc.testing import VirtualTime
from getc.v3.watch_health import BEHIND_TIMEOUT, PROGRESS_TIMEOUT, READ_TIMEOUT
from tests.support.fake_etcd import FakeEtcd

MOMENT = 2 * DELIVERY_TIMEOUT + 0.1


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
def test_watch_that_lacks_what_a_call_returned_is_stale_after_a_moment_and_created_anew(
    server: FakeEtcd,
    client: getc.Client,
    etcd_clock: VirtualTime,
    caplog: pytest.LogCaptureFixture,
    call: Callable[[getc.Client], object],
) -> None:
    """On another stream; the proxy drops progress requests."""
    server.drops_progress = True
    server.put('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    (stream,) = server.streams
    stream.watches.clear()  # type: ignore[attr-defined]
    server.put('/cfg/a', '2')
    call(client)
    etcd_clock.advance(DELIVERY_TIMEOUT)
    assert not mirror.is_stale  # it may just be on its way
    server.takes_no_stream = True
    etcd_clock.advance(MOMENT - DELIVERY_TIMEOUT)
    assert mirror.is_stale
    assert 'the watch of /cfg did not deliver a change up to revision' in caplog.text
    server.takes_no_stream = False
    etcd_clock.advance(3)
    assert not mirror.is_stale
    assert {key.decode(): kv.value.decode() for key, kv in server.keys.items()} == dict(mirror)
    assert stream not in server.streams


def test_change_that_is_on_its_way_is_no_missed_one(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Nor is one that the watch is not for, nor one that this process was too slow to read."""
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
        etcd_clock.stall(2 * MOMENT)
    assert server.streams == streams
    assert not any(watcher.is_stale for watcher in watchers)


def test_directory_that_goes_with_its_values_is_no_missed_change_of_a_watch_of_that_node_alone(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """etcd has no key for it, so there is no event."""
    client.set('/cfg/a', '1')
    watcher = client.on_change('/cfg', print, recursive=False)
    client.delete('/cfg', recursive=True)
    etcd_clock.advance(2 * MOMENT)
    assert watcher.last_error is None


def test_renewals_that_pass_the_watches_show_that_their_stream_is_lost(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Sooner than silence does: nothing is read or written."""
    server.put('/cfg/a', '1')
    mirror = client.mirror('/cfg')
    client.keep_node('/servers/a', ttl=3)
    etcd_clock.advance(100)
    assert not mirror.is_stale
    for stream in server.streams:
        getattr(stream, 'watches', {}).clear()
    server.put('/cfg/a', '2')
    etcd_clock.advance(1 + BEHIND_TIMEOUT + PROGRESS_TIMEOUT + READ_TIMEOUT + 1.5)
    assert (mirror.is_stale, mirror['/cfg/a']) == (False, '2')


def test_client_that_writes_all_the_time_asks_for_progress_now_and_then(
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


def test_child_that_was_forked_off_does_not_miss_changes_of_its_parents_watches(
    server: FakeEtcd, client: getc.Client, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is delivered there any more, which is no fault of the stream."""
    server.put('/cfg/a', '1')
    watcher = client.on_change('/cfg', print)
    streams = list(server.streams)
    streams[0].watches.clear()  # type: ignore[attr-defined]
    client.set('/cfg/a', '2')
    monkeypatch.setattr(os, 'getpid', lambda: -1)
    etcd_clock.advance(10 * MOMENT)
    assert (watcher.last_error, server.streams) == (None, streams)
