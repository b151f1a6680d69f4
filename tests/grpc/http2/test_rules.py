"""Rules for the server: bytes that violate each, the error of the caller, and the error code sent to the server."""

from __future__ import annotations

import ast
import inspect
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

import pytest

from getc.errors import ProtocolError
from getc.grpc.http2 import control, frames, protocol, receive, send
from getc.grpc.http2 import headers as headers_module
from getc.grpc.http2.control import MAX_IDLE_FRAMES, MAX_QUEUED_ACKS
from getc.grpc.http2.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PRIORITY,
    ErrorCode,
    FrameType,
    encode_frame,
)
from getc.grpc.http2.headers import MAX_CONTINUATIONS
from getc.grpc.http2.protocol import Http2Connection
from tests.grpc.http2.junk import frames_of
from tests.grpc.http2.peer import REQUEST_BLOCK
from tests.grpc.http2.server import (
    END,
    FULL,
    LATEST,
    OK,
    connected,
    continuation,
    data,
    field,
    goaway,
    headers,
    indexed,
    reset,
    sent,
    settings,
    trailers,
    window_update,
)


@dataclass(frozen=True)
class Fault:
    """Bytes of a server, and the rule that they violate; ``ends``: the requests are complete."""

    rule: str
    code: ErrorCode
    received: bytes
    streams: int = 1
    ends: bool = True

    def __str__(self) -> str:
        return self.rule


PROTOCOL, SIZE, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR
CLOSED, CALM = ErrorCode.STREAM_CLOSED, ErrorCode.ENHANCE_YOUR_CALM

