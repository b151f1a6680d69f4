"""Watches on one watch stream; the test plays the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import gevent
import pytest

from getc.errors import ConnectionError, EtcException, EventIndexCleared, PermissionDenied
from getc.testing import VirtualTime
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.mvccpb import Event, KeyValue
from getc.v3.schema.watch import WatchCreateRequest, WatchResponse
from getc.v3.substream import Substream
from getc.v3.watch_health import WATCH_IDLE_TIMEOUT
from getc.v3.watch_progress import RESPONSE_TIMEOUT
from getc.v3.watch_stream import WatchStream
from tests.support.fake_stream import FakeStream
from tests.support.killing import killing_next_greenlet
from tests.support.leftovers import greenlets_of_getc


class Handler:
    """Records its calls."""

    def __init__(self) -> None:
        self.created: list[int] = []
        self.revisions: list[list[int]] = []
        self.errors: list[EtcException] = []

    def on_created(self, response: WatchResponse) -> None:
        self.created.append(response.header.revision)

    def on_response(self, response: WatchResponse) -> None:
        assert not response.fragment
        self.revisions.append([event.kv.mod_revision for event in response.events])

    def on_ended(self, error: EtcException) -> None:
        self.errors.append(error)


class Environment:
    def __init__(self, clock: VirtualTime) -> None:
        self.server = FakeStream()
        messages: Any = self.server
        self.stream = WatchStream(messages)
        self._clock = clock

    def add(self) -> tuple[Handler, Substream]:
        handler = Handler()
        substream = Substream(WatchCreateRequest(key=b'/a'), handler)
        substream.request_on(self.stream)
        return handler, substream

    def push(self, *responses: WatchResponse) -> None:
        self.server.push(*responses)
        self._clock.advance(0)

    def requested(self) -> list[int]:
        """The ids of the create requests."""
        return [sent.create_request.watch_id for sent in self.server.sent if sent.HasField('create_request')]

    def cancelled(self) -> list[int]:
        """The ids of the cancel requests."""
        return [sent.cancel_request.watch_id for sent in self.server.sent if sent.HasField('cancel_request')]


@pytest.fixture
def env(etcd_clock: VirtualTime) -> Iterator[Environment]:
    env = Environment(etcd_clock)
    yield env
    env.stream.close(ConnectionError('the end'))
    etcd_clock.advance(0)


def created(watch_id: int, revision: int = 7, **fields: Any) -> WatchResponse:
    return WatchResponse(header=ResponseHeader(revision=revision), watch_id=watch_id, created=True, **fields)


def progress(revision: int) -> WatchResponse:
    return WatchResponse(header=ResponseHeader(revision=revision), watch_id=-1)


def events(watch_id: int, *revisions: int, fragment: bool = False) -> WatchResponse:
    found = [Event(kv=KeyValue(key=b'/a', mod_revision=revision)) for revision in revisions]
    return WatchResponse(watch_id=watch_id, events=found, fragment=fragment)


def test_stream_passes_responses_to_the_handler_of_the_watch(env: Environment) -> None:
    """getc chooses the ids, from 1 on."""
    (one, first), (two, second) = env.add(), env.add()
    env.push(created(1), created(2, 8), events(2, 9), events(1, 9, 10))
    assert env.requested() == [1, 2]
    assert (one.created, one.revisions) == ([7], [[9, 10]])
    assert (two.created, two.revisions) == ([8], [[9]])
    assert (first.watch_id, second.watch_id) == (1, 2)


def test_stream_sends_one_create_request_until_etcd_has_created_the_first_watch(env: Environment) -> None:
    """A refusal does not show who answers."""
    for _ in range(4):
        env.add()
    assert env.requested() == [1]
    env.push(created(-1, canceled=True))
    assert env.requested() == [1, 2]
    env.push(created(2))
    assert env.requested() == [1, 2, 3, 4]
    env.add()
    assert env.requested() == [1, 2, 3, 4, 5]


def test_stream_behind_a_grpc_proxy_has_one_create_request_in_flight(env: Environment) -> None:
    """The proxy counts the watches from 0, and creates them in any order."""
    watches = [env.add() for _ in range(4)]
    env.push(created(0))
    assert env.stream.is_proxied
    assert env.requested() == [1, 2]
    env.push(created(-1, canceled=True), events(0, 8))
    assert env.requested() == [1, 2, 3]
    env.push(created(1), events(1, 9))
    assert env.requested() == [1, 2, 3, 4]
    env.push(created(2), events(2, 10))
    assert [handler.revisions for handler, _ in watches] == [[[8]], [], [[9]], [[10]]]
    watches[2][1].cancel()
    assert env.cancelled() == [1]


def test_stream_on_which_a_proxy_does_not_create_a_watch_is_closed_although_others_receive_events(
    env: Environment, etcd_clock: VirtualTime
) -> None:
    (first, _), (second, _) = env.add(), env.add()
    env.push(created(0))
    for revision in range(8, 20):
        etcd_clock.advance(3)
        if not env.stream.is_over:
            env.push(events(0, revision))
    assert env.stream.is_over
    (error,) = second.errors
    assert 'http://there answers reads, but has not created a watch for' in str(error)
    assert first.errors == [error] and not error.is_outage


def test_watch_that_is_cancelled_before_its_create_request_was_sent_is_not_requested(env: Environment) -> None:
    _, (handler, second), (third, _) = env.add(), env.add(), env.add()
    second.cancel()
    env.push(created(1), created(2), events(2, 8))
    assert env.requested() == [1, 2]
    assert (handler.created, third.revisions) == ([], [[8]])


def test_all_watches_end_with_the_stream_also_those_that_were_not_requested(env: Environment) -> None:
    handlers = [env.add()[0] for _ in range(3)]
    env.stream.close(ConnectionError('lost'))
    assert [len(handler.errors) for handler in handlers] == [1, 1, 1]


def test_refusal_is_passed_to_the_right_handler_whatever_its_watch_id(env: Environment) -> None:
    """Created responses arrive in the order of the requests."""
    (one, _), (two, _), (three, _) = env.add(), env.add(), env.add()
    reason = 'etcdserver: permission denied'
    env.push(created(1), created(-1, canceled=True, cancel_reason=reason), created(3), events(3, 8), events(1, 8))
    assert [type(error) for error in two.errors] == [PermissionDenied]
    assert (one.revisions, three.revisions) == ([[8]], [[8]])
    assert one.errors == three.errors == []


def test_handler_receives_the_reason_when_the_server_cancels_its_watch(env: Environment) -> None:
    (one, _), (two, _) = env.add(), env.add()
    ended = WatchResponse(watch_id=1, canceled=True, compact_revision=5)
    env.push(created(1), created(2), ended, events(1, 8), events(2, 8))
    assert [type(error) for error in one.errors] == [EventIndexCleared]
    assert (one.revisions, two.revisions) == ([], [[8]])


def test_secrets_are_redacted_in_the_reason_of_a_cancel(env: Environment) -> None:
    """The reason is part of a message, and may come from a proxy."""
    handler, _ = env.add()
    env.push(created(1, canceled=True, cancel_reason='no token hunter2'))
    assert [str(error) for error in handler.errors] == ['[3] no token ...']


def test_cancelled_watch_does_not_call_its_handler(env: Environment) -> None:
    """A watch that is cancelled before it was created is cancelled on the server once it has an id."""
    (one, first), (two, second) = env.add(), env.add()
    env.push(created(1))
    first.cancel()
    first.cancel()
    second.cancel()
    assert env.cancelled() == [1]
    env.push(created(2), events(1, 8), events(2, 8), WatchResponse(watch_id=1, canceled=True))
    assert env.cancelled() == [1, 2]
    assert (one.revisions, one.errors, two.created, two.revisions, two.errors) == ([], [], [], [], [])


def test_substream_of_another_stream_with_the_same_id_cancels_nothing_here(
    env: Environment, etcd_clock: VirtualTime
) -> None:
    """A forked child closes its parent's watches, whose ids are those of its own."""
    parent = Environment(etcd_clock)
    (_, of_parent), (handler, _) = parent.add(), env.add()
    parent.push(created(1))
    env.push(created(1))
    env.stream.cancel(of_parent.watch_id, of_parent)
    env.push(events(1, 8))
    assert (handler.revisions, env.cancelled()) == ([[8]], [])
    parent.stream.close(ConnectionError('the end'))


