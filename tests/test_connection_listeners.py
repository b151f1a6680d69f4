"""Listeners for the connection state: order, isolation, and the end."""

from __future__ import annotations

import gc

import gevent
import pytest

import getc
from getc.connection_listeners import ConnectionListeners
from getc.net.client_log import ClientLog
from getc.testing import VirtualTime
from getc.timing import Deadline

CONNECTED, SUSPENDED = getc.ConnectionState

REFUSING = 'http://127.0.0.1:1'


def test_listener_that_blocks_is_called_in_order_and_does_not_delay_others(etcd_clock: VirtualTime) -> None:
    """One call at a time: the first call takes longer than the second."""
    listeners = ConnectionListeners()
    slow: list[getc.ConnectionState] = []
    fast: list[getc.ConnectionState] = []

    def listen(state: getc.ConnectionState) -> None:
        gevent.sleep(5 if state is CONNECTED else 1)
        slow.append(state)

    listeners.add(listen, ClientLog())
    listeners.add(fast.append, ClientLog())
    for state in (CONNECTED, SUSPENDED):
        listeners.notify(state)
    etcd_clock.advance(4)
    assert (slow, fast) == ([], [CONNECTED, SUSPENDED])
    etcd_clock.advance(3)
    assert slow == [CONNECTED, SUSPENDED]


def test_exception_of_a_listener_is_logged_and_the_next_state_delivered(caplog: pytest.LogCaptureFixture) -> None:
    listeners = ConnectionListeners()
    seen: list[getc.ConnectionState] = []

    def listen(state: getc.ConnectionState) -> None:
        seen.append(state)
        if state is CONNECTED:
            raise LookupError('mine')

    listeners.add(listen, ClientLog('etcd client 7'))
    listeners.notify(CONNECTED)
    listeners.notify(SUSPENDED)
    gevent.sleep(0)
    assert seen == [CONNECTED, SUSPENDED]
    (record,) = caplog.records
    assert record.getMessage().startswith('etcd client 7: on_state: the callback <function')


def test_close_drops_pending_calls_and_join_kills_those_in_progress(etcd_clock: VirtualTime) -> None:
    listeners = ConnectionListeners()
    ends: list[str] = []

    def listen(state: getc.ConnectionState) -> None:
        try:
            gevent.sleep(60)
        finally:
            ends.append(state.name)

    listeners.add(listen, ClientLog())
    listeners.notify(CONNECTED)
    listeners.notify(SUSPENDED)
    etcd_clock.advance(0)
    listeners.close()
    listeners.notify(CONNECTED)
    joining = gevent.spawn(listeners.join, Deadline(2))
    etcd_clock.advance(1)
    assert ends == []
    etcd_clock.advance(2)
    assert joining.successful()
    assert ends == ['CONNECTED']
    assert etcd_clock.seconds_to_next() is None


def test_listener_is_called_as_long_as_a_daemon_of_a_dropped_client_runs() -> None:
    states: list[getc.ConnectionState] = []
    client = getc.etcd(REFUSING, api='v3')
    client.on_state(states.append)
    watcher = client.on_change('/cfg', print, wait=False)
    del client
    gc.collect()
    with gevent.Timeout(10):
        while not states:
            gevent.sleep(0.01)
    watcher.stop()
    assert states == [SUSPENDED]
