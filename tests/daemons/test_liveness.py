"""Tests of the liveness probe in virtual time."""

from __future__ import annotations

import gevent
import pytest

from getc import timing
from getc.daemons.liveness import LivenessProbe
from getc.testing import VirtualTime
from tests.support.faulty import blocking_log

TIMEOUT = 1.0


@pytest.mark.parametrize('answer', [True, False])
def test_check_during_a_call_shares_its_result(etcd_clock: VirtualTime, answer: bool) -> None:
    """The function is called once."""
    calls: list[float] = []

    def alive() -> bool:
        calls.append(timing.now())
        gevent.sleep(0.6)
        return answer

    probe = LivenessProbe(alive, 'keeper')
    first = gevent.spawn(probe.check, TIMEOUT, gevent.spawn)
    etcd_clock.advance(0.3)
    second = gevent.spawn(probe.check, TIMEOUT, gevent.spawn)
    etcd_clock.advance(0.4)
    assert (first.value, second.value) == (answer, answer)
    assert len(calls) == 1


def test_check_during_a_call_waits_for_the_rest_of_its_timeout(etcd_clock: VirtualTime) -> None:
    probe = LivenessProbe(lambda: gevent.sleep(1000), 'keeper')
    gevent.spawn(probe.check, TIMEOUT, gevent.spawn)
    etcd_clock.advance(0.7)
    second = gevent.spawn(probe.check, TIMEOUT, gevent.spawn)
    etcd_clock.advance(0.4)
    assert second.value is False


def test_new_call_is_not_forgotten_when_the_previous_one_ends(etcd_clock: VirtualTime) -> None:
    """Otherwise two calls would run at a time."""
    running: list[int] = [0]
    counts: list[int] = []

    def alive() -> bool:
        running[0] += 1
        counts.append(running[0])
        try:
            gevent.sleep(0.5)
        finally:
            running[0] -= 1
        return True

    probe = LivenessProbe(alive, 'keeper')

    def check_when_it_ends() -> None:
        call = probe._call
        assert call is not None
        call.rawlink(lambda _: again.append(gevent.spawn(probe.check, TIMEOUT, gevent.spawn)))

    again: list[gevent.Greenlet] = []
    first = gevent.spawn(probe.check, TIMEOUT, gevent.spawn)
    etcd_clock.advance(0.1)
    check_when_it_ends()
    etcd_clock.advance(0.5)
    third = gevent.spawn(probe.check, TIMEOUT, gevent.spawn)
    etcd_clock.advance(1)
    assert [each.value for each in (first, *again, third)] == [True] * 3
    assert max(counts) == 1


def test_log_handler_that_blocks_does_not_delay_the_check(etcd_clock: VirtualTime) -> None:
    def alive() -> bool:
        raise ValueError('not well')

    probe = LivenessProbe(alive, 'keeper')
    with blocking_log() as lines:
        began = timing.now()
        assert not probe.check(TIMEOUT, gevent.spawn)
        assert timing.now() == began
        etcd_clock.advance(1)
    assert 'raised' in lines[0]
