"""A watch as an iterator; the test plays the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import getc
from getc.errors import InvalidArgument, PermissionDenied, Unauthorized
from getc.timing import Deadline
from getc.v3 import WatchIterator, watch_iterator
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.mvccpb import Event, KeyValue
from getc.v3.schema.watch import WatchCreateRequest, WatchResponse
from getc.v3.substream import Substream
from getc.v3.watch_stream import WatchStream
from tests.support.fake_stream import FakeStream


@pytest.fixture
def stream() -> FakeStream:
    return FakeStream()


@pytest.fixture
def watches(stream: FakeStream) -> Iterator[WatchStream]:
    watches = WatchStream(stream)  # type: ignore[arg-type]
    yield watches
    stream.cancel()
    for _ in range(3):  # a waiting greenlet wakes in one turn of the hub, and raises in the next
        gevent.sleep(0)


class OneStream:
    """Creates watches on one stream, as a multiplexer does."""

    def __init__(self, stream: WatchStream) -> None:
        self.stream = stream

    def add(self, substream: Substream) -> None:
        substream.request_on(self.stream)


def create(watches: WatchStream, timeout: float | None = None) -> Any:
    watch = WatchIterator(WatchCreateRequest(key=b'/a'))
    creating = gevent.spawn(watch.wait_created, OneStream(watches), Deadline(timeout))
    gevent.sleep(0)
    return creating


def created(watch_id: int, **fields: Any) -> WatchResponse:
    return WatchResponse(header=ResponseHeader(revision=7), watch_id=watch_id, created=True, **fields)


def events(watch_id: int, *revisions: int, fragment: bool = False) -> WatchResponse:
    found = [Event(kv=KeyValue(key=b'/a', mod_revision=revision)) for revision in revisions]
    return WatchResponse(watch_id=watch_id, events=found, fragment=fragment)


def revisions(response: WatchResponse | None) -> list[int]:
    assert response is not None and not response.fragment
    return [event.kv.mod_revision for event in response.events]


def test_fragments_are_joined(stream: FakeStream, watches: WatchStream) -> None:
    creating = create(watches)
    stream.push(created(0))
    watching = creating.get()
    stream.push(events(0, 8, 8, fragment=True), events(0, 8, fragment=True), events(0, 8))
    assert revisions(watching.receive(30)) == [8] * 4
    stream.push(events(0, 9, 9, 10, fragment=True), events(0, 10, 11, fragment=True), events(0, 11, 12))
    assert revisions(watching.receive(30)) == [9, 9]
    assert revisions(watching.receive(30)) == [10, 10]
    assert revisions(watching.receive(30)) == [11, 11, 12]


def test_fragments_of_two_watches_may_alternate(stream: FakeStream, watches: WatchStream) -> None:
    creating = [create(watches), create(watches)]
    stream.push(created(0), created(1))
    first, second = (each.get() for each in creating)
    stream.push(events(0, 8, fragment=True), events(1, 8, fragment=True), events(0, 8, 8), events(1, 8))
    assert revisions(first.receive(30)) == [8, 8, 8]
    assert revisions(second.receive(30)) == [8, 8]


def test_incomplete_revision_is_not_delivered(stream: FakeStream, watches: WatchStream) -> None:
    creating = create(watches)
    stream.push(created(0))
    watching = creating.get()
    stream.push(events(0, 8, 9, fragment=True))
    stream.end(getc.ConnectionError('gone'))
    assert revisions(watching.receive(30)) == [8]
    with pytest.raises(getc.ConnectionError, match='gone'):
        watching.receive(30)


@pytest.mark.parametrize(
    ('reason', 'error', 'text'),
    [
        ('etcdserver: permission denied', PermissionDenied, 'permission denied'),
        ('rpc error: code = PermissionDenied desc = etcdserver: permission denied', PermissionDenied, r'\] permission'),
        ('rpc error: code = Unauthenticated desc = etcdserver: invalid auth token', Unauthorized, r'\] invalid auth'),
        ('etcdserver: mvcc: duplicate watch ID provided on the WatchStream', InvalidArgument, 'duplicate'),
        ('', getc.EtcdError, 'cancelled'),
    ],
)
def test_create_raises_the_reason_of_a_refusal(
    stream: FakeStream, watches: WatchStream, reason: str, error: type[getc.EtcdError], text: str
) -> None:
    refused, taken = create(watches), create(watches)
    stream.push(created(-1, canceled=True, cancel_reason=reason), created(4))
    with pytest.raises(error, match=text) as caught:
        refused.get()
    assert caught.value.endpoint == stream.url
    assert taken.get().watch_id == 4


def test_receive_raises_when_the_server_cancels_the_watch(stream: FakeStream, watches: WatchStream) -> None:
    creating = [create(watches), create(watches)]
    stream.push(created(0), created(1))
    first, second = (each.get() for each in creating)
    ended = WatchResponse(watch_id=0, canceled=True, cancel_reason='etcdserver: permission denied')
    stream.push(ended, events(1, 8))
    with pytest.raises(PermissionDenied):
        first.receive(30)
    assert revisions(second.receive(30)) == [8]


def test_responses_for_a_cancelled_watch_are_dropped(stream: FakeStream, watches: WatchStream) -> None:
    creating = create(watches)
    stream.push(created(0))
    creating.get().cancel()
    stream.push(events(0, 8), WatchResponse(watch_id=0, canceled=True), created(5), events(99, 8))
    gevent.sleep(0.01)
    creating = create(watches)
    stream.push(created(1), events(1, 9))
    assert revisions(creating.get().receive(30)) == [9]
    assert [message.WhichOneof('request_union') for message in stream.sent] == [
        'create_request',
        'cancel_request',
        'create_request',
    ]


@pytest.mark.parametrize('is_created', [False, True], ids=['before the answer', 'as it comes'])
def test_watch_is_cancelled_when_its_creator_is_killed(
    stream: FakeStream, watches: WatchStream, is_created: bool
) -> None:
    creating = create(watches)
    creating.kill(block=False)
    if is_created:
        watches._on_created(created(3))  # the creator will be thrown out, and has not run yet
    else:
        gevent.sleep(0)
        stream.push(created(3))
    gevent.sleep(0.01)
    assert stream.sent[-1].cancel_request.watch_id == 3
    assert len(stream.sent) == 2


def test_all_waiting_greenlets_receive_the_error_of_a_lost_stream(stream: FakeStream, watches: WatchStream) -> None:
    creating = [create(watches) for _ in range(3)]
    received: list[Any] = []
    watches.call_on_progress(received.append)
    stream.end(getc.ConnectionError('gone'))
    for waiting in creating:
        with pytest.raises(getc.ConnectionError, match='gone'):
            waiting.get()
    assert len({id(waiting.exception) for waiting in creating}) == 3
    assert [type(answer) for answer in received] == [getc.ConnectionError]
    assert watches.is_over


def test_progress_response_is_passed_to_all_callbacks(stream: FakeStream, watches: WatchStream) -> None:
    received: list[Any] = []
    watches.call_on_progress(received.append)
    watches.call_on_progress(received.append)
    creating = create(watches)
    stream.push(created(1), WatchResponse(watch_id=1, header=ResponseHeader(revision=8)))  # of one watch, unasked
    creating.get()
    gevent.sleep(0)
    assert received == []
    stream.push(WatchResponse(watch_id=-1, header=ResponseHeader(revision=9)))
    gevent.sleep(0.01)
    assert received == [9, 9]


def test_stream_closes_with_its_last_watch_after_close_when_empty(stream: FakeStream, watches: WatchStream) -> None:
    creating = [create(watches), create(watches)]
    stream.push(created(0), created(1))
    first, second = (each.get() for each in creating)
    watches.close_when_empty()
    first.cancel()
    assert not stream.is_cancelled
    stream.push(WatchResponse(watch_id=1, canceled=True))
    with pytest.raises(getc.EtcdError):
        second.receive(30)
    assert stream.is_cancelled


def test_watch_ids_start_at_one(stream: FakeStream, watches: WatchStream) -> None:
    """etcd 3.4 and 3.5.1 use the id 0 for a refused watch, and then stop sending events of an existing watch 0."""
    first = create(watches)
    stream.push(created(1))
    first.get()
    create(watches)
    assert [message.create_request.watch_id for message in stream.sent] == [1, 2]


def test_received_responses_free_the_buffer(
    stream: FakeStream, watches: WatchStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that keeps up receives more than the buffer holds."""
    monkeypatch.setattr(watch_iterator, 'WATCH_BUFFER_BYTES', 3 * watch_iterator.RESPONSE_OVERHEAD)
    creating = create(watches)
    stream.push(created(0))
    watching = creating.get()
    for revision in range(8, 28, 2):
        stream.push(events(0, revision), events(0, revision + 1))
        gevent.sleep(0)
        assert revisions(watching.receive(30)) == [revision]
        assert revisions(watching.receive(30)) == [revision + 1]