def test_fragments_are_joined_by_revision(env: Environment) -> None:
    """A complete revision is delivered at once; fragments of two watches may alternate."""
    (one, _), (two, _) = env.add(), env.add()
    env.push(created(1), created(2), events(1, 8, 9, fragment=True), events(2, 8, fragment=True))
    assert (one.revisions, two.revisions) == ([[8]], [])
    env.push(events(1, 9, fragment=True), events(2, 8))
    assert (one.revisions, two.revisions) == ([[8]], [[8, 8]])
    env.push(events(1, 9, 10))
    assert one.revisions == [[8], [9, 9, 9, 10]]


def test_fragments_of_one_revision_are_appended_without_copies() -> None:
    """A revision of a million events arrives in hundreds of fragments."""
    handler = Handler()
    substream = Substream(WatchCreateRequest(), handler)
    substream.on_response(events(1, 7, 8, fragment=True))
    first = substream._fragments
    for _ in range(3):
        substream.on_response(events(1, 8, 8, fragment=True))
        assert substream._fragments is first
    substream.on_response(events(1, 8, 9))
    assert handler.revisions == [[7], [8] * 8 + [9]]


def test_size_is_the_sum_of_the_fragments(env: Environment) -> None:
    handler, substream = env.add()
    sizes: list[int] = []
    handler.on_response = lambda _: sizes.append(substream.size)  # type: ignore[assignment]
    fragments = [events(1, 8, fragment=True), events(1, 8), events(1, 9)]
    first, second, third = (fragment.ByteSize() for fragment in fragments)
    env.push(created(1), *fragments)
    assert sizes == [first + second, third]


