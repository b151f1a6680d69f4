"""What daemons share: attempts, callbacks in order, and an end."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent
import pytest

from getc import timing
from getc.daemons.base import Daemon
from getc.errors import (
    ClientClosed,
    TimedOut,
    Unauthorized,
)
from getc.net.client_log import ClientLog
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.faulty import blocking_log
from tests.support.leftovers import greenlets_of_getc


class Pulse(Daemon):
    """Makes the attempts that it is given, one after the other, and notes when."""

    def __init__(self, *steps: Callable[[], float | None]) -> None:
        super().__init__(ClientLog(), 'pulse')
        self.finished: list[Daemon] = []
        self.key = '/pulse'
        self.steps = list(steps)
        self.at: list[float] = []
        self.called = 0
        self.closings: list[Callable[[], None]] = []

    def _step(self) -> float | None:
        self.at.append(timing.now())
        return self.steps.pop(0)() if self.steps else None

    def _on_called(self) -> None:
        self.called += 1

    def _on_stop(self, deadline: Deadline) -> None:
        for closing in self.closings:
            self._spawn(closing)


def started() -> Pulse:
    pulse = Pulse()
    pulse._started()
    return pulse


def raising(error: BaseException) -> Callable[[], float | None]:
    def step() -> float | None:
        raise error

    return step


# -- attempts


def test_attempts_follow_each_other_as_the_step_says(etcd_clock: VirtualTime) -> None:
    """After so many seconds, or when something asks for one."""
    pulse = Pulse(lambda: 5, lambda: None)
    began = timing.now()
    pulse.start(pulse.finished.append)
    etcd_clock.advance(600)
    assert pulse.at == [began, began + 5]
    pulse._attempt_in(1)
    pulse._attempt_in(3)  # the latest counts
    etcd_clock.advance(600)
    assert pulse.at == [began, began + 5, began + 603]


def test_attempt_that_is_asked_for_during_one_comes_after_it(etcd_clock: VirtualTime) -> None:
    """One at a time; and it is not forgotten for what the step says of the next."""

    def step() -> float | None:
        gevent.sleep(2)
        return 3600

    pulse = Pulse(step)
    began = timing.now()
    pulse.start(pulse.finished.append)
    etcd_clock.advance(1)
    pulse._attempt_in(0)
    etcd_clock.advance(10)
    assert pulse.at == [began, began + 2]


def test_attempt_that_took_longer_than_the_wait_is_followed_at_once(etcd_clock: VirtualTime) -> None:
    """A server that is silent has kept it waiting already; others leave it the rest of the wait."""

    def silent() -> float | None:
        gevent.sleep(5)
        raise TimedOut('no answer')

    pulse = Pulse(*[silent] * 9, *[raising(TimedOut('no time'))] * 100)
    began = timing.now()
    pulse.start(pulse.finished.append)
    etcd_clock.advance(60)
    assert pulse.at[:10] == [began + 5 * number for number in range(10)]
    assert len(pulse.at) < 70
    pulse.stop()


def test_attempt_that_is_killed_is_made_again(etcd_clock: VirtualTime) -> None:
    """Nothing but stop ends them."""
    pulse = Pulse(lambda: gevent.sleep(3600))
    pulse.start(pulse.finished.append)
    etcd_clock.advance(1)
    greenlets_of_getc()[0].kill()
    etcd_clock.advance(1)
    assert len(pulse.at) == 2


def test_refusal_stops_it_before_the_start_only(etcd_clock: VirtualTime) -> None:
    """It is raised to whoever waits."""
    pulse = Pulse(raising(Unauthorized('no')))
    pulse.start(pulse.finished.append)
    with pytest.raises(Unauthorized):
        pulse.wait_started(Deadline(None))
    assert pulse.join(1)
    assert set(pulse.finished) == {pulse}
    other = started()
    other.steps = [raising(Unauthorized('no'))]
    other.start()
    etcd_clock.advance(1)
    assert len(other.at) == 2
    assert isinstance(other.last_error, Unauthorized)
    other.stop()


def test_refusal_in_the_hub_is_raised_though_a_log_handler_blocks(etcd_clock: VirtualTime) -> None:
    """What a watch tells comes there, and nothing may wait there."""
    pulse = Pulse()
    with blocking_log() as said:
        gevent.get_hub().loop.run_callback(pulse._refuse, Unauthorized('no'))
        with pytest.raises(Unauthorized):
            pulse.wait_started(Deadline(5))
        assert pulse.join(1)
        etcd_clock.advance(1)
    assert said == ['etcd client: pulse: refused: [110] no']


def test_start_that_is_stopped_raises_client_closed(etcd_clock: VirtualTime) -> None:
    """Who waits for it is not left waiting."""
    pulse = Pulse(raising(TimedOut('x')))
    pulse.start(pulse.finished.append)
    gevent.spawn_later(1, pulse.stop)
    with pytest.raises(ClientClosed, match='pulse was stopped before it had started'):
        pulse.wait_started(Deadline(None))


# -- callbacks


def test_callbacks_are_called_one_at_a_time_in_order(etcd_clock: VirtualTime) -> None:
    """Also those that are asked for by one."""
    pulse = started()
    story: list[str] = []

    def call(name: str) -> None:
        story.append(f'{name} begins')
        if name == 'a':
            pulse._call_soon(call, 'c')
        gevent.sleep(1)
        story.append(f'{name} ends')

    pulse._call_soon(call, 'a')
    pulse._call_soon(call, 'b')
    etcd_clock.advance(10)
    assert story == ['a begins', 'a ends', 'b begins', 'b ends', 'c begins', 'c ends']
    assert pulse.called == 1
    assert greenlets_of_getc() == []


@pytest.mark.parametrize('trouble', [RuntimeError('a bug'), gevent.Timeout(1), gevent.GreenletExit()])
def test_callback_that_ends_by_an_exception_does_not_end_the_others(
    etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture, trouble: BaseException
) -> None:
    """It is logged, unless it is a kill."""
    pulse = started()
    story: list[int] = []
    pulse._call_soon(raising(trouble))
    pulse._call_soon(story.append, 1)
    with caplog.at_level(logging.ERROR):
        etcd_clock.advance(0)
    assert (story, pulse.called) == ([1], 1)
    assert ('the callback' in caplog.text) is not isinstance(trouble, gevent.GreenletExit)


# -- the end


def test_stop_ends_everything_and_a_second_does_nothing(etcd_clock: VirtualTime) -> None:
    """Attempts, timers, callbacks; and its owner lets it go."""
    pulse = Pulse(lambda: 5)
    pulse._started()
    pulse.start(pulse.finished.append)
    story: list[int] = []
    etcd_clock.advance(1)
    assert not pulse.join(0)
    pulse._call_soon(story.append, 1)
    pulse.stop()
    assert pulse.join(0)
    pulse._call_soon(story.append, 2)
    pulse._attempt_in(0)
    etcd_clock.advance(600)
    assert (story, len(pulse.at)) == ([], 1)
    assert pulse.finished == [pulse]
    pulse.stop()
    assert etcd_clock.seconds_to_next() is None


@pytest.mark.parametrize(('needs', 'waited'), [(0.5, 0.5), (60, 2)])
def test_stop_waits_for_what_is_under_way_until_its_timeout(
    etcd_clock: VirtualTime, needs: float, waited: float
) -> None:
    """Then that is killed."""
    pulse = started()
    ends: list[str] = []

    def callback() -> None:
        try:
            gevent.sleep(needs)
            ends.append('returned')
        except gevent.GreenletExit:
            ends.append('killed')

    pulse._call_soon(callback)
    etcd_clock.advance(0)
    pulse.stop(timeout=2)
    assert etcd_clock.elapsed == waited
    assert ends == ['returned' if waited == needs else 'killed']


def test_stop_returns_when_a_callback_will_not_die(etcd_clock: VirtualTime) -> None:
    """It is bounded all the same."""
    pulse = started()
    is_over: list[bool] = []

    def stubborn() -> None:
        while not is_over:
            try:
                gevent.sleep(1)
            except gevent.GreenletExit:
                pass

    pulse._call_soon(stubborn)
    etcd_clock.advance(0)
    pulse.stop(timeout=2)
    assert etcd_clock.elapsed <= 3
    is_over.append(True)
    etcd_clock.advance(2)


def test_stop_from_a_callback_and_from_elsewhere_at_a_time(etcd_clock: VirtualTime) -> None:
    """The first returns at once, the second when that callback has returned."""
    pulse = started()
    story: list[str] = []

    def callback() -> None:
        pulse.stop()
        story.append('stopped from within')
        gevent.sleep(1)
        story.append('returned')

    pulse._call_soon(callback)
    etcd_clock.advance(0)
    assert story == ['stopped from within']
    pulse.stop()
    assert story == ['stopped from within', 'returned']


def test_stop_that_is_cut_short_leaves_nothing_running(etcd_clock: VirtualTime) -> None:
    """By a timeout of the caller's own."""
    pulse = started()
    ends: list[str] = []

    def closing() -> None:
        try:
            gevent.sleep(60)
        finally:
            ends.append('ended')

    pulse.closings.append(closing)
    with pytest.raises(gevent.Timeout), gevent.Timeout(1):
        pulse.stop()
    etcd_clock.advance(0)
    assert ends == ['ended']
    assert pulse.join(0)


def test_leaving_the_block_stops_it(etcd_clock: VirtualTime) -> None:
    """Also by an exception, which goes on."""
    with pytest.raises(RuntimeError), started() as pulse:
        raise RuntimeError
    assert pulse.join(0)


def test_timeouts_that_are_none_are_refused(etcd_clock: VirtualTime) -> None:
    """Before anything is stopped."""
    pulse = started()
    with pytest.raises(ValueError, match='timeout'):
        pulse.stop(timeout=-1)
    with pytest.raises(TypeError, match='timeout'):
        pulse.stop(timeout='soon')  # type: ignore[arg-type]
    assert not pulse.join(0)
    pulse.stop(timeout=None)
    assert pulse.join(timeout=0)


def test_forked_child_makes_no_attempt_and_no_call(etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its greenlets and timers are copies of its parent's."""
    pulse = Pulse(lambda: 5)
    pulse._started()
    pulse.start(pulse.finished.append)
    etcd_clock.advance(1)
    story: list[int] = []
    pulse._call_soon(story.append, 1)
    monkeypatch.setattr('os.getpid', lambda: -1)
    pulse._call_soon(story.append, 2)
    etcd_clock.advance(600)
    assert (story, len(pulse.at)) == ([], 1)
    pulse.stop()
