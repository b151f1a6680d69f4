"""A message stream whose server is the test."""

from __future__ import annotations

from collections import deque
from typing import Any

from gevent.event import Event

from getc.errors import EtcException
from getc.timing import Deadline
from getc.v3.schema.kv import RangeResponse

__all__ = ['FakeStream']


class FakeStream:
    """Replaces :class:`getc.v3.stream.MessageStream`.

    Attributes:
        sent: Messages that the client has sent.
        is_cancelled: The client has cancelled the stream.
        is_grpc_proxy: The server is known to be an ``etcd grpc-proxy``.
        is_reported_silent: The client has reported the server as unresponsive.
    """

    url = 'http://there'
    secrets = ('hunter2',)

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.size = 0
        self.is_over = False
        self.is_cancelled = False
        self.is_grpc_proxy = False
        self.is_reported_silent = False
        self._error: EtcException | None = None
        self._incoming: deque[Any] = deque()
        self._has_message = Event()

    # -- the server's side, for tests

    def push(self, *messages: Any) -> None:
        """Send messages to the client."""
        self._incoming.extend(messages)
        self._has_message.set()

    def end(self, error: EtcException | None = None) -> None:
        """End the stream, with or without an error."""
        self.push(error)

    def end_with_buffered(self, error: EtcException, *messages: Any) -> None:
        """End the stream; these messages arrived before, and the client has not received them yet."""
        self.push(*messages, error)
        self.is_over = True
        self._error = error

    # -- the client's side

    def send(self, message: Any) -> None:
        if self._error is not None:
            raise self._error
        assert not self.is_over
        self.sent.append(message)

    def finish(self) -> None:
        pass

    def receive(self, deadline: Deadline) -> Any:
        while not self._incoming:
            if self.is_over:
                return None
            self._has_message.clear()
            assert self._has_message.wait(deadline.timeout_left())
        message = self._incoming.popleft()
        if message is None or isinstance(message, EtcException):
            self.is_over = True
        else:
            self.size = message.ByteSize()
        if isinstance(message, EtcException):
            raise message
        return message

    def call(self, _method: Any, _request: Any, _deadline: Deadline) -> Any:
        return RangeResponse()

    def report_grpc_proxy(self) -> None:
        self.is_grpc_proxy = True

    def report_silent(self, reason: object = None) -> None:
        self.is_reported_silent = True

    def cancel(self) -> None:
        self.is_over = self.is_cancelled = True
        self._has_message.set()

    def __iter__(self) -> FakeStream:
        return self

    def __next__(self) -> Any:
        message = self.receive(Deadline(None))
        if message is None:
            raise StopIteration
        return message

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
