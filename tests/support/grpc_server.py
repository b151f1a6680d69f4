"""A gRPC server that runs a script for each call: the ``h2`` library on gevent's sockets."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import gevent
from gevent.event import Event
from gevent.queue import Queue
from gevent.socket import IPPROTO_TCP, TCP_NODELAY, socket
from h2 import events as h2_events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from getc.grpc.framing import encode_message
from getc.grpc.http2.frames import FrameType, encode_frame
from getc.net.endpoint import Endpoint, parse_endpoints
from tests.support.servers import end, start_server

__all__ = ['Connection', 'GrpcServer', 'Script', 'ServerCall', 'echo']

HEAD = ((b':status', b'200'), (b'content-type', b'application/grpc'))
OK = ((b'grpc-status', b'0'),)


class ServerCall:
    """The server's side of a call; the script runs in its greenlet.

    Attributes:
        path: The method.
        headers: The request headers.
        has_ended: The client has half-closed the stream.
        reset_code: The error code of the client's RST_STREAM, or None.
    """

    def __init__(self, connection: Connection, stream_id: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.headers = dict(headers)
        self.path = self.headers[b':path'].decode()
        self.has_ended = False
        self.reset_code: int | None = None
        self.is_over = Event()
        self._pieces: Queue[bytes | None] = Queue()
        self._body = b''

    def receive(self) -> bytes | None:
        """Return the next message; None at the end of the request."""
        while len(self._body) < 5 or len(self._body) < 5 + int.from_bytes(self._body[1:5], 'big'):
            piece = self._pieces.get()
            if piece is None:
                return None
            self._body += piece
        size = 5 + int.from_bytes(self._body[1:5], 'big')
        message, self._body = self._body[5:size], self._body[size:]
        return message

    def head(self, fields: Sequence[tuple[bytes, bytes]] = HEAD, *, end: bool = False) -> None:
        """Send the response headers; with ``end`` they are trailers-only."""
        self.connection.h2.send_headers(self.stream_id, fields, end_stream=end)
        self.connection.flush()

    def data(self, data: bytes, *, end: bool = False) -> None:
        """Send raw bytes of the response, as the flow-control windows allow."""
        at = 0
        while at < len(data) or end:
            room = min(self.room, 16_384)
            if at < len(data) and not room:
                self.connection.widened.wait()
                continue
            piece = data[at : at + room]
            at += len(piece)
            self.connection.h2.send_data(self.stream_id, piece, end_stream=end and at >= len(data))
            self.connection.flush()
            if at >= len(data):
                return

    @property
    def room(self) -> int:
        """The flow-control window of this stream."""
        self.connection.widened.clear()
        return self.connection.h2.local_flow_control_window(self.stream_id)

    def message(self, message: bytes) -> None:
        """Send a message."""
        self.data(encode_message(message))

    def trailers(self, fields: Sequence[tuple[bytes, bytes]] = OK) -> None:
        """Send trailers."""
        self.connection.h2.send_headers(self.stream_id, fields, end_stream=True)
        self.connection.flush()

    def answer(self, message: bytes) -> None:
        """Send a successful response, in one write if it is short."""
        self.connection.h2.send_headers(self.stream_id, HEAD)
        if len(message) < min(self.room, 16_000):
            self.connection.h2.send_data(self.stream_id, encode_message(message))
        else:
            self.message(message)
        self.trailers()

    def refuse(self, code: int, message: bytes = b'') -> None:
        """Send an error as trailers-only."""
        self.head([*HEAD, (b'grpc-status', b'%d' % code), (b'grpc-message', message)], end=True)

    def reset(self, code: int) -> None:
        """Send RST_STREAM."""
        self.connection.h2.reset_stream(self.stream_id, code)
        self.connection.flush()

    def feed(self, piece: bytes | None) -> None:
        """Receive data of the request; called by the connection."""
        self._pieces.put(piece)


Script = Callable[[ServerCall], object]


class Connection:
    """The connection of a client.

    Attributes:
        h2: The library's connection.
        goes_on: While it is not set, nothing is read from the client.
        is_mute: While it is true, nothing is sent to the client.
        received: The number of bytes received.
        broken: The error of h2 after a protocol violation of the client.
    """

    def __init__(self, sock: socket, server: GrpcServer) -> None:
        self.sock = sock
        self.sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)  # as real servers do
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.may_read = Event()
        self.may_read.set()
        self.is_muted = False
        self.widened = Event()
        self.received = 0
        self.pings: list[bytes] = []
        self.broken: ProtocolError | None = None
        self.client_left = Event()
        self.calls: dict[int, ServerCall] = {}
        self._server = server
        self._outgoing: list[bytes] = []
        self._is_sending = False

    def run(self) -> None:
        """Serve until the client disconnects."""
        self.h2.local_settings = Settings(client=False, initial_values=self._server.settings)
        self.h2.max_inbound_frame_size = self.h2.local_settings.max_frame_size
        self.h2.initiate_connection()
        self.flush()
        try:
            while data := self.sock.recv(65_536):
                self.received += len(data)
                for event in self.h2.receive_data(data):
                    self._on_event(event)
                self.flush()
                self.may_read.wait()
        except ProtocolError as error:
            self.broken = error
            raise
        except OSError:
            pass
        finally:
            self.client_left.set()

    def flush(self) -> None:
        """Send the pending output of h2."""
        if not self.is_muted:
            self.raw(self.h2.data_to_send())

    def raw(self, data: bytes) -> None:
        """Send bytes that do not come from h2, after those that another greenlet is sending."""
        self._outgoing.append(data)
        if self._is_sending:
            return
        self._is_sending = True
        try:
            while self._outgoing:
                data = b''.join(self._outgoing)
                self._outgoing.clear()
                self.sock.sendall(data)
        except OSError:
            pass  # the client disconnected
        finally:
            self._is_sending = False

    def goaway(self, last: int, code: int = 0, debug: bytes = b'') -> None:
        """Send GOAWAY: streams after ``last`` were not processed, the others continue."""
        self.raw(encode_frame(FrameType.GOAWAY, 0, 0, last.to_bytes(4, 'big') + code.to_bytes(4, 'big') + debug))

    def settle(self, **settings: int) -> None:
        """Change settings, by their names in RFC 9113."""
        self.h2.update_settings({SettingCodes[name.upper()]: value for name, value in settings.items()})
        self.flush()

    def cut(self) -> None:
        """Close the socket at once."""
        self.sock.close()

    def _on_event(self, event: h2_events.Event) -> None:
        if isinstance(event, h2_events.RequestReceived):
            call = self.calls[event.stream_id] = ServerCall(self, event.stream_id, event.headers)
            self._server.take(call)
        elif isinstance(event, h2_events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.calls[event.stream_id].feed(event.data)
        elif isinstance(event, h2_events.StreamEnded):
            self.calls[event.stream_id].has_ended = True
            self.calls[event.stream_id].feed(None)
        elif isinstance(event, h2_events.StreamReset) and event.stream_id in self.calls:
            self.calls[event.stream_id].reset_code = int(event.error_code)
            self.calls[event.stream_id].is_over.set()
            self.calls[event.stream_id].feed(None)
        elif isinstance(event, (h2_events.WindowUpdated, h2_events.RemoteSettingsChanged)):
            self.widened.set()
        elif isinstance(event, h2_events.PingReceived):
            self.pings.append(event.ping_data)


class GrpcServer:
    """A gRPC server.  A context manager.

    Args:
        script: Runs for each call, in a greenlet of its own.
        settings: HTTP/2 settings, by their names in RFC 9113.
        on_connect: Runs for each connection instead of HTTP/2.
        ssl_context: For TLS.

    Attributes:
        connections: All connections so far.
        calls: All calls so far, in order.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        on_connect: Callable[[socket], object] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **settings: int,
    ) -> None:
        self.script = script if script is not None else echo
        self.settings: dict[Any, int] = {SettingCodes[name.upper()]: value for name, value in settings.items()}
        self.connections: list[Connection] = []
        self.calls: list[ServerCall] = []
        self.came = Event()
        self._on_connect = on_connect
        options = {} if ssl_context is None else {'ssl_context': ssl_context}
        self._server = start_server(self._serve, **options)
        self._scheme = 'http' if ssl_context is None else 'https'
        self._scripts: list[gevent.Greenlet[..., object]] = []

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint of the server."""
        return parse_endpoints(f'{self._scheme}://127.0.0.1:{self._server.server_port}')[0]

    @property
    def connection(self) -> Connection:
        """The latest connection."""
        return self.connections[-1]

    def wait_for_calls(self, count: int) -> None:
        """Wait until a number of calls have been received in total."""
        while len(self.calls) < count:
            self.came.clear()
            self.came.wait()

    def take(self, call: ServerCall) -> None:
        """Run the script for a call; called by the connection."""
        self.calls.append(call)
        self.came.set()
        self._scripts.append(gevent.spawn(self._run, call))

    def __enter__(self) -> GrpcServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gevent.killall(self._scripts)
        for connection in self.connections:
            connection.may_read.set()
            connection.cut()
        end(self._server, timeout=1)

    def _run(self, call: ServerCall) -> None:
        try:
            self.script(call)
        except ProtocolError:
            if call.reset_code is None and not call.connection.client_left.is_set():
                raise  # the script violates the protocol by mistake

    def _serve(self, sock: socket, _address: object) -> None:
        if self._on_connect is not None:
            self._on_connect(sock)
            return
        sock.settimeout(None)
        connection = Connection(sock, self)
        self.connections.append(connection)
        connection.run()


def echo(call: ServerCall) -> None:
    """Respond with the request message."""
    message = call.receive()
    if message is not None:
        call.answer(message)
