"""Tests of the log lines about daemons."""

from __future__ import annotations

import logging
import os
import re

import gevent
import pytest

import getc
from getc.errors import ConnectionError
from getc.testing import VirtualTime
from tests.support.clients import client_on
from tests.support.faulty import FaultyBackend


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    """A function that returns the log lines of getc since the previous call."""

    def lines() -> list[str]:
        gevent.sleep(0)
        found = [record.getMessage() for record in caplog.records if record.name.startswith('getc.')]
        caplog.clear()
        return found

    caplog.set_level(logging.INFO, 'getc')
    return lines


def test_daemons_that_do_not_start_are_logged_after_10_and_after_60_seconds(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, lines
) -> None:
    """With the reason, and one line for all of them."""
    backend.go_down()
    client.mirror('/cfg', wait=False)
    client.keep_node('/servers/a', wait=False)
    etcd_clock.advance(300)
    why = 'connection refused'
    assert lines() == [
        f'etcd client: mirror /cfg and 1 other: has not started after {seconds} s: {why}' for seconds in (10, 60)
    ]


def test_daemons_that_do_not_start_for_one_reason_share_a_line_although_their_errors_name_them(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, lines
) -> None:
    backend.go_down()
    keepers = [client.keep_node(f'/servers/{number}', wait=False) for number in range(20)]
    etcd_clock.advance(9.5)
    for keeper in keepers:
        keeper._daemon.last_error = ConnectionError(f'no answer for {keeper.key}')
        keeper._daemon.retry.close()
    etcd_clock.advance(2)
    (line,) = lines()
    assert line == (
        'etcd client: keep_node /servers/0 and 19 others: has not started after 10 s: no answer for /servers/0'
    )


def test_forked_child_logs_nothing_about_its_parents_daemons(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer runs in both processes."""
    backend.go_down()
    client.mirror('/cfg', wait=False)
    lines()
    monkeypatch.setattr(os, 'getpid', lambda: -1)
    etcd_clock.stall(5)
    etcd_clock.advance(100)
    assert lines() == []
    assert client._daemons._monitor._timer is None


def test_daemons_that_have_started_are_not_logged(client: getc.Client, etcd_clock: VirtualTime, lines) -> None:
    """Nor are those that were stopped."""
    with client.mirror('/cfg'), client.on_change('/cfg', print):
        etcd_clock.advance(300)
    client.mirror('/cfg', wait=False).stop()
    etcd_clock.advance(300)
    assert lines() == []


def test_lost_connection_of_three_hundred_watchers_is_one_line(
    client: getc.Client, backend: FaultyBackend, etcd_clock: VirtualTime, lines
) -> None:
    for number in range(300):
        client.on_change(f'/cfg/{number}', print)
    backend.break_watches()
    etcd_clock.advance(1)
    (line,) = lines()
    assert re.fullmatch(
        r'etcd client: on_change /cfg/\d+ and 299 others: connection lost, may be stale: the connection broke', line
    )


def test_hub_that_did_not_run_is_logged(client: getc.Client, etcd_clock: VirtualTime, lines) -> None:
    """It explains missed renewals and lost nodes."""
    client.keep_node('/servers/a', ttl=60)
    etcd_clock.stall(5)
    etcd_clock.advance(1)
    (line,) = lines()
    assert line.startswith('etcd client: the hub did not run for ')


# -- how long they wait for etcd


START = {
    'keep_node': lambda client, **options: client.keep_node('/servers/a', **options),
    'on_change': lambda client, **options: client.on_change('/cfg', print, **options),
    'changes': lambda client, **options: client.changes('/cfg', **options),
    'mirror': lambda client, **options: client.mirror('/cfg', **options),
}


@pytest.mark.parametrize('name', START)
def test_start_of_a_daemon_waits_as_long_as_its_own_timeout(
    backend: FaultyBackend, etcd_clock: VirtualTime, name: str
) -> None:
    """Without one there is no limit: the client's timeout is for calls."""
    backend.go_down()
    with client_on(backend, url='memory://faulty', timeout=1.0) as client:
        patient = gevent.spawn(START[name], client)
        impatient = gevent.spawn(START[name], client, timeout=5.0)
        etcd_clock.advance(4)
        assert not impatient.ready()
        etcd_clock.advance(2)
        assert isinstance(impatient.exception, getc.TimedOut)
        etcd_clock.advance(300)
        assert not patient.ready()
        backend.recover()
        etcd_clock.advance(5)
        assert patient.successful()
