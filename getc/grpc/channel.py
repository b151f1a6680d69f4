"""gRPC to one server: a connection that is opened for the first call, and opened again after it was lost."""

from __future__ import annotations

import logging
import ssl
import weakref
from typing import Final

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from getc import timing
from getc.error_context import copy_error
from getc.errors import ClientClosed, ConnectionError, EtcException, TimedOut
from getc.grpc.connection import GrpcConnection
from getc.grpc.framing import encode_message, encode_timeout, request_block
from getc.grpc.stalls import wait_ready
from getc.grpc.stream_call import StreamCall
from getc.grpc.timer_wheel import TimerWheel
from getc.grpc.unary_call import UnaryCall
from getc.net.affinity import ThreadAffinity, kill_soon
from getc.net.connect_errors import connect_error, connect_timeout, pending_alert
from getc.net.endpoint import Endpoint
from getc.net.resolver import Address, get_resolver
from getc.net.sockets import ADDRESS_TIMEOUT, Socket, connect, peer_address
from getc.net.tls import TLSContexts
from getc.runtime import after_fork
from getc.timing import Backoff, Deadline

__all__ = ['Channel', 'Metadata']

log = logging.getLogger(__name__)

Metadata = tuple[tuple[bytes, bytes], ...]
"""Further header fields of a call."""

CONNECT_ATTEMPT_TIMEOUT: Final = 10.0
"""Seconds for one attempt to connect, which all waiting calls share."""

SERVER_GRACE: Final = 1.0
"""Seconds by which ``grpc-timeout`` is longer than the timeout of the client, so that the client ends a late call and
resets its stream.  If the server ended the call first (etcd 3.5.30 and newer send RST_STREAM with CANCEL), a proxy in
between would translate that: nginx into HTTP 502, haproxy into REFUSED_STREAM, which means that nothing was done."""

MAX_PING_SLOWDOWN: Final = 32.0
"""The factor for the intervals between PINGs doubles with each complaint of the server, up to this."""

MAX_REQUEST_BLOCKS: Final = 1024
"""Cached header blocks of requests: one for each method and metadata in use."""


