"""``etcd.v3.watch`` on a real etcd."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.pool import Pool

import getc
from getc.errors import ClientClosed, EventIndexCleared, InvalidArgument, ResourceExhausted, ResponseTooLarge
from getc.testing import EtcdServer
from getc.v3 import EVERYTHING, WatchIterator, prefix_end, schema
from getc.v3.kv import KV
from getc.v3.schema.mvccpb import Event
from getc.v3.schema.watch import WatchCreateRequest
from getc.v3.substream import Substream
from getc.v3.txn import delete, put
from getc.v3.watch import Watch
from tests.support.memory_probe import printed_by
from tests.support.server_probe import connections_to, pause

SERVICE = schema.Watch

PUT, DELETE = Event.EventType.PUT, Event.EventType.DELETE
Filter = WatchCreateRequest.FilterType
MAX_WATCH_BYTES = 1024
"""The bound in the documentation."""


@pytest.fixture
def kv(client: getc.Client) -> KV:
    return client.v3.kv


@pytest.fixture
def watch(client: getc.Client) -> Watch:
    return client.v3.watch


def received(watching: WatchIterator, count: int) -> list[tuple[int, bytes, bytes]]:
    """Return the next events: type, key and value."""
    events: list[Any] = []
    while len(events) < count:
        response = watching.receive(30)
        assert response is not None
        events += response.events
    assert len(events) == count
    return [(event.type, event.kv.key, event.kv.value) for event in events]


# -- delivery


def test_watch_delivers_puts_and_deletes(watch: Watch, kv: KV) -> None:
    revision = kv.put(b'/a', b'before').header.revision
    with watch.create(b'/a') as watching:
        assert watching.revision == revision
        kv.put(b'/a', b'one')
        kv.put(b'/b', b'elsewhere')
        kv.delete_range(b'/a')
        assert received(watching, 2) == [(PUT, b'/a', b'one'), (DELETE, b'/a', b'')]


def test_events_of_a_range_in_one_revision_arrive_in_one_response(watch: Watch, kv: KV) -> None:
    with watch.create(b'/a/', range_end=prefix_end(b'/a/')) as watching:
        kv.when().then(put(b'/a/2', b'x'), put(b'/b', b'x'), put(b'/a/1', b'x')).commit()
        response = watching.receive(30)
        assert [event.kv.key for event in response.events] == [b'/a/2', b'/a/1']


def test_start_revision_delivers_history(watch: Watch, kv: KV) -> None:
    first = kv.put(b'/a', b'0').header.revision
    for number in range(1, 50):
        kv.put(b'/a', b'%d' % number)
    with watch.create(b'/a', start_revision=first + 10) as watching:
        kv.put(b'/a', b'50')
        assert received(watching, 41) == [(PUT, b'/a', b'%d' % number) for number in range(10, 51)]


def test_start_revision_may_be_in_the_future(watch: Watch, kv: KV) -> None:
    revision = kv.put(b'/a', b'0').header.revision
    with watch.create(b'/a', start_revision=revision + 3) as watching:
        for number in range(1, 5):
            kv.put(b'/a', b'%d' % number)
        assert received(watching, 2) == [(PUT, b'/a', b'3'), (PUT, b'/a', b'4')]


def test_prev_kv_delivers_the_previous_value(watch: Watch, kv: KV) -> None:
    kv.put(b'/a', b'one')
    with watch.create(b'/a', prev_kv=True) as watching, watch.create(b'/a') as plain:
        kv.put(b'/a', b'two')
        kv.delete_range(b'/a')
        events = [watching.receive(30).events[0] for _ in range(2)]
        assert [event.prev_kv.value for event in events] == [b'one', b'two']
        assert not plain.receive(30).events[0].HasField('prev_kv')


def test_filters_leave_out_puts_or_deletes(watch: Watch, kv: KV) -> None:
    with (
        watch.create(b'/a', filters=[Filter.NOPUT]) as deletions,
        watch.create(b'/a', filters=[Filter.NODELETE]) as writes,
    ):
        kv.put(b'/a', b'one')
        kv.delete_range(b'/a')
        kv.put(b'/a', b'two')
        kv.delete_range(b'/a')
        assert received(deletions, 2) == [(DELETE, b'/a', b'')] * 2
        assert received(writes, 2) == [(PUT, b'/a', b'one'), (PUT, b'/a', b'two')]


def test_revision_larger_than_a_request_arrives_whole(watch: Watch, kv: KV) -> None:
    """etcd splits it; deletions of several earlier writes can be larger than a request."""
    names = [b'/big/%03d' % number for number in range(40)]
    for name in names:
        kv.put(name, bytes(100_000))
    fragments = []
    join = Substream.on_response
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Substream, 'on_response', lambda stream, *args: fragments.append(args) or join(stream, *args))
        with watch.create(b'/big/', range_end=b'/big0', prev_kv=True) as watching:
            kv.delete_range(b'/big/', range_end=b'/big0')
            response = watching.receive(30)
    assert len(fragments) > 1
    assert not response.fragment
    assert [(event.kv.key, len(event.prev_kv.value)) for event in response.events] == [
        (name, 100_000) for name in names
    ]


def test_response_above_the_limit_ends_its_watch_only(watch: Watch, kv: KV, server: EtcdServer) -> None:
    """The server sends such a response to a watch without ``fragment``."""
    for number in range(20):
        kv.put(b'/big/%03d' % number, bytes(1_000_000))
    with watch.create(b'/a') as other:
        with watch.create(b'/big/', range_end=b'/big0', prev_kv=True, fragment=False) as watching:
            kv.delete_range(b'/big/', range_end=b'/big0')
            with pytest.raises(ResponseTooLarge):
                watching.receive(30)
        kv.put(b'/a', b'one')
        assert received(other, 1) == [(PUT, b'/a', b'one')]
    assert connections_to(server.url) == 1


def test_large_history_arrives_in_whole_revisions(watch: Watch, kv: KV) -> None:
    first = kv.put(b'/big/0', b'').header.revision
    for _ in range(30):
        kv.when().then(put(b'/big/1', bytes(200_000)), put(b'/big/2', bytes(200_000)), delete(b'/big/0')).commit()
        kv.put(b'/big/0', b'')
    revisions: dict[int, int] = {}
    with watch.create(b'/big/', range_end=b'/big0', start_revision=first) as watching:
        while len(revisions) < 61:
            response = watching.receive(30)
            found = {event.kv.mod_revision for event in response.events}
            assert not found & set(revisions), 'a revision in two responses'
            for event in response.events:
                revisions[event.kv.mod_revision] = revisions.get(event.kv.mod_revision, 0) + 1
    assert list(revisions) == list(range(first, first + 61))
    assert list(revisions.values()) == [1] + [3, 1] * 30


def test_progress_raises_not_supported_without_a_watch(watch: Watch, kv: KV) -> None:
    """etcd 3.5.8 and newer do not answer: the call would block forever."""
    with pytest.raises(getc.NotSupported, match='create one first'):
        watch.progress(timeout=None)
    with watch.create(b'/a'):
        watch.progress()
    with pytest.raises(getc.NotSupported, match='create one first'):
        watch.progress(timeout=None)


def test_progress_returns_the_revision(watch: Watch, kv: KV) -> None:
    revision = kv.put(b'/a', b'').header.revision
    with watch.create(b'/a'):
        assert watch.progress() == revision


def test_events_are_delivered_to_their_own_watch(watch: Watch, kv: KV) -> None:
    watching = [watch.create(b'/w/%d' % number) for number in range(100)]
    for number in range(100):
        kv.put(b'/w/%d' % (number * 7 % 100), b'%d' % number)
    for number, each in enumerate(watching):
        ((kind, key, text),) = received(each, 1)
        assert (kind, key) == (PUT, b'/w/%d' % number)
        assert int(text) * 7 % 100 == number
    assert len({each.watch_id for each in watching}) == 100


def test_everything_watches_all_keys(watch: Watch, kv: KV) -> None:
    with watch.create(EVERYTHING, range_end=EVERYTHING) as watching:
        kv.put(b'\0', b'first')
        kv.put(b'\xff', b'last')
        assert received(watching, 2) == [(PUT, b'\0', b'first'), (PUT, b'\xff', b'last')]


# -- how it ends


def test_cancelled_watch_returns_nothing(watch: Watch, kv: KV, watchers: Callable[[], int], wait_until: Any) -> None:
    watching = watch.create(b'/a')
    kv.put(b'/a', b'one')
    watch.progress()  # the put was delivered before this returns
    watching.cancel()
    watching.cancel()
    assert watching.receive() is None
    assert list(watching) == []
    wait_until(lambda: watchers() == 0)


def test_cancel_ends_the_loop_of_another_greenlet(watch: Watch, spawn: Callable[..., Any]) -> None:
    watching = watch.create(b'/a')
    looping = spawn(lambda: list(watching))
    gevent.sleep(0)
    watching.cancel()
    assert looping.get() == []


def test_receive_times_out_without_ending_the_watch(watch: Watch, kv: KV) -> None:
    with watch.create(b'/a') as watching:
        with pytest.raises(getc.TimedOut, match='no event'):
            watching.receive(0.01)
        with pytest.raises(getc.TimedOut):
            watching.receive(0)
        kv.put(b'/a', b'one')
        assert received(watching, 1) == [(PUT, b'/a', b'one')]


def test_watch_of_compacted_history_raises_event_index_cleared(watch: Watch, kv: KV, server: EtcdServer) -> None:
    first = kv.put(b'/a', b'0').header.revision
    last = kv.put(b'/a', b'1').header.revision
    kv.compact(last)
    watching = watch.create(b'/a', start_revision=first)
    for _ in range(2):
        with pytest.raises(EventIndexCleared, match=f'up to {last}') as caught:
            watching.receive(30)
        assert caught.value.endpoint == server.url
    with watch.create(b'/a', start_revision=last) as again:
        assert received(again, 1) == [(PUT, b'/a', b'1')]


def test_create_raises_when_the_server_refuses(watch: Watch, server: EtcdServer) -> None:
    """etcd creates and cancels the watch in one response."""
    with pytest.raises(InvalidArgument, match='range is empty') as caught:
        watch.create(b'/b', range_end=b'/a')
    assert caught.value.endpoint == server.url
    with watch.create(b'/a') as watching:
        assert 'on' in repr(watching)


def test_killed_creator_leaves_no_watch(
    watch: Watch, kv: KV, watchers: Callable[[], int], wait_until: Callable[..., None]
) -> None:
    with watch.create(b'/a') as first:
        creating = [gevent.spawn(watch.create, b'/b') for _ in range(50)]
        gevent.sleep(0)
        gevent.killall(creating[:25])
        kept = [created.get() for created in creating[25:]]
        wait_until(lambda: watchers() == 26)
        kv.put(b'/b', b'x')
        for each in kept:
            assert received(each, 1) == [(PUT, b'/b', b'x')]
            each.cancel()
        assert not first._buffer
    wait_until(lambda: watchers() == 0)


def test_lost_connection_ends_each_watch(own_server: EtcdServer) -> None:
    with getc.etcd(own_server.url) as client:
        kv, watch = client.v3.kv, client.v3.watch
        watching = [watch.create(b'/a') for _ in range(5)]
        revision = kv.put(b'/a', b'one').header.revision
        watch.progress()
        waiting = [gevent.spawn(list, each) for each in watching[:2]]
        own_server.kill()
        for loop in waiting:
            with pytest.raises(getc.ConnectionError):
                loop.get()
        assert len({id(loop.exception) for loop in waiting}) == 2
        for each in watching[2:]:
            assert received(each, 1) == [(PUT, b'/a', b'one')]  # a buffered event is not lost
            for _ in range(2):
                with pytest.raises(getc.ConnectionError):
                    each.receive(30)
            each.cancel()
        own_server.start()
        kv.put(b'/a', b'two')
        with watch.create(b'/a', start_revision=revision + 1) as again:
            assert received(again, 1) == [(PUT, b'/a', b'two')]


def test_create_and_progress_time_out_on_a_silent_server(
    own_server: EtcdServer, wait_until: Callable[..., None]
) -> None:
    with getc.etcd(own_server.url) as client:
        client.v3.watch.create(b'/a').cancel()
        pause(own_server)
        with pytest.raises(getc.TimedOut, match='not created'):
            client.v3.watch.create(b'/a', timeout=0.1)
        with pytest.raises(getc.TimedOut, match='progress'):
            client.v3.watch.progress(timeout=0.1)
        own_server.resume()
        with client.v3.watch.create(b'/a') as watching:
            client.v3.kv.put(b'/a', b'one')
            assert received(watching, 1) == [(PUT, b'/a', b'one')]


def test_full_buffer_ends_its_watch_only(watch: Watch, kv: KV, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('getc.v3.watch_iterator.WATCH_BUFFER_BYTES', 1_000_000)
    with watch.create(b'/a') as idle, watch.create(b'/a') as busy:
        for number in range(30):
            kv.put(b'/a', b'%02d' % number + bytes(100_000))
            assert received(busy, 1)[0][2].startswith(b'%02d' % number)
        kept = []
        with pytest.raises(ResourceExhausted, match='the buffer of watch'):
            while True:
                kept += received(idle, 1)
        assert [text[:2] for _, _, text in kept] == [b'%02d' % number for number in range(10)]
        kv.put(b'/a', b'end')
        assert received(busy, 1) == [(PUT, b'/a', b'end')]


def test_watch_that_is_received_from_never_overflows(watch: Watch, kv: KV, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the total, and however large one response."""
    monkeypatch.setattr('getc.v3.watch_iterator.WATCH_BUFFER_BYTES', 50_000)
    with watch.create(b'/a') as watching:
        for number in range(20):
            kv.put(b'/a', b'%02d' % number + bytes(100_000))
            assert received(watching, 1)[0][2].startswith(b'%02d' % number)


