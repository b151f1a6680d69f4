"""Faults that a fake etcd injects into calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from getc.errors import (
    ConnectionError,
    ConnectionRefused,
    TimedOut,
)
from getc.timing import Deadline

__all__ = ['Fault', 'delay', 'drop', 'hang', 'late', 'lose_reply', 'refuse', 'slow']

Fault = Callable[[Callable[[], Any], Deadline, bool], Any]
"""Executes or fails a call, given the server's work as a function, the deadline, and whether the call is a write."""


def refuse(_do: Callable[[], Any], _deadline: Deadline, _is_write: bool) -> Any:
    """The connection is refused."""
    raise ConnectionRefused('connection refused')


def drop(_do: Callable[[], Any], _deadline: Deadline, is_write: bool) -> Any:
    """The connection breaks before the server has read the request."""
    raise ConnectionError('the connection broke', maybe_applied=is_write)


def lose_reply(do: Callable[[], Any], _deadline: Deadline, is_write: bool) -> Any:
    """The server executes the call, and the connection breaks before the response."""
    do()
    raise ConnectionError('the connection broke', maybe_applied=is_write)


def hang(_do: Callable[[], Any], deadline: Deadline, is_write: bool) -> Any:
    """The server accepts the request and does not respond."""
    gevent.sleep(deadline.remaining())
    raise TimedOut('no answer', maybe_applied=is_write)


def late(seconds: float) -> Fault:
    """The server executes the call after a number of seconds, when the client has given up."""

    def fault(do: Callable[[], Any], deadline: Deadline, is_write: bool) -> Any:
        gevent.spawn_later(seconds, do)
        return hang(do, deadline, is_write)

    return fault


def delay(seconds: float) -> Fault:
    """The server executes the call at once; its response takes a number of seconds."""

    def fault(do: Callable[[], Any], deadline: Deadline, is_write: bool) -> Any:
        response = do()
        gevent.sleep(min(seconds, deadline.remaining()))
        if deadline.has_passed():
            raise TimedOut('no answer', maybe_applied=is_write)
        return response

    return fault


def slow(seconds: float) -> Fault:
    """The server executes the call after a number of seconds, and responds at once."""

    def fault(do: Callable[[], Any], deadline: Deadline, is_write: bool) -> Any:
        gevent.sleep(min(seconds, deadline.remaining()))
        if deadline.has_passed():
            raise TimedOut('no answer', maybe_applied=is_write)
        return do()

    return fault
