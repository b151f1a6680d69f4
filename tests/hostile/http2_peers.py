"""HostileConnection servers for clients of etcd v3: in HTTP/2, in gRPC, and in etcd's messages."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable

import getc
from getc.grpc.framing import OVERSIZED_HEAD, encode_message
from getc.grpc.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    FrameType,
    Setting,
    encode_frame,
    encode_settings,
)
from getc.grpc.http2.headers import encode_fields
from getc.v3.schema.kv import TxnResponse
from tests.hostile.harness import RESPONSE, HostileConnection, Peer

__all__ = ['PEERS']

MIB = 1024 * 1024
FRAMES = 512 * 1024
"""Bytes of the 10,000 frames without content that a client tolerates."""

SETTINGS = encode_frame(FrameType.SETTINGS, 0, 0, b'')
HEAD = encode_fields([(b':status', b'200'), (b'content-type', b'application/grpc')])
OK = encode_fields([(b'grpc-status', b'0')])

Serve = Callable[[HostileConnection], object]


def headers(block: bytes, flags: int = END_HEADERS, stream: int = 1) -> bytes:
    return encode_frame(FrameType.HEADERS, flags, stream, block)


def data(content: bytes, flags: int = 0, stream: int = 1) -> bytes:
    return b''.join(
        encode_frame(FrameType.DATA, flags if at + 16_384 >= len(content) else 0, stream, content[at : at + 16_384])
        for at in range(0, len(content) or 1, 16_384)
    )


def settings(**values: int) -> bytes:
    return encode_frame(
        FrameType.SETTINGS, 0, 0, encode_settings({Setting[name.upper()]: value for name, value in values.items()})
    )


def goaway(last: int, code: int = 0, debug: bytes = b'') -> bytes:
    return encode_frame(FrameType.GOAWAY, 0, 0, struct.pack('>II', last, code) + debug)


TRAILERS = headers(OK, END_HEADERS | END_STREAM)


def on_stream(number: int, frames: bytes) -> bytes:
    """Return the frames of stream 1 with another stream number."""
    moved = b''
    while frames:
        size = 9 + int.from_bytes(frames[:3], 'big')
        stream = int.from_bytes(frames[5:9], 'big')
        moved += frames[:5] + (number if stream == 1 else stream).to_bytes(4, 'big') + frames[9:size]
        frames = frames[size:]
    return moved


def says(*frames: bytes, first: bytes = SETTINGS) -> Serve:
    """Send these frames on each call."""

    def serve(client: HostileConnection) -> None:
        client.send(first)
        for number in client.calls():
            client.send(on_stream(number, b''.join(frames)))

    return serve


def begins(data: bytes) -> Serve:
    """Send data in place of SETTINGS, and close the connection when the client does."""

    def serve(client: HostileConnection) -> None:
        client.receive()
        client.send(data)
        client.receive()

    return serve


def ends(*frames: bytes, first: bytes = SETTINGS) -> Serve:
    """Send these frames on the first call, and close the connection."""

    def serve(client: HostileConnection) -> None:
        if frames:
            client.send(first)
            for number in client.calls():
                client.send(on_stream(number, b''.join(frames)))
                return
        client.receive()
        client.send(first)

    return serve


def floods(piece: bytes, before: bytes = b'', first: bytes = SETTINGS) -> Serve:
    """Send data without end."""

    def serve(client: HostileConnection) -> None:
        client.receive()
        client.flood(piece, first + before)

    return serve


def trickles(piece: bytes, before: bytes = b'') -> Serve:
    """Send data without end, with a delay, from the first call on."""

    def serve(client: HostileConnection) -> None:
        client.send(SETTINGS)
        for _ in client.calls():
            client.trickle(piece, before)

    return serve


def responds(message: bytes) -> Serve:
    """Respond with a message in gRPC framing."""
    return says(headers(HEAD), data(encode_message(message)), TRAILERS)


def trails(*fields: tuple[bytes, bytes]) -> Serve:
    """Respond with these trailers only."""
    head = [(b':status', b'200'), (b'content-type', b'application/grpc')]
    return says(headers(encode_fields([*head, *fields]), END_HEADERS | END_STREAM))


def hpack_bomb() -> bytes:
    """Return a header block that adds a large field to the table, and refers to it 10,000 times."""
    name, value = b'x', b'v' * 3900
    length = len(value) - 127
    literal = b'\x40' + bytes([len(name)]) + name + b'\x7f' + bytes([length % 128 | 128, length // 128]) + value
    return HEAD + literal + b'\xbe' * 10_000


def resets(client: HostileConnection) -> None:
    client.receive()
    client.send(SETTINGS)
    client.reset()


def silent(client: HostileConnection) -> None:
    client.wait()


GROUPS = b'\x5b' * 100_000
"""Nested groups of unknown fields."""

BROKEN = getc.ConnectionError
SLOW = getc.TimedOut
ANY = getc.EtcException

PEERS = [
    # -- floods of frames without content
    Peer('endless SETTINGS', floods(SETTINGS), text='flood', max_bytes=FRAMES),
    Peer(
        'endless acknowledgements',
        floods(encode_frame(FrameType.SETTINGS, ACK, 0, b'')),
        text='without effect',
        max_bytes=FRAMES,
    ),
    Peer('endless PING', floods(encode_frame(FrameType.PING, 0, 0, b'12345678')), text='flood', max_bytes=FRAMES),
    Peer(
        'endless PONG',
        floods(encode_frame(FrameType.PING, ACK, 0, b'12345678')),
        text='without effect',
        max_bytes=FRAMES,
    ),
    Peer(
        'endless PRIORITY',
        floods(encode_frame(FrameType.PRIORITY, 0, 1, b'\0\0\0\0\0')),
        text='without effect',
        max_bytes=FRAMES,
    ),
    Peer(
        'endless WINDOW_UPDATE',
        floods(encode_frame(FrameType.WINDOW_UPDATE, 0, 0, b'\0\0\0\1')),
        text='without effect',
        max_bytes=FRAMES,
    ),
    Peer('endless empty DATA', floods(data(b''), headers(HEAD)), text='without effect', max_bytes=FRAMES),
    Peer('endless interim responses', floods(headers(encode_fields([(b':status', b'103')]))), max_bytes=FRAMES),
    Peer('endless unknown frames', floods(encode_frame(0xBE, 0, 0, b'')), text='without effect', max_bytes=FRAMES),
    Peer('endless large unknown frames', floods(encode_frame(0xBE, 0, 0, b'x' * 16_384)), max_bytes=170 * MIB),
    Peer('endless RST_STREAM', floods(encode_frame(FrameType.RST_STREAM, 0, 1, b'\0\0\0\x08')), ANY, max_bytes=FRAMES),
    Peer('endless GOAWAY', floods(goaway(0)), BROKEN, 'going away', max_bytes=FRAMES),
    # -- header blocks
    Peer(
        'endless CONTINUATION',
        floods(encode_frame(FrameType.CONTINUATION, 0, 1, b'x' * 1000), headers(HEAD, 0)),
        text='too long',
    ),
    Peer(
        'endless empty CONTINUATION',
        floods(encode_frame(FrameType.CONTINUATION, 0, 1, b''), headers(HEAD, 0)),
        text='too long',
    ),
    Peer('an interrupted header block', says(headers(HEAD, 0), data(b'x')), text='interrupted by another frame'),
    Peer(
        'huge header block',
        floods(encode_frame(FrameType.CONTINUATION, 0, 1, b'x' * 16_384), headers(b'', 0)),
        text='too long',
    ),
    Peer('HPACK bomb', says(headers(hpack_bomb())), text='larger than the limit'),
    Peer(
        'thousands of fields', says(headers(HEAD + encode_fields([(b'a', b'')]) * 3000)), text='larger than the limit'
    ),
    Peer('invalid HPACK', says(headers(b'\xff\xff\xff\xff\xff\xff')), text='cannot be decoded'),
    Peer('huge table', says(headers(b'\x3f\xff\xff\xff\x7f' + HEAD)), text='cannot be decoded'),
    Peer('upper case', says(headers(HEAD + encode_fields([(b'X', b'')]))), text='lower case'),
    Peer('a line in a value', says(headers(HEAD + encode_fields([(b'x', b'a\r\nb')]))), text='CR or LF'),
    # -- windows and lengths
    Peer('window overflow', says(encode_frame(FrameType.WINDOW_UPDATE, 0, 0, b'\x7f\xff\xff\xff') * 2), text='window'),
    Peer(
        'window opened by nothing',
        says(encode_frame(FrameType.WINDOW_UPDATE, 0, 0, b'\0\0\0\0')),
        text='increment of 0',
    ),
    Peer(
        'initial window overflow',
        says(encode_frame(FrameType.SETTINGS, 0, 0, struct.pack('>HI', 4, 2**31))),
        text='INITIAL_WINDOW_SIZE',
    ),
    Peer('frame longer than allowed', floods(b'\xff\xff\xff\0\0\0\0\0\1' + b'x' * 65_536), text='16384 bytes'),
    Peer(
        'padding longer than the frame',
        says(headers(HEAD), encode_frame(FrameType.DATA, PADDED, 1, b'\xffx')),
        text='adding',
    ),
    Peer(
        'endless response',
        floods(data(b'x' * 16_384), headers(HEAD) + data(encode_message(b'')[:1] + b'\0\xff\xff\xff')),
        max_bytes=20 * MIB,
    ),
    Peer('endless messages', floods(data(encode_message(b'') * 3000), headers(HEAD)), max_bytes=20 * MIB),
    # -- responses to calls that were not made
    Peer('response on a future stream', says(headers(HEAD, stream=3)), text='never opened'),
    Peer('data on a future stream', says(data(b'x', stream=99)), text='never opened'),
    Peer('response on an even stream', says(headers(HEAD, stream=2)), text='never opened'),
    Peer('push', says(encode_frame(FrameType.PUSH_PROMISE, END_HEADERS, 1, b'\0\0\0\2' + HEAD)), text='PUSH_PROMISE'),
    Peer('reset of a future stream', says(encode_frame(FrameType.RST_STREAM, 0, 7, b'\0\0\0\0')), text='never opened'),
    Peer('data on stream 0', says(encode_frame(FrameType.DATA, 0, 0, b'x')), text='never opened'),
    # -- truncated responses, and other protocols
    Peer('no response', ends(first=b''), BROKEN, 'the connection'),
    Peer('only settings', ends(), BROKEN, 'the connection'),
    Peer('half a response', ends(headers(HEAD), data(encode_message(b'x' * 100)[:50])), BROKEN, 'the connection'),
    Peer(
        'no trailers', ends(headers(HEAD), data(encode_message(RESPONSE.SerializeToString()))), BROKEN, 'the connection'
    ),
    Peer('reset', resets, BROKEN, 'broke'),
    Peer('HTTP/1', ends(first=b'HTTP/1.1 400 Bad Request\r\n\r\n'), text='HTTP/1'),
    Peer('SSH', ends(first=b'SSH-2.0-OpenSSH_9.6\r\n')),
    Peer('zeros', floods(b'\0' * 65_536, first=b'')),
    Peer('no settings', begins(encode_frame(FrameType.PING, 0, 0, b'12345678')), text='SETTINGS'),
    Peer('GOAWAY before any stream', says(goaway(0)), BROKEN, 'going away'),
    Peer('GOAWAY with a higher stream later', says(goaway(1), goaway(3)), text='higher last stream'),
    Peer('refuses every call', says(encode_frame(FrameType.RST_STREAM, 0, 1, b'\0\0\0\7')), BROKEN, 'REFUSED_STREAM'),
    Peer('cancels every call', says(encode_frame(FrameType.RST_STREAM, 0, 1, b'\0\0\0\x08')), BROKEN, 'CANCEL'),
    # -- slow responses
    Peer('silence', silent, SLOW, is_slow=True),
    Peer('silence after SETTINGS', says(), SLOW, 'no response', is_slow=True),
    Peer(
        'slow bytes',
        trickles(b'\0', encode_frame(0xBE, 0, 0, b'') + b'\0\x40\0\0\0\0\0\0\1'),
        SLOW,
        is_slow=True,
    ),
    Peer('slow PINGs', trickles(encode_frame(FrameType.PING, 0, 0, b'12345678')), SLOW, is_slow=True),
    Peer('slow bytes of data', trickles(data(b'\0'), headers(HEAD) + data(b'\0\0\xff\0\0')), SLOW, is_slow=True),
    Peer('no concurrent streams', says(first=settings(max_concurrent_streams=0)), SLOW, is_slow=True),
    Peer('no window', says(first=settings(initial_window_size=0)), SLOW, is_slow=True),
    # -- gRPC
    Peer('compressed message', says(headers(HEAD), data(b'\1\0\0\0\2{}')), text='compressed'),
    Peer(
        'gzip bomb',
        says(headers(HEAD), data(b'\1' + encode_message(gzip.compress(b'\0' * MIB))[1:])),
        text='compressed',
    ),
    Peer(
        'huge message', says(headers(HEAD), data(b'\0\xff\xff\xff\xff' + b'\xff' * OVERSIZED_HEAD)), text='4294967295'
    ),
    Peer(
        'message just over the limit', says(headers(HEAD), data(b'\0\1\0\0\1' + bytes(OVERSIZED_HEAD))), text='16777217'
    ),
    Peer('two messages', says(headers(HEAD), data(encode_message(b'') * 2), TRAILERS), text='second message'),
    Peer('no message', says(headers(HEAD), TRAILERS), text='OK without a complete message'),
    Peer('half a message', says(headers(HEAD), data(b'\0\0\0\0\5x'), TRAILERS), text='OK without a complete message'),
    Peer('no status', says(headers(HEAD), data(encode_message(b''), END_STREAM)), BROKEN, 'without a status'),
    Peer('status that is not a number', trails((b'grpc-status', b'fine')), text='grpc-status'),
    Peer('status of thousands of digits', trails((b'grpc-status', b'9' * 5000)), text='grpc-status'),
    Peer('status of minus one', trails((b'grpc-status', b'-1')), text='grpc-status'),
    Peer('message of bad UTF-8', trails((b'grpc-status', b'13'), (b'grpc-message', b'%ff%fe')), getc.EtcdError),
    Peer('another content', says(headers(encode_fields([(b':status', b'200')]))), text='content-type'),
    Peer(
        'login form',
        says(headers(encode_fields([(b':status', b'403'), (b'content-type', b'text/html')]))),
        getc.HTTPError,
    ),
    Peer('redirect', says(headers(encode_fields([(b':status', b'302'), (b'location', b'http://x/')]))), getc.HTTPError),
    # -- etcd's messages
    Peer('garbage', responds(b'\xff' * 100), text='not a valid RangeResponse'),
    Peer('deeply nested groups', responds(GROUPS), text='not a valid RangeResponse', max_bytes=256 * 1024),
    Peer('length past the end', responds(b'\x12\xff\xff\xff\xff\x07x'), text='not a valid RangeResponse'),
    Peer('number of eleven bytes', responds(b'\x08' + b'\xff' * 11), text='not a valid RangeResponse'),
    Peer('another message', responds(TxnResponse(succeeded=True).SerializeToString() * 3 + b'\x0a\x02\xff\xff'), ANY),
]
