"""The greenlet of a long poll, and what strikes it.  How it speaks with a server is in ``test_keys_v2``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gevent
import pytest
from gevent.event import Event

from getc.backends.monotonic import RevisionGuard
from getc.backends.v2.messages import Response
from getc.backends.v2.watch import PollingWatch, StoreIdentity
from getc.errors import ConnectionError, ConnectionRefused, EtcException, EventIndexCleared
from getc.net.endpoint import parse_endpoints
from getc.operations import WatchSpec
from getc.results import EtcdResult
from getc.testing import VirtualTime


class FakePoll:
    """A poll whose body comes when it is told to."""

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


class Notes:
    def __init__(self) -> None:
        self.live: list[int] = []
        self.told: list[EtcdResult] = []
        self.caught_up_after: list[int] = []  # changes
        self.ended: list[EtcException] = []

    def on_live(self, index: int) -> None:
        self.live.append(index)

    def on_caught_up(self) -> None:
        self.caught_up_after.append(len(self.told))

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        self.told.extend(results)

    def on_ended(self, error: EtcException) -> None:
        self.ended.append(error)


class Following:
    """A watch over polls that are made here."""

    def __init__(
        self, open_poll: Callable[..., Any] | None = None, *, index: int | None = None, seen: int = 0, delay: float = 0
    ) -> None:
        self.polls: list[FakePoll] = []
        self.indices: Iterator[int] = itertools.count(7)  # of the polls to come
        self.proven: list[bool] = []
        self.delay = delay
        self.notes = Notes()
        self.horizon = RevisionGuard()
        self.horizon.observe(seen)
        self.done: list[PollingWatch] = []
        self.watch = PollingWatch(
            WatchSpec('/a', index),
            self.notes,
            open_poll or self.open,
            self.horizon,
            identity=None,
            on_done=self.done.append,
        )

    def open(self, _spec: WatchSpec, _index: int | None, *, verify_quorum: bool) -> Any:
        gevent.sleep(self.delay)
        self.polls.append(FakePoll(next(self.indices)))
        self.proven.append(verify_quorum)
        return self.polls[-1]


@pytest.fixture(autouse=True)
def _virtual(etcd_clock: VirtualTime) -> None:
    """All of this is about greenlets, in virtual time."""


def settle() -> None:
    for _ in range(5):
        gevent.sleep(0)


def test_change_is_told_and_the_next_poll_opened() -> None:
    """One poll after the other, each closed."""
    following = Following()
    settle()
    assert following.notes.live == [7]
    following.polls[0].arrives.set()
    settle()
    assert following.notes.ended == []
    assert [result.key for result in following.notes.told] == ['/a']
    assert [poll.is_closed for poll in following.polls] == [True, False]
    following.watch.close()
    settle()
    assert following.polls[1].is_closed
    assert following.done == [following.watch]


def test_server_shows_that_it_is_with_the_others_when_a_watch_begins_and_while_it_is_quiet(
    etcd_clock: VirtualTime,
) -> None:
    """One that is cut off would be silent for ever; after a change nothing has to be shown."""
    following = Following()
    settle()
    assert following.proven == [True]
    following.polls[0].arrives.set()
    settle()
    assert following.proven == [True, False]
    etcd_clock.advance(3)
    assert following.proven == [True, False, True]
    following.watch.close()


def test_server_that_lags_is_no_store_that_went_back() -> None:
    """Another poll is opened, with one that knows what the others know; what that says counts."""
    following = Following()
    settle()
    following.indices = iter([3, 9])
    following.polls[0].arrives.set()
    settle()
    assert following.proven == [True, False, True]
    assert [poll.is_closed for poll in following.polls] == [True, True, False]
    assert following.notes.ended == []
    assert following.horizon.index == 8
    following.indices = iter([4, 4])
    following.polls[2].arrives.set()
    settle()
    assert following.proven == [True, False, True, False, True]
    assert [type(error) for error in following.notes.ended] == [EventIndexCleared]
    assert all(poll.is_closed for poll in following.polls)


@pytest.mark.parametrize('blow', [gevent.GreenletExit(), gevent.Timeout(1)])
def test_listener_is_told_when_the_greenlet_is_struck_by_another(blow: BaseException) -> None:
    """Or its owner would take it for live for ever."""
    following = Following()
    settle()
    following.watch._greenlet.kill(blow)
    assert [type(error) for error in following.notes.ended] == [EtcException]
    assert type(blow).__name__ in str(following.notes.ended[0])
    assert following.polls[0].is_closed
    settle()
    assert following.done == [following.watch]


def test_listener_is_told_when_the_watch_itself_is_broken() -> None:
    """A bug of ours is no silence."""

    def broken(*_: object, **__: object) -> Any:
        raise ZeroDivisionError

    following = Following(broken)
    settle()
    assert 'ZeroDivisionError' in str(following.notes.ended[0])
    assert isinstance(following.notes.ended[0].__cause__, ZeroDivisionError)


@pytest.mark.parametrize('seconds', [0.5, 2.0])
def test_poll_that_was_lost_is_opened_again_only_at_once(etcd_clock: VirtualTime, seconds: float) -> None:
    """After longer the store may be another one: who follows it has to find out."""
    following = Following()
    settle()
    following.polls[0].is_lost = True
    following.delay = seconds
    following.polls[0].arrives.set()
    etcd_clock.advance(3)
    assert [isinstance(error, ConnectionError) for error in following.notes.ended] == [True] * (seconds > 1)
    following.watch.close()


def test_listener_is_told_nothing_after_close(etcd_clock: VirtualTime) -> None:
    """Closed before it ran, while it opens, while it waits."""

    def slow(*_: object, **__: object) -> Any:
        gevent.sleep(1)
        raise ConnectionRefused('nobody listens')

    for turns, open_poll in ((0, None), (5, slow), (5, None)):
        following = Following(open_poll)
        for _ in range(turns):
            gevent.sleep(0)
        told = list(following.notes.live)
        following.watch.close()
        following.watch.close()
        etcd_clock.advance(2)
        assert following.notes.live == told
        assert following.notes.ended == []
        assert all(poll.is_closed for poll in following.polls)
        assert following.done == [following.watch]


def test_listener_is_not_told_that_it_is_live_when_the_watch_is_closed_as_the_poll_opens() -> None:
    """A kill strikes a turn later, and the answer may be there in this one."""

    def open_poll(*_: object, **__: object) -> Any:
        following.watch.close()
        return poll

    poll = FakePoll()
    following = Following(open_poll)
    settle()
    assert following.notes.live == []
    assert poll.is_closed
    assert following.done == [following.watch]


def test_close_during_a_renewal_closes_both_polls(etcd_clock: VirtualTime) -> None:
    """The old one is looked at once more, which may take a turn."""

    class Looked(FakePoll):
        def wait(self, timeout: float | None) -> bool:
            return super().wait(timeout or 1)

    def open_poll(*_: object, **__: object) -> Any:
        polls.append(Looked())
        return polls[-1]

    polls: list[Looked] = []
    following = Following(open_poll)
    etcd_clock.advance(2.5)
    assert len(polls) == 2
    following.watch.close()
    etcd_clock.advance(0)
    assert [poll.is_closed for poll in polls] == [True, True]


def test_forked_child_leaves_the_answer_to_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the socket: what the child reads the parent never sees."""
    following = Following()
    settle()
    monkeypatch.setattr('os.getpid', lambda: -1)
    following.polls[0].arrives.set()
    settle()
    assert not following.polls[0].was_read
    assert (following.notes.told, following.notes.ended) == ([], [])
    assert len(following.polls) == 1


