"""Many watches on one stream, where the test is the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from getc.errors import ConnectionError, EtcException, EventIndexCleared, PermissionDenied
from getc.testing import VirtualTime
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.mvccpb import Event, KeyValue
from getc.v3.schema.watch import WatchCreateRequest, WatchResponse
from getc.v3.watch_health import IDLE_TIMEOUT
from getc.v3.watch_stream import PROGRESS_TIMEOUT, Substream, WatchStream
from tests.support.fake_stream import FakeStream


class Sink:
    """Notes what it is told."""

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


class Bench:
    def __init__(self, clock: VirtualTime) -> None:
        self.server = FakeStream()
        messages: Any = self.server
        self.stream = WatchStream(messages)
        self._clock = clock

    def add(self) -> tuple[Sink, Substream]:
        sink = Sink()
        substream = Substream(WatchCreateRequest(key=b'/a'), sink)
        self.stream.add(substream)
        return sink, substream

    def say(self, *responses: WatchResponse) -> None:
        self.server.say(*responses)
        self._clock.advance(0)

    def cancelled(self) -> list[int]:
        """The watches that were to be ended, as the server was told."""
        return [sent.cancel_request.watch_id for sent in self.server.sent if sent.HasField('cancel_request')]


@pytest.fixture
def bench(etcd_clock: VirtualTime) -> Iterator[Bench]:
    bench = Bench(etcd_clock)
    yield bench
    bench.stream.close(ConnectionError('the end'))
    etcd_clock.advance(0)


def created(watch_id: int, revision: int = 7, **fields: Any) -> WatchResponse:
    return WatchResponse(header=ResponseHeader(revision=revision), watch_id=watch_id, created=True, **fields)


def progress(revision: int) -> WatchResponse:
    return WatchResponse(header=ResponseHeader(revision=revision), watch_id=-1)


def events(watch_id: int, *revisions: int, fragment: bool = False) -> WatchResponse:
    found = [Event(kv=KeyValue(key=b'/a', mod_revision=revision)) for revision in revisions]
    return WatchResponse(watch_id=watch_id, events=found, fragment=fragment)


def test_each_sink_is_told_of_its_own_watch(bench: Bench) -> None:
    """The numbers are ours, and go up from 1."""
    (one, first), (two, second) = bench.add(), bench.add()
    assert [sent.create_request.watch_id for sent in bench.server.sent] == [1, 2]
    bench.say(created(1), created(2, 8), events(2, 9), events(1, 9, 10))
    assert (one.created, one.revisions) == ([7], [[9, 10]])
    assert (two.created, two.revisions) == ([8], [[9]])
    assert (first.watch_id, second.watch_id) == (1, 2)


def test_refused_watch_tells_its_own_sink_whatever_number_the_server_gives_it(bench: Bench) -> None:
    """Replies come in the order of the requests."""
    (one, _), (two, _), (three, _) = bench.add(), bench.add(), bench.add()
    reason = 'etcdserver: permission denied'
    bench.say(created(1), created(-1, canceled=True, cancel_reason=reason), created(3), events(3, 8), events(1, 8))
    assert [type(error) for error in two.errors] == [PermissionDenied]
    assert (one.revisions, three.revisions) == ([[8]], [[8]])
    assert one.errors == three.errors == []


def test_watch_that_the_server_ends_is_told_why(bench: Bench) -> None:
    """The others go on."""
    (one, _), (two, _) = bench.add(), bench.add()
    ended = WatchResponse(watch_id=1, canceled=True, compact_revision=5)
    bench.say(created(1), created(2), ended, events(1, 8), events(2, 8))
    assert [type(error) for error in one.errors] == [EventIndexCleared]
    assert (one.revisions, two.revisions) == ([], [[8]])


def test_watch_that_the_server_ends_repeats_no_secret(bench: Bench) -> None:
    """Its reason comes in a message, and may be a proxy's."""
    sink, _ = bench.add()
    bench.say(created(1, canceled=True, cancel_reason='no token hunter2'))
    assert [str(error) for error in sink.errors] == ['[3] no token ...']


def test_cancelled_watch_tells_nothing_more(bench: Bench) -> None:
    """Nor does one that is cancelled before it was created: the server is told as soon as it has a number."""
    (one, first), (two, second) = bench.add(), bench.add()
    bench.say(created(1))
    first.cancel()
    first.cancel()
    second.cancel()
    assert bench.cancelled() == [1]
    bench.say(created(2), events(1, 8), events(2, 8), WatchResponse(watch_id=1, canceled=True))
    assert bench.cancelled() == [1, 2]
    assert (one.revisions, one.errors, two.created, two.revisions, two.errors) == ([], [], [], [], [])


