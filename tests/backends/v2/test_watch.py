"""The greenlet of a polling watch, with fake polls.  ``test_backend`` has its tests with servers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gevent
import pytest
from gevent.event import Event

from getc.backends.monotonic import RevisionGuard
from getc.backends.v2.messages import Response
from getc.backends.v2.watch import FIRST_IDLE_TIMEOUT, HISTORY_TIMEOUT, PollingWatch, StorePosition
from getc.errors import ConnectionError, ConnectionRefused, EtcException, EventIndexCleared
from getc.net.endpoint import parse_endpoints
from getc.operations import WatchSpec
from getc.results import EtcdResult
from getc.testing import VirtualTime


class FakePoll:
    """A poll whose body arrives when the test sets ``arrives``."""

    status = 200

    def __init__(self, index: int = 7) -> None:
        self.endpoint = parse_endpoints('http://127.0.0.1:1')[0]
        self.headers = {'X-Etcd-Index': str(index), 'X-Etcd-Cluster-ID': 'c', 'X-Raft-Index': str(index)}
        self.headers['Content-Type'] = 'application/json'
        self.arrives = Event()
        self.was_read = False
        self.is_closed = False
        self.is_lost = False

    def wait(self, timeout: float | None) -> bool:
        return self.arrives.wait(timeout)

    def read(self, _deadline: object) -> Response:
        self.was_read = True
        if self.is_lost:
            raise ConnectionError('the connection broke')
        body = b'{"action":"set","node":{"key":"/a","value":"x","modifiedIndex":8,"createdIndex":8}}'
        return Response(200, self.headers, body)

    def close(self) -> None:
        self.is_closed = True


class Recorder:
    def __init__(self) -> None:
        self.live: list[int] = []
        self.results: list[EtcdResult] = []
        self.caught_up_after: list[int] = []  # changes
        self.ended: list[EtcException] = []

    def on_live(self, index: int) -> None:
        self.live.append(index)

    def on_caught_up(self) -> None:
        self.caught_up_after.append(len(self.results))

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        self.results.extend(results)

    def on_ended(self, error: EtcException) -> None:
        self.ended.append(error)


class Bench:
    """A watch with fake polls."""

    def __init__(
        self, open_poll: Callable[..., Any] | None = None, *, index: int | None = None, seen: int = 0, delay: float = 0
    ) -> None:
        self.polls: list[FakePoll] = []
        self.indices: Iterator[int] = itertools.count(7)  # of the next polls
        self.verified: list[bool] = []
        self.delay = delay
        self.recorder = Recorder()
        self.guard = RevisionGuard()
        self.guard.observe(seen)
        self.done: list[PollingWatch] = []
        self.watch = PollingWatch(
            WatchSpec('/a', index),
            self.recorder,
            open_poll or self.open,
            self.guard,
            identity=None,
            on_done=self.done.append,
        )

    def open(self, _spec: WatchSpec, _index: int | None, verify_quorum: bool) -> Any:
        gevent.sleep(self.delay)
        self.polls.append(FakePoll(next(self.indices)))
        self.verified.append(verify_quorum)
        return self.polls[-1]


@pytest.fixture(autouse=True)
def _virtual(etcd_clock: VirtualTime) -> None:
    """Run every test in virtual time."""


def settle() -> None:
    for _ in range(5):
        gevent.sleep(0)


def test_watch_delivers_a_change_and_opens_the_next_poll() -> None:
    """One poll after another; each is closed."""
    bench = Bench()
    settle()
    assert bench.recorder.live == [7]
    bench.polls[0].arrives.set()
    settle()
    assert bench.recorder.ended == []
    assert [result.key for result in bench.recorder.results] == ['/a']
    assert [poll.is_closed for poll in bench.polls] == [True, False]
    bench.watch.close()
    settle()
    assert bench.polls[1].is_closed
    assert bench.done == [bench.watch]


def test_quorum_is_verified_for_the_first_poll_and_for_replacements_of_idle_polls(
    etcd_clock: VirtualTime,
) -> None:
    """A server that is cut off would never respond; after a change no check is needed."""
    bench = Bench()
    settle()
    assert bench.verified == [True]
    bench.polls[0].arrives.set()
    settle()
    assert bench.verified == [True, False]
    etcd_clock.advance(3)
    assert bench.verified == [True, False, True]
    bench.watch.close()


def test_lagging_server_is_not_mistaken_for_a_store_that_went_back() -> None:
    """Another poll is opened, on a server with a verified quorum; its identity decides."""
    bench = Bench()
    settle()
    bench.indices = iter([3, 9])
    bench.polls[0].arrives.set()
    settle()
    assert bench.verified == [True, False, True]
    assert [poll.is_closed for poll in bench.polls] == [True, True, False]
    assert bench.recorder.ended == []
    assert bench.guard.index == 8
    bench.indices = iter([4, 4])
    bench.polls[2].arrives.set()
    settle()
    assert bench.verified == [True, False, True, False, True]
    assert [type(error) for error in bench.recorder.ended] == [EventIndexCleared]
    assert all(poll.is_closed for poll in bench.polls)


@pytest.mark.parametrize('exception', [gevent.GreenletExit(), gevent.Timeout(1)])
def test_listener_is_notified_when_the_greenlet_is_killed(exception: BaseException) -> None:
    """Otherwise its owner would consider the watch live."""
    bench = Bench()
    settle()
    bench.watch._greenlet.kill(exception)
    assert [type(error) for error in bench.recorder.ended] == [EtcException]
    assert type(exception).__name__ in str(bench.recorder.ended[0])
    assert bench.polls[0].is_closed
    settle()
    assert bench.done == [bench.watch]


def test_listener_is_notified_of_an_unexpected_exception() -> None:

    def broken(*_: object, **__: object) -> Any:
        raise ZeroDivisionError

    bench = Bench(broken)
    settle()
    assert 'ZeroDivisionError' in str(bench.recorder.ended[0])
    assert isinstance(bench.recorder.ended[0].__cause__, ZeroDivisionError)


@pytest.mark.parametrize('seconds', [0.5, 2.0])
def test_lost_poll_is_replaced_within_a_short_time_only(etcd_clock: VirtualTime, seconds: float) -> None:
    """After a longer time the store may have been replaced: the follower compares."""
    bench = Bench()
    settle()
    bench.polls[0].is_lost = True
    bench.delay = seconds
    bench.polls[0].arrives.set()
    etcd_clock.advance(3)
    assert [isinstance(error, ConnectionError) for error in bench.recorder.ended] == [True] * (seconds > 1)
    bench.watch.close()


def test_listener_is_not_notified_after_close(etcd_clock: VirtualTime) -> None:
    """Closed before the greenlet ran, while a poll is opened, and while it waits."""

    def slow(*_: object, **__: object) -> Any:
        gevent.sleep(1)
        raise ConnectionRefused('no server listens')

    for turns, open_poll in ((0, None), (5, slow), (5, None)):
        bench = Bench(open_poll)
        for _ in range(turns):
            gevent.sleep(0)
        live = list(bench.recorder.live)
        bench.watch.close()
        bench.watch.close()
        etcd_clock.advance(2)
        assert bench.recorder.live == live
        assert bench.recorder.ended == []
        assert all(poll.is_closed for poll in bench.polls)
        assert bench.done == [bench.watch]


def test_on_live_is_not_called_when_the_watch_is_closed_as_the_poll_opens() -> None:
    """The kill takes effect an iteration later than the response."""

    def open_poll(*_: object, **__: object) -> Any:
        bench.watch.close()
        return poll

    poll = FakePoll()
    bench = Bench(open_poll)
    settle()
    assert bench.recorder.live == []
    assert poll.is_closed
    assert bench.done == [bench.watch]


def test_failure_of_a_server_is_not_attributed_to_the_server_that_replaces_it(etcd_clock: VirtualTime) -> None:
    """The error is thrown while the greenlet opens a poll on another server."""
    bench, blamed = Bench(), []
    etcd_clock.advance(0)
    failed, error = bench.polls[0].endpoint, ConnectionError('the server does not respond')

    def open_on_another(*_: object) -> Any:
        try:
            gevent.sleep(60)
        except EtcException as caught:
            blamed.append(caught)
            raise

    bench.watch._open_poll = open_on_another
    etcd_clock.advance(FIRST_IDLE_TIMEOUT + 0.1)
    bench.watch.fail_with(failed, error)
    etcd_clock.advance(0)
    assert bench.recorder.ended == [error]
    assert blamed == []


def test_failure_of_a_server_does_not_end_a_watch_that_polls_another_one_by_then(etcd_clock: VirtualTime) -> None:
    bench = Bench()
    etcd_clock.advance(0)
    failed = bench.polls[0].endpoint
    bench.watch.fail_with(failed, ConnectionError('the server does not respond'))
    bench.polls[0].endpoint = parse_endpoints('http://another')[0]
    etcd_clock.advance(0)
    assert bench.recorder.ended == []


def test_close_during_a_replacement_closes_both_polls(etcd_clock: VirtualTime) -> None:
    """The old poll is checked once more, which may switch greenlets."""

    class SlowPoll(FakePoll):
        def wait(self, timeout: float | None) -> bool:
            return super().wait(timeout or 1)

    def open_poll(*_: object, **__: object) -> Any:
        polls.append(SlowPoll())
        return polls[-1]

    polls: list[SlowPoll] = []
    bench = Bench(open_poll)
    etcd_clock.advance(2.5)
    assert len(polls) == 2
    bench.watch.close()
    etcd_clock.advance(0)
    assert [poll.is_closed for poll in polls] == [True, True]


def test_forked_child_does_not_read_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parent and child share the socket: what the child reads is lost for the parent."""
    bench = Bench()
    settle()
    monkeypatch.setattr('os.getpid', lambda: -1)
    bench.polls[0].arrives.set()
    settle()
    assert not bench.polls[0].was_read
    assert (bench.recorder.results, bench.recorder.ended) == ([], [])
    assert len(bench.polls) == 1


