"""Each rule that the server is held to: what breaks it, what the caller hears, and what the server is told."""

from __future__ import annotations

import ast
import inspect
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

import pytest

from getc.errors import ProtocolError
from getc.grpc.http2 import frames, protocol, receive, send
from getc.grpc.http2 import headers as headers_module
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
    Kind,
    frame,
)
from getc.grpc.http2.headers import MAX_CONTINUATIONS
from getc.grpc.http2.protocol import MAX_IDLE_FRAMES, MAX_QUEUED_ANSWERS, Http2Connection
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
    """Bytes of a server, and the rule that they break."""

    rule: str
    code: ErrorCode
    received: bytes
    streams: int = 1
    ends: bool = True  # the requests do

    def __str__(self) -> str:
        return self.rule


PROTOCOL, SIZE, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR
CLOSED, CALM = ErrorCode.STREAM_CLOSED, ErrorCode.ENHANCE_YOUR_CALM

FAULTS = [
    # frames
    Fault('a frame of more than 16384 bytes (4.2)', SIZE, b'\0\x40\x01' + bytes([Kind.DATA, 0, 0, 0, 0, 1])),
    Fault('padding longer than its frame (6.1)', PROTOCOL, headers(1) + data(1, b'\x03ab', PADDED)),
    Fault('padding longer than its frame (6.1)', PROTOCOL, headers(1) + data(1, b'', PADDED)),
    Fault('padding longer than its frame (6.1)', PROTOCOL, headers(1, b'\x01', END_HEADERS | PADDED)),
    # streams
    Fault('DATA on stream 0, which was never opened (5.1)', PROTOCOL, data(0, b'x')),
    Fault('DATA on stream 3, which was never opened (5.1)', PROTOCOL, data(3, b'x')),
    Fault('HEADERS on stream 2, which was never opened (5.1)', PROTOCOL, headers(2)),
    Fault('RST_STREAM on stream 3, which was never opened (5.1)', PROTOCOL, reset(3)),
    Fault('WINDOW_UPDATE on stream 3, which was never opened (5.1)', PROTOCOL, window_update(3, 1)),
    Fault('DATA on a stream that has ended (5.1)', CLOSED, headers(1) + trailers(1) + data(1, b'x')),
    Fault('DATA on a stream that has ended (5.1)', CLOSED, headers(1) + data(1, b'', END_STREAM) + data(1)),
    Fault('HEADERS on a stream that has ended (5.1)', CLOSED, headers(1) + trailers(1) + trailers(1)),
    Fault('HEADERS on a stream that has ended (5.1)', CLOSED, reset(1) + headers(1)),
    Fault('HEADERS on a stream that has ended (5.1)', CLOSED, goaway(0) + headers(1)),
    # header blocks
    Fault('a header block that is not continued at once (4.3)', PROTOCOL, headers(1, OK, 0) + data(1)),
    Fault('a header block that is not continued at once (4.3)', PROTOCOL, headers(1, OK, 0) + frame(99, 0, 0, b'')),
    Fault('a CONTINUATION of nothing (6.10)', PROTOCOL, continuation(1, OK, END_HEADERS)),
    Fault('a CONTINUATION of nothing (6.10)', PROTOCOL, headers(1, OK, 0) + continuation(3, OK, END_HEADERS), 2),
    Fault('HEADERS shorter than its priority (6.2)', SIZE, headers(1, bytes(4), END_HEADERS | PRIORITY)),
    Fault('a header block does not decode (4.3)', ErrorCode.COMPRESSION_ERROR, headers(1, b'\x80')),
    Fault('a header block does not decode (4.3)', ErrorCode.COMPRESSION_ERROR, headers(1, b'\xbe')),
    Fault('a header block does not decode (4.3)', ErrorCode.COMPRESSION_ERROR, headers(1, b'\x88\x20')),
    Fault('a header block does not decode (4.3)', ErrorCode.COMPRESSION_ERROR, headers(1, b'\x3f\xe2\x1f')),
    Fault('a header block does not decode (4.3)', ErrorCode.COMPRESSION_ERROR,
          headers(1, b'\x00\x7f' + b'\xff' * 9_000)),
    Fault('header fields exceed the bound (10.5.1)', CALM, headers(1, OK + indexed(b'x', b'x' * 4_000) + LATEST * 20)),
    Fault('a header block is too long, or in too many pieces (10.5.1)', CALM,
          headers(1, OK, 0) + continuation(1, b'') * (MAX_CONTINUATIONS + 1)),
    Fault('a header block is too long, or in too many pieces (10.5.1)', CALM,
          headers(1, OK, 0) + continuation(1, bytes(DEFAULT_FRAME_SIZE)) * 4),
    Fault('a pseudo-header of an answer is not one :status in front (8.3)', PROTOCOL, headers(1, b'\x84')),
    Fault('a pseudo-header of an answer is not one :status in front (8.3)', PROTOCOL, headers(1, OK + OK)),
    Fault('a pseudo-header of an answer is not one :status in front (8.3)', PROTOCOL, headers(1, field(b'x') + OK)),
    Fault('a pseudo-header of an answer is not one :status in front (8.3)', PROTOCOL,
          headers(1, field(b':status', b'20'))),
    Fault('a pseudo-header of an answer is not one :status in front (8.3)', PROTOCOL,
          headers(1, field(b':status', b'2 0'))),
    Fault('a pseudo-header of an answer is not one :status in front (8.3)', PROTOCOL,
          headers(1, field(b':status', b'099'))),
    Fault('the name of a field is not one, or not in lower case (8.2.1)', PROTOCOL, headers(1, OK + field(b'Date'))),
    Fault('the name of a field is not one, or not in lower case (8.2.1)', PROTOCOL, headers(1, OK + field(b''))),
    Fault('the name of a field is not one, or not in lower case (8.2.1)', PROTOCOL, headers(1, OK + field(b'a b'))),
    Fault('the name of a field is not one, or not in lower case (8.2.1)', PROTOCOL, headers(1, OK + field(b'\xff'))),
    Fault('a field has NUL, CR or LF in its value (8.2.1)', PROTOCOL, headers(1, OK + field(b'x', b'a\r\nb: c'))),
    Fault('a field belongs to HTTP/1 (8.2.2)', PROTOCOL, headers(1, OK + field(b'transfer-encoding', b'chunked'))),
    # answers
    Fault('DATA before HEADERS (8.1)', PROTOCOL, data(1, b'x')),
    Fault('DATA before HEADERS (8.1)', PROTOCOL, headers(1, field(b':status', b'103')) + data(1, b'x')),
    Fault('an answer without :status (8.3.2)', PROTOCOL, headers(1, field(b'x'))),
    Fault('trailers that do not end the stream (8.1)', PROTOCOL, headers(1) + headers(1, END)),
    Fault('a :status in trailers (8.1)', PROTOCOL, headers(1) + headers(1, OK, END_HEADERS | END_STREAM)),
    Fault('a :status in trailers (8.1)', PROTOCOL, headers(1) + headers(1, field(b':status', b'103'))),
    Fault('an interim answer that ends the stream (8.1)', PROTOCOL,
          headers(1, field(b':status', b'103'), END_HEADERS | END_STREAM)),
    # windows
    Fault('more data than the window of the stream (6.9.1)', FLOW, headers(1) + FULL * 4),
    Fault('more data than the window of the stream (6.9.1)', FLOW,
          headers(1) + data(1, b'\xff' + bytes(255), PADDED) * 256),
    Fault('a window past 2**31 - 1 bytes (6.9.1)', FLOW, window_update(0, MAX_WINDOW - DEFAULT_WINDOW + 1)),
    Fault("a stream's window past 2**31 - 1 bytes (6.9.1)", FLOW, window_update(1, MAX_WINDOW - DEFAULT_WINDOW + 1),
          ends=False),
    Fault("a stream's window past 2**31 - 1 bytes (6.9.1)", FLOW,
          window_update(1, 1) + settings(initial_window_size=MAX_WINDOW), ends=False),
    Fault('WINDOW_UPDATE by nothing (6.9)', PROTOCOL, window_update(0, 0)),
    Fault('WINDOW_UPDATE by nothing (6.9)', PROTOCOL, window_update(1, 2**31)),
    Fault('WINDOW_UPDATE without its 4 bytes (6.9)', SIZE, frame(Kind.WINDOW_UPDATE, 0, 0, bytes(5))),
    # settings
    Fault('SETTINGS on a stream (6.5)', PROTOCOL, frame(Kind.SETTINGS, 0, 1, b'')),
    Fault('SETTINGS of a length that is no multiple of 6 (6.5)', SIZE, frame(Kind.SETTINGS, 0, 0, bytes(7))),
    Fault('an acknowledgement of SETTINGS that says something (6.5)', SIZE, frame(Kind.SETTINGS, ACK, 0, bytes(6))),
    Fault('an initial window past 2**31 - 1 bytes (6.5.2)', FLOW, settings(initial_window_size=MAX_WINDOW + 1)),
    Fault('a greatest frame of 16383 bytes (6.5.2)', PROTOCOL, settings(max_frame_size=16_383)),
    Fault('a greatest frame of 16777216 bytes (6.5.2)', PROTOCOL, settings(max_frame_size=2**24)),
    Fault('a server that enables push (6.5.2)', PROTOCOL, settings(enable_push=1)),
    # the rest
    Fault('PING on a stream (6.7)', PROTOCOL, frame(Kind.PING, 0, 1, bytes(8))),
    Fault('PING without its 8 bytes (6.7)', SIZE, frame(Kind.PING, 0, 0, bytes(7))),
    Fault('GOAWAY on a stream (6.8)', PROTOCOL, frame(Kind.GOAWAY, 0, 1, bytes(8))),
    Fault('GOAWAY without its 8 bytes (6.8)', SIZE, frame(Kind.GOAWAY, 0, 0, bytes(7))),
    Fault('GOAWAY that takes up streams again which it gave up (6.8)', PROTOCOL, goaway(1) + goaway(3)),
    Fault('RST_STREAM without its 4 bytes (6.4)', SIZE, frame(Kind.RST_STREAM, 0, 1, bytes(3))),
    Fault('PRIORITY on no stream (6.3)', PROTOCOL, frame(Kind.PRIORITY, 0, 0, bytes(5))),
    Fault('PRIORITY without its 5 bytes (6.3)', SIZE, frame(Kind.PRIORITY, 0, 1, bytes(4))),
    Fault('PUSH_PROMISE, which we do not take (8.4)', PROTOCOL,
          frame(Kind.PUSH_PROMISE, END_HEADERS, 1, bytes(4) + OK)),
    # floods
    Fault('PING is asked for again and again, and no answer is read', CALM,
          frame(Kind.PING, 0, 0, bytes(8)) * (MAX_QUEUED_ANSWERS + 1)),
    Fault('SETTINGS is asked for again and again, and no answer is read', CALM, settings() * (MAX_QUEUED_ANSWERS + 1)),
    Fault('10000 frames in a row that bring nothing', CALM, frame(99, 0, 0, b'') * (MAX_IDLE_FRAMES + 1)),
]  # fmt: skip