def test_substream_of_another_stream_with_the_same_id_cancels_nothing_here(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """A forked child closes its parent's watches, whose ids are those of its own."""
    parent = Bench(etcd_clock)
    (_, of_parent), (sink, _) = parent.add(), bench.add()
    parent.say(created(1))
    bench.say(created(1))
    bench.stream.cancel(of_parent)
    bench.say(events(1, 8))
    assert (sink.revisions, bench.cancelled()) == ([[8]], [])
    parent.stream.close(ConnectionError('the end'))


def test_pieces_are_put_together_by_whole_revisions(bench: Bench) -> None:
    """What is whole is told as soon as it is; pieces of two watches may alternate."""
    (one, _), (two, _) = bench.add(), bench.add()
    bench.say(created(1), created(2), events(1, 8, 9, fragment=True), events(2, 8, fragment=True))
    assert (one.revisions, two.revisions) == ([[8]], [])
    bench.say(events(1, 9, fragment=True), events(2, 8))
    assert (one.revisions, two.revisions) == ([[8]], [[8, 8]])
    bench.say(events(1, 9, 10))
    assert one.revisions == [[8], [9, 9, 9, 10]]


def test_pieces_of_one_revision_are_not_copied_again_and_again() -> None:
    """A revision of a million events comes in hundreds of pieces: each is added to what there is."""
    sink = Sink()
    ticket = Substream(WatchCreateRequest(), sink)
    ticket.on_response(events(1, 7, 8, fragment=True), 1)
    first = ticket._fragments
    for _ in range(3):
        ticket.on_response(events(1, 8, 8, fragment=True), 1)
        assert ticket._fragments is first
    ticket.on_response(events(1, 8, 9), 1)
    assert sink.revisions == [[7], [8] * 8 + [9]]


def test_size_is_that_of_all_the_pieces(bench: Bench) -> None:
    """And begins anew with the next."""
    sink, ticket = bench.add()
    sizes: list[int] = []
    sink.on_response = lambda _: sizes.append(ticket.size)  # type: ignore[assignment]
    pieces = [events(1, 8, fragment=True), events(1, 8), events(1, 9)]
    first, second, third = (piece.ByteSize() for piece in pieces)
    bench.say(created(1), *pieces)
    assert sizes == [first + second, third]


def test_loss_of_the_stream_is_told_to_all_once(bench: Bench) -> None:
    """Also to those that were not created yet; the error is the same."""
    (one, _), (two, _) = bench.add(), bench.add()
    error = ConnectionError('gone')
    bench.say(created(1))
    bench.server.end(error)
    bench.say()
    assert one.errors == two.errors == [error]
    assert bench.stream.is_over
    bench.stream.close(ConnectionError('again'))
    assert len(one.errors) == 1


def test_sink_that_fails_ends_the_stream_and_hides_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours must not leave watches that look alive."""
    (one, _), (two, _) = bench.add(), bench.add()
    one.on_created = lambda _: 1 / 0  # type: ignore[assignment,return-value]
    bench.say(created(1), created(2))
    assert [type(error) for error in two.errors] == [ConnectionError]
    assert 'ZeroDivisionError' in caplog.text


def test_progress_is_told_to_all_who_asked(bench: Bench) -> None:
    """And what ended the stream to those who wait for it."""
    told: list[Any] = []
    bench.add()
    bench.stream.call_on_progress(told.append)
    bench.stream.call_on_progress(told.append)
    bench.say(created(1), WatchResponse(header=ResponseHeader(revision=9), watch_id=-1))
    assert told == [9, 9]
    bench.stream.call_on_progress(told.append)
    error = ConnectionError('gone')
    bench.server.end(error)
    bench.say()
    assert told == [9, 9, error]


@pytest.mark.parametrize('last', ['cancelled', 'ended', 'refused'])
def test_stream_that_was_left_ends_with_the_last_of_its_watches(bench: Bench, last: str) -> None:
    """However that ends."""
    (_, first), (_, second) = bench.add(), bench.add()
    bench.stream.close_when_empty()
    bench.say(created(1))
    first.cancel()
    assert not bench.server.is_cancelled
    if last == 'refused':
        bench.say(created(-1, canceled=True))
    else:
        bench.say(created(2))
        if last == 'ended':
            bench.say(WatchResponse(watch_id=2, canceled=True))
        else:
            second.cancel()
    assert bench.server.is_cancelled


def test_stream_that_ends_while_its_answer_is_taken_leaves_no_timer(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The greenlet that waited for the answer is due to run then, and comes before it is killed."""
    bench.add()
    bench.say(created(1))
    etcd_clock.advance(IDLE_TIMEOUT + 0.5)
    assert bench.server.sent[-1].HasField('progress_request')
    bench.server.say(WatchResponse(header=ResponseHeader(revision=7), watch_id=-1))
    bench.server.end(ConnectionError('the connection broke'))
    etcd_clock.advance(1)
    assert bench.stream.is_over
    assert not bench.stream._health._timer.active


def test_progress_response_that_was_requested_before_a_watch_says_nothing_of_it(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """etcd sends created and progress responses from two queues, so an earlier one of these may arrive later."""
    bench.add()
    bench.say(created(1))
    for _ in range(2):
        bench.stream.request_progress()
    _, ticket = bench.add()
    answers: list[bool] = []
    bench.stream.on_progress = lambda revision: answers.append(bench.stream.covers(revision, ticket))
    bench.say(created(2, 7), *[progress(7)] * 3)
    assert answers == [False, False, True]
    bench.stream.request_progress()
    etcd_clock.advance(PROGRESS_TIMEOUT + 1)
    _, ticket = bench.add()  # the request before was dropped
    bench.say(created(3, 8), progress(8))
    assert answers == [False, False, True, True]
    bench.stream.request_progress()
    _, ticket = bench.add()
    bench.say(created(4, 8), progress(9))  # something was written since
    assert answers[4:] == [True]


def test_fragment_of_a_response_does_not_show_how_far_the_server_has_come(bench: Bench) -> None:
    """How many revisions the whole response had, and so whether the history ended with it, is not counted."""
    _, ticket = bench.add()
    bench.say(created(1))
    seen = []
    for response in (events(1, 3, 4, fragment=True), events(1, 4), events(1, 5)):
        bench.say(response)
        seen.append(ticket.is_whole)
    assert seen == [False, False, True]
