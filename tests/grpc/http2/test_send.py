"""The sending side: data within the windows and the frame size, each stream in turn, and nothing is lost."""

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
    FrameType,
    Violation,
)
from getc.grpc.http2.send import SendState
from tests.grpc.http2.junk import frames_of


def take(sending: SendState) -> bytes:
    """Return the bytes to send, and remove them."""
    data = b''.join(sending.frames)
    sending.frames.clear()
    return data


@dataclass
class Model:
    """The windows as the server counts them."""

    window: int = DEFAULT_WINDOW
    initial: int = DEFAULT_WINDOW
    frame_size: int = DEFAULT_FRAME_SIZE
    streams: dict[int, int] = field(default_factory=dict)
    received: dict[int, bytearray] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def take(self, sending: SendState) -> list[int]:
        """Check and count the frames to send, and return the streams of the DATA frames."""
        turns = []
        for piece in frames_of(take(sending)):
            kind, flags, number, payload = piece[3], piece[4], int.from_bytes(piece[5:9], 'big'), piece[9:]
            assert number not in self.ended, 'a frame after the end of its stream'
            if kind == FrameType.HEADERS:
                self.streams[number] = self.initial
                self.received[number] = bytearray()
                continue
            assert kind == FrameType.DATA
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
def test_data_stay_within_the_windows_and_arrive_complete(seed: int) -> None:
    """With windows that grow, shrink and become negative, and frames of any size."""
    random = Random(seed)
    sending, model = SendState(), Model()
    given: dict[int, bytearray] = {}
    for _ in range(300):
        action = random.random()
        number = random.choice(list(given) or [0])
        if action < 0.1:
            number = 2 * len(given) + 1
            given[number] = bytearray()
            sending.open(number, b'block')
        elif action < 0.4 and number and not sending.streams[number].has_ended:
            data = random.randbytes(random.choice([0, 1, 100, 30_000, 100_000]))
            given[number] += data
            sending.send(number, sending.streams[number], data, random.random() < 0.2)
        elif action < 0.5:
            model.take(sending)  # what was sent before the settings are acknowledged is counted by the old ones
            window, model.frame_size = random.choice([0, 1, 5_000, 100_000]), random.choice([16_384, 50_000])
            model.streams = {one: left + window - model.initial for one, left in model.streams.items()}
            model.initial = window
            sending.set_stream_window(window)
            sending.frame_size = model.frame_size
            sending.send_waiting()
        elif action < 0.8:
            more = random.choice([1, 1_000, 50_000])
            if random.random() < 0.5 or number not in model.streams:
                number = 0
                model.window += more
            else:
                model.streams[number] += more
            sending.grow_window(number, more)
        else:
            model.take(sending)
    model.take(sending)
    for number, whole in given.items():
        assert whole.startswith(model.received[number])
        assert sending.streams[number].unsent == len(whole) - len(model.received[number])
        if not sending.streams[number].has_ended:
            sending.send(number, sending.streams[number], b'', True)
        sending.grow_window(number, 2**30)
        model.streams[number] += 2**30
    sending.grow_window(0, 2**30)
    model.window += 2**30
    model.take(sending)
    assert model.received == given
    assert model.ended == set(given)


def opened(*numbers: int) -> tuple[SendState, Model]:
    sending, model = SendState(), Model()
    for number in numbers:
        sending.open(number, b'block')
    model.take(sending)
    return sending, model


def test_streams_take_turns_frame_by_frame() -> None:
    sending, model = opened(1, 3, 5)
    sending.send(1, sending.streams[1], bytes(DEFAULT_WINDOW), True)
    sending.send(3, sending.streams[3], bytes(40_000), True)
    sending.send(5, sending.streams[5], bytes(100), True)
    assert model.take(sending) == [1, 1, 1, 1]
    model.window += 100_000
    sending.grow_window(0, 100_000)
    assert model.take(sending) == [3, 5, 3, 3]


def test_stream_without_a_window_does_not_block_the_others() -> None:
    sending, model = opened(1, 3)
    sending.send(1, sending.streams[1], bytes(DEFAULT_WINDOW + 10), True)
    sending.send(3, sending.streams[3], bytes(10), True)
    model.take(sending)
    sending.grow_window(0, 1_000)
    model.window += 1_000
    assert model.take(sending) == [3]
    sending.grow_window(1, 10)
    model.streams[1] += 10
    assert model.take(sending) == [1]
    assert model.ended == {1, 3}


def test_end_of_stream_is_sent_when_both_windows_are_exhausted() -> None:
    sending, model = opened(1)
    sending.send(1, sending.streams[1], bytes(DEFAULT_WINDOW), False)
    model.take(sending)
    sending.send(1, sending.streams[1], b'', True)
    assert model.take(sending) == [1]
    assert model.ended == {1}