@pytest.mark.parametrize('fault', FAULTS, ids=str)
def test_fault_ends_the_connection_with_its_rule_and_its_code(fault: Fault) -> None:
    """The caller hears the rule, the server the code; all frames before the last are taken."""
    client = connected(fault.streams, end=fault.ends, stream_window=DEFAULT_WINDOW)
    with pytest.raises(ProtocolError) as caught:
        client.receive(fault.received)
    assert str(caught.value) == f'HTTP/2: {fault.rule}'
    assert sent(client)[-1] == (Kind.GOAWAY, 0, 0, struct.pack('>II', 0, fault.code))
    *before, _ = frames_of(fault.received)
    connected(fault.streams, end=fault.ends, stream_window=DEFAULT_WINDOW).receive(b''.join(before))


@pytest.mark.parametrize(
    'received',
    [headers(1), frame(Kind.PING, 0, 0, bytes(8)), frame(Kind.SETTINGS, ACK, 0, b''), frame(99, 0, 0, b''), goaway(0)],
)
def test_first_frame_that_is_not_settings_is_refused(received: bytes) -> None:
    """So a server that speaks something else is found out at once."""
    client = Http2Connection()
    client.open(REQUEST_BLOCK)
    with pytest.raises(ProtocolError, match=r'a first frame that is not SETTINGS \(3.4\)'):
        client.receive(received)
    assert sent(client)[-1] == (Kind.GOAWAY, 0, 0, struct.pack('>II', 0, PROTOCOL))


@pytest.mark.parametrize(
    'answer', [b'HTTP/1.1 400 Bad Request\r\n\r\n', b'SSH-2.0-OpenSSH_9.2\r\n', b'\x15\x03\x01\0\2\2P']
)
def test_another_protocol_is_refused(answer: bytes) -> None:
    """From the first bytes, without waiting for a frame of that length."""
    with pytest.raises(ProtocolError, match=r'^HTTP/2: a f'):
        Http2Connection().receive(answer + bytes(20))


def rules_of(module: ModuleType) -> Iterable[tuple[str, ...]]:
    """What each call of ``violated`` says, in the pieces that do not depend on anything."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'violated':
            constants = [part.value for part in ast.walk(node.args[1]) if isinstance(part, ast.Constant)]
            yield tuple(part for part in constants if isinstance(part, str))


def test_every_rule_of_the_package_is_provoked_above() -> None:
    """A rule that nothing can break is not one."""
    provoked = {fault.rule for fault in FAULTS} | {'a first frame that is not SETTINGS (3.4)'}
    rules = {rule for module in (protocol, frames, headers_module, receive, send) for rule in rules_of(module)}
    assert len(rules) > 40
    assert [rule for rule in rules if not any(all(part in said for part in rule) for said in provoked)] == []
