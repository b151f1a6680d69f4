"""The renewal clock and the loop that renews by it."""

from __future__ import annotations

import gevent
import pytest

from getc import timing
from getc.errors import ConnectionError, EtcException, NodeLost
from getc.renewal import RenewalClock, RenewalLoop, safety_margin
from getc.testing import VirtualTime
from tests.support.faulty import stall

TTL = 12
MARGIN = 1.2


class Kept:
    """Records what its loop does; an attempt calls ``attempt``, which may raise, sleep or close the loop."""

    def __init__(self, ttl: int = TTL) -> None:
        self.clock = RenewalClock(ttl, timing.now())
        self.loop = RenewalLoop(self, self.clock, '/a', gevent)
        self.events: list[tuple[float, str]] = []
        self.prepared = 0
        self.error: EtcException | None = None
        self.duration = 0.0
        self.lost: NodeLost | None = None

    def before_renewal(self) -> None:
        self.prepared += 1

    def renew(self) -> None:
        sent_at = timing.now()
        self.events.append((sent_at, 'sent'))
        gevent.sleep(self.duration)
        if self.error is not None:
            raise self.error
        self.clock.acknowledge(sent_at)

    def on_renewal_missed(self, error: EtcException) -> None:
        self.events.append((timing.now(), 'missed'))

    def on_expired(self) -> None:
        self.events.append((timing.now(), 'lost'))
        self.lost = self.clock.loss('{key}', key='/a')
        self.loop.close()

    def times(self, name: str) -> list[float]:
        return [at for at, event in self.events if event == name]


@pytest.fixture
def kept(etcd_clock: VirtualTime) -> Kept:
    return Kept()


# -- the clock


@pytest.mark.parametrize(('ttl', 'margin'), [(1, 0.5), (3, 0.5), (5, 0.5), (10, 1), (60, 6)])
def test_safety_margin_is_a_tenth_and_at_least_half_a_second(ttl: int, margin: float) -> None:
    assert safety_margin(ttl) == margin


def test_clock_counts_from_the_sending(etcd_clock: VirtualTime) -> None:
    clock = RenewalClock(TTL, timing.now() - 2)
    assert clock.lost_at == pytest.approx(timing.now() - 2 + TTL - MARGIN)
    assert clock.renew_at == pytest.approx(timing.now() - 2 + TTL / 3)
    assert clock.remaining() == pytest.approx(TTL - MARGIN - 2)


def test_acknowledgement_postpones_loss_and_renewal(etcd_clock: VirtualTime) -> None:
    clock = RenewalClock(TTL, timing.now())
    clock.last_error = ConnectionError('broken')
    etcd_clock.advance(5)
    assert clock.acknowledge(timing.now() - 1)
    assert clock.remaining() == pytest.approx(TTL - MARGIN - 1)
    assert clock.renew_at == pytest.approx(timing.now() - 1 + TTL / 3)
    assert clock.last_error is None


def test_acknowledgement_of_an_earlier_request_does_not_move_the_clock_back(etcd_clock: VirtualTime) -> None:
    """Two writes may be in flight, and their answers may come in either order."""
    began = timing.now()
    clock = RenewalClock(TTL, began)
    etcd_clock.advance(2)
    clock.acknowledge(timing.now())
    clock.acknowledge(began + 1)
    assert clock.lost_at == pytest.approx(began + 2 + TTL - MARGIN)


def test_acknowledgement_after_the_loss_is_too_late(etcd_clock: VirtualTime) -> None:
    clock = RenewalClock(TTL, timing.now())
    etcd_clock.advance(TTL - MARGIN)
    assert clock.has_run_out
    assert not clock.acknowledge(timing.now() - 0.1)
    assert clock.has_run_out
    assert clock.remaining() == 0


def test_attempt_takes_a_sixth_and_never_longer_than_until_the_loss(etcd_clock: VirtualTime) -> None:
    clock = RenewalClock(TTL, timing.now())
    assert clock.attempt_deadline().timeout == TTL / 6
    etcd_clock.advance(TTL - MARGIN - 0.5)
    assert clock.attempt_deadline().timeout == pytest.approx(0.5)