def test_end_of_stream_is_sent_with_the_last_waiting_data() -> None:
    sending, model = opened(1)
    sending.send(1, sending.streams[1], bytes(DEFAULT_WINDOW + 10), False)
    sending.send(1, sending.streams[1], b'', True)
    model.take(sending)
    assert (sending.streams[1].unsent, sending.streams[1].is_sent) == (10, False)
    for number in (1, 0):
        sending.grow_window(number, 10)
    model.window, model.streams[1] = 10, 10
    assert model.take(sending) == [1]
    assert model.ended == {1} and sending.streams[1].is_sent


def test_nothing_is_sent_on_a_stream_whose_window_is_negative() -> None:
    """Not even an empty frame with END_STREAM, until the window is positive."""
    sending, model = opened(1)
    sending.send(1, sending.streams[1], bytes(1_000), False)
    model.take(sending)
    sending.set_stream_window(500)
    model.streams[1] += 500 - DEFAULT_WINDOW
    sending.send(1, sending.streams[1], b'', True)
    sending.grow_window(1, 500)
    model.streams[1] += 500
    assert model.take(sending) == []
    sending.grow_window(1, 1)
    model.streams[1] += 1
    assert model.take(sending) == [1]
    assert sending.streams[1].window == model.streams[1] == 1


def test_data_are_sent_after_all_settings_of_a_frame_were_applied() -> None:
    """A smaller frame size may come with a larger window."""
    sending, _ = opened(1)
    sending.frame_size = 50_000
    sending.set_stream_window(0)
    sending.send(1, sending.streams[1], bytes(40_000), True)
    sending.set_stream_window(40_000)
    assert take(sending) == b''
    sending.frame_size = DEFAULT_FRAME_SIZE
    sending.send_waiting()
    assert [len(piece) - 9 for piece in frames_of(take(sending))] == [16_384, 16_384, 7_232]


def test_drop_removes_the_waiting_data_of_a_stream() -> None:
    """The data do not count against the window of the connection."""
    sending, model = opened(1, 3)
    for number in (1, 3):
        sending.send(number, sending.streams[number], bytes(DEFAULT_WINDOW), True)
    model.take(sending)
    sending.drop(3)
    sending.drop(3)
    sending.grow_window(0, 100)
    assert take(sending) == b''
    sending.open(5, b'block')
    sending.send(5, sending.streams[5], bytes(100), True)
    assert len(take(sending)) == 9 + 5 + 9 + 100


def test_header_block_is_split_at_the_frame_size() -> None:
    """Into one HEADERS and CONTINUATION frames, the last one with END_HEADERS."""
    sending = SendState()
    block = bytes(range(256)) * 160
    sending.open(1, block)
    pieces = list(frames_of(take(sending)))
    assert [(piece[3], piece[4]) for piece in pieces] == [
        (FrameType.HEADERS, 0),
        (FrameType.CONTINUATION, 0),
        (FrameType.CONTINUATION, END_HEADERS),
    ]
    assert b''.join(piece[9:] for piece in pieces) == block


def test_window_is_limited_to_the_maximum() -> None:
    """Increments for closed streams are ignored."""
    sending, _ = opened(1)
    sending.grow_window(0, MAX_WINDOW - DEFAULT_WINDOW)
    sending.grow_window(1, MAX_WINDOW - DEFAULT_WINDOW)
    sending.grow_window(3, MAX_WINDOW)
    with pytest.raises(Violation, match='connection window larger'):
        sending.grow_window(0, 1)
    with pytest.raises(Violation, match='stream window larger'):
        sending.set_stream_window(DEFAULT_WINDOW + 1)


def test_waiting_streams_are_visited_only_when_the_window_grows() -> None:
    """Sending on one stream does not iterate over 10,000 others that wait for the window of the connection."""
    sending, model = opened(*range(1, 20_001, 2))
    sending.send(1, sending.streams[1], bytes(DEFAULT_WINDOW), True)
    visits = 0

    class Counted(type(sending._ready)):  # type: ignore[misc]
        def popitem(self, last: bool = True) -> tuple[int, object]:
            nonlocal visits
            visits += 1
            return super().popitem(last)  # type: ignore[no-any-return]

    sending._ready = Counted()
    for number in range(3, 20_001, 2):
        sending.send(number, sending.streams[number], b'0123456789', True)
    assert visits == 0
    model.take(sending)
    sending.grow_window(0, 100_000)
    model.window += 100_000
    assert model.take(sending) == list(range(3, 20_001, 2))
    assert visits == 9_999
