"""Streams of messages, typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NoReturn, Protocol, TypeVar

from google.protobuf.message import Message

from getc.error_context import copy_error
from getc.errors import EtcException, NoLeader, TimedOut
from getc.grpc.call import GrpcError, OversizedAnswer, Stream
from getc.net.affinity import ThreadAffinity
from getc.retry import is_overdue
from getc.timing import Deadline
from getc.v3.messages import parse, too_large, unpacked_beginning
from getc.v3.schema.table import Method
from getc.v3.status_errors import error_of_status

__all__ = ['MessageStream', 'Witness']

Request = TypeVar('Request', bound=Message)
Response = TypeVar('Response', bound=Message)
Asked = TypeVar('Asked', bound=Message)
Answered = TypeVar('Answered', bound=Message)


class Witness(Protocol):
    """Who is told how a stream's server does.  None of its methods blocks or raises."""

    def on_served(self) -> None:
        """It has said something."""

    def on_failed(self, reason: EtcException | None) -> None:
        """It does not answer: another one may do better."""

    def on_error(self, error: EtcException) -> None:
        """The stream has ended with this error, which may or may not be the server's fault."""

    def on_refused(self, refused: GrpcError) -> None:
        """It has ended the stream with a status."""

    def ask(self, method: Method[Asked, Answered], request: Asked, deadline: Deadline) -> Answered:
        """Call an RPC of the same server that only reads.  Blocks, and raises what it met, unlike the others."""


class MessageStream(Generic[Request, Response]):
    """Messages both ways, until one side ends it.  An iterator over what the server sends, and a context manager.

    Args:
        method: The RPC.
        stream: What carries them.
        witness: Told how the server does.
        secrets: What the server was told, and may not repeat.

    Attributes:
        url: The server, for errors.
        secrets: The same, for errors that come in messages.
        size: Bytes of the message that was received last.
        beginning: What is known of the message that was too large last; None before there was one.
    """

    def __init__(
        self, method: Method[Request, Response], stream: Stream, witness: Witness, secrets: Sequence[str] = ()
    ) -> None:
        self._method = method
        self._stream = stream
        self._witness = witness
        self._has_served = False
        self._is_blamed = False
        self._home = ThreadAffinity()
        self._home.check()
        self.url = stream.url
        self.secrets = secrets
        self.size = 0
        self.beginning: Response | None = None

    @property
    def is_over(self) -> bool:
        """True if nothing more will come; what came can still be received."""
        return self._stream.is_over

    def send(self, request: Request) -> None:
        """Send a message.  Does not block.

        Raises:
            EtcException: What ended the stream.
        """
        self._home.check()
        try:
            self._stream.send(request.SerializeToString())
        except GrpcError as refused:
            self._refused(refused)

    def finish(self) -> None:
        """Say that no more messages will be sent.  Does not block."""
        self._home.check()
        if not self._stream.is_over:
            self._stream.finish()

    def receive(self, deadline: Deadline) -> Response | None:
        """Return the next message; None when the server has ended the stream well.  Blocks until the deadline at most.

        Raises:
            TimedOut: None came in time; the stream goes on.
            ResponseTooLarge: One is larger than 16 MiB; the stream goes on.
            EtcdError: The server refuses.
            ConnectionError: The connection was lost.
        """
        self._home.check()
        try:
            message = self._stream.receive(deadline)
        except GrpcError as refused:
            self._refused(refused)
        except OversizedAnswer as error:
            self.beginning = unpacked_beginning(self._method, error.answer)
            raise too_large(self._method, error.answer, self.url, writes=False) from None
        except TimedOut:
            raise  # whether that is too long is not known here
        except EtcException as error:
            self._ended(error)
            raise
        if message is None:
            return None
        if not self._has_served:
            self._has_served = True
            self._witness.on_served()
        self.size = len(message)
        return parse(self._method, message, self.url, writes=False)

    def ask(self, method: Method[Asked, Answered], request: Asked, deadline: Deadline) -> Answered:
        """Call an RPC that only reads, of the stream's own server.  Blocks until the deadline at most.

        Raises:
            EtcException: What it met; no other server is asked.
        """
        return self._witness.ask(method, request, deadline)

    def blame(self, reason: EtcException | None = None) -> None:
        """Its server does not answer: have another one asked from now on.  The stream goes on; does not block.

        The server is asked at once whether it is there: if it is not, all that goes over this connection ends soon.
        """
        self._stream.suspect()
        if not self._is_blamed:
            self._is_blamed = True
            self._witness.on_failed(reason)

    def cancel(self) -> None:
        """End it at once.  Does not block, may be called twice."""
        self._home.check()
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

    def _refused(self, refused: GrpcError) -> NoReturn:
        self._witness.on_refused(refused)
        is_write = not self._method.reads
        error = error_of_status(
            refused.status, self._method.path, is_write=is_write, url=self.url, secrets=self.secrets
        )
        if isinstance(error, NoLeader):  # a call was not begun then; how far a stream was nobody knows
            error = copy_error(error, maybe_applied=is_write)
        self._ended(error)
        raise error from None

    def _ended(self, error: EtcException) -> None:
        """Have the error judged, once, unless the server was blamed already."""
        if is_overdue(error):  # the limit of a proxy for streams on which nothing happens
            error.is_outage = False
        if not self._is_blamed:
            self._is_blamed = True
            self._witness.on_error(error)
