"""Calls on a gRPC channel for tests."""

from __future__ import annotations

import gevent

from getc.errors import EtcException
from getc.grpc.channel import Channel
from getc.timing import Deadline
from tests.support.grpc_server import ServerCall

__all__ = ['PATH', 'in_time', 'results', 'silence', 'start_calls']

PATH = '/etcdserverpb.KV/Put'


def in_time() -> Deadline:
    """Return a deadline that does not pass in a test."""
    return Deadline.after(60)


def silence(call: ServerCall) -> None:
    """Send no response."""
    call.is_over.wait()


def start_calls(
    channel: Channel, count: int, *, timeout: float | None = 60, message: bytes = b''
) -> list[gevent.Greenlet[[], object]]:
    """Start so many writes at once; the value of each greenlet is the response or the error."""

    def call() -> object:
        try:
            return channel.unary(PATH, message, Deadline.after(timeout))
        except EtcException as error:
            return error

    return [gevent.spawn(call) for _ in range(count)]


def results(calls: list[gevent.Greenlet[[], object]]) -> list[object]:
    """Return the responses or errors of the calls; none may hang."""
    gevent.joinall(calls, timeout=60)
    assert all(call.ready() for call in calls)
    return [call.value if call.successful() else call.exception for call in calls]
