"""Socket I/O for one connection: callbacks in the hub for plain TCP, two greenlets for TLS.

All data leave in one place: at the end of an iteration of the event loop the handler is called for its outgoing data,
so that what is queued in one iteration is sent together, or earlier where the handler asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import gevent
import gevent.ssl
from gevent.hub import get_hub

from getc import timing
from getc.net.affinity import close_watcher, kill_soon
from getc.net.connect_errors import pending_alert
from getc.net.sockets import Socket, close_inherited

__all__ = ['TLSIO', 'IOHandler', 'PlainIO', 'SocketIO', 'start_io']

CHUNK: Final = 64 * 1024
"""Bytes that are read at a time."""

MAX_BUSY_SECONDS: Final = 0.005
"""Seconds that a reading greenlet works on received data before it lets other greenlets run."""

MAX_UNREAD_CHUNKS: Final = 256
"""Chunks that are read from a socket after a failed send; the receive buffer rarely holds more than a hundred."""

READ: Final = 1
WRITE: Final = 2


class IOHandler(Protocol):
    """The callbacks of a connection.  No two run at a time; an exception in one of them ends the connection."""

    def outgoing(self) -> bytes:
        """Return the data to send, and remove them from the queue of the handler."""

    def on_data(self, data: bytes) -> None:
        """Process received data.  Called in the hub or in the greenlet that reads: must not block or switch."""

    def on_end(self, error: BaseException | None) -> None:
        """Handle the end of the connection, and close the socket I/O.

        Args:
            error: The reason; None if the peer closed the connection.
        """


class SocketIO(Protocol):
    """Sends and receives the data of one connection."""

    @property
    def is_sending(self) -> bool:
        """True if a send is scheduled, or waits for space in the send buffer."""

    def send_soon(self) -> None:
        """Send the outgoing data at the end of this iteration of the event loop.  Does nothing once closed."""

    def send_now(self) -> None:
        """Send the outgoing data at once, if that is possible without waiting; else at the end of this iteration."""

    def flush_now(self) -> None:
        """Send the outgoing data now, as far as there is space.  To be called from ``IOHandler.on_end`` only."""

    def close(self) -> None:
        """Close the socket, and call the handler no more.  Does not block; can be called twice."""

    def abandon(self) -> None:
        """In a forked child, close the inherited socket at once without sending anything."""


def start_io(sock: Socket, handler: IOHandler) -> SocketIO:
    """Start I/O on a connected socket, beginning with the outgoing data.  Takes ownership of the socket."""
    return (TLSIO if isinstance(sock, gevent.ssl.SSLSocket) else PlainIO)(sock, handler)


class PlainIO:
    """I/O for plain TCP in callbacks of the hub, without greenlet switches."""

    def __init__(self, sock: Socket, handler: IOHandler) -> None:
        self.is_sending = False
        self._sock = sock
        self._handler = handler
        self._is_closed = False
        self._descriptor = sock.fileno()
        self._unsent: bytes | memoryview = b''  # outgoing data that did not fit into the send buffer
        loop = get_hub().loop
        self._readable: Any = loop.io(self._descriptor, READ)
        self._writable: Any = loop.io(self._descriptor, WRITE)
        self._readable.start(self._on_readable)
        self.send_soon()

    def send_soon(self) -> None:
        """Send the outgoing data at the end of this iteration of the event loop."""
        if not self.is_sending:
            self.is_sending = True
            get_hub().loop.run_callback(self._on_turn)

    def send_now(self) -> None:
        """Send the outgoing data at once, if there is space in the send buffer."""
        self.send_soon()
        if not self._writable.active:
            self._on_turn()
            self.is_sending = True  # the callback at the end of the iteration is still scheduled

    def flush_now(self) -> None:
        """Send the outgoing data now, as far as there is space."""
        try:
            self._send()
        except OSError:
            pass  # the peer has closed the connection

    def close(self) -> None:
        """Close the socket."""
        self._stop()
        self._sock.close()

    def abandon(self) -> None:
        """Close the inherited socket without sending anything."""
        self._stop()
        close_inherited(self._sock)

    def _stop(self) -> None:
        self._is_closed = True
        self._unsent = b''
        close_watcher(self._readable)
        close_watcher(self._writable)

    def _on_readable(self) -> None:
        # One chunk in each iteration, so that other watchers have their turn.
        try:
            try:
                data = os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                return
            if data:
                self._handler.on_data(data)
            else:
                self._handler.on_end(None)
        except Exception as error:
            self._handler.on_end(error)
        except BaseException as error:
            self._handler.on_end(error)
            raise

    def _on_turn(self) -> None:
        if self._is_closed:
            return
        try:
            try:
                self._send()
            except OSError as error:
                self._drain(error)
        except Exception as error:
            self._handler.on_end(error)
        except BaseException as error:
            self._handler.on_end(error)
            raise

    def _drain(self, error: OSError) -> None:
        """After a failed send, process what the peer sent before, perhaps its responses; then raise the error."""
        for _ in range(MAX_UNREAD_CHUNKS):
            try:
                data = os.read(self._descriptor, CHUNK)
            except OSError:
                break
            if not data:
                break
            self._handler.on_data(data)
            if self._is_closed:
                return
        raise error

    def _send(self) -> None:
        while data := self._unsent or self._handler.outgoing():
            try:
                size = os.write(self._descriptor, data)
            except BlockingIOError:
                size = 0
            if size < len(data):
                self._unsent = memoryview(data)[size:]
                if not self._writable.active:
                    self._writable.start(self._on_turn)
                return
            if not self._unsent:
                break  # all outgoing data are sent
            self._unsent = b''
            self._writable.stop()
        self.is_sending = False


class TLSIO:
    """I/O for TLS with a greenlet for reading and one for writing, because TLS may have to wait in both."""

    def __init__(self, sock: Socket, handler: IOHandler) -> None:
        self.is_sending = True  # the writer starts with the outgoing data
        self._sock = sock
        self._handler = handler
        self._is_closed = False
        self._writer = self._spawn(self._write, 'writer')
        self._reader = self._spawn(self._read, 'reader')

    def send_soon(self) -> None:
        """Send the outgoing data at the end of this iteration of the event loop."""
        if not self.is_sending and not self._is_closed:
            self.is_sending = True
            get_hub().loop.run_callback(self._writer.switch)

    def send_now(self) -> None:
        """Send the outgoing data at the end of this iteration: TLS may have to wait."""
        self.send_soon()

    def flush_now(self) -> None:
        """Send the outgoing data now, as far as there is space."""
        self.send_soon()
        gevent.sleep(0)

    def close(self) -> None:
        """Close the socket; the greenlets end soon."""
        self._kill()
        self._sock.close()

    def abandon(self) -> None:
        """Close the inherited socket without sending anything."""
        close_inherited(self._sock)
        self._kill()

    def _kill(self) -> None:
        self._is_closed = True
        current = gevent.getcurrent()
        for greenlet in (self._reader, self._writer):
            if greenlet is not current:
                kill_soon(greenlet)

    def _read(self) -> None:
        busy = 0.0  # seconds of work since other greenlets could run
        with self._ending_on_errors():
            while not self._is_closed and (data := self._sock.recv(CHUNK)):
                start = timing.now()
                self._handler.on_data(data)
                busy += timing.now() - start
                if busy > MAX_BUSY_SECONDS:
                    gevent.sleep(0)
                    busy = 0.0
            if not self._is_closed:
                self._handler.on_end(None)

    def _write(self) -> None:
        with self._ending_on_errors():
            while not self._is_closed:
                while data := self._handler.outgoing():
                    self._send(data)
                self.is_sending = False
                get_hub().switch()

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            if self._is_closed:
                raise
            raise pending_alert(self._sock, error) from None

    @contextmanager
    def _ending_on_errors(self) -> Iterator[None]:
        """Report any exception of the reader or the writer as the end of the connection."""
        try:
            yield
        except Exception as error:
            if not self._is_closed:
                self._handler.on_end(error)
        except BaseException as error:
            if not self._is_closed:
                self._handler.on_end(error)
            raise

    def _spawn(self, task: Callable[[], None], what: str) -> gevent.Greenlet[[], None]:
        greenlet = gevent.spawn(task)
        greenlet.name = f'getc {what} of {self._sock.fileno()}'
        return greenlet
