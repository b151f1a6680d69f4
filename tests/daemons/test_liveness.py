"""A question at a time, and what counts as its answer."""

from __future__ import annotations

import gevent
import pytest

from getc import timing
from getc.daemons.liveness import LivenessProbe
from getc.testing import VirtualTime
from tests.support.faulty import blocking_log

PATIENCE = 1.0


@pytest.mark.parametrize('answer', [True, False])
def test_who_asks_while_a_question_is_open_gets_its_answer(etcd_clock: VirtualTime, answer: bool) -> None:
    """The function is called once, and not disturbed."""
    asked: list[float] = []

    def alive() -> bool:
        asked.append(timing.now())
        gevent.sleep(0.6)
        return answer

    checkup = LivenessProbe(alive, 'who')
    first = gevent.spawn(checkup.check, PATIENCE, gevent.spawn)
    etcd_clock.advance(0.3)
    second = gevent.spawn(checkup.check, PATIENCE, gevent.spawn)
    etcd_clock.advance(0.4)
    assert (first.value, second.value) == (answer, answer)
    assert len(asked) == 1


def test_who_asks_late_waits_for_the_rest_of_the_patience(etcd_clock: VirtualTime) -> None:
    """And not for all of it again."""
    checkup = LivenessProbe(lambda: gevent.sleep(1000), 'who')
    gevent.spawn(checkup.check, PATIENCE, gevent.spawn)
    etcd_clock.advance(0.7)
    second = gevent.spawn(checkup.check, PATIENCE, gevent.spawn)
    etcd_clock.advance(0.4)
    assert second.value is False


def test_question_that_is_asked_anew_is_not_forgotten_with_the_old_one(etcd_clock: VirtualTime) -> None:
    """Or two would be open at a time."""
    now: list[int] = [0]
    most: list[int] = []

    def alive() -> bool:
        now[0] += 1
        most.append(now[0])
        try:
            gevent.sleep(0.5)
        finally:
            now[0] -= 1
        return True

    checkup = LivenessProbe(alive, 'who')

    def ask_when_it_ends() -> None:
        asked = checkup._call
        assert asked is not None
        asked.rawlink(lambda _: again.append(gevent.spawn(checkup.check, PATIENCE, gevent.spawn)))

    again: list[gevent.Greenlet] = []
    first = gevent.spawn(checkup.check, PATIENCE, gevent.spawn)
    etcd_clock.advance(0.1)
    ask_when_it_ends()
    etcd_clock.advance(0.5)
    third = gevent.spawn(checkup.check, PATIENCE, gevent.spawn)
    etcd_clock.advance(1)
    assert [each.value for each in (first, *again, third)] == [True] * 3
    assert max(most) == 1


def test_log_handler_that_blocks_is_no_part_of_the_question(etcd_clock: VirtualTime) -> None:
    """An exception is a no at once, and all of it is written."""

    def alive() -> bool:
        raise ValueError('not well')

    checkup = LivenessProbe(alive, 'who')
    with blocking_log() as said:
        began = timing.now()
        assert not checkup.check(PATIENCE, gevent.spawn)
        assert timing.now() == began
        etcd_clock.advance(1)
    assert 'raised' in said[0]
