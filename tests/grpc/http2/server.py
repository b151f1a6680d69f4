"""Builders for the frames of a server, and a client to receive them."""

from __future__ import annotations

import struct

from getc.grpc.http2.frames import (
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    ErrorCode,
    FrameType,
    Setting,
    encode_frame,
    encode_settings,
)
from getc.grpc.http2.headers import encode_fields
from getc.grpc.http2.protocol import Http2Connection
from tests.grpc.http2.junk import frames_of
from tests.grpc.http2.peer import REQUEST_BLOCK, TRAILERS

OK = b'\x88'
"""``:status: 200``, from the static table."""

END = encode_fields(TRAILERS)


def settings(**values: int) -> bytes:
    return encode_frame(
        FrameType.SETTINGS, 0, 0, encode_settings({Setting[name.upper()]: value for name, value in values.items()})
    )


def headers(stream_id: int, block: bytes = OK, flags: int = END_HEADERS) -> bytes:
    return encode_frame(FrameType.HEADERS, flags, stream_id, block)


def data(stream_id: int, payload: bytes = b'', flags: int = 0) -> bytes:
    return encode_frame(FrameType.DATA, flags, stream_id, payload)


def trailers(stream_id: int) -> bytes:
    return headers(stream_id, END, END_HEADERS | END_STREAM)


def reset(stream_id: int, code: int = ErrorCode.CANCEL) -> bytes:
    return encode_frame(FrameType.RST_STREAM, 0, stream_id, code.to_bytes(4, 'big'))


def continuation(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return encode_frame(FrameType.CONTINUATION, flags, stream_id, payload)


def window_update(stream_id: int, more: int) -> bytes:
    return encode_frame(FrameType.WINDOW_UPDATE, 0, stream_id, more.to_bytes(4, 'big'))


def goaway(last: int, code: int = 0, debug: bytes = b'') -> bytes:
    return encode_frame(FrameType.GOAWAY, 0, 0, struct.pack('>II', last, code) + debug)


def connected(streams: int = 0, *, end: bool = True, **windows: int) -> Http2Connection:
    """Return a client that has received SETTINGS and has opened so many streams."""
    client = Http2Connection(**windows)
    client.receive(settings())
    for _ in range(streams):
        client.open(REQUEST_BLOCK, end=end)
    client.take()
    return client


def sent(client: Http2Connection) -> list[tuple[int, int, int, bytes]]:
    """Return type, flags, stream and payload of the frames that the client sends now."""
    return [
        (piece[3], piece[4], int.from_bytes(piece[5:9], 'big'), piece[9:])
        for piece in frames_of(client.take().removeprefix(PREFACE))
    ]


def field(name: bytes, value: bytes = b'x') -> bytes:
    return encode_fields([(name, value)])


def indexed(name: bytes, value: bytes) -> bytes:
    """Return a field that is added to the dynamic table."""
    return b'\x40' + field(name, value)[1:]


LATEST = b'\xbe'
"""The field that was added last to the dynamic table."""


FULL = data(1, bytes(DEFAULT_FRAME_SIZE))
"""A DATA frame of maximal length."""
