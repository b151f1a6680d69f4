"""Virtual time: the timers of gevent follow the clock, to the nanosecond and in order."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import gevent
import gevent.socket
import pytest
from gevent.event import AsyncResult, Event
from gevent.exceptions import LoopExit
from gevent.hub import get_hub
from gevent.lock import Semaphore
from gevent.queue import Empty, Queue

from getc import timing
from getc.testing.virtual_loop import real_loop, real_sleep
from getc.testing.virtual_time import VirtualTime


@pytest.fixture
def clock() -> Iterator[VirtualTime]:
    with VirtualTime() as clock:
        yield clock


def test_advance_wakes_greenlets_in_the_order_of_their_due_times(clock: VirtualTime) -> None:
    """Each at its own time, not at the end of the step."""
    woken: list[tuple[int, float]] = []

    def sleep(seconds: int) -> None:
        gevent.sleep(seconds)
        woken.append((seconds, clock.elapsed))

    for seconds in (3, 1, 2, 5):
        gevent.spawn(sleep, seconds)
    clock.advance(4)
    assert woken == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert clock.elapsed == 4


def test_advance_wakes_greenlets_in_the_order_of_their_starts_when_due_together(clock: VirtualTime) -> None:
    woken: list[int] = []

    def sleep(number: int) -> None:
        for _ in range(3):
            gevent.sleep(1)
            woken.append(number)

    for number in range(50):
        gevent.spawn(sleep, number)
    clock.advance(3)
    assert woken == [*range(50)] * 3


def test_advance_of_ten_minutes_takes_little_real_time(clock: VirtualTime) -> None:
    """A thousand greenlets that sleep in steps have all run."""
    rounds = [0] * 1000

    def sleep(number: int) -> None:
        for _ in range(4):
            gevent.sleep(150)
            rounds[number] += 1

    greenlets = [gevent.spawn(sleep, number) for number in range(1000)]
    clock.advance(600)
    assert rounds == [4] * 1000
    assert all(greenlet.dead for greenlet in greenlets)


def test_advance_returns_when_chains_of_greenlets_have_run(clock: VirtualTime) -> None:
    queues: list[Queue[int]] = [Queue() for _ in range(20)]
    arrived: list[int] = []

    def pass_on(source: Queue[int], target: Queue[int]) -> None:
        target.put(source.get() + 1)

    for source, target in itertools.pairwise(queues):
        gevent.spawn(pass_on, source, target)
    gevent.spawn(lambda: arrived.append(queues[-1].get()))
    gevent.spawn_later(1, queues[0].put, 0)
    clock.advance(1)
    assert arrived == [19]


def test_steps_add_up_exactly(clock: VirtualTime) -> None:
    """Ten steps of 0.1 s wake a greenlet that sleeps for a second."""
    sleeper = gevent.spawn(gevent.sleep, 1)
    for _ in range(9):
        clock.advance(0.1)
        assert not sleeper.dead
    clock.advance(0.1)
    assert sleeper.dead
    assert clock.elapsed == 1.0


def test_deadline_has_passed_when_its_remaining_time_was_slept(clock: VirtualTime) -> None:
    """A loop that sleeps until a deadline makes progress even where floats are rounded."""
    for timeout in (0.1, 0.3, 1 / 3, 1e-12, 12345.678901234):
        deadline = timing.Deadline.after(timeout)
        turns = 0
        while not deadline.has_passed():
            gevent.sleep(deadline.remaining())
            turns += 1
            assert turns < 5


def test_timeouts_of_gevent_follow_the_clock(clock: VirtualTime) -> None:
    """Event, Timeout, Queue, AsyncResult, Semaphore, join."""
    assert Event().wait(5) is False
    assert clock.elapsed == 5
    with pytest.raises(gevent.Timeout), gevent.Timeout(5):
        Event().wait()
    assert clock.elapsed == 10
    with pytest.raises(Empty):
        Queue().get(timeout=5)
    assert clock.elapsed == 15
    with pytest.raises(gevent.Timeout):
        AsyncResult().get(timeout=5)
    assert clock.elapsed == 20
    assert Semaphore(0).acquire(timeout=5) is False
    assert clock.elapsed == 25
    sleeper = gevent.spawn(gevent.sleep, 100)
    sleeper.join(timeout=5)
    assert not sleeper.dead
    assert gevent.wait([sleeper], timeout=5) == []
    assert clock.elapsed == 35
    sleeper.kill()


def test_timeout_does_not_fire_when_the_event_comes_at_the_same_time(clock: VirtualTime) -> None:
    """As with a real loop, which runs timeouts after everything else."""
    event = Event()
    waiter = gevent.spawn(event.wait, 1)
    gevent.spawn_later(1, event.set)
    clock.advance(1)
    assert waiter.value is True


def test_cancelled_timeouts_never_fire(clock: VirtualTime) -> None:
    """Neither when cancelled early nor when cancelled at their due time; none stays in memory."""
    for _ in range(1000):
        with gevent.Timeout(60):
            gevent.sleep(0)
    assert len(get_hub().loop._heap) < 100
    late = gevent.Timeout(1)

    def cancel() -> None:
        late.start()
        gevent.sleep(1)  # its time has come as well
        late.cancel()
        gevent.sleep(10)

    greenlet = gevent.spawn(cancel)
    clock.advance(20)
    assert greenlet.successful()


def test_spawn_later_does_not_run_when_killed(clock: VirtualTime) -> None:
    ran: list[int] = []
    greenlet = gevent.spawn_later(1, ran.append, 1)
    greenlet.kill()
    clock.advance(2)
    assert ran == []
    assert clock.seconds_to_next() is None


def test_timer_repeats_until_stopped(clock: VirtualTime) -> None:
    times: list[float] = []
    with get_hub().loop.timer(1, 2) as timer:
        timer.start(lambda: times.append(clock.elapsed))
        clock.advance(6)
        assert times == [1, 3, 5]
        assert timer.active
        timer.again(lambda: times.append(clock.elapsed))
        clock.advance(2)
        assert times == [1, 3, 5, 8]
        timer.stop()
        assert not timer.active
        clock.advance(10)
    assert times == [1, 3, 5, 8]


def test_sleep_in_the_main_greenlet_advances_time(clock: VirtualTime) -> None:
    """Other greenlets run at every due time in between."""
    seen: list[float] = []

    def beat() -> None:
        while True:
            gevent.sleep(10)
            seen.append(clock.elapsed)

    greenlet = gevent.spawn(beat)
    gevent.sleep(60)
    assert seen == [10, 20, 30, 40, 50]  # the test slept first, so at 60 it wakes first
    assert clock.elapsed == 60
    greenlet.kill()


def test_sleep_advances_time_when_a_real_timer_has_resumed_the_test() -> None:
    """The loop is in the middle of a turn then, without anything to wait for."""
    for _ in range(5):
        gevent.sleep(0.001)
        with VirtualTime() as clock:
            gevent.sleep(60)
            assert clock.elapsed == 60


def test_waiting_raises_loop_exit_when_no_timer_is_left(clock: VirtualTime) -> None:
    """As in real time; the clock still works afterwards."""
    with pytest.raises(LoopExit):
        Event().wait()
    gevent.sleep(1)
    assert clock.elapsed == 1


def test_time_does_not_advance_while_a_greenlet_waits_for_a_socket(clock: VirtualTime) -> None:
    """A reply that takes real time is not preceded by its own timeout."""
    ours, theirs = gevent.socket.socketpair()
    ours.settimeout(5)

    def answer() -> None:
        theirs.recv(1)
        real_sleep(0.02)
        theirs.sendall(b'!')

    gevent.spawn(answer)
    ours.sendall(b'?')
    assert ours.recv(1) == b'!'
    assert clock.elapsed == 0
    ours.close()
    theirs.close()


def test_timeout_of_a_socket_follows_the_clock(clock: VirtualTime) -> None:
    ours, theirs = gevent.socket.socketpair()
    ours.settimeout(5)
    reader = gevent.spawn(ours.recv, 1)
    clock.advance(4.999)
    assert not reader.dead
    clock.advance(0.001)
    assert isinstance(reader.exception, TimeoutError)
    ours.close()
    theirs.close()


def test_advance_handles_local_io_before_each_step(clock: VirtualTime) -> None:
    """Two ends in one process exchange data at one virtual time."""
    ours, theirs = gevent.socket.socketpair()
    answers: list[tuple[bytes, float]] = []

    def echo() -> None:
        while data := theirs.recv(100):
            theirs.sendall(data)

    def send_request() -> None:
        ours.settimeout(0.5)
        for _ in range(5):
            gevent.sleep(1)
            ours.sendall(b'x')
            answers.append((ours.recv(1), clock.elapsed))
        ours.close()

    echoing = gevent.spawn(echo)
    gevent.spawn(send_request)
    clock.advance(10)
    assert answers == [(b'x', float(second)) for second in range(1, 6)]
    assert echoing.dead
    theirs.close()


def test_getc_reads_the_same_clock(clock: VirtualTime) -> None:
    """now and wall_time advance together with the loop's time, from the same start."""
    assert timing.now() == clock.now() == 1000.0
    assert timing.wall_time() == clock.wall_time() == 1767225600.0
    clock.advance(2.5)
    assert timing.now() == 1002.5
    assert timing.wall_time() == get_hub().loop.now() == 1767225602.5


