"""Valid frames of a server, and random corruption of them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import hpack

from getc.grpc.http2.frames import FrameType, encode_frame
from getc.grpc.http2.headers import Fields
from getc.grpc.http2.protocol import Http2Connection
from tests.grpc.http2.peer import ANSWER, REQUEST_BLOCK, TRAILERS, Peer

COMPLETE = (1, 3, 5, 7, 9)
"""Streams whose requests are complete."""

INCOMPLETE = 11
"""A stream whose request is not complete."""

CANCELLED = 13
"""A stream that the client has reset."""

STREAMS = (0, *COMPLETE, INCOMPLETE, CANCELLED, 2, 15, 2**31 - 1)

ODD_FIELDS: Fields = (
    (b':status', b'200'),
    (b':status', b'099'),
    (b':status', b'20'),
    (b':status', b'103'),
    (b':path', b'/'),
    (b':', b''),
    (b'', b''),
    (b'Upper', b'x'),
    (b'x y', b'x'),
    (b'x:y', b'x'),
    (b'\xff', b'x'),
    (b'x', b'\xff'),
    (b'x', b'a\nb'),
    (b'x', b'\0'),
    (b'x', b' '),
    (b'te', b'gzip'),
    (b'connection', b'close'),
    (b'transfer-encoding', b'chunked'),
    (b'content-length', b'7'),
    (b'grpc-status', b'0'),
)


def opened(client: Http2Connection) -> Http2Connection:
    """Open the streams."""
    for _ in COMPLETE:
        client.open(REQUEST_BLOCK, b'request')
    client.open(REQUEST_BLOCK, b'request', end=False)
    client.reset(client.open(REQUEST_BLOCK))
    return client


def valid(random: Random) -> list[bytes]:
    """Return the frames of a server for such a client; SETTINGS and their acknowledgement are the first."""
    peer = Peer()
    peer.receive(opened(Http2Connection()).take())
    steps: dict[int, list[str]] = {
        number: random.choice(
            [
                ['answer', 'data', 'padded', 'trailers'],
                ['interim', 'answer', 'trailers'],
                ['answer', 'data', 'last'],
                ['only trailers'],
                ['answer', 'reset'],
                ['long answer', 'data', 'trailers'],
            ]
        )
        for number in (*COMPLETE, INCOMPLETE)
    }
    while steps:
        number = random.choice(list(steps))
        step = steps[number].pop(0)
        if not steps[number]:
            del steps[number]
        _do(peer, number, step, random)
        if random.random() < 0.2:
            peer.h2.ping(random.randbytes(8))
        if random.random() < 0.2 and peer.is_acknowledged:
            peer.update_settings(initial_window_size=random.choice([0, 10, 2**20]), max_concurrent_streams=100)
    return list(frames_of(peer.take()))


def _do(peer: Peer, number: int, step: str, random: Random) -> None:
    h2 = peer.h2
    if step == 'interim':
        h2.send_headers(number, [(b':status', b'103')])
    elif step == 'answer':
        h2.send_headers(number, ANSWER)
    elif step == 'long answer':
        h2.send_headers(number, (*ANSWER, *((b'x-%d' % n, b'{}' * 200) for n in range(30))))
    elif step == 'only trailers':
        h2.send_headers(number, ANSWER + TRAILERS, end_stream=True)
    elif step == 'reset':
        h2.reset_stream(number, 8)
    elif step == 'trailers':
        h2.send_headers(number, TRAILERS, end_stream=True)
    else:
        padding = 9 if step == 'padded' else None
        h2.send_data(number, random.randbytes(50), end_stream=step == 'last', pad_length=padding)


def frames_of(data: bytes) -> Iterator[bytes]:
    """Split bytes into frames; the last one may be incomplete."""
    while data:
        size = 9 + int.from_bytes(data[:3], 'big')
        yield data[:size]
        data = data[size:]


def spoiled(frames: list[bytes], random: Random) -> list[bytes]:
    """Return the frames with one to three random faults."""
    frames = list(frames)
    for _ in range(random.choice([1, 1, 2, 3])):
        random.choice([_flip, _cut, _double, _swap, _drop, _insert, _insert, _insert_block])(frames, random)
    return list(frames_of(b''.join(frames)))


def _flip(frames: list[bytes], random: Random) -> None:
    at = random.randrange(len(frames))
    data = bytearray(frames[at])
    place = random.randrange(min(9, len(data)) if random.random() < 0.5 else len(data))
    data[place] ^= 1 << random.randrange(8)
    frames[at] = bytes(data)


def _cut(frames: list[bytes], random: Random) -> None:
    at = random.randrange(len(frames))
    frames[at] = frames[at][: random.randint(1, len(frames[at]))]


def _double(frames: list[bytes], random: Random) -> None:
    at = random.randrange(len(frames))
    frames.insert(random.randrange(at, len(frames)), frames[at])


def _swap(frames: list[bytes], random: Random) -> None:
    one, other = random.randrange(len(frames)), random.randrange(len(frames))
    frames[one], frames[other] = frames[other], frames[one]


def _drop(frames: list[bytes], random: Random) -> None:
    if len(frames) > 1:
        del frames[random.randrange(len(frames))]


def _insert(frames: list[bytes], random: Random) -> None:
    frames.insert(random.randrange(len(frames) + 1), random_frame(random))


def _insert_block(frames: list[bytes], random: Random) -> None:
    """Insert a block of random fields that are not added to the dynamic table."""
    fields = [random.choice(ODD_FIELDS) for _ in range(random.randint(0, 3))]
    if random.random() < 0.5:
        fields = [*random.choice([ANSWER, TRAILERS]), *fields]
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*one) for one in fields])
    flags = random.choice([0x4, 0x5])
    frames.insert(
        random.randrange(len(frames) + 1), encode_frame(FrameType.HEADERS, flags, random.choice(STREAMS), block)
    )


def random_frame(random: Random) -> bytes:
    """Return a frame of a random type, with a valid length most of the time."""
    kind = random.choice([*FrameType, *FrameType, 10, 11, 200])
    flags = random.choice([0, 0, 1, 4, 5, 8, 0xD, 0x20, 0x25, 255, random.randrange(256)])
    stream_id = random.choice(STREAMS) if random.random() < 0.6 else 0
    return encode_frame(kind, flags, stream_id, _payload(kind, random))


def _payload(kind: int, random: Random) -> bytes:
    size = {
        FrameType.PRIORITY: 5,
        FrameType.RST_STREAM: 4,
        FrameType.PING: 8,
        FrameType.WINDOW_UPDATE: 4,
        FrameType.GOAWAY: 8,
    }.get(FrameType(kind) if kind < 10 else FrameType.DATA)
    if random.random() < 0.2:
        return random.randbytes(random.randint(0, 20))
    if kind == FrameType.SETTINGS:
        settings = [
            (random.randint(0, 9), random.choice([0, 1, 16_384, 2**31 - 1, 2**31])) for _ in range(random.randint(0, 3))
        ]
        return b''.join(setting.to_bytes(2, 'big') + value.to_bytes(4, 'big') for setting, value in settings)
    if size == 4:
        return random.choice([0, 1, 8, 2**31 - 1, 2**31]).to_bytes(4, 'big')
    return random.randbytes(random.randint(0, 60) if size is None else size)
