"""Tests of the callback queue in virtual time."""

from __future__ import annotations

import logging

import gevent
import pytest

from getc.daemons.callbacks import CallbackQueue
from getc.daemons.greenlets import DaemonGreenlets
from getc.net.client_log import ClientLog
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.killing import killing_next_greenlet
from tests.support.leftovers import greenlets_of_getc


class Queue:
    """A queue that counts how often it became empty."""

    def __init__(self) -> None:
        self.emptied = 0
        self.callbacks = CallbackQueue(DaemonGreenlets('test'), ClientLog(), self._on_empty)
        self.post = self.callbacks.post

    def _on_empty(self) -> None:
        self.emptied += 1


def test_callbacks_run_one_at_a_time_in_order_without_a_greenlet_left(etcd_clock: VirtualTime) -> None:
    """Callbacks that a callback posts come last."""
    queue = Queue()
    events: list[str] = []

    def call(name: str) -> None:
        events.append(f'{name} begins')
        if name == 'a':
            queue.post(call, 'c')
        gevent.sleep(1)
        events.append(f'{name} ends')

    queue.post(call, 'a')
    queue.post(call, 'b')
    assert len(queue.callbacks) == 2
    etcd_clock.advance(10)
    assert events == ['a begins', 'a ends', 'b begins', 'b ends', 'c begins', 'c ends']
    assert (queue.emptied, len(queue.callbacks)) == (1, 0)
    assert greenlets_of_getc() == []


@pytest.mark.parametrize('error', [RuntimeError('a bug'), gevent.Timeout(1), gevent.GreenletExit()])
def test_callback_that_raises_does_not_prevent_the_next(
    etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """The exception is logged, unless it is a kill."""
    queue = Queue()
    calls: list[int] = []

    def fail() -> None:
        raise error

    queue.post(fail)
    queue.post(calls.append, 1)
    with caplog.at_level(logging.ERROR):
        etcd_clock.advance(0)
    assert (calls, queue.emptied) == ([1], 1)
    assert ('etcd client: test: the callback' in caplog.text) is not isinstance(error, gevent.GreenletExit)


def test_busy_callbacks_yield_to_other_greenlets(etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('getc.daemons.callbacks.MAX_BUSY_SECONDS', -1.0)
    queue = Queue()
    events: list[str] = []
    for _ in range(3):
        queue.post(events.append, 'callback')
    gevent.spawn(events.append, 'other')
    etcd_clock.advance(0)
    assert events == ['callback', 'other', 'callback', 'callback']


def test_closed_queue_drops_posted_calls_and_accepts_no_others(etcd_clock: VirtualTime) -> None:
    queue = Queue()
    calls: list[int] = []
    queue.post(calls.append, 1)
    queue.callbacks.close()
    queue.post(calls.append, 2)
    etcd_clock.advance(10)
    assert (calls, queue.emptied) == ([], 0)


def test_forked_child_calls_nothing(etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that the parent posted are copied into the child."""
    queue = Queue()
    calls: list[int] = []
    queue.post(calls.append, 1)
    monkeypatch.setattr('os.getpid', lambda: -1)
    queue.post(calls.append, 2)
    etcd_clock.advance(10)
    assert calls == []


def test_callbacks_whose_greenlet_was_killed_before_it_ran_are_called_with_the_next(etcd_clock: VirtualTime) -> None:
    queue = Queue()
    calls: list[int] = []
    with killing_next_greenlet():
        queue.post(calls.append, 1)
        etcd_clock.advance(0)
    queue.post(calls.append, 2)
    etcd_clock.advance(0)
    assert calls == [1, 2]


def test_waits_that_time_out_or_are_killed_leave_nothing_in_the_queue(etcd_clock: VirtualTime) -> None:
    """The length of the queue decides whether a watcher is too far behind."""
    queue = Queue()
    calls: list[int] = []
    queue.post(gevent.sleep, 100)
    waits = [gevent.spawn(queue.callbacks.wait_for_posted, Deadline(1)) for _ in range(10)]
    killed = gevent.spawn(queue.callbacks.wait_for_posted, Deadline(None))
    etcd_clock.advance(0.5)
    killed.kill(block=False)
    etcd_clock.advance(1)
    assert [wait.get(block=False) for wait in waits] == [False] * 10
    assert len(queue.callbacks) == 0
    queue.post(calls.append, 1)
    etcd_clock.advance(100)
    assert calls == [1] and queue.emptied == 1