def test_close_ends_watches(client: getc.Client, watch: Watch, spawn: Callable[..., Any]) -> None:
    watching = watch.create(b'/a')
    looping = spawn(list, watching)
    gevent.sleep(0)
    client.close()
    with pytest.raises(ClientClosed):
        looping.get()
    with pytest.raises(ClientClosed):
        watching.receive(30)
    watching.cancel()
    with pytest.raises(ClientClosed):
        watch.create(b'/a')
    with pytest.raises(ClientClosed):
        watch.progress()


def test_dropped_client_closes_its_watches(server: EtcdServer, wait_until: Callable[..., None]) -> None:
    """A watch does not keep its client alive, so nothing has to be closed by hand."""
    client = getc.etcd(server.url)
    watching = client.v3.watch.create(b'/a')
    rpc = weakref.ref(client.v3._rpc)
    del client
    wait_until(lambda: gc.collect() is not None and rpc() is None)
    with pytest.raises(ClientClosed):
        watching.receive(30)


def test_client_may_be_closed_inside_a_loop(client: getc.Client, watch: Watch, kv: KV) -> None:
    with watch.create(b'/a') as watching:
        kv.put(b'/a', b'one')
        with pytest.raises(ClientClosed):
            for response in watching:
                assert response.events[0].kv.value == b'one'
                client.close()