FAULTS = [
    # frames
    Fault('frame larger than 16384 bytes (4.2)', SIZE, b'\0\x40\x01' + bytes([FrameType.DATA, 0, 0, 0, 0, 1])),
    Fault('padding is longer than the frame (6.1)', PROTOCOL, headers(1) + data(1, b'\x03ab', PADDED)),
    Fault('padding is longer than the frame (6.1)', PROTOCOL, headers(1) + data(1, b'', PADDED)),
    Fault('padding is longer than the frame (6.1)', PROTOCOL, headers(1, b'\x01', END_HEADERS | PADDED)),
    # streams
    Fault('DATA on stream 0, which was never opened (5.1)', PROTOCOL, data(0, b'x')),
    Fault('DATA on stream 3, which was never opened (5.1)', PROTOCOL, data(3, b'x')),
    Fault('HEADERS on stream 2, which was never opened (5.1)', PROTOCOL, headers(2)),
    Fault('RST_STREAM on stream 3, which was never opened (5.1)', PROTOCOL, reset(3)),
    Fault('WINDOW_UPDATE on stream 3, which was never opened (5.1)', PROTOCOL, window_update(3, 1)),
    Fault('DATA on a closed stream (5.1)', CLOSED, headers(1) + trailers(1) + data(1, b'x')),
    Fault('DATA on a closed stream (5.1)', CLOSED, headers(1) + data(1, b'', END_STREAM) + data(1)),
    Fault('HEADERS on a closed stream (5.1)', CLOSED, headers(1) + trailers(1) + trailers(1)),
    Fault('HEADERS on a closed stream (5.1)', CLOSED, reset(1) + headers(1)),
    Fault('HEADERS on a closed stream (5.1)', CLOSED, goaway(0) + headers(1)),
    # header blocks
    Fault('header block is interrupted by another frame (4.3)', PROTOCOL, headers(1, OK, 0) + data(1)),
    Fault('header block is interrupted by another frame (4.3)', PROTOCOL,
          headers(1, OK, 0) + encode_frame(99, 0, 0, b'')),
    Fault('CONTINUATION without a header block (6.10)', PROTOCOL, continuation(1, OK, END_HEADERS)),
    Fault('CONTINUATION without a header block (6.10)', PROTOCOL,
          headers(1, OK, 0) + continuation(3, OK, END_HEADERS), 2),
    Fault('HEADERS shorter than its priority fields (6.2)', SIZE, headers(1, bytes(4), END_HEADERS | PRIORITY)),
    Fault('header block cannot be decoded (4.3)', ErrorCode.COMPRESSION_ERROR, headers(1, b'\x80')),
    Fault('header block cannot be decoded (4.3)', ErrorCode.COMPRESSION_ERROR, headers(1, b'\xbe')),
    Fault('header block cannot be decoded (4.3)', ErrorCode.COMPRESSION_ERROR, headers(1, b'\x88\x20')),
    Fault('header block cannot be decoded (4.3)', ErrorCode.COMPRESSION_ERROR, headers(1, b'\x3f\xe2\x1f')),
    Fault('header block cannot be decoded (4.3)', ErrorCode.COMPRESSION_ERROR,
          headers(1, b'\x00\x7f' + b'\xff' * 9_000)),
    Fault('header list is larger than the limit (10.5.1)', CALM,
          headers(1, OK + indexed(b'x', b'x' * 4_000) + LATEST * 20)),
    Fault('header block is too long or has too many CONTINUATION frames (10.5.1)', CALM,
          headers(1, OK, 0) + continuation(1, b'') * (MAX_CONTINUATIONS + 1)),
    Fault('header block is too long or has too many CONTINUATION frames (10.5.1)', CALM,
          headers(1, OK, 0) + continuation(1, bytes(DEFAULT_FRAME_SIZE)) * 4),
    Fault('pseudo-header fields of a response are not a single leading :status (8.3)', PROTOCOL, headers(1, b'\x84')),
    Fault('pseudo-header fields of a response are not a single leading :status (8.3)', PROTOCOL, headers(1, OK + OK)),
    Fault('pseudo-header fields of a response are not a single leading :status (8.3)', PROTOCOL,
          headers(1, field(b'x') + OK)),
    Fault('pseudo-header fields of a response are not a single leading :status (8.3)', PROTOCOL,
          headers(1, field(b':status', b'20'))),
    Fault('pseudo-header fields of a response are not a single leading :status (8.3)', PROTOCOL,
          headers(1, field(b':status', b'2 0'))),
    Fault('pseudo-header fields of a response are not a single leading :status (8.3)', PROTOCOL,
          headers(1, field(b':status', b'099'))),
    Fault('field name is invalid or not in lower case (8.2.1)', PROTOCOL, headers(1, OK + field(b'Date'))),
    Fault('field name is invalid or not in lower case (8.2.1)', PROTOCOL, headers(1, OK + field(b''))),
    Fault('field name is invalid or not in lower case (8.2.1)', PROTOCOL, headers(1, OK + field(b'a b'))),
    Fault('field name is invalid or not in lower case (8.2.1)', PROTOCOL, headers(1, OK + field(b'\xff'))),
    Fault('field value contains NUL, CR or LF (8.2.1)', PROTOCOL, headers(1, OK + field(b'x', b'a\r\nb: c'))),
    Fault('connection-specific field of HTTP/1 (8.2.2)', PROTOCOL,
          headers(1, OK + field(b'transfer-encoding', b'chunked'))),
    # responses
    Fault('DATA before HEADERS (8.1)', PROTOCOL, data(1, b'x')),
    Fault('DATA before HEADERS (8.1)', PROTOCOL, headers(1, field(b':status', b'103')) + data(1, b'x')),
    Fault('response without :status (8.3.2)', PROTOCOL, headers(1, field(b'x'))),
    Fault('trailers do not end the stream (8.1)', PROTOCOL, headers(1) + headers(1, END)),
    Fault(':status in trailers (8.1)', PROTOCOL, headers(1) + headers(1, OK, END_HEADERS | END_STREAM)),
    Fault(':status in trailers (8.1)', PROTOCOL, headers(1) + headers(1, field(b':status', b'103'))),
    Fault('interim response ends the stream (8.1)', PROTOCOL,
          headers(1, field(b':status', b'103'), END_HEADERS | END_STREAM)),
    # windows
    Fault('DATA exceeds the window of the stream (6.9.1)', FLOW, headers(1) + FULL * 4),
    Fault('DATA exceeds the window of the stream (6.9.1)', FLOW,
          headers(1) + data(1, b'\xff' + bytes(255), PADDED) * 256),
    Fault('connection window larger than 2**31 - 1 bytes (6.9.1)', FLOW,
          window_update(0, MAX_WINDOW - DEFAULT_WINDOW + 1)),
    Fault('stream window larger than 2**31 - 1 bytes (6.9.1)', FLOW, window_update(1, MAX_WINDOW - DEFAULT_WINDOW + 1),
          ends=False),
    Fault('stream window larger than 2**31 - 1 bytes (6.9.1)', FLOW,
          window_update(1, 1) + settings(initial_window_size=MAX_WINDOW), ends=False),
    Fault('WINDOW_UPDATE with an increment of 0 (6.9)', PROTOCOL, window_update(0, 0)),
    Fault('WINDOW_UPDATE with an increment of 0 (6.9)', PROTOCOL, window_update(1, 2**31)),
    Fault('WINDOW_UPDATE is not 4 bytes long (6.9)', SIZE, encode_frame(FrameType.WINDOW_UPDATE, 0, 0, bytes(5))),
    # settings
    Fault('SETTINGS on a stream (6.5)', PROTOCOL, encode_frame(FrameType.SETTINGS, 0, 1, b'')),
    Fault('length of SETTINGS is not a multiple of 6 (6.5)', SIZE, encode_frame(FrameType.SETTINGS, 0, 0, bytes(7))),
    Fault('acknowledgement of SETTINGS has a payload (6.5)', SIZE, encode_frame(FrameType.SETTINGS, ACK, 0, bytes(6))),
    Fault('SETTINGS_INITIAL_WINDOW_SIZE larger than 2**31 - 1 (6.5.2)', FLOW,
          settings(initial_window_size=MAX_WINDOW + 1)),
    Fault('SETTINGS_MAX_FRAME_SIZE of 16383 bytes (6.5.2)', PROTOCOL, settings(max_frame_size=16_383)),
    Fault('SETTINGS_MAX_FRAME_SIZE of 16777216 bytes (6.5.2)', PROTOCOL, settings(max_frame_size=2**24)),
    Fault('server enables push (6.5.2)', PROTOCOL, settings(enable_push=1)),
    # other frames
    Fault('PING on a stream (6.7)', PROTOCOL, encode_frame(FrameType.PING, 0, 1, bytes(8))),
    Fault('PING is not 8 bytes long (6.7)', SIZE, encode_frame(FrameType.PING, 0, 0, bytes(7))),
    Fault('GOAWAY on a stream (6.8)', PROTOCOL, encode_frame(FrameType.GOAWAY, 0, 1, bytes(8))),
    Fault('GOAWAY is shorter than 8 bytes (6.8)', SIZE, encode_frame(FrameType.GOAWAY, 0, 0, bytes(7))),
    Fault('GOAWAY with a higher last stream than before (6.8)', PROTOCOL, goaway(1) + goaway(3)),
    Fault('RST_STREAM is not 4 bytes long (6.4)', SIZE, encode_frame(FrameType.RST_STREAM, 0, 1, bytes(3))),
    Fault('PRIORITY on stream 0 (6.3)', PROTOCOL, encode_frame(FrameType.PRIORITY, 0, 0, bytes(5))),
    Fault('PRIORITY is not 5 bytes long (6.3)', SIZE, encode_frame(FrameType.PRIORITY, 0, 1, bytes(4))),
    Fault('PUSH_PROMISE although push is disabled (8.4)', PROTOCOL,
          encode_frame(FrameType.PUSH_PROMISE, END_HEADERS, 1, bytes(4) + OK)),
    # floods
    Fault('PING flood: the peer does not read the acknowledgements', CALM,
          encode_frame(FrameType.PING, 0, 0, bytes(8)) * (MAX_QUEUED_ACKS + 1)),
    Fault('SETTINGS flood: the peer does not read the acknowledgements', CALM, settings() * (MAX_QUEUED_ACKS + 1)),
    Fault('10000 frames in a row without effect', CALM, encode_frame(99, 0, 0, b'') * (MAX_IDLE_FRAMES + 1)),
]  # fmt: skip


