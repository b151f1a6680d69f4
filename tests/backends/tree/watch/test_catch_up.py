"""Detection of watches that have caught up, by reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from getc import timing
from getc.backends.tree.watch.catch_up import READ_INTERVAL, CatchUpDetector
from getc.backends.tree.watch.proxied_watches import CHECK_INTERVAL, ProxiedWatches
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.killing import killing_next_greenlet


class Progress:
    proves_delivery = False
    has_responses = True


class Stream:
    """A stream of a server that does not answer progress requests."""

    progress = Progress()
    is_over = False


class CatchingUp:
    """A watch on a server that does not answer progress requests."""

    def __init__(self) -> None:
        self.stream: Any = Stream()
        self.is_catching_up = True
        self.read_times: list[float] = []
        self.on_read: Callable[[], object] = lambda: None
        self.is_pending = False
        self.goal = 5
        self.reached = 0

    def on_progress(self, revision: int) -> None:
        raise AssertionError('the server sends no progress responses')

    def has_pending(self, deadline: Deadline) -> bool:
        self.read_times.append(timing.now())
        self.on_read()
        return self.is_pending

    def on_nothing_pending(self, revision: int) -> None:
        self.reached = revision
        self.is_catching_up = revision < self.goal


@pytest.fixture
def detector(etcd_clock: VirtualTime) -> Any:
    detector = CatchUpDetector()
    yield detector
    detector.close()


def test_watch_has_caught_up_after_two_reads_some_time_apart(
    detector: CatchUpDetector, etcd_clock: VirtualTime
) -> None:
    watch = CatchingUp()
    detector.add(watch)
    etcd_clock.advance(2)
    assert not watch.is_catching_up
    assert watch.read_times[-1] - watch.read_times[0] >= READ_INTERVAL


def test_watch_that_catches_up_again_is_read_twice_again(detector: CatchUpDetector, etcd_clock: VirtualTime) -> None:
    """A read before the watch was created again does not count, although another watch keeps the detector busy."""
    watch, other = CatchingUp(), CatchingUp()
    other.is_pending = True
    detector.add(watch)
    detector.add(other)
    etcd_clock.advance(2)
    assert not watch.is_catching_up
    watch.is_catching_up, watch.read_times = True, []
    detector.add(watch)
    etcd_clock.advance(2)
    assert not watch.is_catching_up
    assert watch.read_times[-1] - watch.read_times[0] >= READ_INTERVAL


def test_read_during_which_the_watch_was_created_again_does_not_count(
    detector: CatchUpDetector, etcd_clock: VirtualTime
) -> None:
    watch = CatchingUp()

    def restart() -> None:
        if len(watch.read_times) > 1 and watch.read_times[-1] - watch.read_times[0] >= READ_INTERVAL:
            watch.on_read = lambda: None
            watch.read_times = []
            gevent.sleep(0.1)
            detector.add(watch)

    watch.on_read = restart
    detector.add(watch)
    etcd_clock.advance(4)
    assert not watch.is_catching_up
    assert watch.read_times[-1] - watch.read_times[0] >= READ_INTERVAL


def test_goal_that_was_raised_between_the_reads_is_not_reached_by_the_second(
    detector: CatchUpDetector, etcd_clock: VirtualTime
) -> None:
    """Reads do not show a deletion that is in flight, so a later goal needs two reads of its own."""
    watch = CatchingUp()
    reached: list[int] = []

    def raise_goal() -> None:
        if len(watch.read_times) == 1:
            watch.goal = 8
            detector.raise_goal(watch)  # type: ignore[arg-type]
        reached.append(watch.reached)

    watch.on_read = raise_goal
    detector.add(watch)  # type: ignore[arg-type]
    etcd_clock.advance(4)
    assert (reached[0], reached[-1], watch.reached, watch.is_catching_up) == (0, 5, 8, False)
    first_of_later = watch.read_times[reached.index(5)]
    assert watch.read_times[-1] - first_of_later >= READ_INTERVAL


def test_poller_that_was_killed_before_it_ran_is_replaced(detector: CatchUpDetector, etcd_clock: VirtualTime) -> None:
    watches: list[Any] = [CatchingUp(), CatchingUp()]
    with killing_next_greenlet():
        detector.add(watches[0])
        etcd_clock.advance(0)
    detector.add(watches[1])
    etcd_clock.advance(5)
    assert [watch.is_catching_up for watch in watches] == [False, False]


def test_poller_behind_a_proxy_that_was_killed_before_it_ran_is_replaced(etcd_clock: VirtualTime) -> None:
    proxied = ProxiedWatches()
    watch: Any = CatchingUp()
    with killing_next_greenlet():
        proxied.add(watch)
        etcd_clock.advance(0)
    proxied.add(watch)
    etcd_clock.advance(CHECK_INTERVAL + 1)
    assert len(proxied._positions) == 0, 'a watch that is not on a proxy is not checked any more'
