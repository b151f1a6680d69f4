"""gRPC to one server: a connection that is made when it is needed, and made again when it was lost."""

from __future__ import annotations

import logging
import os
import weakref
from typing import Final

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from getc import timing
from getc.error_context import copy_error
from getc.errors import ClientClosed, ConnectionError, EtcException
from getc.grpc.call import GrpcError, Stream, UnaryCall
from getc.grpc.connection import GrpcConnection
from getc.grpc.framing import packed, request_block, timeout_field
from getc.grpc.timer_wheel import TimerWheel
from getc.net.affinity import ThreadAffinity, kill_soon
from getc.net.connect_errors import connect_error, connect_timeout
from getc.net.endpoint import Endpoint
from getc.net.resolver import Address, get_resolver
from getc.net.sockets import ADDRESS_TIMEOUT, Socket, connect, peer_address
from getc.net.tls import TLSContexts
from getc.timing import Backoff, Deadline

__all__ = ['Channel', 'GrpcError', 'Metadata', 'Stream']

log = logging.getLogger('getc')

Metadata = tuple[tuple[bytes, bytes], ...]
"""Further fields of a call's head."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for one attempt to connect, whoever waits for it."""

SERVER_GRACE: Final = 1.0
"""Seconds by which the server's limit for a call is later than ours.  The client ends a call that is late, and tells
the server so.  If the server ended it first (etcd 3.5.30 and newer send RST_STREAM with CANCEL), a proxy on the way
would translate that: nginx into HTTP 502, haproxy into REFUSED_STREAM, which normally means that nothing was done."""

SLOWEST_PINGS: Final = 32.0
"""How much rarer pings become at most, by half each time that the server complains about them."""

MAX_CACHED_BLOCKS: Final = 1024
"""Request heads that are remembered: one for each method and metadata in use."""


