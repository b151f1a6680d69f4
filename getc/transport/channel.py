"""gRPC to one server: a connection that is made when it is needed, and made again when it was lost."""

from __future__ import annotations

import logging
import os
import ssl
import weakref
from typing import Final

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from getc import timing
from getc.errors import ClientClosed, ConnectionError, EtcException
from getc.timing import Backoff, Deadline
from getc.transport.calls import RefusedCall, Stream, UnaryCall
from getc.transport.connecting import not_connected, not_connected_in_time
from getc.transport.endpoints import Endpoint
from getc.transport.link import Link
from getc.transport.sockets import Socket, connect
from getc.transport.wheel import Wheel
from getc.wire.grpc import packed, request_block, timeout_field

__all__ = ['Channel', 'Metadata', 'RefusedCall', 'Stream']

log = logging.getLogger('getc')

Metadata = tuple[tuple[bytes, bytes], ...]
"""Further fields of a call's head."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for one attempt to connect, whoever waits for it."""

MOST_BLOCKS: Final = 1024
"""Request heads that are remembered: one for each method and metadata in use."""


class Channel:
    """Calls to one server over one connection.

    Nothing is connected before the first call.  A connection that was lost is made again for the next call; attempts
    that fail are made less and less often, and calls wait for the next one as long as their deadlines allow.

    Args:
        endpoint: The server.
        context: The TLS context of an ``https`` endpoint (with ALPN ``h2``), else None.

    Example::

        channel = Channel(endpoint)
        answer = channel.unary('/etcdserverpb.KV/Range', request, Deadline.after(10))
        channel.close()
    """

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None = None) -> None:
        self.endpoint = endpoint
        self._context = context
        self._authority = endpoint.url.partition('://')[2].encode('idna' if not endpoint.host.isascii() else 'ascii')
        self._blocks: dict[tuple[str, Metadata], bytes] = {}
        self._link: Link | None = None
        self._links: set[Link] = set()  # also those that the server is leaving
        self._wheel = Wheel()
        self._attempt: _Attempt | None = None
        self._backoff = Backoff()
        self._next_attempt_at = 0.0
        self._hub = get_hub()
        self._is_closed = False
        _channels.add(self)

    def unary(
        self, path: str, message: bytes, deadline: Deadline, *, is_write: bool = True, metadata: Metadata = ()
    ) -> bytes:
        """Send a request and return the answer.  Blocks until the deadline at most.

        A caller that is killed, or has a timeout of its own, ends the call and leaves the connection clean.

        Args:
            path: ``/package.Service/Method``.
            message: The request, packed.
            deadline: The end of the call; the server is told of it.
            is_write: It may change something there: it counts for ``maybe_applied``.
            metadata: Further fields of the head, names in lower case.

        Raises:
            RefusedCall: The server answered with a status other than OK.
            ConnectionError: No answer; ``maybe_applied`` is True for a write that may have left.
            HTTPError, ProtocolError: The answer is no gRPC, breaks HTTP/2 or a bound.
            ClientClosed: ``close`` was called, before or meanwhile.
        """
        link = self._usable_link(deadline)
        call = UnaryCall(path, self.endpoint.url, is_write, deadline)
        left = deadline.remaining()
        if not left:
            raise call.timed_out(deadline)  # before it was sent
        link.begin(call, self._block(path, metadata) + timeout_field(left), packed(message), True)
        return call.wait(self._wheel)

    def stream(self, path: str, deadline: Deadline, *, is_write: bool = False, metadata: Metadata = ()) -> Stream:
        """Open a stream of messages both ways.  Blocks until the deadline at most, if there is no connection yet.

        Raises what :meth:`unary` does for want of a connection.
        """
        link = self._usable_link(deadline)
        stream = Stream(path, self.endpoint.url, is_write)
        link.begin(stream, self._block(path, metadata), b'', False)
        return stream

    def ready(self, deadline: Deadline) -> None:
        """Return once there is a connection.  Blocks until the deadline at most; raises what :meth:`unary` does."""
        self._usable_link(deadline)

    @property
    def is_connected(self) -> bool:
        """True if there is a connection on which calls may begin."""
        return self._link is not None

    def clear(self) -> None:
        """Close a connection on which no call is under way.  Does not block."""
        for link in list(self._links):
            if not link.calls:
                link.close(ClientClosed('the connection was idle'))

    def close(self) -> None:
        """End every call with ClientClosed, and the connection.  Does not block; may be called twice."""
        self._is_closed = True
        error = ClientClosed('the client was closed during the call')
        for link in list(self._links):
            link.close(error)
        if self._attempt is not None:
            self._attempt.cancel(error)
            self._attempt = None
        self._wheel.close()

    def __repr__(self) -> str:
        state = 'closed' if self._is_closed else 'connected' if self.is_connected else 'not connected'
        return f'<getc.transport.channel.Channel {self.endpoint.url} {state}>'

    # -- how it is done

    def _block(self, path: str, metadata: Metadata) -> bytes:
        key = path, metadata
        block = self._blocks.get(key)
        if block is None:
            if len(self._blocks) >= MOST_BLOCKS:  # tokens come and go
                self._blocks.clear()
            block = self._blocks[key] = request_block(
                path.encode(), authority=self._authority, is_secure=self.endpoint.is_secure, metadata=metadata
            )
        return block

    def _usable_link(self, deadline: Deadline) -> Link:
        if get_hub() is not self._hub:
            raise RuntimeError('a client belongs to the thread that made it: make one for each thread')
        link = self._link
        while link is None or not link.is_usable:
            if self._is_closed:
                raise ClientClosed('the client is closed')
            if self._attempt is None:
                self._attempt = _Attempt(self)
            self._attempt.wait(deadline)
            link = self._link
        return link

    def connect(self) -> None:
        """Make a connection, once it is time for the next attempt.  For :class:`_Attempt`; blocks."""
        gevent.sleep(max(0.0, self._next_attempt_at - timing.now()))
        try:
            sock = self._connected_socket()
        except EtcException:
            self._next_attempt_at = timing.now() + self._backoff.next_delay()
            raise
        self._next_attempt_at = timing.now() + self._backoff.next_delay()
        self._link = Link(sock, self.endpoint.url, self._on_leave)
        self._links.add(self._link)

    def _connected_socket(self) -> Socket:
        limit = Deadline(CONNECT_TIMEOUT)
        timeout = gevent.Timeout.start_new(limit.timeout_left())
        try:
            return connect(self.endpoint.host, self.endpoint.port, self._context, protocol='h2')
        except gevent.Timeout as fired:
            if fired is not timeout:
                raise
            raise not_connected_in_time(self.endpoint, limit) from None
        except OSError as error:
            raise not_connected(self.endpoint, error) from error
        finally:
            timeout.close()

    def _on_leave(self, link: Link) -> None:
        if link.has_spoken:
            self._backoff.reset()
            self._next_attempt_at = 0.0
        if self._link is link:
            self._link = None
        if not link.calls:
            self._links.discard(link)

    def attempt_over(self) -> None:
        """For :class:`_Attempt`."""
        self._attempt = None

    def abandon(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        for link in self._links:
            link.abandon()
        self._links.clear()
        if self._attempt is not None:
            self._attempt.abandon()
        self._link = self._attempt = None


class _Attempt:
    """One attempt to connect, for all calls that wait: who gives up does not end it for the others."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._is_over = Event()
        self._error: EtcException | None = None
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.name = f'getc connection to {channel.endpoint.url}'

    def wait(self, deadline: Deadline) -> None:
        """Wait for its end.  Raises what it met."""
        if not self._is_over.wait(deadline.timeout_left()):
            raise not_connected_in_time(self._channel.endpoint, deadline)
        if self._error is not None:
            raise self._error

    def cancel(self, error: EtcException) -> None:
        """End it with this error for all who wait."""
        self._error = error
        self._greenlet.kill(block=False)
        self._is_over.set()

    def abandon(self) -> None:
        """In a forked child, where it would go on with the parent's socket.  Who waits may try anew."""
        self._greenlet.kill(block=False)

    def _run(self) -> None:
        try:
            self._channel.connect()
        except EtcException as error:
            self._error = error
        except Exception as error:
            log.exception('the attempt to connect to %s failed', self._channel.endpoint.url)
            self._error = ConnectionError(f'no connection: {type(error).__name__}', endpoint=self._channel.endpoint.url)
        finally:
            self._channel.attempt_over()
            self._is_over.set()


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _abandon_all() -> None:
    for channel in list(_channels):
        channel.abandon()


os.register_at_fork(after_in_child=_abandon_all)
