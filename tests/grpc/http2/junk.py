"""Valid bytes of a server, and what may become of them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import hpack

from getc.grpc.http2.frames import Kind, frame
from getc.grpc.http2.headers import Fields
from getc.grpc.http2.protocol import Http2Connection
from tests.grpc.http2.peer import ANSWER, REQUEST_BLOCK, TRAILERS, Peer

ASKED = (1, 3, 5, 7, 9)
"""Streams whose request was sent in full."""

ASKING = 11
"""One whose request goes on."""

CANCELLED = 13
"""One that the client has reset."""

STREAMS = (0, *ASKED, ASKING, CANCELLED, 2, 15, 2**31 - 1)

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
    for _ in ASKED:
        client.open(REQUEST_BLOCK, b'request')
    client.open(REQUEST_BLOCK, b'request', end=False)
    client.reset(client.open(REQUEST_BLOCK))
    return client


def valid(random: Random) -> list[bytes]:
    """What a server sends to such a client, frame by frame; settings and their acknowledgement first."""
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
        for number in (*ASKED, ASKING)
    }
    while steps:
        number = random.choice(list(steps))
        step = steps[number].pop(0)
        if not steps[number]:
            del steps[number]
        _do(peer, number, step, random)
        if random.random() < 0.2:
            peer.h2.ping(random.randbytes(8))
        if random.random() < 0.2 and peer.is_settled:
            peer.settle(initial_window_size=random.choice([0, 10, 2**20]), max_concurrent_streams=100)
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
    """The bytes as a receiver cuts them; the last frame may be incomplete."""
    while data:
        size = 9 + int.from_bytes(data[:3], 'big')
        yield data[:size]
        data = data[size:]


def spoiled(frames: list[bytes], random: Random) -> list[bytes]:
    """The same with a fault or two."""
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
    """Any fields, of which the table remembers none."""
    fields = [random.choice(ODD_FIELDS) for _ in range(random.randint(0, 3))]
    if random.random() < 0.5:
        fields = [*random.choice([ANSWER, TRAILERS]), *fields]
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*one) for one in fields])
    flags = random.choice([0x4, 0x5])
    frames.insert(random.randrange(len(frames) + 1), frame(Kind.HEADERS, flags, random.choice(STREAMS), block))


def random_frame(random: Random) -> bytes:
    """A frame of any kind, rather right than wrong in its length."""
    kind = random.choice([*Kind, *Kind, 10, 11, 200])
    flags = random.choice([0, 0, 1, 4, 5, 8, 0xD, 0x20, 0x25, 255, random.randrange(256)])
    stream_id = random.choice(STREAMS) if random.random() < 0.6 else 0
    return frame(kind, flags, stream_id, _payload(kind, random))


def _payload(kind: int, random: Random) -> bytes:
    size = {Kind.PRIORITY: 5, Kind.RST_STREAM: 4, Kind.PING: 8, Kind.WINDOW_UPDATE: 4, Kind.GOAWAY: 8}.get(
        Kind(kind) if kind < 10 else Kind.DATA
    )
    if random.random() < 0.2:
        return random.randbytes(random.randint(0, 20))
    if kind == Kind.SETTINGS:
        settings = [
            (random.randint(0, 9), random.choice([0, 1, 16_384, 2**31 - 1, 2**31])) for _ in range(random.randint(0, 3))
        ]
        return b''.join(setting.to_bytes(2, 'big') + value.to_bytes(4, 'big') for setting, value in settings)
    if size == 4:
        return random.choice([0, 1, 8, 2**31 - 1, 2**31]).to_bytes(4, 'big')
    return random.randbytes(random.randint(0, 60) if size is None else size)
