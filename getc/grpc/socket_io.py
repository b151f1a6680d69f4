"""What moves the bytes of one connection: the hub itself for plain TCP, two greenlets for TLS.  They know no HTTP/2.

There is one sender, whoever has something to say: it asks the traffic for what is outgoing at the end of a turn of the
hub, so what is queued in one turn leaves in one piece, or in a few where the traffic wants them to leave earlier.
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

__all__ = ['TLSIO', 'IOHandler', 'PlainIO', 'SocketIO', 'wire_for']

CHUNK: Final = 64 * 1024
"""Bytes that are read at a time."""

MAX_BUSY_SECONDS: Final = 0.005
"""Seconds of work on what was read after which a greenlet that reads gives others a turn."""

MAX_UNREAD_CHUNKS: Final = 256
"""Chunks that a kernel may hold of what was received; most hold less than a hundred."""

READ: Final = 1
WRITE: Final = 2


class IOHandler(Protocol):
    """What a wire carries.  None of these is called from two greenlets at a time; what they raise ends the traffic."""

    def outgoing(self) -> bytes:
        """Give out what is to be sent: it is handed to the kernel at once, as far as there is room."""

    def on_data(self, data: bytes) -> None:
        """The peer has sent this.  Runs in the hub, or in who sends: does not block or switch, and calls no code of the
        program's."""

    def on_end(self, error: BaseException | None) -> None:
        """Nothing moves any more: because of the error, or (None) because the peer has closed.  Closes the wire."""


class SocketIO(Protocol):
    """One connection's bytes."""

    @property
    def is_sending(self) -> bool:
        """True if something waits to be sent, for the end of this turn or for room in the kernel."""

    def send_soon(self) -> None:
        """Send what is outgoing, at the end of this turn of the hub.  Does not block; does nothing once closed."""

    def send_now(self) -> None:
        """Send what is outgoing before the turn ends, where that can be done without waiting."""

    def flush_now(self) -> None:
        """Send what is outgoing now, if there is room.  For ``IOHandler.on_end`` only."""

    def close(self) -> None:
        """Close the socket.  Nothing of the traffic is called any more.  Does not block; may be called twice."""

    def abandon(self) -> None:
        """The same in a forked child, at once and without a word to the peer."""


def wire_for(sock: Socket, traffic: IOHandler) -> SocketIO:
    """The wire for a socket that is connected.  It begins by sending, and owns the socket."""
    return (TLSIO if isinstance(sock, gevent.ssl.SSLSocket) else PlainIO)(sock, traffic)


class PlainIO:
    """TCP, driven by the hub: it reads and writes in the hub's own callbacks, and no greenlet is switched to."""

    def __init__(self, sock: Socket, traffic: IOHandler) -> None:
        self.is_sending = False
        self._sock = sock
        self._traffic = traffic
        self._is_closed = False
        self._descriptor = sock.fileno()
        self._unsent: bytes | memoryview = b''  # was taken, and there was no room for it
        loop = get_hub().loop
        self._readable: Any = loop.io(self._descriptor, READ)
        self._writable: Any = loop.io(self._descriptor, WRITE)
        self._readable.start(self._on_readable)
        self.send_soon()

    def send_soon(self) -> None:
        """Send what is outgoing, at the end of this turn of the hub."""
        if not self.is_sending:
            self.is_sending = True
            get_hub().loop.run_callback(self._on_turn)

    def send_now(self) -> None:
        """Send what is outgoing before the turn ends, if there is room."""
        self.send_soon()
        if not self._writable.active:
            self._on_turn()
            self.is_sending = True  # the end of the turn is still to come

    def flush_now(self) -> None:
        """Send what is outgoing now, if there is room."""
        try:
            self._send()
        except OSError:
            pass  # it does not listen

    def close(self) -> None:
        """Close the socket."""
        self._stop()
        self._sock.close()

    def abandon(self) -> None:
        """Close the socket of the parent's without a word."""
        self._stop()
        close_inherited(self._sock)

    def _stop(self) -> None:
        self._is_closed = True
        self._unsent = b''
        close_watcher(self._readable)
        close_watcher(self._writable)

    def _on_readable(self) -> None:
        # One chunk a turn: however much comes, others have theirs.
        try:
            try:
                data = os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                return
            if data:
                self._traffic.on_data(data)
            else:
                self._traffic.on_end(None)
        except Exception as error:
            self._traffic.on_end(error)
        except BaseException as error:
            self._traffic.on_end(error)
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
            self._traffic.on_end(error)
        except BaseException as error:
            self._traffic.on_end(error)
            raise

    def _drain(self, error: OSError) -> None:
        """Tell what the peer said before it was gone, perhaps the answer to all that was sent; then raise the error."""
        for _ in range(MAX_UNREAD_CHUNKS):
            try:
                data = os.read(self._descriptor, CHUNK)
            except OSError:
                break
            if not data:
                break
            self._traffic.on_data(data)
            if self._is_closed:
                return
        raise error

    def _send(self) -> None:
        while data := self._unsent or self._traffic.outgoing():
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
                break  # all that was outgoing has left
            self._unsent = b''
            self._writable.stop()
        self.is_sending = False


class TLSIO:
    """TLS, which must be able to wait in the middle of reading and of writing: a greenlet for each."""

    def __init__(self, sock: Socket, traffic: IOHandler) -> None:
        self.is_sending = True  # the writer begins with what there is to say
        self._sock = sock
        self._traffic = traffic
        self._is_closed = False
        self._writer = self._spawn(self._write, 'writer')
        self._reader = self._spawn(self._read, 'reader')

    def send_soon(self) -> None:
        """Send what is outgoing, at the end of this turn of the hub."""
        if not self.is_sending and not self._is_closed:
            self.is_sending = True
            get_hub().loop.run_callback(self._writer.switch)

    def send_now(self) -> None:
        """Send what is outgoing at the end of this turn: TLS may have to wait in between."""
        self.send_soon()

    def flush_now(self) -> None:
        """Send what is outgoing now, if there is room."""
        self.send_soon()
        gevent.sleep(0)

    def close(self) -> None:
        """Close the socket; the greenlets end soon."""
        self._kill()
        self._sock.close()

    def abandon(self) -> None:
        """Close the socket of the parent's without a word."""
        close_inherited(self._sock)
        self._kill()

    def _kill(self) -> None:
        self._is_closed = True
        current = gevent.getcurrent()
        for greenlet in (self._reader, self._writer):
            if greenlet is not current:
                kill_soon(greenlet)

    def _read(self) -> None:
        busy = 0.0  # seconds of work since others had a turn for sure
        with self._ending_on_errors():
            while not self._is_closed and (data := self._sock.recv(CHUNK)):
                began = timing.now()
                self._traffic.on_data(data)
                busy += timing.now() - began
                if busy > MAX_BUSY_SECONDS:
                    gevent.sleep(0)
                    busy = 0.0
            if not self._is_closed:
                self._traffic.on_end(None)

    def _write(self) -> None:
        with self._ending_on_errors():
            while not self._is_closed:
                while data := self._traffic.outgoing():
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
        """Whatever ends the reader or the writer ends the traffic."""
        try:
            yield
        except Exception as error:
            if not self._is_closed:
                self._traffic.on_end(error)
        except BaseException as error:
            if not self._is_closed:
                self._traffic.on_end(error)
            raise

    def _spawn(self, task: Callable[[], None], what: str) -> gevent.Greenlet[[], None]:
        greenlet = gevent.spawn(task)
        greenlet.name = f'getc {what} of {self._sock.fileno()}'
        return greenlet
