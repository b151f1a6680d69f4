"""A server on the ``h2`` library, which raises when the client violates a rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from h2 import events as h2_events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from getc.grpc.http2.frames import PREFACE
from getc.grpc.http2.headers import Fields, encode_fields

REQUEST: Fields = (
    (b':method', b'POST'),
    (b':scheme', b'http'),
    (b':path', b'/etcdserverpb.KV/Range'),
    (b':authority', b'localhost'),
    (b'te', b'trailers'),
)
ANSWER: Fields = ((b':status', b'200'), (b'content-type', b'application/grpc'))
TRAILERS: Fields = ((b'grpc-status', b'0'), (b'grpc-message', b''))

REQUEST_BLOCK = encode_fields(REQUEST)


@dataclass
class Request:
    """The request on one stream as the server received it."""

    fields: Fields
    body: bytearray = field(default_factory=bytearray)
    has_ended: bool = False
    reset_code: int | None = None

    @property
    def is_over(self) -> bool:
        """True if the request has ended or was reset."""
        return self.has_ended or self.reset_code is not None


class Peer:
    """An h2 server that records what it receives.

    Attributes:
        h2: The library's connection.
        requests: The requests by stream.
        owed: Bytes received on each stream, and in all (0), that were not granted again by a WINDOW_UPDATE.
        pings: Payloads of the pings of the client, in order.
        terminated: The GOAWAY of the client.
        is_acknowledged: The client has acknowledged the settings.
    """

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.requests: dict[int, Request] = {}
        self.owed: dict[int, int] = {0: 0}
        self.pings: list[bytes] = []
        self.terminated: h2_events.ConnectionTerminated | None = None
        self.is_acknowledged = False
        self._waiting = b''
        self.h2.initiate_connection()

    def take(self) -> bytes:
        """Return the bytes to send now, and remove them."""
        return self.h2.data_to_send()

    def receive(self, data: bytes) -> list[int]:
        """Process bytes of the client, and return the streams opened by them."""
        opened = []
        self._waiting += data
        for event in self._events():
            if isinstance(event, h2_events.RequestReceived):
                self.requests[event.stream_id] = Request(tuple((bytes(n), bytes(v)) for n, v in event.headers))
                self.owed[event.stream_id] = 0
                opened.append(event.stream_id)
            elif isinstance(event, h2_events.DataReceived):
                self.requests[event.stream_id].body += event.data
                self.owed[event.stream_id] += event.flow_controlled_length
                self.owed[0] += event.flow_controlled_length
            elif isinstance(event, h2_events.StreamEnded):
                self.requests[event.stream_id].has_ended = True
            elif isinstance(event, h2_events.StreamReset) and event.stream_id in self.requests:
                self.requests[event.stream_id].reset_code = int(event.error_code)
            elif isinstance(event, h2_events.PingReceived):
                self.pings.append(event.ping_data)
            elif isinstance(event, h2_events.SettingsAcknowledged):
                self.is_acknowledged = True
            elif isinstance(event, h2_events.ConnectionTerminated):
                self.terminated = event
        return opened

    def _events(self) -> Iterator[h2_events.Event]:
        """Pass one frame at a time to h2, which applies a new frame size only to the next call."""
        while self._waiting:
            size = len(PREFACE) if self._waiting.startswith(b'PRI') else 9 + int.from_bytes(self._waiting[:3], 'big')
            if len(self._waiting) < size:
                return
            piece, self._waiting = self._waiting[:size], self._waiting[size:]
            yield from self.h2.receive_data(piece)

    def grow_window(self, stream_id: int, size: int) -> None:
        """Grow the window of a stream, or of the connection (0), at most by what is owed."""
        size = min(size, self.owed[stream_id])
        if size:
            self.owed[stream_id] -= size
            self.h2.increment_flow_control_window(size, stream_id or None)

    def update_settings(self, **settings: int) -> None:
        """Send settings, named as in RFC 9113.

        Only after the previous ones were acknowledged: h2 would take that acknowledgement for both.
        """
        assert self.is_acknowledged
        self.is_acknowledged = False
        self.h2.update_settings({SettingCodes[name.upper()]: value for name, value in settings.items()})

    def answer(self, stream_id: int, body: bytes = b'') -> None:
        """Send a complete gRPC response."""
        self.h2.send_headers(stream_id, ANSWER)
        if body:
            self.h2.send_data(stream_id, body)
        self.h2.send_headers(stream_id, TRAILERS, end_stream=True)