def test_real_time_is_restored_afterwards() -> None:
    """Also after an error in the block."""
    hub = get_hub()
    loop = hub.loop
    with pytest.raises(KeyError), VirtualTime():
        assert hub.loop is not loop
        assert real_loop() is loop
        raise KeyError
    assert hub.loop is loop
    started, virtual = time.monotonic(), timing.now()
    gevent.sleep(0.02)
    assert time.monotonic() - started >= 0.015
    assert abs(timing.now() - virtual) < 100


def test_sleeping_greenlets_never_wake_when_time_is_real_again() -> None:
    """They do not affect the next test, and can still be killed."""
    woken: list[int] = []

    def sleep() -> None:
        gevent.sleep(0.001)
        woken.append(1)

    with VirtualTime() as clock:
        greenlet = gevent.spawn(sleep)
        clock.advance(0)
    gevent.sleep(0.02)
    assert woken == []
    greenlet.kill()
    assert greenlet.dead


def test_virtual_time_raises_when_it_is_misused() -> None:
    """Nested, entered twice, used outside, advanced backwards."""
    clock = VirtualTime()
    with pytest.raises(RuntimeError, match='not virtual here'):
        clock.advance(1)
    with clock:
        with pytest.raises(RuntimeError, match='already virtual'), VirtualTime():
            pass
        for seconds in (-1, float('nan'), float('inf')):
            with pytest.raises(ValueError, match='finite and at least 0'):
                clock.advance(seconds)
        inner = gevent.spawn_later(1, clock.advance, 1)
        clock.advance(2)
        assert isinstance(inner.exception, RuntimeError)
        assert clock.elapsed == 2
    with pytest.raises(RuntimeError, match='entered only once'), clock:
        pass


