"""``run_while_leader`` on a store in memory, in virtual time: when the function is killed, and functions that outlive
their term."""

from __future__ import annotations

import logging

import gevent
import pytest

import getc
from getc import timing
from getc.recipes import LeadershipLost, Term
from getc.testing import MemoryStore, VirtualTime

TTL = 10
KEY = '/leaders/match'


def test_function_is_killed_grace_seconds_before_another_leader_is_possible(
    store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    """Renewals move that time; ``finally`` blocks have ``grace`` seconds in which the term still goes on."""
    times: dict[str, float] = {}

    def work(term: Term) -> None:
        try:
            gevent.sleep(3600)
        except LeadershipLost:
            times['killed'] = timing.now()
            times['left'] = term.remaining()
            gevent.sleep(1.9)
            assert term.ensure()
            raise
        finally:
            times['ended'] = timing.now()

    link = store.link()
    with getc.etcd(link.url) as cut_off:
        loop = cut_off.run_while_leader(KEY, work, ttl=TTL, grace=2.0)
        etcd_clock.advance(1)
        assert loop.term is not None
        second = client.elect(KEY, ttl=TTL, on_elected=lambda _: times.setdefault('next', timing.now()), wait=True)
        etcd_clock.advance(600)
        assert 'killed' not in times
        link.disconnect()
        etcd_clock.advance(2 * TTL)
        assert times['left'] == pytest.approx(2.0)
        assert times['ended'] == pytest.approx(times['killed'] + 1.9)
        assert times['next'] >= times['killed'] + 2.0
        assert second.ensure() and loop.term is None
        link.connect()
        second.stop()
        etcd_clock.advance(TTL)
        assert loop.term is not None
        loop.stop()


def test_function_that_outlives_its_term_is_reported(
    store: MemoryStore, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not started again while it still runs."""
    begun: list[float] = []
    overruns: list[tuple[Term, float]] = []

    def stubborn(term: Term) -> None:
        begun.append(timing.now())
        for _ in range(100):
            try:
                gevent.sleep(1)
            except LeadershipLost:
                killed.append(timing.now())

    killed: list[float] = []
    with getc.etcd(store.url) as client, caplog.at_level(logging.CRITICAL):
        loop = client.run_while_leader(
            KEY, stubborn, ttl=TTL, on_overrun=lambda term: overruns.append((term, timing.now()))
        )
        etcd_clock.advance(1)
        term = loop.term
        store.disconnect()
        etcd_clock.advance(2 * TTL)
        store.connect()
        etcd_clock.advance(2 * TTL)
        assert [each for each, _ in overruns] == [term]
        assert overruns[0][1] == pytest.approx(killed[0] + 1.0)  # the default for a TTL of 10 s
        assert 'the function still runs, and another process may be the leader' in caplog.text
        assert len(begun) == 1
        etcd_clock.advance(100)
        assert len(begun) == 2
        store.disconnect()
        etcd_clock.advance(2 * TTL)
        assert len(overruns) == 2


def test_paused_process_kills_its_function_at_once_and_reports_it_after_the_grace(
    store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime
) -> None:
    overruns: list[float] = []
    killed: list[float] = []

    def stubborn(term: Term) -> None:
        try:
            gevent.sleep(3600)
        except LeadershipLost:
            killed.append(timing.now())
            gevent.sleep(0.5 if len(killed) == 1 else 5)

    loop = client.run_while_leader(KEY, stubborn, ttl=TTL, on_overrun=lambda _: overruns.append(timing.now()))
    etcd_clock.advance(1)
    for number in (1, 2):
        etcd_clock.stall(3 * TTL)
        assert loop.term is not None and loop.term.remaining() == 0
        began = timing.now()
        etcd_clock.advance(10)
        assert len(killed) == number and killed[-1] - began < 0.1
    assert len(overruns) == 1 and overruns[0] == pytest.approx(killed[1] + 1.0)  # only the second was late
    loop.stop()


def test_function_that_does_not_end_in_stop_keeps_its_key_until_the_ttl(
    store: MemoryStore, client: getc.Client, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """No other leader at once: the function may still write."""
    ended: list[float] = []

    def stubborn(term: Term) -> None:
        for _ in range(30):
            try:
                gevent.sleep(1)
            except gevent.GreenletExit:
                pass
        ended.append(timing.now())

    loop = client.run_while_leader(KEY, stubborn, ttl=TTL)
    etcd_clock.advance(1)
    loop.stop(timeout=2.0)
    assert not ended and len(client.lock(KEY).contenders()) == 1
    assert 'the key is left to its TTL of 10 s' in caplog.text
    etcd_clock.advance(TTL + 1)
    assert client.lock(KEY).contenders() == ()
    etcd_clock.advance(30)
    assert ended
