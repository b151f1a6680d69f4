"""Waits that end after a stall of the process."""

from __future__ import annotations

import time

import gevent
import gevent.socket
import pytest
from gevent.event import AsyncResult, Event

from getc.errors import TimedOut
from getc.grpc import stalls
from getc.grpc.stalls import wait_ready
from getc.timing import Deadline
from tests.support.grpc_calls import silence
from tests.support.grpc_server import ServerCall

STALL = 0.1


@pytest.mark.parametrize('kind', [Event, AsyncResult])
def test_wait_returns_true_when_the_data_arrived_during_a_stall(kind: type[Event | AsyncResult[None]]) -> None:
    waitable = kind()
    ours, theirs = gevent.socket.socketpair()

    def read() -> None:
        ours.recv(1)
        waitable.set()

    reading = gevent.spawn(read)
    waiting = gevent.spawn(wait_ready, waitable, Deadline(STALL / 2))
    gevent.sleep(0)
    theirs.send(b'x')
    time.sleep(STALL)
    assert waiting.get() is True
    reading.join()
    ours.close()
    theirs.close()


def test_wait_returns_false_after_a_stall_without_data() -> None:
    waiting = gevent.spawn(wait_ready, Event(), Deadline(STALL / 2))
    gevent.sleep(0)
    time.sleep(STALL)
    assert waiting.get() is False


def test_deadline_that_passed_before_the_wait_is_not_taken_for_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    due_at: list[float] = []
    monkeypatch.setattr(stalls, 'process_received', due_at.append)
    deadline = Deadline(0)
    time.sleep(STALL)
    assert not wait_ready(Event(), deadline)
    assert due_at[0] >= deadline.at + STALL


def test_receive_returns_a_message_that_arrived_during_a_stall(serve, open_channel) -> None:
    go = Event()

    def script(call: ServerCall) -> None:
        call.head()
        go.wait()
        call.message(b'in time')
        silence(call)

    stream = open_channel(serve(script).endpoint).stream('/a.B/C', Deadline(5))
    with pytest.raises(TimedOut):
        stream.receive(Deadline(STALL / 2))
    receiving = gevent.spawn(stream.receive, Deadline(STALL / 2))
    gevent.sleep(0)
    go.set()
    gevent.sleep(0)
    time.sleep(STALL)
    assert receiving.get() == b'in time'
