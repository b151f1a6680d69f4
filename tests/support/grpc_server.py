"""A gRPC server that does what a script says, well or badly: the ``h2`` library on gevent's sockets."""

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

from getc.grpc.framing import packed
from getc.grpc.http2.frames import Kind, frame
from getc.net.endpoint import Endpoint, parse_endpoints
from tests.support.servers import end, start_server

__all__ = ['Connection', 'GrpcServer', 'Script', 'ServerCall', 'echo']

HEAD = ((b':status', b'200'), (b'content-type', b'application/grpc'))
OK = ((b'grpc-status', b'0'),)


class ServerCall:
    """A call as the server sees it; its greenlet runs the script.

    Attributes:
        path: The method.
        headers: Of the request.
        has_ended: The client said that no more will come.
        reset_code: With which the client ended it, or None.
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
        """The next message; None when the client has no more."""
        while len(self._body) < 5 or len(self._body) < 5 + int.from_bytes(self._body[1:5], 'big'):
            piece = self._pieces.get()
            if piece is None:
                return None
            self._body += piece
        size = 5 + int.from_bytes(self._body[1:5], 'big')
        message, self._body = self._body[5:size], self._body[size:]
        return message

    def head(self, fields: Sequence[tuple[bytes, bytes]] = HEAD, *, end: bool = False) -> None:
        """The headers of the answer; trailers-only with ``end``."""
        self.connection.h2.send_headers(self.stream_id, fields, end_stream=end)
        self.connection.flush()

    def data(self, data: bytes, *, end: bool = False) -> None:
        """Raw bytes of the answer, as far as the windows allow at once."""
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
        """Bytes that the client takes on this stream now."""
        self.connection.widened.clear()
        return self.connection.h2.local_flow_control_window(self.stream_id)

    def message(self, message: bytes) -> None:
        """A message."""
        self.data(packed(message))

    def trailers(self, fields: Sequence[tuple[bytes, bytes]] = OK) -> None:
        """The end."""
        self.connection.h2.send_headers(self.stream_id, fields, end_stream=True)
        self.connection.flush()

    def answer(self, message: bytes) -> None:
        """Answer well, in one piece if it is short."""
        self.connection.h2.send_headers(self.stream_id, HEAD)
        if len(message) < min(self.room, 16_000):
            self.connection.h2.send_data(self.stream_id, packed(message))
        else:
            self.message(message)
        self.trailers()

    def refuse(self, code: int, message: bytes = b'') -> None:
        """Trailers only."""
        self.head([*HEAD, (b'grpc-status', b'%d' % code), (b'grpc-message', message)], end=True)

    def reset(self, code: int) -> None:
        """RST_STREAM."""
        self.connection.h2.reset_stream(self.stream_id, code)
        self.connection.flush()

    def feed(self, piece: bytes | None) -> None:
        """For the connection."""
        self._pieces.put(piece)


Script = Callable[[ServerCall], object]


class Connection:
    """One client.

    Attributes:
        h2: The library's connection.
        goes_on: While it is not set, nothing is read from the client.
        is_mute: While it is set, nothing is sent to it.
        received: Bytes that came.
        broken: What h2 says of a client that broke a rule.
    """

    def __init__(self, sock: socket, server: GrpcServer) -> None:
        self.sock = sock
        self.sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)  # as servers do
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.goes_on = Event()
        self.goes_on.set()
        self.is_mute = False
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
        """Serve until the client leaves."""
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
                self.goes_on.wait()
        except ProtocolError as error:
            self.broken = error
            raise
        except OSError:
            pass
        finally:
            self.client_left.set()

    def flush(self) -> None:
        """Send what h2 has to say."""
        if not self.is_mute:
            self.raw(self.h2.data_to_send())

    def raw(self, data: bytes) -> None:
        """Send bytes that h2 knows nothing of; after those that another greenlet is about to send."""
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
            pass  # the client went away
        finally:
            self._is_sending = False

    def goaway(self, last: int, code: int = 0, debug: bytes = b'') -> None:
        """Say that streams after the last one were not taken.  Others go on."""
        self.raw(frame(Kind.GOAWAY, 0, 0, last.to_bytes(4, 'big') + code.to_bytes(4, 'big') + debug))

    def settle(self, **settings: int) -> None:
        """Change settings, named as in the standard."""
        self.h2.update_settings({SettingCodes[name.upper()]: value for name, value in settings.items()})
        self.flush()

    def cut(self) -> None:
        """Close it in the middle of whatever it is."""
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
    """The server.  A context manager.

    Args:
        script: Runs for each call, in a greenlet of its own.
        settings: HTTP/2's, by their names in the standard.
        on_connect: Runs for each connection in the place of HTTP/2.
        ssl_context: For TLS.

    Attributes:
        connections: All that there were.
        calls: All that came, in their order.
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
        """Where it is."""
        return parse_endpoints(f'{self._scheme}://127.0.0.1:{self._server.server_port}')[0]

    @property
    def connection(self) -> Connection:
        """The latest one."""
        return self.connections[-1]

    def wait_for_calls(self, count: int) -> None:
        """Return once so many calls have come in all."""
        while len(self.calls) < count:
            self.came.clear()
            self.came.wait()

    def take(self, call: ServerCall) -> None:
        """For the connection: a call."""
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
            connection.goes_on.set()
            connection.cut()
        end(self._server, timeout=1)

    def _run(self, call: ServerCall) -> None:
        try:
            self.script(call)
        except ProtocolError:
            if call.reset_code is None and not call.connection.client_left.is_set():
                raise  # a script that breaks the rules unawares

    def _serve(self, sock: socket, _address: object) -> None:
        if self._on_connect is not None:
            self._on_connect(sock)
            return
        sock.settimeout(None)
        connection = Connection(sock, self)
        self.connections.append(connection)
        connection.run()


def echo(call: ServerCall) -> None:
    """Answer a request with itself."""
    message = call.receive()
    if message is not None:
        call.answer(message)