class Channel:
    """Calls to one server over one connection.

    The connection is opened for the first call, and opened again for the next call after it was lost.  Attempts to
    connect have a growing delay after failures; calls wait for the next attempt as long as their deadlines allow.

    Args:
        endpoint: The server.
        contexts: The TLS contexts for an ``https`` endpoint (with ALPN ``h2``), else None.

    Example::

        channel = Channel(endpoint)
        response = channel.unary('/etcdserverpb.KV/Range', request, Deadline.after(10))
        channel.close()
    """

    def __init__(self, endpoint: Endpoint, contexts: TLSContexts | None = None) -> None:
        self.endpoint = endpoint
        self._contexts = contexts
        self._url = endpoint.url
        self._authority = endpoint.authority.encode('idna' if not endpoint.authority.isascii() else 'ascii')
        self._blocks: dict[tuple[str, Metadata], bytes] = {}
        self._connection: GrpcConnection | None = None  # None when no calls can be started on it any more
        self._connections: set[GrpcConnection] = set()  # includes those that are going away
        self._timers = TimerWheel()
        self._attempt: _Attempt | None = None
        self._backoff = Backoff()
        self._next_attempt_at = 0.0
        self._was_http2: bool | None = None  # what earlier connections have shown
        self._ping_slowdown = 1.0
        self._affinity = ThreadAffinity()
        self._affinity.check()
        self._hub = get_hub()
        self._closed_by: EtcException | None = None  # the error of calls after the end of the channel
        _channels.add(self)

    def unary(
        self,
        path: str,
        message: bytes,
        deadline: Deadline,
        *,
        is_write: bool = True,
        metadata: Metadata = (),
        connect_by: Deadline | None = None,
        needs_settings: bool = False,
    ) -> bytes:
        """Send a request and return the response.  Blocks until the deadline at most.

        If the greenlet is killed, or a ``gevent.Timeout`` of the caller is raised, the stream of the call is reset and
        the connection can be used further.

        Args:
            path: ``/package.Service/Method``.
            message: The serialized request.
            deadline: The deadline of the call, which is sent to the server as ``grpc-timeout``.
            is_write: The call may change the store; for ``maybe_applied``.
            metadata: Further header fields, with names in lower case.
            connect_by: An earlier deadline for waiting for a connection, or None.
            needs_settings: Send the call on a new connection only after the SETTINGS of the server were received, so
                that a server that never speaks HTTP/2 leaves no doubt whether the write was applied.

        Raises:
            GrpcError: The server responded with a status other than OK.
            OversizedResponse: The response is larger than ``MAX_MESSAGE``.
            ConnectionError: There was no response; ``maybe_applied`` is True for a write that may have been sent.
            HTTPError: A proxy has answered.
            ProtocolError: The response is not gRPC, or violates HTTP/2 or a bound.
            ClientClosed: ``close`` was called before or during the call.
        """
        connection = self._connection
        if connection is None or get_hub() is not self._hub or (needs_settings and not connection.has_settings):
            connection = self._get_connection(connect_by or deadline, needs_settings)
        call = UnaryCall(path, self._url, is_write, deadline)
        left = deadline.at - timing.now()
        if left <= 0:
            raise TimedOut(f'no time left to call {path} on {self._url}', endpoint=self._url)
        block = self._blocks.get((path, metadata)) or self._encode_block(path, metadata)
        connection.start(call, block + encode_timeout(left + SERVER_GRACE), encode_message(message), True)
        return call.wait(self._timers)

    def stream(self, path: str, deadline: Deadline, *, is_write: bool = False, metadata: Metadata = ()) -> StreamCall:
        """Open a stream of messages in both directions.  Blocks until the deadline at most, without a connection only.

        Raises:
            ConnectionError: There is no connection.
            ClientClosed: ``close`` was called.
        """
        connection = self._get_connection(deadline)
        stream = StreamCall(path, self._url, is_write)
        connection.start(stream, self._encode_block(path, metadata), b'', False)
        return stream

    @property
    def is_connected(self) -> bool:
        """True if there is a connection on which calls can be started."""
        return self._connection is not None

    @property
    def speaks_http2(self) -> bool | None:
        """True if the server has sent HTTP/2 SETTINGS on any connection; False if it has sent none although there was a
        connection, or has refused the protocol in the TLS handshake; None if there was no connection yet."""
        connection = self._connection
        return True if connection is not None and connection.has_settings else self._was_http2

    def close_idle(self) -> None:
        """Close the connections without calls in flight.  Does not block.

        A new connection stays open until its server has sent SETTINGS, because calls may wait for these.
        """
        for connection in list(self._connections):
            is_new = self._attempt is not None and connection is self._connection
            if not connection.calls and (not is_new or connection.has_settings):
                connection.close(ClientClosed('the connection was idle'))

    def close(self) -> None:
        """Close the connection and end every call with ClientClosed.  Does not block; can be called twice."""
        self._closed_by = ClientClosed('the client is closed')
        error = ClientClosed('the client was closed during the call')
        for connection in list(self._connections):
            connection.close(error)
        if self._attempt is not None:
            self._attempt.cancel(error)
            self._attempt = None
        self._timers.close()

    def retire(self) -> None:
        """Start no more calls, because the server was removed from the endpoints of the client.  Does not block.

        Unary calls in flight, and streams that the client has half-closed, go on; the connection is closed after the
        last of them.  Other streams end with ConnectionError, so that they are opened again on another server.
        """
        error = ConnectionError(f'{self._url} was removed from the endpoints of the client', endpoint=self._url)
        error.is_outage = False
        self._closed_by = error
        for connection in list(self._connections):
            connection.retire(error)
        if self._attempt is not None:
            self._attempt.cancel(error)
            self._attempt = None

    @property
    def is_idle(self) -> bool:
        """True if there is no connection."""
        return not self._connections

    def close_soon(self) -> None:
        """Call :meth:`close` in the hub of the channel's thread.  Can be called from any thread."""
        self._affinity.call_soon(self.close)

    def __repr__(self) -> str:
        state = 'closed' if self._closed_by is not None else 'connected' if self.is_connected else 'not connected'
        return f'<getc.grpc.channel.Channel {self.endpoint.url} {state}>'

    # -- connecting

    def _encode_block(self, path: str, metadata: Metadata) -> bytes:
        """Return and cache the header block of a call, without its timeout."""
        if len(self._blocks) >= MAX_REQUEST_BLOCKS:  # tokens in the metadata change
            self._blocks.clear()
        block = self._blocks[path, metadata] = request_block(
            path.encode(), authority=self._authority, is_secure=self.endpoint.is_secure, metadata=metadata
        )
        return block

    def _get_connection(self, deadline: Deadline, needs_settings: bool = False) -> GrpcConnection:
        self._affinity.check()
        was_lost = False
        while self._connection is None or (needs_settings and not self._connection.has_settings):
            if self._closed_by is not None:
                raise copy_error(self._closed_by)
            if self._attempt is None:
                self._attempt = _Attempt(self)
            attempt = self._attempt
            attempt.wait(deadline, until_settings=needs_settings)
            if self._connection is None and attempt.is_over:  # the connection ended before this call could be started
                if was_lost:
                    what = f'{self._url} ended new connections before a call could be started'
                    raise ConnectionError(what, endpoint=self._url)
                was_lost = True
        return self._connection

    def connect(self, attempt: _Attempt) -> None:
        """Connect to the first address whose server sends SETTINGS, after the back-off.

        For :class:`_Attempt`; blocks.
        """
        gevent.sleep(max(0.0, self._next_attempt_at - timing.now()))
        limit = Deadline(CONNECT_ATTEMPT_TIMEOUT)
        tried: set[Address] = set()
        while True:
            connection, address = self._open_connection(attempt, limit)
            tried.add(address)
            others = self._other_addresses(tried)
            part = limit.fraction(1 / (1 + len(others)), at_most=ADDRESS_TIMEOUT) if others else limit
            try:
                connection.wait_for_settings(part)
            except ClientClosed:
                raise  # says nothing about the address
            except EtcException:
                get_resolver().mark_bad(self.endpoint.host, self.endpoint.port, address)
                if not others or self._attempt is not attempt or limit.has_passed():
                    raise
            else:
                get_resolver().mark_good(self.endpoint.host, self.endpoint.port, address)
                return

    def _open_connection(self, attempt: _Attempt, limit: Deadline) -> tuple[GrpcConnection, Address]:
        """Open a connection on which calls can be started at once, except those with ``needs_settings``."""
        try:
            sock = self._connected_socket(limit)
            address = self._address_of(sock)
        except EtcException:
            self._next_attempt_at = timing.now() + self._backoff.next_delay()
            raise
        if self._attempt is not attempt:  # cancelled or abandoned in this iteration, and killed in the next one
            sock.close()
            raise gevent.GreenletExit
        self._next_attempt_at = timing.now() + self._backoff.next_delay()
        if self._was_http2 is None:
            self._was_http2 = False
        connection = GrpcConnection(sock, self._url, self._on_draining, ping_slowdown=self._ping_slowdown)
        self._connection = connection
        self._connections.add(connection)
        attempt.on_connected()
        return connection, address

    def _address_of(self, sock: Socket) -> Address:
        try:
            return peer_address(sock)
        except OSError as error:  # the connection broke already, perhaps after an alert about the client certificate
            error = pending_alert(sock, error)
            sock.close()
            raise connect_error(self.endpoint, error) from error

    def _other_addresses(self, tried: set[Address]) -> list[Address]:
        cached = get_resolver().cached_addresses(self.endpoint.host, self.endpoint.port)
        return [address for address in cached if address not in tried]

    def _connected_socket(self, limit: Deadline) -> Socket:
        timeout = gevent.Timeout.start_new(limit.timeout_left())
        try:
            context = None if self._contexts is None else self._contexts.current()
            return connect(self.endpoint.host, self.endpoint.port, context, protocol='h2', deadline=limit)
        except gevent.Timeout as fired:
            if fired is not timeout:
                raise
            raise connect_timeout(self.endpoint, limit) from None
        except OSError as error:
            if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLCertVerificationError):
                self._was_http2 = bool(self._was_http2)
            raise connect_error(self.endpoint, error) from error
        finally:
            timeout.close()

    def _on_draining(self, connection: GrpcConnection) -> None:
        if connection.has_settings:
            self._was_http2 = True
            self._backoff.reset()
            self._next_attempt_at = 0.0
        if self._connection is connection:
            self._connection = None
            if self._attempt is not None:
                self._attempt.on_lost()
            if connection.pinged_too_often:
                self._ping_slowdown = min(2.0 * connection.health.slowdown, MAX_PING_SLOWDOWN)
        if not connection.calls:
            self._connections.discard(connection)

    def on_attempt_over(self, attempt: _Attempt) -> None:
        """Forget an attempt, unless another one was started after a fork.  For :class:`_Attempt`."""
        if self._attempt is attempt:
            self._attempt = None

    def abandon(self) -> None:
        """In a forked child, close the inherited connections without sending anything."""
        for connection in self._connections:
            connection.abandon()
        self._connections.clear()
        if self._attempt is not None:
            self._attempt.abandon()
        self._connection = self._attempt = None