@pytest.mark.parametrize(
    ('later', 'is_same'),
    [
        (StorePosition('c', 9, 30), True),
        (StorePosition('c', 3, 20), True),  # whether the index went back depends on the watch
        (StorePosition('other', 9, 30), False),
        (StorePosition('c', 9, 19), False),
    ],
)
def test_store_position_detects_another_store(later: StorePosition, is_same: bool) -> None:
    """By the cluster ID, and by a Raft index that went back."""
    assert StorePosition('c', 7, 20).is_followed_by(later) is is_same


def test_server_without_the_first_change_is_not_polled(etcd_clock: VirtualTime) -> None:
    """A server that lags behind by just that change would deliver nothing, as another store would."""
    bench = Bench(index=8, seen=8)
    etcd_clock.advance(0)
    assert (bench.verified, [poll.is_closed for poll in bench.polls]) == ([False, True], [True, False])
    assert (bench.recorder.live, bench.recorder.caught_up_after) == ([7], [])
    bench.polls[1].arrives.set()
    etcd_clock.advance(0)
    assert bench.recorder.caught_up_after == [1]
    bench.watch.close()


@pytest.mark.parametrize('index', [None, 6])
def test_watch_starts_in_a_store_that_went_back_if_it_has_the_index(index: int | None) -> None:
    """Whatever the revision guard has seen before."""
    bench = Bench(index=index, seen=100)
    settle()
    assert (bench.recorder.live, bench.recorder.ended) == ([7 if index is None else 5], [])
    bench.watch.close()


