"""Connections to one target, and what is wrong with them."""

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

__all__ = ['Fault', 'FaultyLink', 'do_not_wait_for']

Socket = gevent.socket.socket

CHUNK: Final = 64 * 1024
"""Bytes that are read at a time."""

QUEUED: Final = 16
"""Chunks on their way in one direction of a connection; then its sender is not read from."""

TICK: Final = 0.02
"""Real seconds for which a piece waits before it looks whether the fault is still the same."""

ABORT: Final = struct.pack('ii', 1, 0)
"""SO_LINGER: what closes then sends a reset."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a line does to the connections on it.

    Attributes:
        name: For people.
        refuses: True resets all connections.
        to_server: False swallows what the client says.
        to_client: False swallows what the server says.
        delay: Seconds that each byte takes longer.
        size: Bytes sent at a time.
        rate: Bytes a second, for each direction of each connection.
    """

    name: str
    refuses: bool = False
    to_server: bool = True
    to_client: bool = True
    delay: float = 0.0
    size: int = CHUNK
    rate: float = math.inf

    def __post_init__(self) -> None:
        if not (self.delay >= 0 and self.size >= 1 and self.rate > 0):
            raise ValueError(f'no such fault: {self.name}')


NONE: Final = Fault('none')


class FaultyLink:
    """Connections to one target, each of which is as good or as bad as the line is told to be.

    A fault strikes the connections that are there as well as new ones, until :meth:`heal` or the next fault.
    What was swallowed is gone: as soon as its direction would deliver again the connection is reset, because
    the rest of a stream with a hole is something that no network brings about.

    It works in real time, also where time is virtual; but time does not move on by itself while a connection
    is open.  What is on its way is bounded: ``QUEUED`` chunks a direction.

    Args:
        target: The URL or ``host:port`` of the server.

    Attributes:
        target: The same.
        connections: How many there were.
        bytes_to_server: How many were delivered.
        bytes_to_client: The same.
    """

    is_waited_for = True
    """False for connections that are no reason for virtual time to stand still."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target if '://' in target else f'//{target}')
        if parts.hostname is None or parts.port is None:
            raise ValueError(f'a target is a URL or host:port, not {target!r}')
        self.target = target
        self.connections = 0
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self._address = (parts.hostname, parts.port)
        self._fault = NONE
        self._open: set[_Connection] = set()

    @property
    def fault(self) -> Fault:
        """What is wrong now; its name is ``'none'`` if nothing is."""
        return self._fault

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._open)

    def heal(self) -> None:
        """Pass everything on.  Connections that lost something are reset."""
        self._switch(NONE)

    def cut(self) -> None:
        """Reset every connection, and each new one as soon as it is made."""
        self._switch(Fault('cut', refuses=True))

    def silence(self) -> None:
        """Swallow all that is said, and let connections stay and be made: as behind a firewall that drops."""
        self._switch(Fault('silence', to_server=False, to_client=False))

    def half(self) -> None:
        """Deliver what the clients say and swallow what the server says: the reply is lost."""
        self._switch(Fault('half', to_client=False))

    def delay(self, seconds: float) -> None:
        """Deliver every byte so much later, in both directions.  The rate stays what it was.

        Raises:
            ValueError: It is negative.
        """
        self._switch(Fault(f'delay of {seconds:g} s', delay=seconds))

    def chop(self, size: int) -> None:
        """Send so few bytes at a time.

        Raises:
            ValueError: It is less than 1.
        """
        self._switch(Fault(f'pieces of {size}', size=size))

    def throttle(self, bytes_per_second: float) -> None:
        """Deliver so few bytes a second, in each direction of each connection.

        Raises:
            ValueError: It is not more than 0.
        """
        self._switch(Fault(f'{bytes_per_second:g} bytes a second', rate=bytes_per_second))

    def take(self, client: Socket, head: bytes = b'') -> None:
        """Connect a client on to the target, in the background.  From now on its socket is the line's.

        Args:
            client: Its accepted connection.
            head: What was read from it already.
        """
        self.connections += 1
        connection = _Connection(self, client, head)
        self._open.add(connection)
        if self._fault.refuses:
            connection.reset()

    def reset(self) -> None:
        """Reset every connection, and return when nothing is left of them.  New ones are not affected."""
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
            connection.obey(fault)


def do_not_wait_for(sock: Any) -> None:
    """Have virtual time move on by itself although a greenlet waits for this socket."""
    sock.ref = False


class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, line: FaultyLink, client: Socket, head: bytes) -> None:
        address = line._address
        server = Socket(gevent.socket.AF_INET6 if ':' in address[0] else gevent.socket.AF_INET)
        self._line = line
        self._sockets = (client, server)
        if not line.is_waited_for:
            for sock in self._sockets:
                do_not_wait_for(sock)
        self._up = _Direction(self, client, server, is_up=True)
        self._down = _Direction(self, server, client, is_up=False)
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._spawn(self._connect, head)

    def obey(self, fault: Fault) -> None:
        """Be reset if the fault is one that resets, or would go on after what was lost."""
        resumes = (self._up.has_lost and fault.to_server) or (self._down.has_lost and fault.to_client)
        if fault.refuses or resumes:
            self.reset()

    def reset(self) -> None:
        """End both sides at once.  Does not block."""
        self._end(is_abort=True)

    def join(self) -> None:
        """Wait for its greenlets, but for the one that asks."""
        gevent.joinall([greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()])

    def close_if_over(self) -> None:
        """Both sides have said all: close."""
        if self._up.is_over and self._down.is_over:
            self._end(is_abort=False)

    def fault(self) -> Fault:
        """The line's, at this moment."""
        return self._line.fault

    def count(self, size: int, *, is_up: bool) -> None:
        """So many bytes were delivered."""
        if is_up:
            self._line.bytes_to_server += size
        else:
            self._line.bytes_to_client += size

    def _connect(self, head: bytes) -> None:
        try:
            self._sockets[1].connect(self._line._address)
            for sock in self._sockets:
                sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        except OSError:
            self._go_on_without_server()
            return
        if head:
            self._up.put(head)
        for direction in (self._up, self._down):
            self._spawn(direction.read)
            self._spawn(direction.write)

    def _go_on_without_server(self) -> None:
        if self.fault().to_client:
            self.reset()
            return
        # That nobody listens there is an answer too, and it is swallowed.
        self._up.has_lost = self._down.has_lost = self._down.is_over = True
        self._up.read()

    def _spawn(self, function: Callable[..., None], *args: object) -> None:
        greenlet: gevent.Greenlet[..., None] = gevent.spawn(function, *args)
        greenlet.name = f'line to {self._line.target}'
        self._greenlets.append(greenlet)

    def _end(self, *, is_abort: bool) -> None:
        if self not in self._line._open:
            return
        self._line._open.discard(self)
        for sock in self._sockets:
            if is_abort:
                sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, ABORT)
            sock.close()
        others = [greenlet for greenlet in self._greenlets if greenlet is not gevent.getcurrent()]
        gevent.killall(others, block=False)


