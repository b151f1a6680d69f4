"""TCP connections to one target, with fault injection."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import gevent.socket
from gevent.queue import Queue

from getc.testing.virtual_loop import real_sleep

__all__ = ['Fault', 'FaultyLink', 'unref']

Socket = gevent.socket.socket

CHUNK_BYTES: Final = 64 * 1024
"""Bytes that are read at once."""

MAX_QUEUED_CHUNKS: Final = 16
"""Chunks in flight in one direction of a connection; when the queue is full, no more data are read."""

POLL_INTERVAL: Final = 0.02
"""Real seconds that delayed data wait before they check whether the fault has changed."""

LINGER_RESET: Final = struct.pack('ii', 1, 0)
"""Value of SO_LINGER with which close() sends a reset."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a link does to its connections.

    Attributes:
        name: A description for messages.
        refuses: True resets all connections.
        to_server: False discards the client's data.
        to_client: False discards the server's data.
        delay: Seconds by which all data are delayed.
        size: Bytes that are sent at once.
        rate: Bytes a second, in each direction of each connection.
    """

    name: str
    refuses: bool = False
    to_server: bool = True
    to_client: bool = True
    delay: float = 0.0
    size: int = CHUNK_BYTES
    rate: float = math.inf

    def __post_init__(self) -> None:
        if not (self.delay >= 0 and self.size >= 1 and self.rate > 0):
            raise ValueError(f'invalid fault {self.name!r}: delay must be >= 0, size >= 1, rate > 0')


NONE: Final = Fault('none')


class FaultyLink:
    """Forwards connections to one target, with faults that can be switched at any time.

    A fault applies to open connections as well as to new ones, until :meth:`heal` or the next fault.  Discarded data
    are lost: the connection is reset as soon as its direction would deliver data again, because TCP never delivers a
    stream with a gap.

    Works in real time, also under :class:`VirtualTime`; but virtual time does not advance by itself while a
    connection is open.  At most ``MAX_QUEUED_CHUNKS`` chunks are in flight in each direction.

    Args:
        target: The URL or ``host:port`` of the server.

    Attributes:
        target: The URL or ``host:port`` of the server.
        connections: The number of connections that were made.
        bytes_to_server: The number of bytes delivered to the server.
        bytes_to_client: The number of bytes delivered to clients.

    Raises:
        ValueError: The target is neither a URL nor ``host:port``.
    """

    holds_virtual_time = True
    """False if virtual time may advance by itself although connections are open."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target if '://' in target else f'//{target}')
        if parts.hostname is None or parts.port is None:
            raise ValueError(f'invalid target {target!r}: expected a URL or host:port')
        self.target = target
        self.connections = 0
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self._address = (parts.hostname, parts.port)
        self._fault = NONE
        self._open: set[_Connection] = set()

    @property
    def fault(self) -> Fault:
        """The current fault; its name is ``'none'`` if there is none."""
        return self._fault

    @property
    def open_connections(self) -> int:
        """The number of open connections."""
        return len(self._open)

    def heal(self) -> None:
        """Forward all data.  Connections that have lost data are reset."""
        self._switch(NONE)

    def cut(self) -> None:
        """Reset every connection, and each new one as soon as it is accepted."""
        self._switch(Fault('cut', refuses=True))

    def silence(self) -> None:
        """Discard all data in both directions and keep connections open, like a firewall that drops packets."""
        self._switch(Fault('silence', to_server=False, to_client=False))

    def drop_replies(self) -> None:
        """Deliver the client's data and discard the server's: requests are executed, and their replies are lost."""
        self._switch(Fault('drop_replies', to_client=False))

    def delay(self, seconds: float) -> None:
        """Deliver all data later, in both directions, at an unchanged rate.

        Raises:
            ValueError: The delay is negative.
        """
        self._switch(Fault(f'delay of {seconds:g} s', delay=seconds))

    def chop(self, size: int) -> None:
        """Send the data in pieces.

        Args:
            size: The maximum size of a piece, in bytes.

        Raises:
            ValueError: The size is less than 1.
        """
        self._switch(Fault(f'pieces of {size} bytes', size=size))

    def throttle(self, bytes_per_second: float) -> None:
        """Limit the rate of each direction of each connection.

        Raises:
            ValueError: The rate is not more than 0.
        """
        self._switch(Fault(f'{bytes_per_second:g} bytes a second', rate=bytes_per_second))

    def forward(self, client: Socket, head: bytes = b'') -> None:
        """Connect to the target and forward data in both directions, in the background.

        Args:
            client: An accepted connection.  The link closes it.
            head: Data that were already read from it.
        """
        self.connections += 1
        connection = _Connection(self, client, head)
        self._open.add(connection)
        if self._fault.refuses:
            connection.reset()

    def reset(self) -> None:
        """Reset every open connection, and return when their greenlets have ended.  New ones are not affected."""
        dropped = list(self._open)
        for connection in dropped:
            connection.reset()
        for connection in dropped:
            connection.join()

    def __repr__(self) -> str:
        return f'<{type(self).__name__} to {self.target}, fault: {self._fault.name}>'

    def _switch(self, fault: Fault) -> None:
        self._fault = fault
        for connection in list(self._open):
            connection.apply(fault)


def unref(sock: Any) -> None:
    """Let virtual time advance by itself although a greenlet waits for this socket."""
    sock.ref = False


