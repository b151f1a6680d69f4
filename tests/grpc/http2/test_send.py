"""What is sent: never more than the windows and the frame size allow, each stream in turn, and all of it in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from getc.grpc.http2.frames import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    Kind,
    Violation,
)
from getc.grpc.http2.send import SendState
from tests.grpc.http2.junk import frames_of


@dataclass
class Model:
    """The server's count of what it allows."""

    window: int = DEFAULT_WINDOW
    initial: int = DEFAULT_WINDOW
    frame_size: int = DEFAULT_FRAME_SIZE
    streams: dict[int, int] = field(default_factory=dict)
    received: dict[int, bytearray] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def take(self, outbox: SendState) -> list[int]:
        """Count what is sent now, and return the streams of its frames."""
        turns = []
        for piece in frames_of(outbox.take()):
            kind, flags, number, payload = piece[3], piece[4], int.from_bytes(piece[5:9], 'big'), piece[9:]
            assert number not in self.ended, 'a frame after the end of its stream'
            if kind == Kind.HEADERS:
                self.streams[number] = self.initial
                self.received[number] = bytearray()
                continue
            assert kind == Kind.DATA
            assert len(payload) <= self.frame_size
            assert self.streams[number] >= 0, 'a frame on a stream whose window is negative'
            self.streams[number] -= len(payload)
            self.window -= len(payload)
            assert self.streams[number] >= 0 and self.window >= 0
            self.received[number] += payload
            if flags & END_STREAM:
                self.ended.add(number)
            turns.append(number)
        return turns


@pytest.mark.parametrize('seed', range(100))
def test_windows_are_never_overrun_and_all_arrives(seed: int) -> None:
    """Windows of any size, up and down and below nothing; frames of any size."""
    random = Random(seed)
    outbox, model = SendState(), Model()
    given: dict[int, bytearray] = {}
    for _ in range(300):
        deed = random.random()
        number = random.choice(list(given) or [0])
        if deed < 0.1:
            number = 2 * len(given) + 1
            given[number] = bytearray()
            outbox.open(number, b'block')
        elif deed < 0.4 and number and not outbox.streams[number].has_ended:
            data = random.randbytes(random.choice([0, 1, 100, 30_000, 100_000]))
            given[number] += data
            outbox.send(number, outbox.streams[number], data, random.random() < 0.2)
        elif deed < 0.5:
            model.take(outbox)  # what was sent before the settings are acknowledged goes by the old ones
            window, model.frame_size = random.choice([0, 1, 5_000, 100_000]), random.choice([16_384, 50_000])
            model.streams = {one: left + window - model.initial for one, left in model.streams.items()}
            model.initial = window
            outbox.set_stream_window(window)
            outbox.frame_size = model.frame_size
            outbox.send_waiting()
        elif deed < 0.8:
            more = random.choice([1, 1_000, 50_000])
            if random.random() < 0.5 or number not in model.streams:
                number = 0
                model.window += more
            else:
                model.streams[number] += more
            outbox.widen(number, more)
        else:
            model.take(outbox)
    model.take(outbox)
    for number, whole in given.items():
        assert whole.startswith(model.received[number])
        assert outbox.streams[number].unsent == len(whole) - len(model.received[number])
        if not outbox.streams[number].has_ended:
            outbox.send(number, outbox.streams[number], b'', True)
        outbox.widen(number, 2**30)
        model.streams[number] += 2**30
    outbox.widen(0, 2**30)
    model.window += 2**30
    model.take(outbox)
    assert model.received == given
    assert model.ended == set(given)


def opened(*numbers: int) -> tuple[SendState, Model]:
    outbox, model = SendState(), Model()
    for number in numbers:
        outbox.open(number, b'block')
    model.take(outbox)
    return outbox, model


def test_streams_take_turns_frame_by_frame() -> None:
    """A large one does not hold up a small one."""
    outbox, model = opened(1, 3, 5)
    outbox.send(1, outbox.streams[1], bytes(DEFAULT_WINDOW), True)
    outbox.send(3, outbox.streams[3], bytes(40_000), True)
    outbox.send(5, outbox.streams[5], bytes(100), True)
    assert model.take(outbox) == [1, 1, 1, 1]
    model.window += 100_000
    outbox.widen(0, 100_000)
    assert model.take(outbox) == [3, 5, 3, 3]


def test_stream_without_a_window_does_not_hold_up_the_others() -> None:
    """Nor does it lose its place when its window opens."""
    outbox, model = opened(1, 3)
    outbox.send(1, outbox.streams[1], bytes(DEFAULT_WINDOW + 10), True)
    outbox.send(3, outbox.streams[3], bytes(10), True)
    model.take(outbox)
    outbox.widen(0, 1_000)
    model.window += 1_000
    assert model.take(outbox) == [3]
    outbox.widen(1, 10)
    model.streams[1] += 10
    assert model.take(outbox) == [1]
    assert model.ended == {1, 3}