def test_clear_keeps_watches(client: getc.Client, watch: Watch, kv: KV) -> None:
    with watch.create(b'/a') as watching:
        client.clear()
        kv.put(b'/a', b'one')
        assert received(watching, 1) == [(PUT, b'/a', b'one')]


# -- many


def test_concurrent_creates_share_one_stream(
    client: getc.Client, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    begin = watch._rpc.open
    monkeypatch.setattr(watch._rpc, 'open', lambda *args: opened.append(args) or begin(*args))
    creating = [gevent.spawn(watch.create, b'/a') for _ in range(200)]
    gevent.joinall(creating, raise_error=True)
    assert len(opened) == 1


def test_ten_thousand_watches_and_leases_use_one_connection(
    client: getc.Client, watch: Watch, kv: KV, server: EtcdServer, watchers: Callable[[], int]
) -> None:
    watching = Pool(200).map(lambda number: watch.create(b'/w/%05d' % number), range(10_000))
    granted = [response.ID for response in Pool(200).map(client.v3.lease.grant, [600] * 10_000)]
    try:
        assert [response.ID for response in Pool(1000).map(client.v3.lease.keep_alive, granted)] == granted
        assert watchers() == 10_000
        assert connections_to(server.url) == 1
        for number in range(0, 10_000, 101):
            kv.put(b'/w/%05d' % number, b'%d' % number)
        for number in range(0, 10_000, 101):
            assert received(watching[number], 1) == [(PUT, b'/w/%05d' % number, b'%d' % number)]
        watch.progress()
        assert not any(each._buffer for each in watching)
    finally:
        Pool(100).map(client.v3.lease.revoke, granted)


MEMORY_EACH = """
    import gc
    import sys
    import tracemalloc

    from gevent.pool import Pool

    import getc

    with getc.etcd(sys.argv[1]) as client:
        watch = client.v3.watch
        warm = [watch.create(b'/a') for _ in range(100)]
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        watching = Pool(200).map(lambda number: watch.create(b'/w/%d' % number), range(5000))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        print((after - before) / len(watching))
"""


def test_quiet_watch_uses_little_memory(watch: Watch, client: getc.Client) -> None:
    assert 50 < printed_by(MEMORY_EACH, client.url) < MAX_WATCH_BYTES
