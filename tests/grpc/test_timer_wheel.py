"""The timer wheel: precision, discarded deadlines, and stalls of the process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import gevent
import gevent.socket

from getc import timing
from getc.grpc import timer_wheel as wheels
from getc.grpc.timer_wheel import SLOTS_PER_SECOND, TimerWheel
from getc.testing import VirtualTime


class Deadline:
    """Records the times of its calls."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.fired_at: list[float] = []

    def on_deadline(self) -> None:
        self.fired_at.append(timing.now())


def added(wheel: TimerWheel, after: float) -> tuple[Deadline, set[Callable[[], object]]]:
    due = Deadline(timing.now() + after)
    return due, wheel.add(due.on_deadline, due.at)


def entries(wheel: TimerWheel) -> int:
    """Return the number of slots in memory."""
    return max(len(wheel._slots), len(wheel._order))


def test_deadlines_are_called_within_the_resolution_and_never_early(etcd_clock: VirtualTime) -> None:
    """Thousands of deadlines, added in any order and at any time."""
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


def test_timer_is_moved_for_an_earlier_deadline(etcd_clock: VirtualTime) -> None:
    wheel = TimerWheel()
    late, early = added(wheel, 10)[0], added(wheel, 1)[0]
    etcd_clock.advance(1.02)
    assert (len(early.fired_at), len(late.fired_at)) == (1, 0)
    etcd_clock.advance(9)
    assert len(late.fired_at) == 1


def test_deadline_in_the_past_is_called_in_the_next_iteration(etcd_clock: VirtualTime) -> None:
    """Not from within ``add``."""
    wheel = TimerWheel()
    due, _ = added(wheel, -5)
    assert due.fired_at == []
    etcd_clock.advance(1 / SLOTS_PER_SECOND)
    assert len(due.fired_at) == 1


def test_discarded_deadlines_are_not_called(etcd_clock: VirtualTime) -> None:
    """Discarding twice, or after the deadline, has no effect."""
    wheel = TimerWheel()
    pairs = [added(wheel, 1 + number % 3) for number in range(3000)]
    for number, (due, slot) in enumerate(pairs):
        if number % 3 == 0 or number % 2:
            slot.discard(due.on_deadline)
            slot.discard(due.on_deadline)
    etcd_clock.advance(5)
    for number, (due, slot) in enumerate(pairs):
        assert len(due.fired_at) == (number % 3 != 0 and not number % 2)
        slot.discard(due.on_deadline)


def test_empty_slots_of_distant_deadlines_are_removed(etcd_clock: VirtualTime) -> None:
    wheel = TimerWheel()
    for _ in range(20_000):
        due, slot = added(wheel, 3600)
        slot.discard(due.on_deadline)
        etcd_clock.advance(1 / SLOTS_PER_SECOND)
    assert entries(wheel) < 3000
    due, _ = added(wheel, 1)
    etcd_clock.advance(1.01)
    assert len(due.fired_at) == 1


def test_close_removes_all_deadlines_and_the_timer(etcd_clock: VirtualTime) -> None:
    wheel = TimerWheel()
    due, slot = added(wheel, 1)
    assert etcd_clock.seconds_to_next() is not None
    wheel.close()
    wheel.close()
    assert etcd_clock.seconds_to_next() is None
    slot.discard(due.on_deadline)
    etcd_clock.advance(2)
    assert due.fired_at == []


def test_timer_does_not_keep_the_hub_running(etcd_clock: VirtualTime) -> None:
    wheel = TimerWheel()
    due, _ = added(wheel, 1)
    assert gevent.get_hub().join()
    assert due.fired_at == []


def test_on_deadline_may_discard_another_deadline_of_its_slot(etcd_clock: VirtualTime) -> None:
    wheel = TimerWheel()

    class Meddling(Deadline):
        def on_deadline(self) -> None:
            super().on_deadline()
            slot.discard(other.on_deadline)

    other, slot = added(wheel, 1)
    meddling = Meddling(timing.now() + 1)
    assert wheel.add(meddling.on_deadline, meddling.at) == slot
    later, _ = added(wheel, 2)
    etcd_clock.advance(3)
    assert len(meddling.fired_at) == len(later.fired_at) == 1


def test_exception_of_one_deadline_does_not_stop_the_others(etcd_clock: VirtualTime) -> None:
    """Neither those of the same slot nor later ones."""
    wheel = TimerWheel()

    class Failing(Deadline):
        def on_deadline(self) -> None:
            super().on_deadline()
            raise ZeroDivisionError

    failing = [Failing(timing.now() + 1) for _ in range(2)]
    for each in failing:
        wheel.add(each.on_deadline, each.at)
    beside, later = added(wheel, 1)[0], added(wheel, 2)[0]
    hub = gevent.get_hub()
    hub.NOT_ERROR, kept = (*hub.NOT_ERROR, ZeroDivisionError), hub.NOT_ERROR
    try:
        etcd_clock.advance(3)
    finally:
        hub.NOT_ERROR = kept
    assert [len(due.fired_at) for due in (*failing, beside, later)] == [1, 1, 1, 1]
    assert entries(wheel) == 0


def test_deadlines_after_a_stall_are_called_after_sockets_were_read() -> None:
    """A response that is already in a socket counts as received in time."""
    wheel = TimerWheel()
    ours, theirs = gevent.socket.socketpair()
    order: list[str] = []

    class Call(Deadline):
        def on_deadline(self) -> None:
            order.append('deadline')

    reader = gevent.spawn(lambda: order.append(ours.recv(10).decode()))
    gevent.sleep(0)
    call = Call(timing.now() + 0.01)
    wheel.add(call.on_deadline, call.at)
    theirs.send(b'reply')
    time.sleep(wheels.STALL_SECONDS + 0.05)  # a real stall: the process does not run
    reader.join()
    while len(order) < 2:
        gevent.sleep(0.001)
    assert order == ['reply', 'deadline']
    wheel.close()
    ours.close()
    theirs.close()
