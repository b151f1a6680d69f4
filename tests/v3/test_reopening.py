"""Sharing one stream among greenlets: opening it once, and opening another one when it is over or refused."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from getc.errors import ConnectionRefused, TimedOut, Unauthorized
from getc.timing import Deadline
from getc.v3.reopening import ReopeningStream


class Stream:
    is_over = False


class Opening:
    """Opens streams once ``go`` is set."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = Event()
        self.errors: list[Exception] = []

    def __call__(self, deadline: Deadline) -> Stream:
        self.calls += 1
        self.go.wait()
        if self.errors:
            raise self.errors.pop()
        return Stream()


@pytest.fixture
def opening() -> Opening:
    return Opening()


def get(shared: ReopeningStream[Any], count: int, timeout: float | None = None) -> list[Any]:
    getting = [gevent.spawn(shared.get, Deadline(timeout)) for _ in range(count)]
    gevent.sleep(0)
    return getting


def test_one_greenlet_opens_the_stream_for_all(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    getting = get(shared, 5)
    opening.go.set()
    assert len({id(each.get()) for each in getting}) == 1
    assert shared.get(Deadline(None)) is getting[0].value
    assert opening.calls == 1


def test_another_stream_is_opened_after_the_first_has_ended(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    opening.go.set()
    first = shared.get(Deadline(None))
    first.is_over = True
    assert shared.get(Deadline(None)) is not first
    assert opening.calls == 2


def test_all_greenlets_receive_the_error_of_opening(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    getting = get(shared, 5)
    opening.errors = [ConnectionRefused('connection refused')]
    opening.go.set()
    gevent.joinall(getting)
    assert [type(each.exception) for each in getting] == [ConnectionRefused] * 5
    assert len({id(each.exception) for each in getting}) == 5
    assert opening.calls == 1


@pytest.mark.parametrize('end', ['killed', 'out of time'])
def test_next_greenlet_opens_the_stream_when_the_first_gives_up(opening: Opening, end: str) -> None:
    shared = ReopeningStream(opening)
    getting = get(shared, 3)
    if end == 'killed':
        getting[0].kill()
    else:
        opening.errors = [TimedOut('too late')]
    opening.go.set()
    assert getting[1].get() is getting[2].get()
    assert opening.calls == 2


def test_greenlet_that_waits_for_the_stream_has_its_own_deadline(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    (first,) = get(shared, 1)
    with pytest.raises(TimedOut, match='not opened'):
        shared.get(Deadline(0.01))
    opening.go.set()
    assert first.get() is shared.get(Deadline(0))


def test_call_uses_another_stream_once_when_the_token_is_refused(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    opening.go.set()
    used: list[Any] = []

    def use(stream: Any) -> str:
        used.append(stream)
        if len(used) < 2:
            raise Unauthorized('invalid auth token')
        return 'done'

    assert shared.call(use, Deadline(None)) == 'done'
    assert len({id(stream) for stream in used}) == opening.calls == 2


def test_call_raises_when_the_second_stream_is_refused_too(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    opening.go.set()

    def use(stream: Any) -> None:
        raise Unauthorized('invalid auth token')

    with pytest.raises(Unauthorized):
        shared.call(use, Deadline(None))
    assert opening.calls == 2


def test_retired_stream_is_replaced_by_the_next_one(opening: Opening) -> None:
    shared = ReopeningStream(opening)
    opening.go.set()
    first = shared.get(Deadline(None))
    shared.retire(first)
    assert shared.current is None
    assert shared.get(Deadline(None)) is not first