class _Connection:
    """A client's connection and the corresponding one to the server."""

    def __init__(self, link: FaultyLink, client: Socket, head: bytes) -> None:
        address = link._address
        server = Socket(gevent.socket.AF_INET6 if ':' in address[0] else gevent.socket.AF_INET)
        self._link = link
        self._sockets = (client, server)
        if not link.holds_virtual_time:
            for sock in self._sockets:
                unref(sock)
        self._up = _Direction(self, client, server, is_up=True)
        self._down = _Direction(self, server, client, is_up=False)
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._spawn(self._connect, head)

    def apply(self, fault: Fault) -> None:
        """Reset the connection if the fault requires it, or would deliver data behind a gap."""
        resumes = (self._up.has_lost and fault.to_server) or (self._down.has_lost and fault.to_client)
        if fault.refuses or resumes:
            self.reset()

    def reset(self) -> None:
        """Reset both sides.  Does not block."""
        self._end(is_abort=True)

    def join(self) -> None:
        """Wait for the greenlets of this connection, except the calling one."""
        gevent.joinall([greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()])

    def close_if_finished(self) -> None:
        """Close the connection if both directions are finished."""
        if self._up.is_finished and self._down.is_finished:
            self._end(is_abort=False)

    def fault(self) -> Fault:
        """Return the link's current fault."""
        return self._link.fault

    def count(self, size: int, *, is_up: bool) -> None:
        """Add to the number of delivered bytes."""
        if is_up:
            self._link.bytes_to_server += size
        else:
            self._link.bytes_to_client += size

    def _connect(self, head: bytes) -> None:
        try:
            self._sockets[1].connect(self._link._address)
            for sock in self._sockets:
                sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        except OSError:
            self._on_refused()
            return
        if head:
            self._up.put(head)
        for direction in (self._up, self._down):
            self._spawn(direction.read)
            self._spawn(direction.write)

    def _on_refused(self) -> None:
        if self.fault().to_client:
            self.reset()
            return
        # The refusal is a reply of the server as well, and is discarded.
        self._up.has_lost = self._down.has_lost = self._down.is_finished = True
        self._up.read()

    def _spawn(self, function: Callable[..., None], *args: object) -> None:
        greenlet: gevent.Greenlet[..., None] = gevent.spawn(function, *args)
        greenlet.name = f'link to {self._link.target}'
        self._greenlets.append(greenlet)

    def _end(self, *, is_abort: bool) -> None:
        if self not in self._link._open:
            return
        self._link._open.discard(self)
        for sock in self._sockets:
            if is_abort:
                sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, LINGER_RESET)
            sock.close()
        others = [greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()]
        gevent.killall(others, block=False)


class _Direction:
    """One direction of a connection: data are read as they arrive, and sent as the fault permits.

    Attributes:
        has_lost: True once data were discarded.
        is_finished: True once the end of the stream was delivered or discarded.
    """

    def __init__(self, connection: _Connection, source: Socket, sink: Socket, *, is_up: bool) -> None:
        self.has_lost = False
        self.is_finished = False
        self._connection = connection
        self._source = source
        self._sink = sink
        self._is_up = is_up
        self._queue: Queue[tuple[float, bytes]] = Queue(MAX_QUEUED_CHUNKS)

    def put(self, data: bytes) -> None:
        """Queue data that arrived now; empty data stand for the end of the stream.  Blocks while the queue is full."""
        self._queue.put((time.monotonic(), data))

    def read(self) -> None:
        """Read until the end of the stream."""
        data = b'.'
        while data:
            try:
                data = self._source.recv(CHUNK_BYTES)
            except OSError:
                if self._delivers():
                    self._connection.reset()
                    return
                data = b''
            if self._delivers():
                self.put(data)
            else:
                self._lose(data)

    def write(self) -> None:
        """Send the queued data until the end of the stream."""
        try:
            while not self.is_finished:
                arrived_at, data = self._queue.get()
                if data:
                    self._send(data, arrived_at)
                else:
                    self._send_end(arrived_at)
        except OSError:
            self._connection.reset()

    def _send(self, data: bytes, arrived_at: float) -> None:
        unsent = memoryview(data)
        while unsent:
            fault = self._wait_until_due(arrived_at)
            if not self._delivers():
                self._lose(unsent)
                return
            size = int(min(len(unsent), fault.size, max(1.0, fault.rate * POLL_INTERVAL)))
            self._sink.sendall(unsent[:size])
            self._connection.count(size, is_up=self._is_up)
            unsent = unsent[size:]
            self._pause_after(size, fault)

    def _send_end(self, arrived_at: float) -> None:
        self._wait_until_due(arrived_at)
        if self._delivers():
            self._sink.shutdown(gevent.socket.SHUT_WR)
            self._end()
        else:
            self._lose(b'')

    def _lose(self, data: bytes | memoryview) -> None:
        self.has_lost = True
        if not data:
            self._end()

    def _end(self) -> None:
        self.is_finished = True
        self._connection.close_if_finished()

    def _delivers(self) -> bool:
        fault = self._connection.fault()
        return not self.has_lost and (fault.to_server if self._is_up else fault.to_client)

    def _wait_until_due(self, arrived_at: float) -> Fault:
        """Wait for the delay of data that arrived at this time, and return the fault that is then in force."""
        while True:
            fault = self._connection.fault()
            left = arrived_at + fault.delay - time.monotonic()
            if left <= 0:
                return fault
            real_sleep(min(left, POLL_INTERVAL))

    def _pause_after(self, size: int, fault: Fault) -> None:
        """Wait as the rate requires.  Chopped data wait for one turn of the loop, so that the receiver reads pieces."""
        end = time.monotonic() + size / fault.rate
        if fault.size < CHUNK_BYTES:
            real_sleep(0.0)
        while self._connection.fault() is fault and (left := end - time.monotonic()) > 0:
            real_sleep(min(left, POLL_INTERVAL))