def test_all_handlers_receive_the_error_of_a_lost_stream_once(env: Environment) -> None:
    """Also those of watches that were not created yet."""
    (one, _), (two, _) = env.add(), env.add()
    error = ConnectionError('gone')
    env.push(created(1))
    env.server.end(error)
    env.push()
    assert one.errors == two.errors == [error]
    assert env.stream.is_over
    env.stream.close(ConnectionError('again'))
    assert len(one.errors) == 1


@pytest.mark.parametrize('is_refused', [False, True])
def test_waiting_watches_end_when_the_stream_was_lost_right_after_the_first_response(
    env: Environment, is_refused: bool
) -> None:
    """The response is still in the buffer when the connection ends, so no further create request can be sent."""
    handlers = [env.add()[0] for _ in range(3)]
    lost = ConnectionError('lost')
    env.server.end_with_buffered(lost, created(-1, canceled=True) if is_refused else created(1))
    env.push()
    assert [len(handler.errors) for handler in handlers] == [1, 1, 1]
    assert [handler.errors[0] for handler in handlers[1:]] == [lost, lost]
    assert not env.stream.has_watches


def test_stream_whose_reader_was_killed_ends_all_watches(etcd_clock: VirtualTime) -> None:
    """gevent.killall of a program kills every greenlet, also before it has run."""
    with killing_next_greenlet():
        env = Environment(etcd_clock)
        handlers = [env.add()[0] for _ in range(2)]
        etcd_clock.advance(0)
    assert [[type(error) for error in handler.errors] for handler in handlers] == [[ConnectionError]] * 2
    assert env.stream.is_over


def test_handler_that_raises_ends_the_stream_and_is_logged(env: Environment, caplog: pytest.LogCaptureFixture) -> None:
    """A bug must not leave watches that only look alive."""
    (one, _), (two, _) = env.add(), env.add()
    one.on_created = lambda _: 1 / 0  # type: ignore[assignment,return-value]
    env.push(created(1), created(2))
    assert [type(error) for error in two.errors] == [ConnectionError]
    assert 'ZeroDivisionError' in caplog.text