class Channel:
    """Calls to one server over one connection.

    Nothing is connected before the first call.  A connection that was lost is made again for the next call; attempts
    that fail are made less and less often, and calls wait for the next one as long as their deadlines allow.

    Args:
        endpoint: The server.
        contexts: The TLS contexts of an ``https`` endpoint (with ALPN ``h2``), else None.

    Example::

        channel = Channel(endpoint)
        answer = channel.unary('/etcdserverpb.KV/Range', request, Deadline.after(10))
        channel.close()
    """

    def __init__(self, endpoint: Endpoint, contexts: TLSContexts | None = None) -> None:
        self.endpoint = endpoint
        self._contexts = contexts
        self._url = endpoint.url
        self._authority = endpoint.url.partition('://')[2].encode('idna' if not endpoint.host.isascii() else 'ascii')
        self._blocks: dict[tuple[str, Metadata], bytes] = {}
        self._link: GrpcConnection | None = None  # it leaves us when no more calls may begin on it
        self._links: set[GrpcConnection] = set()  # also those that the server is leaving
        self._wheel = TimerWheel()
        self._attempt: _Attempt | None = None
        self._backoff = Backoff()
        self._next_attempt_at = 0.0
        self._ping_slowdown = 1.0
        self._home = ThreadAffinity()
        self._home.check()
        self._hub = get_hub()
        self._is_closed = False
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
        once: bool = False,
    ) -> bytes:
        """Send a request and return the answer.  Blocks until the deadline at most.

        A caller that is killed, or has a timeout of its own, ends the call and leaves the connection clean.

        Args:
            path: ``/package.Service/Method``.
            message: The request, packed.
            deadline: The end of the call; the server is told of it.
            is_write: It may change something there: it counts for ``maybe_applied``.
            metadata: Further fields of the head, names in lower case.
            connect_by: An earlier end of the waiting for a connection, where there is none.
            once: It must not be applied twice: on a new connection it is sent when the server has shown that it is
                there, by its SETTINGS.  Until then it can go to another server without doubt.

        Raises:
            GrpcError: The server answered with a status other than OK.
            ConnectionError: No answer; ``maybe_applied`` is True for a write that may have left.
            HTTPError, ProtocolError: The answer is no gRPC, breaks HTTP/2 or a bound.
            ClientClosed: ``close`` was called, before or meanwhile.
        """
        link = self._link
        if link is None or get_hub() is not self._hub or (once and not link.has_spoken):
            link = self._usable_link(connect_by or deadline, once)
        call = UnaryCall(path, self._url, is_write, deadline)
        left = deadline.at - timing.now()
        if left <= 0:
            raise call.timed_out(deadline)  # before it was sent
        block = self._blocks.get((path, metadata)) or self._block(path, metadata)
        link.begin(call, block + timeout_field(left + SERVER_GRACE), packed(message), True)
        return call.wait(self._wheel)

    def stream(self, path: str, deadline: Deadline, *, is_write: bool = False, metadata: Metadata = ()) -> Stream:
        """Open a stream of messages both ways.  Blocks until the deadline at most, if there is no connection yet.

        Raises what :meth:`unary` does for want of a connection.
        """
        link = self._usable_link(deadline)
        stream = Stream(path, self._url, is_write)
        link.begin(stream, self._block(path, metadata), b'', False)
        return stream

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

    def close_soon(self) -> None:
        """The same, from whatever thread: on the next turn of the hub of its own."""
        self._home.call_soon(self.close)

    def __repr__(self) -> str:
        state = 'closed' if self._is_closed else 'connected' if self.is_connected else 'not connected'
        return f'<getc.grpc.channel.Channel {self.endpoint.url} {state}>'

    # -- how it is done

    def _block(self, path: str, metadata: Metadata) -> bytes:
        """The head of a call, but for its timeout; it is remembered."""
        if len(self._blocks) >= MAX_CACHED_BLOCKS:  # tokens come and go
            self._blocks.clear()
        block = self._blocks[path, metadata] = request_block(
            path.encode(), authority=self._authority, is_secure=self.endpoint.is_secure, metadata=metadata
        )
        return block

    def _usable_link(self, deadline: Deadline, once: bool = False) -> GrpcConnection:
        self._home.check()
        was_lost = False
        while self._link is None or (once and not self._link.has_spoken):
            if self._is_closed:
                raise ClientClosed('the client is closed')
            if self._attempt is None:
                self._attempt = _Attempt(self)
            attempt = self._attempt
            attempt.wait(deadline, until_spoken=once)
            if self._link is None and attempt.is_over:  # it was lost, or cleared, before this call could begin
                if was_lost:
                    what = f'{self._url} ended new connections before a call could begin'
                    raise ConnectionError(what, endpoint=self._url)
                was_lost = True
        return self._link

    def connect(self, attempt: _Attempt) -> None:
        """Make a connection, once it is time for the next attempt, to the first address whose server says something.

        For :class:`_Attempt`; blocks.
        """
        gevent.sleep(max(0.0, self._next_attempt_at - timing.now()))
        limit = Deadline(CONNECT_TIMEOUT)
        tried: set[Address] = set()
        while True:
            link, address = self._begin_link(attempt, limit)
            tried.add(address)
            others = self._addresses_but(tried)
            try:
                link.wait_spoken(limit.fraction(1 / (1 + len(others)), at_most=ADDRESS_TIMEOUT) if others else limit)
            except EtcException:
                get_resolver().mark_bad(self.endpoint.host, self.endpoint.port, address)
                if not others or self._attempt is not attempt or limit.has_passed():
                    raise
            else:
                get_resolver().mark_good(self.endpoint.host, self.endpoint.port, address)
                return

    def _begin_link(self, attempt: _Attempt, limit: Deadline) -> tuple[GrpcConnection, Address]:
        """Make a link, on which calls may begin that need not wait until its server has spoken."""
        try:
            sock = self._connected_socket(limit)
            address = self._address_of(sock)
        except EtcException:
            self._next_attempt_at = timing.now() + self._backoff.next_delay()
            raise
        if self._attempt is not attempt:  # it was cancelled or abandoned in this turn, and is killed in the next
            sock.close()
            raise gevent.GreenletExit
        self._next_attempt_at = timing.now() + self._backoff.next_delay()
        link = self._link = GrpcConnection(sock, self._url, self._on_leave, ping_slowdown=self._ping_slowdown)
        self._links.add(link)
        attempt.on_connected()
        return link, address

    def _address_of(self, sock: Socket) -> Address:
        try:
            return peer_address(sock)
        except OSError as error:  # it is broken by now
            sock.close()
            raise connect_error(self.endpoint, error) from error

    def _addresses_but(self, tried: set[Address]) -> list[Address]:
        known = get_resolver().cached_addresses(self.endpoint.host, self.endpoint.port)
        return [address for address in known if address not in tried]

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
            raise connect_error(self.endpoint, error) from error
        finally:
            timeout.close()

    def _on_leave(self, link: GrpcConnection) -> None:
        if link.has_spoken:
            self._backoff.reset()
            self._next_attempt_at = 0.0
        if self._link is link:
            self._link = None
            if self._attempt is not None:
                self._attempt.on_lost()
            if link.pinged_too_often:
                self._ping_slowdown = min(2.0 * link.ping_slowdown, SLOWEST_PINGS)
        if not link.calls:
            self._links.discard(link)

    def attempt_over(self, attempt: _Attempt) -> None:
        """For :class:`_Attempt`.  After a fork another one may be under way."""
        if self._attempt is attempt:
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
        self._is_connected = Event()
        self._is_over = Event()
        self._error: EtcException | None = None
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.name = f'getc connection to {channel.endpoint.url}'

    def wait(self, deadline: Deadline, *, until_spoken: bool) -> None:
        """Wait until there is a connection, or until its server has spoken.  Raises what the attempt met."""
        awaited = self._is_over if until_spoken else self._is_connected
        if not awaited.wait(deadline.timeout_left()):
            raise connect_timeout(self._channel.endpoint, deadline)
        if self._error is not None:
            raise copy_error(self._error) from self._error.__cause__  # others wait for the same

    @property
    def is_over(self) -> bool:
        """True once it has connected or failed; never in a forked child, where it was abandoned."""
        return self._is_over.is_set()

    def on_connected(self) -> None:
        """For the channel: there is a connection."""
        self._is_connected.set()

    def on_lost(self) -> None:
        """For the channel: there is none any more."""
        self._is_connected.clear()

    def cancel(self, error: EtcException) -> None:
        """End it with this error for all who wait."""
        self._error = error
        self._greenlet.kill(block=False)
        self._end()

    def abandon(self) -> None:
        """In a forked child, where it would go on with the parent's socket.  Who waits may try anew."""
        kill_soon(self._greenlet)

    def _run(self) -> None:
        try:
            self._channel.connect(self)
        except EtcException as error:
            self._error = error
        except Exception as error:
            log.exception('the attempt to connect to %s failed', self._channel.endpoint.url)
            self._error = ConnectionError(f'no connection: {type(error).__name__}', endpoint=self._channel.endpoint.url)
        finally:
            self._channel.attempt_over(self)
            self._end()

    def _end(self) -> None:
        self._is_over.set()
        self._is_connected.set()  # no call waits for an attempt that has ended


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _abandon_all() -> None:
    for channel in list(_channels):
        try:
            channel.abandon()
        except Exception:  # one channel that fails must not leave the others to the child
            log.exception('%r could not be left to the parent process', channel)


os.register_at_fork(after_in_child=_abandon_all)