class _Attempt:
    """One attempt to connect, in a greenlet of its own: it goes on when a call that waits for it gives up."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._is_connected = Event()
        self._is_over = Event()
        self._error: EtcException | None = None
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.name = f'getc connection to {channel.endpoint.url}'
        self._greenlet.rawlink(self._on_greenlet_over)

    def wait(self, deadline: Deadline, *, until_settings: bool) -> None:
        """Wait until there is a connection, or until its server has sent SETTINGS.

        Raises:
            TimedOut: The deadline has passed.
            EtcException: A copy of the error of the attempt.
        """
        awaited = self._is_over if until_settings else self._is_connected
        if not wait_ready(awaited, deadline):
            raise connect_timeout(self._channel.endpoint, deadline)
        if self._error is not None:
            raise copy_error(self._error) from self._error.__cause__  # other calls raise the same error

    @property
    def is_over(self) -> bool:
        """True if the attempt has succeeded or failed; never in a forked child, where it was abandoned."""
        return self._is_over.is_set()

    def on_connected(self) -> None:
        """Wake the calls that wait for a connection.  For the channel."""
        self._is_connected.set()

    def on_lost(self) -> None:
        """Let further calls wait, because the connection has ended.  For the channel."""
        self._is_connected.clear()

    def cancel(self, error: EtcException) -> None:
        """End the attempt with an error for all calls that wait for it."""
        self._error = error
        self._greenlet.kill(block=False)
        self._end()

    def abandon(self) -> None:
        """In a forked child, kill the copy of the greenlet, which would use the socket of the parent."""
        kill_soon(self._greenlet)

    def _run(self) -> None:
        try:
            self._channel.connect(self)
        except EtcException as error:
            self._error = error
        except Exception as error:
            url = self._channel.endpoint.url
            log.exception('the attempt to connect to %s failed', url)
            self._error = ConnectionError(f'no connection to {url}: {type(error).__name__}', endpoint=url)
        finally:
            self._on_greenlet_over(self._greenlet)

    def _on_greenlet_over(self, greenlet: object) -> None:
        """End the attempt.  Called a second time by the link, which is for a greenlet that was killed before it ran."""
        self._channel.on_attempt_over(self)
        self._end()

    def _end(self) -> None:
        self._is_over.set()
        self._is_connected.set()  # no call waits for an attempt that has ended


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _abandon_in_child() -> None:
    for channel in list(_channels):
        try:
            channel.abandon()
        except Exception:  # the other channels have to be abandoned all the same
            log.exception('%r could not be abandoned after a fork', channel)


after_fork(_abandon_in_child)