@pytest.mark.parametrize('is_late', [True, False])
def test_watch_has_caught_up_only_if_its_poll_is_idle_after_the_server_answered_another(
    etcd_clock: VirtualTime, is_late: bool
) -> None:
    """On a busy machine a change of the history may arrive late."""
    bench = Bench(index=7, delay=0.5)
    etcd_clock.advance(0.6)
    assert bench.recorder.live == [6]
    if is_late:
        gevent.spawn_later(0.6, bench.polls[0].arrives.set)
    etcd_clock.advance(0.6)
    assert bench.recorder.caught_up_after == []
    etcd_clock.advance(1)
    assert bench.recorder.caught_up_after == [int(is_late)]
    assert [result.modified_index for result in bench.recorder.results] == [8] * is_late
    bench.watch.close()


# -- progress


def test_progress_is_reported_once_two_polls_have_replaced_an_idle_one(etcd_clock: VirtualTime) -> None:
    """The first shows an index, and the second that no change up to it was on its way."""
    bench, reached = Bench(), list[int]()
    etcd_clock.advance(5)
    before = len(bench.polls)
    index = int(bench.polls[-1].headers['X-Etcd-Index'])
    bench.indices = itertools.count(index + 10)
    bench.watch.request_progress(index + 5, reached.append)
    etcd_clock.advance(0)
    assert (len(bench.polls), reached) == (before + 1, [])
    etcd_clock.advance(HISTORY_TIMEOUT + 0.1)
    assert reached == [index + 10]
    assert bench.verified[before:] == [True, True]
    etcd_clock.advance(0.5)
    assert len(bench.polls) == before + 2
    bench.watch.close()