@pytest.mark.parametrize(
    ('later', 'is_same'),
    [
        (StoreIdentity('c', 9, 30), True),
        (StoreIdentity('c', 3, 20), True),  # whether the index went back depends on the cursor
        (StoreIdentity('other', 9, 30), False),
        (StoreIdentity('c', 9, 19), False),
    ],
)
def test_origin_tells_another_store(later: StoreIdentity, is_same: bool) -> None:
    """By the cluster, and by a log that went back."""
    assert StoreIdentity('c', 7, 20).is_followed_by(later) is is_same


def test_server_that_lags_by_the_change_that_has_to_come_first_is_not_polled(etcd_clock: VirtualTime) -> None:
    """It knows all before that change: it would have nothing to deliver, as another store would."""
    following = Following(index=8, seen=8)
    etcd_clock.advance(0)
    assert (following.proven, [poll.is_closed for poll in following.polls]) == ([False, True], [True, False])
    assert (following.notes.live, following.notes.caught_up_after) == ([7], [])
    following.polls[1].arrives.set()
    etcd_clock.advance(0)
    assert following.notes.caught_up_after == [1]
    following.watch.close()


@pytest.mark.parametrize('index', [None, 6])
def test_watch_begins_in_a_store_that_went_back_where_its_index_is_there(index: int | None) -> None:
    """Whatever the client has seen of the store before."""
    following = Following(index=index, seen=100)
    settle()
    assert (following.notes.live, following.notes.ended) == ([7 if index is None else 5], [])
    following.watch.close()


@pytest.mark.parametrize('is_late', [True, False])
def test_poll_has_brought_its_history_only_when_it_is_silent_after_the_server_has_answered_another(
    etcd_clock: VirtualTime, is_late: bool
) -> None:
    """On a busy machine the change takes longer than usual."""
    following = Following(index=7, delay=0.5)
    etcd_clock.advance(0.6)
    assert following.notes.live == [6]
    if is_late:
        gevent.spawn_later(0.6, following.polls[0].arrives.set)
    etcd_clock.advance(0.6)
    assert following.notes.caught_up_after == []
    etcd_clock.advance(1)
    assert following.notes.caught_up_after == [int(is_late)]
    assert [result.modified_index for result in following.notes.told] == [8] * is_late
    following.watch.close()
