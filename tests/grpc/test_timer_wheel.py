"""Deadlines on one timer: never early, hardly late, and nothing left behind."""

from __future__ import annotations

import random
import time

import gevent
import gevent.socket

from getc import timing
from getc.grpc import timer_wheel as wheels
from getc.grpc.timer_wheel import SLOTS_PER_SECOND, TimerTarget, TimerWheel
from getc.testing import VirtualTime


class Deadline:
    """Remembers when it was due."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.fired_at: list[float] = []

    def on_deadline(self) -> None:
        self.fired_at.append(timing.now())


def added(wheel: TimerWheel, after: float) -> tuple[Deadline, set[TimerTarget]]:
    due = Deadline(timing.now() + after)
    return due, wheel.add(due, due.at)


def entries(wheel: TimerWheel) -> int:
    """Slots that take memory."""
    return max(len(wheel._slots), len(wheel._order))


def test_deadlines_are_met_never_early_and_within_the_granularity(etcd_clock: VirtualTime) -> None:
    """Thousands of them, added in any order and at any time, each once."""
    wheel, chance, dues = TimerWheel(), random.Random(7), []
    for _ in range(20):
        dues += [added(wheel, chance.uniform(0, 3))[0] for _ in range(250)]
        etcd_clock.advance(chance.uniform(0, 0.2))
    etcd_clock.advance(3.1)
    assert all(len(due.fired_at) == 1 for due in dues)
    lateness = [due.fired_at[0] - due.at for due in dues]
    assert min(lateness) >= 0
    assert max(lateness) <= 1 / SLOTS_PER_SECOND + 1e-6
    assert etcd_clock.seconds_to_next() is None
    assert entries(wheel) == 0


def test_deadline_is_met_when_an_earlier_one_is_added_after_it(etcd_clock: VirtualTime) -> None:
    """The timer moves forward for it, and back again."""
    wheel = TimerWheel()
    late, early = added(wheel, 10)[0], added(wheel, 1)[0]
    etcd_clock.advance(1.02)
    assert (len(early.fired_at), len(late.fired_at)) == (1, 0)
    etcd_clock.advance(9)
    assert len(late.fired_at) == 1


def test_deadline_that_has_passed_is_met_at_once(etcd_clock: VirtualTime) -> None:
    """It is not called back from within add."""
    wheel = TimerWheel()
    due, _ = added(wheel, -5)
    assert due.fired_at == []
    etcd_clock.advance(1 / SLOTS_PER_SECOND)
    assert len(due.fired_at) == 1


def test_discarded_deadlines_are_not_met(etcd_clock: VirtualTime) -> None:
    """Also when all of a slot are, or some; discarding twice, or after the time, does no harm."""
    wheel = TimerWheel()
    pairs = [added(wheel, 1 + number % 3) for number in range(3000)]
    for number, (due, slot) in enumerate(pairs):
        if number % 3 == 0 or number % 2:
            slot.discard(due)
            slot.discard(due)
    etcd_clock.advance(5)
    for number, (due, slot) in enumerate(pairs):
        assert len(due.fired_at) == (number % 3 != 0 and not number % 2)
        slot.discard(due)


def test_deadlines_far_away_take_no_memory_when_they_are_discarded(etcd_clock: VirtualTime) -> None:
    """Calls with a timeout of an hour leave nothing for an hour."""
    wheel = TimerWheel()
    for _ in range(20_000):
        due, slot = added(wheel, 3600)
        slot.discard(due)
        etcd_clock.advance(1 / SLOTS_PER_SECOND)
    assert entries(wheel) < 3000
    due, _ = added(wheel, 1)
    etcd_clock.advance(1.01)
    assert len(due.fired_at) == 1


def test_close_forgets_all_and_leaves_no_timer(etcd_clock: VirtualTime) -> None:
    """Nothing is due any more."""
    wheel = TimerWheel()
    due, slot = added(wheel, 1)
    assert etcd_clock.seconds_to_next() is not None
    wheel.close()
    wheel.close()
    assert etcd_clock.seconds_to_next() is None
    slot.discard(due)
    etcd_clock.advance(2)
    assert due.fired_at == []


def test_deadlines_keep_no_hub_alive(etcd_clock: VirtualTime) -> None:
    """Who waits for nothing else has nothing to wait for."""
    wheel = TimerWheel()
    due, _ = added(wheel, 1)
    assert gevent.get_hub().join()
    assert due.fired_at == []


def test_deadline_may_discard_another_of_its_slot(etcd_clock: VirtualTime) -> None:
    """One that ends another's call on its way does not stop what comes later."""
    wheel = TimerWheel()

    class Meddling(Deadline):
        def on_deadline(self) -> None:
            super().on_deadline()
            slot.discard(other)

    other, slot = added(wheel, 1)
    meddling = Meddling(timing.now() + 1)
    assert wheel.add(meddling, meddling.at) == slot
    later, _ = added(wheel, 2)
    etcd_clock.advance(3)
    assert len(meddling.fired_at) == len(later.fired_at) == 1


def test_stall_gives_a_reply_a_chance() -> None:
    """After the process did not run, what lies in a socket is read before a deadline is called missed."""
    wheel = TimerWheel()
    ours, theirs = gevent.socket.socketpair()
    order: list[str] = []

    class Call(Deadline):
        def on_deadline(self) -> None:
            order.append('deadline')

    reader = gevent.spawn(lambda: order.append(ours.recv(10).decode()))
    gevent.sleep(0)
    call = Call(timing.now() + 0.01)
    wheel.add(call, call.at)
    theirs.send(b'reply')
    time.sleep(wheels.LATE + 0.05)  # the stall itself: nothing of this process runs
    reader.join()
    while len(order) < 2:
        gevent.sleep(0.001)
    assert order == ['reply', 'deadline']
    wheel.close()
    ours.close()
    theirs.close()
