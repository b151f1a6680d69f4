"""Tests of the life cycle of daemons in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

from getc.daemons.base import Daemon
from getc.daemons.handle import DaemonHandle
from getc.errors import ClientClosed, TimedOut, Unauthorized
from getc.net.client_log import ClientLog
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.faulty import blocking_log


class Steps(Daemon):
    """Runs the given steps one after the other.

    Attributes:
        attempts: The number of attempts.
        finished: The daemons whose end was reported.
        closings: Functions to run in the background when it stops.
    """

    def __init__(self, *steps: Callable[[], float | None]) -> None:
        super().__init__(ClientLog(), '/test', 'test')
        self.steps = list(steps)
        self.attempts = 0
        self.finished: list[Daemon] = []
        self.closings: list[Callable[[], None]] = []

    def begin(self) -> None:
        self.start(self.finished.append)

    def _step(self) -> float | None:
        self.attempts += 1
        return self.steps.pop(0)() if self.steps else None

    def _on_stop(self, deadline: Deadline) -> None:
        for closing in self.closings:
            self.greenlets.spawn(closing)


def started() -> Steps:
    daemon = Steps()
    daemon.mark_started()
    return daemon


def raising(error: BaseException) -> Callable[[], float | None]:
    def step() -> float | None:
        raise error

    return step


def stop(daemon: Daemon, timeout: float | None = 5.0) -> None:
    daemon.stop(Deadline(timeout))


def has_stopped(daemon: Daemon) -> bool:
    return daemon.join(Deadline(0))


# -- start


def test_refusal_stops_a_daemon_that_has_not_started(etcd_clock: VirtualTime) -> None:
    daemon = Steps(raising(Unauthorized('no')))
    daemon.begin()
    with pytest.raises(Unauthorized):
        daemon.wait_started(Deadline(None))
    assert daemon.join(Deadline(1))
    assert set(daemon.finished) == {daemon}


def test_refusal_is_retried_once_the_daemon_has_started(etcd_clock: VirtualTime) -> None:
    daemon = started()
    daemon.steps = [raising(Unauthorized('no'))]
    daemon.begin()
    etcd_clock.advance(1)
    assert daemon.attempts == 2
    assert isinstance(daemon.last_error, Unauthorized)
    stop(daemon)


def test_refusal_in_the_hub_is_raised_while_a_log_handler_blocks(etcd_clock: VirtualTime) -> None:
    """Watch listeners are called in the hub, where nothing may block."""
    daemon = Steps()
    with blocking_log() as lines:
        gevent.get_hub().loop.run_callback(daemon.fail_start, Unauthorized('no'))
        with pytest.raises(Unauthorized):
            daemon.wait_started(Deadline(5))
        assert daemon.join(Deadline(1))
        etcd_clock.advance(1)
    assert lines == []  # the caller has the error


def test_refusal_is_logged_if_no_caller_waits_for_the_start(etcd_clock: VirtualTime) -> None:
    daemon = Steps()
    with blocking_log() as lines:
        gevent.get_hub().loop.run_callback(daemon.fail_start, Unauthorized('no'))
        etcd_clock.advance(1)
    assert daemon.join(Deadline(1))
    assert lines == ['etcd client: test: did not start: [110] no']


def test_wait_started_raises_client_closed_when_the_daemon_is_stopped(etcd_clock: VirtualTime) -> None:
    daemon = Steps(raising(TimedOut('x')))
    daemon.begin()
    gevent.spawn_later(1, stop, daemon)
    with pytest.raises(ClientClosed, match='test was stopped before it had started'):
        daemon.wait_started(Deadline(None))


def test_wait_started_names_the_daemon_and_its_last_error_at_the_deadline(etcd_clock: VirtualTime) -> None:
    daemon = Steps(*[raising(TimedOut('no answer'))] * 100)
    daemon.begin()
    with pytest.raises(TimedOut, match=r'^test did not start within 2 s: no answer$'):
        daemon.wait_started(Deadline(2))
    assert daemon.is_stopped


# -- stop


def test_stop_ends_attempts_timers_and_callbacks_and_may_be_repeated(etcd_clock: VirtualTime) -> None:
    daemon = Steps(lambda: 5)
    daemon.mark_started()
    daemon.begin()
    calls: list[int] = []
    etcd_clock.advance(1)
    assert not has_stopped(daemon)
    daemon.callbacks.post(calls.append, 1)
    stop(daemon)
    assert has_stopped(daemon)
    daemon.callbacks.post(calls.append, 2)
    daemon.retry.schedule(0)
    etcd_clock.advance(600)
    assert (calls, daemon.attempts) == ([], 1)
    assert daemon.finished == [daemon]
    stop(daemon)
    assert etcd_clock.seconds_to_next() is None


@pytest.mark.parametrize(('needs', 'waited'), [(0.5, 0.5), (60, 2)])
def test_stop_kills_at_its_deadline_what_has_not_ended(etcd_clock: VirtualTime, needs: float, waited: float) -> None:
    daemon = started()
    ends: list[str] = []

    def callback() -> None:
        try:
            gevent.sleep(needs)
            ends.append('returned')
        except gevent.GreenletExit:
            ends.append('killed')

    daemon.callbacks.post(callback)
    etcd_clock.advance(0)
    stop(daemon, 2)
    assert etcd_clock.elapsed == waited
    assert ends == ['returned' if waited == needs else 'killed']


def test_stop_returns_when_a_callback_catches_its_kill(etcd_clock: VirtualTime) -> None:
    daemon = started()
    is_over: list[bool] = []

    def stubborn() -> None:
        while not is_over:
            try:
                gevent.sleep(1)
            except gevent.GreenletExit:
                pass

    daemon.callbacks.post(stubborn)
    etcd_clock.advance(0)
    stop(daemon, 2)
    assert etcd_clock.elapsed <= 3
    is_over.append(True)
    etcd_clock.advance(2)


def test_stop_from_a_callback_returns_at_once_and_another_stop_waits_for_the_callback(etcd_clock: VirtualTime) -> None:
    daemon = started()
    events: list[str] = []

    def callback() -> None:
        stop(daemon)
        events.append('stop returned')
        gevent.sleep(1)
        events.append('callback returned')

    daemon.callbacks.post(callback)
    etcd_clock.advance(0)
    assert events == ['stop returned']
    stop(daemon)
    assert events == ['stop returned', 'callback returned']


def test_stop_that_a_timeout_interrupts_leaves_no_greenlet(etcd_clock: VirtualTime) -> None:
    daemon = started()
    ends: list[str] = []

    def closing() -> None:
        try:
            gevent.sleep(60)
        finally:
            ends.append('ended')

    daemon.closings.append(closing)
    with pytest.raises(gevent.Timeout), gevent.Timeout(1):
        stop(daemon)
    etcd_clock.advance(0)
    assert ends == ['ended']
    assert has_stopped(daemon)


def test_forked_child_has_stopped_daemons_and_stop_does_nothing(
    etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = started()
    monkeypatch.setattr('os.getpid', lambda: -1)
    assert daemon.is_stopped
    assert has_stopped(daemon)
    stop(daemon)
    assert daemon.finished == []


# -- handles


def test_leaving_the_block_of_a_handle_stops_the_daemon(etcd_clock: VirtualTime) -> None:
    """Also by an exception, which propagates."""
    with pytest.raises(RuntimeError), DaemonHandle(started()) as handle:
        raise RuntimeError
    assert handle.join(0)


def test_handle_refuses_invalid_timeouts_before_it_stops_the_daemon(etcd_clock: VirtualTime) -> None:
    handle = DaemonHandle(started())
    with pytest.raises(ValueError, match='timeout'):
        handle.stop(timeout=-1)
    with pytest.raises(TypeError, match='timeout'):
        handle.stop(timeout='soon')  # type: ignore[arg-type]
    assert not handle.join(0)
    handle.stop(timeout=None)
    assert handle.join(timeout=0)