def test_progress_follows_the_changes_before_it(etcd_clock: VirtualTime) -> None:
    """A change that the new poll delivers comes first."""
    bench = Bench()
    etcd_clock.advance(5)
    after: list[int] = []
    index = int(bench.polls[-1].headers['X-Etcd-Index']) + 1
    bench.watch.request_progress(index, lambda _: after.append(len(bench.recorder.results)))
    etcd_clock.advance(0)
    bench.polls[-1].arrives.set()
    etcd_clock.advance(1)
    assert after == [1]
    bench.watch.close()


def test_progress_up_to_a_delivered_index_is_reported_at_once(etcd_clock: VirtualTime) -> None:
    """Several calls, each once; a poll that has just been opened is not replaced before its history had time."""
    bench, reached = Bench(), list[int]()
    settle()
    bench.watch.request_progress(8, reached.append)
    bench.watch.request_progress(8, reached.append)
    settle()
    assert (len(bench.polls), reached) == (1, [])
    bench.polls[0].arrives.set()
    settle()
    assert reached == [8, 8]
    bench.watch.close()


def test_progress_is_not_reported_after_close(etcd_clock: VirtualTime) -> None:
    bench, reached = Bench(), list[int]()
    etcd_clock.advance(5)
    bench.watch.request_progress(7, reached.append)
    bench.watch.close()
    bench.watch.request_progress(7, reached.append)
    etcd_clock.advance(2)
    assert reached == []
    assert all(poll.is_closed for poll in bench.polls)


def test_watch_whose_progress_is_requested_ends_if_the_history_has_moved_past_its_index(
    etcd_clock: VirtualTime,
) -> None:
    """The old poll has lost nothing, but only a listing shows that it has."""
    bench, reached = Bench(), list[int]()
    etcd_clock.advance(5)

    def refuse(*_: object) -> Any:
        raise EventIndexCleared('cleared', '')

    bench.watch._open_poll = refuse
    bench.watch.request_progress(7000, reached.append)
    etcd_clock.advance(1)
    assert (reached, [type(error) for error in bench.recorder.ended]) == ([], [EventIndexCleared])
    assert all(poll.is_closed for poll in bench.polls)
