"""Bounds for the memory and the work that a server can cause."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from getc.errors import ProtocolError
from getc.grpc.http2.control import MAX_IDLE_FRAMES
from getc.grpc.http2.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    MAX_STREAM_ID,
    PADDED,
    ErrorCode,
    FrameType,
    encode_frame,
)
from getc.grpc.http2.protocol import Http2Connection
from tests.grpc.http2.peer import REQUEST_BLOCK
from tests.grpc.http2.server import (
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
    settings,
    window_update,
)


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Check that the block allocates less than ``limit`` bytes at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


@pytest.mark.parametrize(
    'piece',
    [
        continuation(1, bytes(DEFAULT_FRAME_SIZE)),
        continuation(1, b''),
        continuation(1, b'\x00\x01x\x01y' * 100),
    ],
    ids=['big', 'empty', 'small'],
)
def test_endless_header_block_is_refused_before_it_is_decoded(piece: bytes) -> None:
    client = connected(1)
    client.receive(headers(1, OK, 0))
    with memory_below(1_000_000), pytest.raises(ProtocolError, match='header block is too long'):
        for _ in range(100_000):
            client.receive(piece)


def test_small_block_with_a_large_list_is_refused() -> None:
    """A field of 4 KB in the table with thousands of references would decode to 60 MB."""
    client = connected(1)
    bomb = headers(1, OK + indexed(b'x', b'y' * 4_000) + LATEST * 12_000)
    with memory_below(1_000_000), pytest.raises(ProtocolError, match='header list is larger'):
        client.receive(bomb)


def test_cache_of_decoded_blocks_is_bounded() -> None:
    """With different blocks of indexed fields only."""
    client = connected(300)
    age = b'\x95'  # the shortest field of the static table
    blocks = [headers(2 * number + 1, OK + age * (100 + number)) for number in range(300)]
    with memory_below(1_000_000):
        for block in blocks:
            assert len(client.receive(block)) == 1


@pytest.mark.parametrize(
    'piece',
    [
        encode_frame(FrameType.PING, 0, 0, bytes(8)),
        settings(),
        settings(initial_window_size=1),
        encode_frame(FrameType.SETTINGS, ACK, 0, b''),
        encode_frame(FrameType.PING, ACK, 0, bytes(8)),
        encode_frame(FrameType.PRIORITY, 0, 1, bytes(5)),
        encode_frame(99, 0, 0, b''),
        data(1),
        data(1, b'\0', PADDED),
        headers(1, field(b':status', b'103')),
        window_update(0, 1),
        window_update(1, 1),
        window_update(3, 1),
        reset(3),
        goaway(MAX_STREAM_ID),
    ],
    ids=[
        *('ping', 'settings', 'window', 'settings-ack', 'ping-ack', 'priority', 'unknown', 'empty', 'padding'),
        *('interim', 'connection-window', 'stream-window', 'window-of-another', 'reset', 'goaway'),
    ],
)
@pytest.mark.parametrize('is_read', [True, False])
def test_flood_of_frames_without_effect_ends_the_connection(piece: bytes, is_read: bool) -> None:
    """Also if the peer reads the acknowledgements, and with a request that waits for its window."""
    client = connected(1)
    client.receive(headers(1) if piece[3] == FrameType.DATA else b'')
    client.reset(client.open(REQUEST_BLOCK))
    client.open(REQUEST_BLOCK, bytes(1_000_000))
    with pytest.raises(ProtocolError, match=r'flood|without effect'):
        for _ in range(MAX_IDLE_FRAMES + 1):
            client.receive(piece)
            if is_read:
                client.take()
    assert len(client.take()) < 1_000_000


@pytest.mark.parametrize(
    'receive',
    [
        lambda client: client.receive(headers(client.open(REQUEST_BLOCK))),
        lambda client: client.receive(reset(client.open(REQUEST_BLOCK))),
        lambda client: client.receive(data(1, b'x')),
        lambda client: client.send(3, b'x'),
        lambda client: (client.ping(bytes(8)), client.receive(encode_frame(FrameType.PING, ACK, 0, bytes(8)))),
    ],
    ids=['response', 'reset', 'data', 'request', 'ping'],
)
def test_pings_of_a_quiet_connection_are_not_a_flood(receive: Callable[[Http2Connection], object]) -> None:
    """Any frame of a response in between resets the count."""
    client = connected(1)
    client.open(REQUEST_BLOCK, end=False)
    client.receive(headers(1))
    for _ in range(3):
        for _ in range(MAX_IDLE_FRAMES - 10):
            client.receive(encode_frame(FrameType.PING, 0, 0, bytes(8)))
            client.take()
        receive(client)
    assert len(client._receiving.streams) >= 2


def test_resets_of_open_streams_are_not_a_flood() -> None:
    client = connected(2 * MAX_IDLE_FRAMES)
    resets = b''.join(reset(2 * number + 1, ErrorCode.REFUSED_STREAM) for number in range(2 * MAX_IDLE_FRAMES))
    assert len(client.receive(resets)) == 2 * MAX_IDLE_FRAMES


def test_endless_response_that_is_not_consumed_is_stopped_by_the_window_of_its_stream() -> None:
    client = connected(1, stream_window=DEFAULT_WINDOW)
    client.receive(headers(1))
    with memory_below(1_000_000), pytest.raises(ProtocolError, match='DATA exceeds the window'):
        for _ in range(66):
            client.receive(data(1, bytes(1_000)))