def test_end_needs_no_window() -> None:
    """Where the data filled both to the last byte."""
    outbox, model = opened(1)
    outbox.send(1, outbox.streams[1], bytes(DEFAULT_WINDOW), False)
    model.take(outbox)
    outbox.send(1, outbox.streams[1], b'', True)
    assert model.take(outbox) == [1]
    assert model.ended == {1}


def test_end_goes_with_the_last_data_that_wait() -> None:
    """No frame of its own, which might have to wait longer."""
    outbox, model = opened(1)
    outbox.send(1, outbox.streams[1], bytes(DEFAULT_WINDOW + 10), False)
    outbox.send(1, outbox.streams[1], b'', True)
    model.take(outbox)
    assert (outbox.streams[1].unsent, outbox.streams[1].is_sent) == (10, False)
    for number in (1, 0):
        outbox.widen(number, 10)
    model.window, model.streams[1] = 10, 10
    assert model.take(outbox) == [1]
    assert model.ended == {1} and outbox.streams[1].is_sent


def test_nothing_is_sent_on_a_stream_whose_window_is_negative() -> None:
    """Not even its end, until the window is open again; and no window is gained by that."""
    outbox, model = opened(1)
    outbox.send(1, outbox.streams[1], bytes(1_000), False)
    model.take(outbox)
    outbox.set_stream_window(500)
    model.streams[1] += 500 - DEFAULT_WINDOW
    outbox.send(1, outbox.streams[1], b'', True)
    outbox.widen(1, 500)
    model.streams[1] += 500
    assert model.take(outbox) == []
    outbox.widen(1, 1)
    model.streams[1] += 1
    assert model.take(outbox) == [1]
    assert outbox.streams[1].window == model.streams[1] == 1


def test_settings_count_together_before_anything_is_sent() -> None:
    """A smaller frame size may come with the larger window."""
    outbox, _ = opened(1)
    outbox.frame_size = 50_000
    outbox.set_stream_window(0)
    outbox.send(1, outbox.streams[1], bytes(40_000), True)
    outbox.set_stream_window(40_000)
    assert outbox.take() == b''
    outbox.frame_size = DEFAULT_FRAME_SIZE
    outbox.send_waiting()
    assert [len(piece) - 9 for piece in frames_of(outbox.take())] == [16_384, 16_384, 7_232]


def test_what_waits_of_a_forgotten_stream_is_dropped() -> None:
    """And takes nothing of the window of the connection."""
    outbox, model = opened(1, 3)
    for number in (1, 3):
        outbox.send(number, outbox.streams[number], bytes(DEFAULT_WINDOW), True)
    model.take(outbox)
    outbox.forget(3)
    outbox.forget(3)
    outbox.widen(0, 100)
    assert outbox.take() == b''
    outbox.open(5, b'block')
    outbox.send(5, outbox.streams[5], bytes(100), True)
    assert len(outbox.take()) == 9 + 5 + 9 + 100


def test_header_block_is_cut_at_the_frame_size() -> None:
    """Nothing comes between its pieces, and the last one says so."""
    outbox = SendState()
    block = bytes(range(256)) * 160
    outbox.open(1, block)
    pieces = list(frames_of(outbox.take()))
    assert [(piece[3], piece[4]) for piece in pieces] == [
        (Kind.HEADERS, 0),
        (Kind.CONTINUATION, 0),
        (Kind.CONTINUATION, END_HEADERS),
    ]
    assert b''.join(piece[9:] for piece in pieces) == block


def test_window_may_be_as_large_as_can_be_and_no_larger() -> None:
    """Of a stream that is gone nothing is counted."""
    outbox, _ = opened(1)
    outbox.widen(0, MAX_WINDOW - DEFAULT_WINDOW)
    outbox.widen(1, MAX_WINDOW - DEFAULT_WINDOW)
    outbox.widen(3, MAX_WINDOW)
    with pytest.raises(Violation, match='a window past'):
        outbox.widen(0, 1)
    with pytest.raises(Violation, match="a stream's window past"):
        outbox.set_stream_window(DEFAULT_WINDOW + 1)


def test_thousands_of_streams_wait_without_being_looked_at() -> None:
    """Each deed costs as much as it sends: 10,000 that wait for the connection's window are looked at once each."""
    outbox, model = opened(*range(1, 20_001, 2))
    outbox.send(1, outbox.streams[1], bytes(DEFAULT_WINDOW), True)
    looks = 0

    class Counted(type(outbox._ready)):  # type: ignore[misc]
        def popitem(self, last: bool = True) -> tuple[int, object]:
            nonlocal looks
            looks += 1
            return super().popitem(last)  # type: ignore[no-any-return]

    outbox._ready = Counted()
    for number in range(3, 20_001, 2):
        outbox.send(number, outbox.streams[number], b'0123456789', True)
    assert looks == 0
    model.take(outbox)
    outbox.widen(0, 100_000)
    model.window += 100_000
    assert model.take(outbox) == list(range(3, 20_001, 2))
    assert looks == 9_999
