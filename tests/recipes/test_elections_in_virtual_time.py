"""Elections on a store in memory, in virtual time: losses, outages, lost replies, pauses."""

from __future__ import annotations

import os
from itertools import count

import gevent
import pytest

import getc
from getc import timing
from getc.recipes import CandidacyState
from getc.testing import MemoryStore, VirtualTime, wait_until
from tests.recipes.conftest import Open
from tests.recipes.strikes import run_struck, time_for_removal

TTL = 10
KEY = '/leaders/match'

CAMPAIGNING, LEADING = CandidacyState.CAMPAIGNING, CandidacyState.LEADING
SUSPECT, LOST, STOPPED = CandidacyState.SUSPECT, CandidacyState.LOST, CandidacyState.STOPPED


def values(client: getc.Client) -> list[str]:
    return [value.value for value in client.lock(KEY).contenders()]


def test_leader_leads_for_ten_minutes(client: getc.Client, etcd_clock: VirtualTime) -> None:
    candidacy = client.elect(KEY, ttl=TTL)
    token = candidacy.wait_elected()
    etcd_clock.advance(600)
    assert (candidacy.state, candidacy.ensure()) == (LEADING, token)
    candidacy.stop()


def test_leader_that_is_cut_off_is_lost_before_another_is_elected(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    """The calls are made at the loss; then the candidate takes the last place, and its old key is gone."""
    link = store.link()
    times: list[tuple[str, float]] = []
    with getc.etcd(link.url) as cut_off:
        first = cut_off.elect(
            KEY,
            'ann',
            ttl=TTL,
            on_elected=lambda _: times.append(('elected', timing.now())),
            on_lost=lambda _: times.append(('lost', timing.now())),
        )
        first.wait_elected()
        second = client.elect(KEY, 'bob', ttl=TTL, on_elected=lambda _: times.append(('next', timing.now())), wait=True)
        etcd_clock.advance(5)
        link.disconnect()
        etcd_clock.advance(2)
        assert first.state is SUSPECT and first.ensure()
        etcd_clock.advance(TTL)
        assert (first.state, second.state) == (LOST, LEADING)
        with pytest.raises(getc.NodeLost, match=r'leadership of /leaders/match is not held: .*not renewed'):
            first.ensure()
        assert [name for name, _ in times] == ['elected', 'lost', 'next']
        assert times[1][1] <= times[2][1] - 1  # the safety margin
        link.connect()
        etcd_clock.advance(TTL)
        assert first.state is CAMPAIGNING and values(client) == ['bob', 'ann']
        second.stop()
        etcd_clock.advance(1)
        assert first.state is LEADING
        first.stop()


def test_ensure_raises_at_once_after_a_pause_of_the_process(etcd_clock: VirtualTime, client: getc.Client) -> None:
    """No timer and no greenlet has run since, as after SIGSTOP."""
    candidacy = client.elect(KEY, ttl=TTL)
    candidacy.wait_elected()
    etcd_clock.stall(TTL - 1 - 0.001)
    assert candidacy.ensure()
    etcd_clock.stall(0.001)
    assert (candidacy.state, candidacy.token, candidacy.remaining()) == (LOST, None, 0.0)
    with pytest.raises(getc.NodeLost):
        candidacy.ensure()
    etcd_clock.advance(TTL)
    assert candidacy.state is LEADING
    candidacy.stop()


def test_term_that_is_over_before_its_call_began_is_left_out(etcd_clock: VirtualTime, client: getc.Client) -> None:
    made: list[str] = []

    def on_elected(candidacy: getc.Candidacy) -> None:
        made.append('elected')
        gevent.sleep(5 * TTL)

    candidacy = client.elect(KEY, ttl=TTL, on_elected=on_elected, on_lost=lambda _: made.append('lost'))
    for _ in range(3):
        candidacy.wait_elected()
        etcd_clock.advance(1)
        client.delete(client.lock(KEY).contenders()[0].key)
        etcd_clock.advance(1)
    assert made == ['elected', 'lost']
    etcd_clock.advance(5 * TTL)
    assert made == ['elected', 'lost', 'elected']  # of the fourth term, which lasts
    candidacy.stop()


def test_unanswered_create_makes_one_key(store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client) -> None:
    """microsoft/etcd3#158."""
    link = store.link()
    with getc.etcd(link.url) as other:
        link.lose_next_reply()
        candidacy = other.elect(KEY, 'ann', ttl=TTL)
        etcd_clock.advance(TTL)
        assert candidacy.state is LEADING and values(client) == ['ann']
        candidacy.stop()
        assert values(client) == []


def test_resign_without_an_answer_returns_at_its_timeout(
    store: MemoryStore, etcd_clock: VirtualTime, client: getc.Client
) -> None:
    link = store.link()
    with getc.etcd(link.url) as cut_off:
        candidacy = cut_off.elect(KEY, 'ann', ttl=TTL)
        token = candidacy.wait_elected()
        link.disconnect()
        began = timing.now()
        candidacy.resign(timeout=2.0)
        assert timing.now() - began <= 2.0 and candidacy.token is None
        etcd_clock.advance(3 * TTL)
        assert values(client) == []
        link.connect()
        etcd_clock.advance(TTL)
        assert candidacy.ensure() > token
        candidacy.stop()


def test_start_without_an_answer_is_repeated(store: MemoryStore, etcd_clock: VirtualTime) -> None:
    with getc.etcd(store.url) as client:
        store.disconnect()
        candidacy = client.elect(KEY, ttl=TTL)
        with pytest.raises(getc.TimedOut):
            candidacy.wait_elected(60)
        store.connect()
        assert candidacy.wait_elected(60)
        candidacy.stop()


def test_candidacy_stays_with_the_parent_of_a_fork(client: getc.Client) -> None:
    """In the child it is stopped, and nothing that the child does deletes the key."""
    candidacy = client.elect(KEY, ttl=TTL)
    token = candidacy.wait_elected()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert (candidacy.state, candidacy.token, candidacy.remaining()) == (STOPPED, None, 0.0)
            with pytest.raises(getc.NodeLost, match='it belongs to the parent of this forked process'):
                candidacy.ensure()
            with pytest.raises(getc.ClientClosed):
                candidacy.wait_elected(1)
            candidacy.resign()
            candidacy.stop()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert candidacy.ensure() == token
    candidacy.stop()


def cycle(client: getc.Client) -> None:
    with client.elect(KEY, 'struck', ttl=30, wait=True) as candidacy:
        candidacy.wait_elected(30)
        candidacy.proclaim('x')
        candidacy.resign()
        candidacy.wait_elected(30)


@pytest.mark.parametrize('by', ['kill', 'timeout'])
def test_strike_at_each_switch_leaves_no_candidate(open_client: Open, by: str) -> None:
    """Before the fixture ends, no greenlet may be left."""
    client, observer = open_client(), open_client()
    for at in count(1):
        outcome = run_struck(lambda: cycle(client), at, by=by)
        wait_until(lambda: values(observer) == [], timeout=time_for_removal(observer))
        if not outcome.was_struck:
            break
    assert at > 4


def run_and_stop(client: getc.Client) -> None:
    with client.run_while_leader(KEY, lambda _: gevent.sleep(60), ttl=30) as loop:
        while loop.term is None:
            gevent.sleep(0.01)


@pytest.mark.parametrize('by', ['kill', 'timeout'])
def test_strike_at_each_switch_of_a_loop_leaves_no_candidate(open_client: Open, by: str) -> None:
    """The greenlet that starts and stops the loop is struck."""
    client, observer = open_client(), open_client()
    for at in count(1):
        outcome = run_struck(lambda: run_and_stop(client), at, by=by)
        wait_until(lambda: values(observer) == [], timeout=time_for_removal(observer))
        if not outcome.was_struck:
            break
    assert at > 2