def test_clock_is_fresh_with_more_than_half_of_the_ttl_left(etcd_clock: VirtualTime) -> None:
    clock = RenewalClock(TTL, timing.now())
    etcd_clock.advance(TTL / 2 - 0.01)
    assert clock.is_fresh
    etcd_clock.advance(0.02)
    assert not clock.is_fresh


def test_loss_names_the_last_error_if_there_is_one(etcd_clock: VirtualTime) -> None:
    clock = RenewalClock(2, timing.now())
    error = clock.loss('lease 1f')
    assert 'None' not in str(error)
    assert str(error).startswith('lease 1f was not renewed within its TTL of 2 s: no renewal was sent')
    clock.last_error = ConnectionError('the connection broke')
    error = clock.loss('{key}', key='/a')
    assert str(error) == '/a was not renewed within its TTL of 2 s: the connection broke'
    assert error.key == '/a'
    assert error.__cause__ is clock.last_error


# -- the loop


def test_loop_renews_at_a_third_of_the_ttl(kept: Kept, etcd_clock: VirtualTime) -> None:
    began = timing.now()
    etcd_clock.advance(TTL)
    assert kept.times('sent') == pytest.approx([began + 4, began + 8, began + 12])
    assert kept.prepared == 3


def test_interval_counts_from_the_sending(kept: Kept, etcd_clock: VirtualTime) -> None:
    began = timing.now()
    kept.duration = 1
    etcd_clock.advance(TTL)
    assert kept.times('sent') == pytest.approx([began + 4, began + 8, began + 12])


def test_failed_renewal_is_attempted_again_until_the_loss(kept: Kept, etcd_clock: VirtualTime) -> None:
    began = timing.now()
    kept.error = ConnectionError('the connection broke')
    etcd_clock.advance(2 * TTL)
    assert len(kept.times('missed')) > 5
    assert kept.times('lost') == [pytest.approx(began + TTL - MARGIN)]
    assert max(kept.times('sent')) < kept.times('lost')[0]
    assert str(kept.lost).endswith('the connection broke')
    assert kept.prepared == 1


def test_missed_renewal_that_succeeds_later_loses_nothing(kept: Kept, etcd_clock: VirtualTime) -> None:
    kept.error = ConnectionError('the connection broke')
    etcd_clock.advance(TTL / 2)
    kept.error = None
    etcd_clock.advance(3 * TTL)
    assert not kept.times('lost')


def test_loss_is_reported_in_time_while_a_renewal_hangs(kept: Kept, etcd_clock: VirtualTime) -> None:
    began = timing.now()
    kept.duration = 100
    etcd_clock.advance(TTL)
    assert kept.times('lost') == [pytest.approx(began + TTL - MARGIN)]


def test_loss_after_a_stall_says_that_the_process_did_not_run(kept: Kept, etcd_clock: VirtualTime) -> None:
    stall(etcd_clock, TTL + 1)
    assert not kept.loop.is_active
    etcd_clock.advance(0.1)
    assert not kept.times('sent')
    assert str(kept.lost).endswith('no renewal was sent: this process, its hub or the machine did not run')


def test_renew_now_renews_at_once(kept: Kept, etcd_clock: VirtualTime) -> None:
    began = timing.now()
    kept.loop.renew_now()
    etcd_clock.advance(1)
    assert kept.times('sent') == [pytest.approx(began)]


def test_renew_now_during_a_renewal_is_followed_by_another_one(kept: Kept, etcd_clock: VirtualTime) -> None:
    """The answer of the renewal in flight may be from before the call."""
    began = timing.now()
    kept.duration = 1
    etcd_clock.advance(TTL / 3 + 0.5)
    kept.loop.renew_now()
    etcd_clock.advance(1)
    assert kept.times('sent') == pytest.approx([began + 4, began + 5])


def test_closed_loop_neither_renews_nor_reports(kept: Kept, etcd_clock: VirtualTime) -> None:
    kept.loop.close()
    kept.loop.close()
    kept.loop.renew_now()
    etcd_clock.advance(2 * TTL)
    assert kept.events == []
    assert kept.loop.is_closed
    assert not kept.loop.is_active


def test_loop_that_is_closed_before_a_renewal_sends_none(kept: Kept, etcd_clock: VirtualTime) -> None:
    kept.before_renewal = kept.loop.close  # type: ignore[method-assign]
    etcd_clock.advance(2 * TTL)
    assert kept.events == []