def test_advance_raises_when_a_greenlet_yields_endlessly(clock: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise ``advance`` would hang."""
    monkeypatch.setattr('getc.testing.virtual_loop.MAX_TURNS', 1000)

    def spin() -> None:
        while True:
            gevent.sleep(0)

    spinner = gevent.spawn(spin)
    with pytest.raises(RuntimeError, match='in an endless loop'):
        clock.advance(1)
    spinner.kill()
    clock.advance(1)
    assert clock.elapsed == 1


def test_error_in_a_greenlet_does_not_affect_others_when_a_timer_resumed_it(
    clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_hub(), 'exception_stream', None)

    def fail() -> None:
        gevent.sleep(1)
        raise KeyError('mine')

    failing, fine = gevent.spawn(fail), gevent.spawn(gevent.sleep, 2)
    clock.advance(2)
    assert isinstance(failing.exception, KeyError)
    assert fine.successful()


def test_stall_runs_no_greenlet_and_delays_what_was_due(clock: VirtualTime) -> None:
    """Overdue timers run afterwards in the order of their due times."""
    woken: list[tuple[int, float]] = []

    def sleep(seconds: int) -> None:
        gevent.sleep(seconds)
        woken.append((seconds, clock.elapsed))

    for seconds in (3, 1, 2, 7):
        gevent.spawn(sleep, seconds)
    clock.advance(0)
    clock.stall(5)
    assert (woken, clock.elapsed, timing.now()) == ([], 5, 1005)
    clock.advance(0)
    assert woken == [(1, 5.0), (2, 5.0), (3, 5.0)]
    clock.advance(2)
    assert woken[3:] == [(7, 7.0)]


def test_suspend_advances_the_date_and_no_timer(clock: VirtualTime) -> None:
    """As the monotonic clock of Linux, and with it the timers."""
    sleeping = gevent.spawn(gevent.sleep, 10)
    clock.advance(4)
    date = timing.wall_time()
    clock.suspend(100)
    assert (timing.now(), timing.now_with_suspend(), timing.wall_time()) == (1004, 1104, date + 100)
    clock.advance(5)
    assert not sleeping.ready()
    clock.advance(1)
    assert sleeping.ready()
    with pytest.raises(ValueError, match='at least 0'):
        clock.suspend(-1)


def test_timeout_does_not_fire_after_a_stall_when_the_event_was_due_too(clock: VirtualTime) -> None:
    """Also if the timeout was due earlier."""
    event = Event()
    gevent.spawn_later(3, event.set)
    waiter = gevent.spawn(event.wait, 1)
    clock.advance(0)
    clock.stall(5)
    clock.advance(0)
    assert waiter.value is True


def test_stall_in_a_greenlet_delays_the_others_while_time_advances(clock: VirtualTime) -> None:
    """It simulates a blocking callback; time may advance beyond the target."""
    beats: list[float] = []

    def beat() -> None:
        while True:
            gevent.sleep(1)
            beats.append(clock.elapsed)

    beating = gevent.spawn(beat)
    gevent.spawn_later(2.5, clock.stall, 10)
    clock.advance(4)
    assert clock.elapsed == 12.5
    assert beats == [1, 2, 12.5]
    clock.advance(1)
    assert beats[3:] == [13.5]
    beating.kill()


def test_stall_raises_when_it_is_misused() -> None:
    """Negative, infinite, or in real time."""
    clock = VirtualTime()
    with pytest.raises(RuntimeError, match='not virtual here'):
        clock.stall(1)
    with clock:
        for seconds in (-1, float('nan'), float('inf')):
            with pytest.raises(ValueError, match='finite and at least 0'):
                clock.stall(seconds)
        assert clock.elapsed == 0


def test_random_delays_are_deterministic_in_virtual_time_and_random_afterwards() -> None:

    def delays() -> list[float]:
        backoff = timing.Backoff()
        return [backoff.next_delay() for _ in range(10)]

    with VirtualTime():
        first = delays()
        assert len(set(first)) == 10
    with VirtualTime():
        assert delays() == first
    assert delays() != first
