"""Typed message streams: protobuf messages over a gRPC stream, and what a stream shows of its server's health."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from google.protobuf.message import Message

from getc.error_context import copy_error
from getc.errors import EtcException, NoLeader, TimedOut
from getc.grpc.call import GrpcError, OversizedResponse
from getc.grpc.channel import Metadata
from getc.grpc.stream_call import StreamCall
from getc.net.affinity import ThreadAffinity
from getc.net.endpoint import Endpoint
from getc.net.selector import EndpointSelector
from getc.retry import is_overdue
from getc.timing import Deadline
from getc.v3.messages import parse, parse_beginning, too_large
from getc.v3.schema.table import Method
from getc.v3.server import Server
from getc.v3.status_errors import error_of_status

__all__ = ['MessageStream', 'StreamHealth']

Request = TypeVar('Request', bound=Message)
Response = TypeVar('Response', bound=Message)
CallRequest = TypeVar('CallRequest', bound=Message)
CallResponse = TypeVar('CallResponse', bound=Message)


class StreamHealth:
    """Reports the health of a stream's server to the endpoint selector, and a refused token to the server's AuthToken.

    Only the first failure counts: what follows is a consequence.

    Args:
        endpoints: The endpoints of the client.
        endpoint: The endpoint of the stream.
        server: The server at that endpoint, with its token.
        token: The token that the stream was opened with.
    """

    __slots__ = ('_endpoint', '_endpoints', '_has_failed', '_token', 'server')

    def __init__(self, endpoints: EndpointSelector, endpoint: Endpoint, server: Server, token: Metadata) -> None:
        self.server = server
        self._endpoints = endpoints
        self._endpoint = endpoint
        self._token = token
        self._has_failed = False

    def on_served(self) -> None:
        """Mark the endpoint as healthy."""
        self._endpoints.mark_up(self._endpoint)

    def on_silent(self, reason: EtcException | None) -> None:
        """Mark the endpoint as failed: it does not answer."""
        if not self._has_failed:
            self._has_failed = True
            self._endpoints.mark_down(self._endpoint, reason)

    def on_error(self, error: EtcException) -> None:
        """Let the selector judge the error that has ended the stream, which may or may not be the server's fault."""
        if not self._has_failed:
            self._has_failed = True
            self._endpoints.record_error(self._endpoint, error)

    def on_status(self, refused: GrpcError) -> None:
        """Drop the server's token if this status, which has ended the stream, says that it is stale."""
        self.server.auth_token.invalidate(self._token, refused)


class MessageStream(Generic[Request, Response]):
    """Messages both ways, until one side ends the stream.

    An iterator over what the server sends, and a context manager that cancels the stream.

    Args:
        method: The RPC.
        stream: The gRPC stream.
        health: Receives what the stream shows of its server.
        secrets: Texts that the server has received and that errors must not contain.

    Attributes:
        url: The URL of the server, for errors.
        secrets: These texts, for errors that arrive inside of messages.
        size: The size in bytes of the message that was received last.
        oversized: The first fields of the last message that was too large to be received; None before there was one.
    """

    def __init__(
        self, method: Method[Request, Response], stream: StreamCall, health: StreamHealth, secrets: Sequence[str] = ()
    ) -> None:
        self._method = method
        self._stream = stream
        self._health = health
        self._has_served = False
        self._affinity = ThreadAffinity()
        self._affinity.check()
        self.url = stream.url
        self.secrets = secrets
        self.size = 0
        self.oversized: Response | None = None

    @property
    def is_grpc_proxy(self) -> bool:
        """True if the server is known to be an ``etcd grpc-proxy``."""
        return self._health.server.is_grpc_proxy

    def report_grpc_proxy(self) -> None:
        """Report that the server is an ``etcd grpc-proxy``.  Does not block."""
        self._health.server.is_grpc_proxy = True

    @property
    def is_over(self) -> bool:
        """True if the stream has ended; messages that arrived before can still be received."""
        return self._stream.is_over

    def send(self, request: Request) -> None:
        """Send a message.  Does not block.

        Raises:
            EtcException: The stream has ended, with this error.
        """
        self._affinity.check()
        try:
            self._stream.send(request.SerializeToString())
        except GrpcError as refused:
            raise self._record_status(refused) from None

    def finish(self) -> None:
        """Close the sending side: no more messages will be sent.  Does not block."""
        self._affinity.check()
        if not self._stream.is_over:
            self._stream.finish()

    def receive(self, deadline: Deadline) -> Response | None:
        """Return the next message; None when the server has ended the stream with status OK.

        Blocks until the deadline at most.

        Raises:
            TimedOut: No message arrived in time; the stream goes on.
            ResponseTooLarge: A message is larger than 16 MiB and was skipped; the stream goes on.
            EtcdError: The server has ended the stream with an error.
            ConnectionError: The connection was lost.
        """
        self._affinity.check()
        try:
            message = self._stream.receive(deadline)
        except GrpcError as refused:
            raise self._record_status(refused) from None
        except OversizedResponse as error:
            self.oversized = parse_beginning(self._method, error.message)
            raise too_large(self._method, error.message, self.url, is_write=False) from None
        except TimedOut:
            raise  # only the caller can decide whether that is too long
        except EtcException as error:
            self._on_ended(error)
            raise
        if message is None:
            return None
        if not self._has_served:
            self._has_served = True
            self._health.on_served()
        self.size = len(message)
        return parse(self._method, message, self.url, is_write=False)

    def call(self, method: Method[CallRequest, CallResponse], request: CallRequest, deadline: Deadline) -> CallResponse:
        """Call a read-only unary RPC of the stream's own server.  Blocks until the deadline at most.

        Raises:
            EtcException: The call failed; no other server is tried.
        """
        return self._health.server.call(method, request.SerializeToString(), deadline, deadline)

    def report_silent(self, reason: EtcException | None = None) -> None:
        """Report that the server does not answer: other calls use the next endpoint.  Does not block.

        The stream goes on.  The connection sends a PING at once: without an answer, all its streams and calls end soon.
        """
        self._stream.probe()
        self._health.on_silent(reason)

    def cancel(self) -> None:
        """Cancel the stream.  Does not block, may be called twice."""
        self._affinity.check()
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

    def _record_status(self, refused: GrpcError) -> EtcException:
        """Record the status with which the server has ended the stream, and return the error for it."""
        self._health.on_status(refused)
        is_write = not self._method.reads
        error = error_of_status(
            refused.status, self._method.path, is_write=is_write, url=self.url, secrets=self.secrets
        )
        if isinstance(error, NoLeader):  # a unary call was not begun then, but a stream may have sent writes before
            error = copy_error(error, maybe_applied=is_write)
        self._on_ended(error)
        return error

    def _on_ended(self, error: EtcException) -> None:
        if is_overdue(error):  # a proxy ends streams on which nothing happens
            error.is_outage = False
        self._health.on_error(error)
