"""Streams of messages, typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from google.protobuf.message import Message

from getc.rpc.messages import unpacked
from getc.timing import Deadline
from getc.transport.calls import RefusedCall, Stream
from getc.wire.schema.table import Method
from getc.wire.statuses import error_of_status

__all__ = ['MessageStream']

Request = TypeVar('Request', bound=Message)
Response = TypeVar('Response', bound=Message)


class MessageStream(Generic[Request, Response]):
    """Messages both ways, until one side ends it.  An iterator over what the server sends, and a context manager.

    Args:
        method: The RPC.
        stream: What carries them.
        on_refused: Told of a refusal, before it is raised.

    Attributes:
        url: The server, for errors.
        size: Bytes of the message that was received last.
    """

    def __init__(
        self, method: Method[Request, Response], stream: Stream, on_refused: Callable[[RefusedCall], object]
    ) -> None:
        self._method = method
        self._stream = stream
        self._on_refused = on_refused
        self.url = stream.url
        self.size = 0

    @property
    def is_over(self) -> bool:
        """True if nothing more will come; what came can still be received."""
        return self._stream.is_over

    def send(self, request: Request) -> None:
        """Send a message.  Does not block.

        Raises:
            EtcException: What ended the stream.
        """
        try:
            self._stream.send(request.SerializeToString())
        except RefusedCall as refused:
            self._refused(refused)

    def finish(self) -> None:
        """Say that no more messages will be sent.  Does not block."""
        if not self._stream.is_over:
            self._stream.finish()

    def receive(self, deadline: Deadline) -> Response | None:
        """Return the next message; None when the server has ended the stream well.  Blocks until the deadline at most.

        Raises:
            TimedOut: None came in time; the stream goes on.
            EtcdError: The server refuses.
            ConnectionError: The connection was lost.
        """
        try:
            message = self._stream.receive(deadline)
        except RefusedCall as refused:
            self._refused(refused)
        if message is None:
            return None
        self.size = len(message)
        return unpacked(self._method, message, self.url, writes=False)

    def cancel(self) -> None:
        """End it at once.  Does not block, may be called twice."""
        self._stream.cancel()

    def __iter__(self) -> MessageStream[Request, Response]:
        return self

    def __next__(self) -> Response:
        message = self.receive(Deadline(None))
        if message is None:
            raise StopIteration
        return message

    def __enter__(self) -> MessageStream[Request, Response]:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _refused(self, refused: RefusedCall) -> NoReturn:
        self._on_refused(refused)
        is_write = not self._method.reads
        raise error_of_status(refused.status, self._method.path, is_write=is_write, url=self.url) from None