def test_progress_callbacks_receive_the_revision_or_the_error(env: Environment) -> None:
    received: list[Any] = []
    env.add()
    env.stream.call_on_progress(received.append)
    env.stream.call_on_progress(received.append)
    env.push(created(1), WatchResponse(header=ResponseHeader(revision=9), watch_id=-1))
    assert received == [9, 9]
    env.stream.call_on_progress(received.append)
    error = ConnectionError('gone')
    env.server.end(error)
    env.push()
    assert received == [9, 9, error]


@pytest.mark.parametrize('last', ['cancelled', 'ended', 'refused'])
def test_stream_closes_with_its_last_watch_after_close_when_empty(env: Environment, last: str) -> None:
    (_, first), (_, second) = env.add(), env.add()
    env.stream.close_when_empty()
    env.push(created(1))
    first.cancel()
    assert not env.server.is_cancelled
    if last == 'refused':
        env.push(created(-1, canceled=True))
    else:
        env.push(created(2))
        if last == 'ended':
            env.push(WatchResponse(watch_id=2, canceled=True))
        else:
            second.cancel()
    assert env.server.is_cancelled


def test_stream_that_ends_during_a_health_check_leaves_no_timer(env: Environment, etcd_clock: VirtualTime) -> None:
    """The greenlet of the check is about to run when it is killed."""
    env.add()
    env.push(created(1))
    etcd_clock.advance(WATCH_IDLE_TIMEOUT + 0.5)
    assert env.server.sent[-1].HasField('progress_request')
    env.server.push(WatchResponse(header=ResponseHeader(revision=7), watch_id=-1))
    env.server.end(ConnectionError('the connection broke'))
    etcd_clock.advance(1)
    assert env.stream.is_over
    assert not env.stream._health._timer.active


@pytest.mark.parametrize('seconds', [0.0, 0.5])
def test_health_check_is_repeated_after_its_greenlet_was_killed(
    env: Environment, etcd_clock: VirtualTime, seconds: float
) -> None:
    """Before it has run, or while it waits for a response."""
    env.add()
    env.push(created(1))
    with killing_next_greenlet() if not seconds else nullcontext():
        etcd_clock.advance(WATCH_IDLE_TIMEOUT + seconds)
    if seconds:
        gevent.killall([each for each in greenlets_of_getc() if 'health check' in each.name], block=False)
        etcd_clock.advance(0)
    env.server.sent.clear()
    etcd_clock.advance(WATCH_IDLE_TIMEOUT + 0.5)
    assert env.server.sent[-1].HasField('progress_request')


def test_progress_response_requested_before_a_watch_does_not_cover_it(
    env: Environment, etcd_clock: VirtualTime
) -> None:
    """etcd sends created and progress responses from two queues, so an earlier progress response may arrive later."""
    env.add()
    env.push(created(1))
    for _ in range(2):
        env.stream.request_progress()
    _, substream = env.add()
    answers: list[bool] = []
    env.stream.on_progress = lambda revision: answers.append(substream.covers(revision))
    env.push(created(2, 7), *[progress(7)] * 3)
    assert answers == [False, False, True]
    env.stream.request_progress()
    etcd_clock.advance(RESPONSE_TIMEOUT + 1)
    _, substream = env.add()  # the request before was dropped
    env.push(created(3, 8), progress(8))
    assert answers == [False, False, True, True]
    env.stream.request_progress()
    _, substream = env.add()
    env.push(created(4, 8), progress(9))  # something was written since
    assert answers[4:] == [True]


def test_progress_response_does_not_cover_a_watch_that_was_not_created(env: Environment) -> None:
    env.add()
    env.push(created(1))
    _, substream = env.add()
    env.push(progress(9))
    assert not substream.covers(9)
    env.push(created(2, 9), progress(10))
    assert substream.covers(10)


def test_joined_response_is_not_whole(env: Environment) -> None:
    """The number of revisions in the response, which shows whether the history ended with it, is unknown."""
    _, substream = env.add()
    env.push(created(1))
    seen = []
    for response in (events(1, 3, 4, fragment=True), events(1, 4), events(1, 5)):
        env.push(response)
        seen.append(substream.is_whole)
    assert seen == [False, False, True]