@pytest.mark.parametrize('fault', FAULTS, ids=str)
def test_violation_ends_the_connection_with_its_rule_and_its_code(fault: Fault) -> None:
    """The frames before the last one are valid."""
    client = connected(fault.streams, end=fault.ends, stream_window=DEFAULT_WINDOW)
    with pytest.raises(ProtocolError) as caught:
        client.receive(fault.received)
    assert str(caught.value) == f'HTTP/2: {fault.rule}'
    assert sent(client)[-1] == (FrameType.GOAWAY, 0, 0, struct.pack('>II', 0, fault.code))
    *before, _ = frames_of(fault.received)
    connected(fault.streams, end=fault.ends, stream_window=DEFAULT_WINDOW).receive(b''.join(before))


@pytest.mark.parametrize(
    'received',
    [
        headers(1),
        encode_frame(FrameType.PING, 0, 0, bytes(8)),
        encode_frame(FrameType.SETTINGS, ACK, 0, b''),
        encode_frame(99, 0, 0, b''),
        goaway(0),
    ],
)
def test_first_frame_that_is_not_settings_is_refused(received: bytes) -> None:
    client = Http2Connection()
    client.open(REQUEST_BLOCK)
    with pytest.raises(ProtocolError, match=r'first frame is not SETTINGS \(3.4\)'):
        client.receive(received)
    assert sent(client)[-1] == (FrameType.GOAWAY, 0, 0, struct.pack('>II', 0, PROTOCOL))


@pytest.mark.parametrize(
    'response', [b'HTTP/1.1 400 Bad Request\r\n\r\n', b'SSH-2.0-OpenSSH_9.2\r\n', b'\x15\x03\x01\0\2\2P']
)
def test_another_protocol_is_refused(response: bytes) -> None:
    """From the first bytes, without waiting for the end of the frame that they seem to begin."""
    with pytest.raises(ProtocolError, match=r'^HTTP/2: (first frame is|frame larger)'):
        Http2Connection().receive(response + bytes(20))


def rules_of(module: ModuleType) -> Iterable[tuple[str, ...]]:
    """Yield the constant parts of the text of each call of ``raise_violation``."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'raise_violation':
            constants = [part.value for part in ast.walk(node.args[1]) if isinstance(part, ast.Constant)]
            yield tuple(part for part in constants if isinstance(part, str))


def test_faults_cover_every_rule_of_the_package() -> None:
    covered = {fault.rule for fault in FAULTS} | {'first frame is not SETTINGS (3.4)'}
    rules = {rule for module in (control, protocol, frames, headers_module, receive, send) for rule in rules_of(module)}
    assert len(rules) > 40
    assert [rule for rule in rules if not any(all(part in text for part in rule) for text in covered)] == []