class _Direction:
    """One way of a connection: read as it comes, sent as the fault allows.

    Attributes:
        has_lost: True once something of it was swallowed.
        is_over: True once its end was delivered or swallowed.
    """

    def __init__(self, connection: _Connection, source: Socket, sink: Socket, *, is_up: bool) -> None:
        self.has_lost = False
        self.is_over = False
        self._connection = connection
        self._source = source
        self._sink = sink
        self._is_up = is_up
        self._queue: Queue[tuple[float, bytes]] = Queue(QUEUED)

    def put(self, data: bytes) -> None:
        """It came now; nothing is the end.  Blocks while too much is on its way."""
        self._queue.put((time.monotonic(), data))

    def read(self) -> None:
        """Read to the end."""
        data = b'.'
        while data:
            try:
                data = self._source.recv(CHUNK)
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
        """Send to the end what was read."""
        try:
            while not self.is_over:
                arrived, data = self._queue.get()
                if data:
                    self._send(data, arrived)
                else:
                    self._send_end(arrived)
        except OSError:
            self._connection.reset()

    def _send(self, data: bytes, arrived: float) -> None:
        rest = memoryview(data)
        while rest:
            fault = self._wait(arrived)
            if not self._delivers():
                self._lose(rest)
                return
            size = int(min(len(rest), fault.size, max(1.0, fault.rate * TICK)))
            self._sink.sendall(rest[:size])
            self._connection.count(size, is_up=self._is_up)
            rest = rest[size:]
            self._rest_after(size, fault)

    def _send_end(self, arrived: float) -> None:
        self._wait(arrived)
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
        self.is_over = True
        self._connection.close_if_over()

    def _delivers(self) -> bool:
        fault = self._connection.fault()
        return not self.has_lost and (fault.to_server if self._is_up else fault.to_client)

    def _wait(self, arrived: float) -> Fault:
        """Wait until what came then is due, and return the fault of that moment."""
        while True:
            fault = self._connection.fault()
            left = arrived + fault.delay - time.monotonic()
            if left <= 0:
                return fault
            real_sleep(min(left, TICK))

    def _rest_after(self, size: int, fault: Fault) -> None:
        """What comes next comes later: by the rate, or by a look at all sockets, so that pieces stay pieces."""
        end = time.monotonic() + size / fault.rate
        if fault.size < CHUNK:
            real_sleep(0.0)
        while self._connection.fault() is fault and (left := end - time.monotonic()) > 0:
            real_sleep(min(left, TICK))
