"""The log of a client: one line for an event, a count for its repetitions."""

from __future__ import annotations

import logging
import os
from typing import Any

import gevent
import pytest

from getc.errors import ConnectionError, TimedOut
from getc.net.client_log import PERIOD, ClientLog
from getc.net.selector import Endpoint, EndpointSelector
from getc.testing import VirtualTime

A, B, C = (Endpoint('http', host, 1) for host in 'abc')


class CountingDict(dict[Any, Any]):
    """Counts how often all of it is looked at."""

    walks = 0

    def items(self) -> Any:
        self.walks += 1
        return super().items()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    """The lines of getc since the last look."""
    caplog.set_level(logging.INFO, 'getc')

    def lines() -> list[str]:
        gevent.sleep(0)
        found = [record.getMessage() for record in caplog.records if record.name == 'getc']
        caplog.clear()
        return found

    return lines


def test_line_names_its_client(lines) -> None:
    """Two clients of one program can be told apart."""
    ClientLog('etcd client 1').note(logging.WARNING, 'stale', subject='mirror /a')
    ClientLog('etcd client 2').note(logging.WARNING, 'stale', subject='mirror /a')
    assert lines() == ['etcd client 1: mirror /a: stale', 'etcd client 2: mirror /a: stale']


def test_event_of_many_daemons_is_one_line(lines) -> None:
    """One connection was lost, not three hundred."""
    log = ClientLog()
    for number in range(300):
        log.note(logging.WARNING, 'stale: the connection was lost', subject=f'mirror /{number}')
    assert lines() == ['etcd client: mirror /0 and 299 others: stale: the connection was lost']


def test_repetitions_are_counted_and_written_once_a_minute(lines, etcd_clock: VirtualTime) -> None:
    """With the text of the last one; a daemon that is new to the event has its own line."""
    log = ClientLog()
    for number in range(40):
        log.note(logging.WARNING, f'stale {number}', subject='mirror /a', key='stale')
        etcd_clock.advance(1)
    log.note(logging.WARNING, 'stale again', subject='mirror /b', key='stale')
    assert lines() == ['etcd client: mirror /a: stale 0', 'etcd client: mirror /b: stale again']
    etcd_clock.advance(20)
    assert lines() == ['etcd client: mirror /a: stale again (39 times more in the last 60 s)']
    etcd_clock.advance(200)
    assert lines() == []
    log.note(logging.WARNING, 'stale later', subject='mirror /a', key='stale')
    assert lines() == ['etcd client: mirror /a: stale later']


def test_counts_are_written_when_the_client_is_closed(lines) -> None:
    """Nothing is left for a later minute."""
    log = ClientLog()
    for _ in range(3):
        log.note(logging.WARNING, 'stale', subject='mirror /a')
    log.close()
    assert lines() == [
        'etcd client: mirror /a: stale',
        'etcd client: mirror /a: stale (2 times more in the last 60 s)',
    ]


def test_suspended_names_client_endpoints_and_reasons(lines, etcd_clock: VirtualTime) -> None:
    """That is the first line of a wrong URL or certificate; the end says how long it was."""
    endpoints = EndpointSelector([A, B], log=ClientLog('etcd client 7'))
    endpoints.failed(A, ConnectionError('no connection to http://a:1: connection refused'))
    endpoints.failed(B, TimedOut('it is silent'))
    assert lines() == [
        'etcd client 7: no connection to http://a:1: connection refused; http://b:1 is asked from now on',
        'etcd client 7: SUSPENDED: no server answers: no connection to http://a:1: connection refused; '
        'http://b:1: it is silent',
    ]
    etcd_clock.advance(12.5)
    endpoints.served(B)
    assert lines() == ['etcd client 7: CONNECTED: http://b:1 answers after 12.5 s']


def test_total_outage_is_one_line_however_often_servers_are_tried(lines, etcd_clock: VirtualTime) -> None:
    """Not one for each endpoint that is tried next."""
    endpoints = EndpointSelector([A, B, C])
    for _ in range(100):
        endpoints.failed(endpoints.current, TimedOut('silent'))
        etcd_clock.advance(0.5)
    assert [line for line in lines() if 'asked from now on' not in line] == [
        'etcd client: SUSPENDED: no server answers: http://a:1: silent; http://b:1: silent; http://c:1: silent'
    ]


def test_state_that_changes_all_the_time_is_counted_and_its_last_value_written(lines, etcd_clock: VirtualTime) -> None:
    """A cluster without a quorum answers some calls and not others."""
    endpoints = EndpointSelector([A])
    for _ in range(50):
        endpoints.failed(A, TimedOut('silent'))
        endpoints.served(A)
        etcd_clock.advance(1)
    endpoints.failed(A, TimedOut('silent'))
    etcd_clock.advance(60)
    found = lines()
    assert len(found) <= 8
    assert found[-1] == 'etcd client: SUSPENDED: no server answers: http://a:1: silent (95 times more in the last 60 s)'


def test_thousands_of_events_cost_little_each(etcd_clock: VirtualTime) -> None:
    """Those that are over are looked for once a minute, not with every new one."""
    log = ClientLog()
    for number in range(5):
        log.note(logging.INFO, f'event {number}')
    etcd_clock.advance(PERIOD + 1)
    log.note(logging.INFO, 'another')
    assert len(log._periods) == 1
    periods = log._periods = CountingDict(log._periods)
    for number in range(1000):
        log.note(logging.INFO, f'event {number}')
    assert periods.walks == 0


def test_child_that_was_forked_off_writes_no_counts_of_its_parent(
    lines, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timers of the counts go on in both."""
    log = ClientLog()
    log.note(logging.WARNING, 'stale')
    log.note(logging.WARNING, 'stale')
    assert lines() == ['etcd client: stale']
    monkeypatch.setattr(os, 'getpid', lambda: -1)
    etcd_clock.advance(200)
    assert lines() == []
