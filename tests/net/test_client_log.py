"""The log of a client: one line for an event, and a count of its repetitions."""

from __future__ import annotations

import logging
import os
from typing import Any

import gevent
import pytest

from getc.errors import ConnectionError, TimedOut
from getc.net.client_log import REPEAT_INTERVAL, ClientLog
from getc.net.endpoint import Endpoint
from getc.net.selector import EndpointSelector
from getc.testing import VirtualTime

A, B, C = (Endpoint('http', host, 1) for host in 'abc')


class CountingDict(dict[Any, Any]):
    """Counts iterations over all items."""

    walks = 0

    def items(self) -> Any:
        self.walks += 1
        return super().items()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    """Returns a function that returns the lines logged by getc since its last call."""
    caplog.set_level(logging.INFO, 'getc')

    def lines() -> list[str]:
        gevent.sleep(0)
        found = [record.getMessage() for record in caplog.records if record.name.startswith('getc.')]
        caplog.clear()
        return found

    return lines


def test_line_begins_with_the_label_of_the_client(lines) -> None:
    ClientLog('etcd client 1').note(logging.WARNING, 'stale', subject='mirror /a')
    ClientLog('etcd client 2').note(logging.WARNING, 'stale', subject='mirror /a')
    assert lines() == ['etcd client 1: mirror /a: stale', 'etcd client 2: mirror /a: stale']


def test_event_of_many_daemons_is_one_line(lines) -> None:
    log = ClientLog()
    for number in range(300):
        log.note(logging.WARNING, 'stale: the connection was lost', subject=f'mirror /{number}')
    assert lines() == ['etcd client: mirror /0 and 299 others: stale: the connection was lost']


def test_repetitions_are_counted_and_written_once_a_minute(lines, etcd_clock: VirtualTime) -> None:
    """The count has the text of the last repetition; the first event of another daemon is a line."""
    log = ClientLog()
    for number in range(40):
        log.note(logging.WARNING, f'stale {number}', subject='mirror /a', key='stale')
        etcd_clock.advance(1)
    log.note(logging.WARNING, 'stale again', subject='mirror /b', key='stale')
    assert lines() == ['etcd client: mirror /a: stale 0', 'etcd client: mirror /b: stale again']
    etcd_clock.advance(20)
    assert lines() == ['etcd client: mirror /a: stale again (39 more times in the last 60 s)']
    etcd_clock.advance(200)
    assert lines() == []
    log.note(logging.WARNING, 'stale later', subject='mirror /a', key='stale')
    assert lines() == ['etcd client: mirror /a: stale later']


def test_close_writes_the_pending_counts(lines) -> None:
    log = ClientLog()
    for _ in range(3):
        log.note(logging.WARNING, 'stale', subject='mirror /a')
    log.close()
    assert lines() == [
        'etcd client: mirror /a: stale',
        'etcd client: mirror /a: stale (2 more times in the last 60 s)',
    ]


def test_suspended_line_names_client_endpoints_and_reasons(lines, etcd_clock: VirtualTime) -> None:
    """The line about the end of the outage has its duration."""
    endpoints = EndpointSelector([A, B], log=ClientLog('etcd client 7'))
    endpoints.mark_down(A, ConnectionError('no connection to http://a:1: connection refused'))
    endpoints.mark_down(B, TimedOut('no response'))
    assert lines() == [
        'etcd client 7: no connection to http://a:1: connection refused; switching to http://b:1',
        'etcd client 7: SUSPENDED: no server answers: no connection to http://a:1: connection refused; '
        'http://b:1: no response',
    ]
    etcd_clock.advance(12.5)
    endpoints.mark_up(B)
    assert lines() == ['etcd client 7: CONNECTED: http://b:1 responded; was SUSPENDED for 12.5 s']


def test_total_outage_is_one_line_for_any_number_of_attempts(lines, etcd_clock: VirtualTime) -> None:
    endpoints = EndpointSelector([A, B, C])
    for _ in range(100):
        endpoints.mark_down(endpoints.current, TimedOut('no response'))
        etcd_clock.advance(0.5)
    assert [line for line in lines() if 'switching to' not in line] == [
        'etcd client: SUSPENDED: no server answers: '
        'http://a:1: no response; http://b:1: no response; http://c:1: no response'
    ]


def test_changes_of_a_flapping_state_are_counted_and_the_last_one_is_written(lines, etcd_clock: VirtualTime) -> None:
    """For example, a cluster without a quorum answers some calls and not others."""
    endpoints = EndpointSelector([A])
    for _ in range(50):
        endpoints.mark_down(A, TimedOut('no response'))
        endpoints.mark_up(A)
        etcd_clock.advance(1)
    endpoints.mark_down(A, TimedOut('no response'))
    etcd_clock.advance(60)
    found = lines()
    assert len(found) <= 8
    assert (
        found[-1]
        == 'etcd client: SUSPENDED: no server answers: http://a:1: no response (95 more times in the last 60 s)'
    )


def test_ended_intervals_are_removed_once_a_minute(etcd_clock: VirtualTime) -> None:
    log = ClientLog()
    for number in range(5):
        log.note(logging.INFO, f'event {number}')
    etcd_clock.advance(REPEAT_INTERVAL + 1)
    log.note(logging.INFO, 'another')
    assert len(log._events) == 1
    events = log._events = CountingDict(log._events)
    for number in range(1000):
        log.note(logging.INFO, f'event {number}')
    assert events.walks == 0


def test_forked_child_writes_no_counts_of_its_parent(
    lines, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timers are copied by the fork."""
    log = ClientLog()
    log.note(logging.WARNING, 'stale')
    log.note(logging.WARNING, 'stale')
    assert lines() == ['etcd client: stale']
    monkeypatch.setattr(os, 'getpid', lambda: -1)
    etcd_clock.advance(200)
    assert lines() == []


def test_forked_child_writes_no_pending_lines_of_its_parent(lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The greenlet that writes them is copied by the fork."""
    ClientLog().note(logging.WARNING, 'stale')
    monkeypatch.setattr(os, 'getpid', lambda: -1)
    assert lines() == []
