"""Random traffic with h2 as the server: nothing is lost, windows are kept, and the chunks of bytes do not matter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from getc.grpc.http2.events import (
    DataReceived,
    Event,
    GoAwayReceived,
    HeadersReceived,
    ResponseReceived,
    SettingsReceived,
    StreamReset,
    StreamUnprocessed,
)
from getc.grpc.http2.frames import ErrorCode, FrameType, encode_frame
from getc.grpc.http2.headers import Fields, encode_fields
from getc.grpc.http2.protocol import Http2Connection
from tests.grpc.http2.peer import ANSWER, REQUEST, TRAILERS, Peer

SIZES = [0, 1, 5, 100, 1000, 16_383, 16_384, 16_385, 40_000, 150_000]
WINDOWS = [0, 1, 100, 5_000, 65_535, 300_000]


@dataclass
class Call:
    """One call on the client side: what was sent and received."""

    fields: Fields
    sent: bytearray = field(default_factory=bytearray)
    has_ended: bool = False
    was_reset: bool = False
    blocks: list[HeadersReceived] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    unconsumed: int = 0
    response_ended: bool = False
    reset_code: int | None = None

    @property
    def is_over(self) -> bool:
        return self.was_reset or self.response_ended or self.reset_code is not None


@dataclass
class Response:
    """One response of the server: the steps to go, and what was sent so far."""

    steps: deque[tuple[str, Any]]
    blocks: list[tuple[Fields, bool]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    has_ended: bool = False
    was_reset: bool = False


class Traffic:
    """A client, a server, and the bytes between them, which are moved in random chunks."""

    def __init__(self, random: Random) -> None:
        self.random = random
        windows = {
            'stream_window': random.choice([65_535, 70_000, 1024 * 1024]),
            'connection_window': random.choice([65_536, 100_000, 16 * 1024 * 1024]),
        }
        self.client = Http2Connection(**windows)
        self.peer = Peer()
        self.calls: dict[int, Call] = {}
        self.responses: dict[int, Response] = {}
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.pings: list[bytes] = []
        self.events: list[Event] = []
        self.sent = bytearray()
        self.last_allowed: int | None = None
        self.log: list[bytes | Callable[[Http2Connection], Any]] = []
        """The actions on the client and the bytes that it received, to be repeated on another client."""
        self.windows = windows
        self.is_uniform = random.random() < 0.5
        """Requests are short and their fields always the same, so that the client caches the blocks."""
        self.whole_responses = 0

    # -- actions of the client

    def do(self, action: Callable[[Http2Connection], Any]) -> Any:
        """Perform an action on the client and record it."""
        self.log.append(action)
        return action(self.client)

    def open(self) -> None:
        if not self.client.can_open:
            return
        fields = REQUEST + self.more_fields()
        block = encode_fields(fields)
        body = self.random.randbytes(5 if self.is_uniform else self.size())
        end = self.is_uniform or self.random.random() < 0.7
        stream_id = self.do(lambda client: client.open(block, body, end=end))
        self.calls[stream_id] = Call(fields, bytearray(body), end)

    def send(self) -> None:
        stream_id, call = self.any_call(lambda call: not call.has_ended and not call.is_over)
        if call is not None:
            body = self.random.randbytes(self.size())
            call.has_ended = self.random.random() < 0.4
            call.sent += body
            end = call.has_ended
            self.do(lambda client: client.send(stream_id, body, end=end))

    def reset(self) -> None:
        stream_id, call = self.any_call(lambda call: not call.is_over)
        if call is not None and self.random.random() < 0.3:
            call.was_reset = True
            self.do(lambda client: client.reset(stream_id))

    def acknowledge(self) -> None:
        stream_id, call = self.any_call(lambda call: call.unconsumed > 0)
        if call is not None:
            size = self.random.choice([1, call.unconsumed, self.random.randint(1, call.unconsumed)])
            call.unconsumed -= size
            self.do(lambda client: client.acknowledge(stream_id, size))

    def ping(self) -> None:
        payload = self.random.randbytes(8)
        self.pings.append(payload)
        self.do(lambda client: client.ping(payload))

    # -- actions of the server

    def step(self) -> None:
        """Perform one step of one response."""
        ready = [number for number, response in self.responses.items() if response.steps and self.may_send_on(number)]
        if not ready:
            return
        stream_id = self.random.choice(ready)
        response = self.responses[stream_id]
        what, content = response.steps.popleft()
        h2 = self.peer.h2
        if what == 'whole':
            self.respond_at_once(stream_id, response, content)
        elif what == 'data':
            body, ends = content
            room = min(h2.local_flow_control_window(stream_id), h2.max_outbound_frame_size)
            padding = self.random.choice([None, None, 0, 7, 255])
            padding = padding if padding is not None and room > padding + 1 else None
            size = min(len(body), room - (padding + 1 if padding is not None else 0))
            if size < len(body):
                response.steps.appendleft((what, (body[size:], ends)))
            if size or not body:
                h2.send_data(stream_id, body[:size], end_stream=ends and size == len(body), pad_length=padding)
                response.body += body[:size]
                response.has_ended = ends and size == len(body)
        elif what == 'interim':
            h2.send_headers(stream_id, [(b':status', b'103'), (b'link', b'</a>')])
        elif what == 'headers':
            fields, ends = content
            h2.send_headers(stream_id, fields, end_stream=ends)
            response.blocks.append(content)
            response.has_ended = ends
        else:
            h2.reset_stream(stream_id, content)
            response.steps.clear()
            response.was_reset = True

    def respond_at_once(self, stream_id: int, response: Response, body: bytes) -> None:
        """Respond in the usual form; step by step if the window is too small."""
        h2 = self.peer.h2
        response.steps.extend([('headers', (ANSWER, False)), ('data', (body, False)), ('headers', (TRAILERS, True))])
        if h2.local_flow_control_window(stream_id) < len(body):
            return
        response.steps.clear()
        h2.send_headers(stream_id, ANSWER)
        h2.send_data(stream_id, body)
        h2.send_headers(stream_id, TRAILERS, end_stream=True)
        response.blocks += [(ANSWER, False), (TRAILERS, True)]
        response.body += body
        response.has_ended = True

    def update_settings(self) -> None:
        if not self.peer.is_acknowledged:
            return
        self.peer.update_settings(
            initial_window_size=self.random.choice(WINDOWS),
            max_frame_size=self.random.choice([16_384, 16_385, 50_000]),
            max_concurrent_streams=self.random.choice([0, 1, 20, 2**32 - 1]),
            header_table_size=self.random.choice([0, 4096, 65_536]),
        )

    def change_table(self) -> None:
        size = 4096 if self.is_uniform else self.random.choice([0, 60, 500, 4096])
        if size != self.peer.h2.encoder.header_table_size:  # setting the same size twice loses the announcement
            self.peer.h2.encoder.header_table_size = size

    def grow_window(self) -> None:
        stream_id = self.random.choice(list(self.peer.owed))
        if not stream_id or self.may_send_on(stream_id):
            self.peer.grow_window(stream_id, self.random.choice([1, 10, 20_000, 2**30]))

    def ping_back(self) -> None:
        self.peer.h2.ping(self.random.randbytes(8))

    def go_away(self) -> None:
        """Send GOAWAY without h2, which would accept no more calls after it."""
        self.last_allowed = max(self.peer.requests, default=0)
        self.to_client += self.peer.take()
        self.to_client += encode_frame(FrameType.GOAWAY, 0, 0, self.last_allowed.to_bytes(4, 'big') + bytes(4) + b'bye')

    # -- between them

    def move_to_server(self, whole: bool = False) -> None:
        taken = self.do(lambda client: client.take())
        self.sent += taken
        self.to_server += taken
        for stream_id in self.peer.receive(self.cut(self.to_server, whole)):
            if self.last_allowed is None or stream_id <= self.last_allowed:
                self.responses[stream_id] = Response(deque(self.plan()))

    def move_to_client(self, whole: bool = False) -> None:
        self.to_client += self.peer.take()
        piece = self.cut(self.to_client, whole)
        self.log.append(piece)
        events = self.client.receive(piece)
        self.whole_responses += sum(isinstance(event, ResponseReceived) for event in events)
        for event in in_parts(events):
            self.record(event)

    def cut(self, waiting: bytearray, whole: bool) -> bytes:
        size = len(waiting) if whole else self.random.choice([1, 9, 50, 5_000, 70_000])
        piece = bytes(waiting[:size])
        del waiting[:size]
        return piece

    def record(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, SettingsReceived | GoAwayReceived):
            return
        else:
            call = self.calls[event.stream_id]
            assert not call.is_over, 'an event of a call that has ended'
            if isinstance(event, HeadersReceived):
                call.blocks.append(event)
                call.response_ended = event.ends
            elif isinstance(event, DataReceived):
                call.received += event.data
                call.unconsumed += event.size
                call.response_ended = event.ends
            elif isinstance(event, StreamReset):
                call.reset_code = event.code
            elif isinstance(event, StreamUnprocessed):
                call.reset_code = ErrorCode.REFUSED_STREAM

    # -- random choices

    def size(self) -> int:
        return self.random.choice(SIZES) if self.random.random() < 0.3 else self.random.randint(0, 2_000)

    def more_fields(self) -> Fields:
        if self.is_uniform:
            return ()
        many = 8 if self.random.random() < 0.1 else self.random.randint(0, 2)
        long = 5_000 if many == 8 else 40
        return tuple((b'x-%d' % n, b'v' * self.random.randint(0, long)) for n in range(many))

    def plan(self) -> Iterator[tuple[str, Any]]:
        for _ in range(self.random.choice([0, 0, 0, 1, 2])):
            yield 'interim', None
        if self.random.random() < 0.3:
            yield 'whole', self.random.randbytes(self.random.randint(0, 2_000))
            return
        if self.random.random() < 0.1:
            yield 'reset', self.random.choice(list(ErrorCode))
            return
        if self.random.random() < 0.1:
            yield 'headers', (ANSWER + self.more_fields() + TRAILERS, True)
            return
        yield 'headers', (ANSWER + self.more_fields(), False)
        pieces = self.random.randint(0, 3)
        has_trailers = pieces == 0 or self.random.random() < 0.8
        for number in range(pieces):
            yield 'data', (self.random.randbytes(self.size()), not has_trailers and number == pieces - 1)
        if self.random.random() < 0.1:
            yield 'reset', ErrorCode.NO_ERROR
        elif has_trailers:
            yield 'headers', (TRAILERS + self.more_fields(), True)

    def any_call(self, is_suitable: Callable[[Call], bool]) -> tuple[int, Call | None]:
        suitable = [(number, call) for number, call in self.calls.items() if is_suitable(call)]
        return self.random.choice(suitable) if suitable else (0, None)

    def may_send_on(self, stream_id: int) -> bool:
        """True if the server may still send frames on a stream."""
        request, response = self.peer.requests[stream_id], self.responses.get(stream_id)
        return request.reset_code is None and not (response and (response.was_reset or response.has_ended))

    # -- the run

    def run(self, rounds: int) -> None:
        actions = [
            *[self.open] * 3,
            *[self.send] * 4,
            self.reset,
            *[self.acknowledge] * 4,
            self.ping,
            *[self.step] * 10,
            self.update_settings,
            self.change_table,
            *[self.grow_window] * 6,
            self.ping_back,
            *[self.move_to_server] * 8,
            *[self.move_to_client] * 8,
        ]
        for _ in range(rounds):
            self.random.choice(actions)()

    def finish(self) -> None:
        """Grow all windows, end all requests, and move all bytes."""
        while not self.peer.is_acknowledged:
            self.move_to_client(whole=True)
            self.move_to_server(whole=True)
        self.peer.update_settings(initial_window_size=2**20, max_concurrent_streams=100)
        for number, call in self.calls.items():
            if not call.has_ended and not call.is_over:
                call.has_ended = True
                self.do(lambda client, number=number: client.send(number, b'', end=True))  # type: ignore[misc]
        for _ in range(10_000):
            while self.any_call(lambda call: call.unconsumed > 0)[1]:
                self.acknowledge()
            for stream_id in self.peer.owed:
                if not stream_id or self.may_send_on(stream_id):
                    self.peer.grow_window(stream_id, 2**30)
            self.step()
            self.move_to_server(whole=True)
            self.move_to_client(whole=True)
            if not len(self.client._receiving.streams) and not self.client.outgoing_frames and not any(self.waiting()):
                return
        pytest.fail(f'{len(self.client._receiving.streams)} streams are still open')

    def waiting(self) -> Iterator[object]:
        yield self.to_client
        yield self.to_server
        yield from (response.steps for number, response in self.responses.items() if self.may_send_on(number))


def split(data: bytes, random: Random | None) -> Iterator[bytes]:
    """Split bytes into chunks of random sizes, or into single bytes."""
    at = 0
    while at < len(data):
        size = 1 if random is None else random.choice([1, 3, 8, 9, 10, 100, 20_000])
        yield data[at : at + size]
        at += size


def in_parts(events: list[Event]) -> Iterator[Event]:
    """Replace whole responses by their parts: which are reported whole depends on the chunks."""
    for event in events:
        yield from event.parts if isinstance(event, ResponseReceived) else (event,)


def check(traffic: Traffic) -> None:
    """Check that each side has received what the other has sent, up to resets."""
    assert traffic.pings == traffic.peer.pings
    assert not traffic.client._control._pings  # all are acknowledged
    for number, call in traffic.calls.items():
        request = traffic.peer.requests[number]
        assert request.fields == call.fields
        if number not in traffic.responses:  # above the last stream of GOAWAY
            assert traffic.last_allowed is not None and number > traffic.last_allowed
            assert call.was_reset or call.reset_code == ErrorCode.REFUSED_STREAM
            continue
        response = traffic.responses[number]
        assert bytes(call.sent).startswith(bytes(request.body))
        assert bytes(response.body).startswith(bytes(call.received))
        sent = [
            HeadersReceived(number, 200 if fields[0][0] == b':status' else None, without_status(fields), ends)
            for fields, ends in response.blocks
        ]
        assert call.blocks == sent[: len(call.blocks)]
        if call.response_ended:
            assert (call.blocks, call.received) == (sent, response.body)
            assert request.has_ended or request.reset_code == ErrorCode.NO_ERROR
        if request.has_ended:
            assert (call.has_ended, call.sent) == (True, request.body)
        if call.reset_code is None and not call.was_reset:
            assert call.response_ended


def without_status(fields: Fields) -> Fields:
    return tuple(field for field in fields if field[0] != b':status')


def check_again(traffic: Traffic, random: Random | None) -> None:
    """Check that another client has the same events and sends the same bytes, with other chunks."""
    client = Http2Connection(**traffic.windows)
    taken = bytearray()
    events = []
    for action in traffic.log:
        if isinstance(action, bytes):
            events += [event for piece in split(action, random) for event in in_parts(client.receive(piece))]
        else:
            result = action(client)
            taken += result if isinstance(result, bytes) else b''
    assert events == traffic.events
    assert taken == traffic.sent


@pytest.mark.parametrize('seed', range(40))
def test_traffic_arrives_complete_and_in_order(seed: int) -> None:
    """With random bodies, fields, resets, pings, windows and settings; h2 checks the rules."""
    traffic = Traffic(Random(seed))
    traffic.run(rounds=1_000)
    if seed % 4 == 0:
        traffic.go_away()
        traffic.run(rounds=200)
    traffic.finish()
    check(traffic)
    check_again(traffic, Random(seed))


def test_some_responses_of_the_traffic_are_reported_as_a_whole() -> None:
    """Otherwise the traffic above would not test the shortcut."""
    whole_responses = 0
    for seed in range(6):
        traffic = Traffic(Random(seed))
        traffic.is_uniform = True
        traffic.run(rounds=1_000)
        traffic.finish()
        check(traffic)
        check_again(traffic, None)
        whole_responses += traffic.whole_responses
    assert whole_responses > 10


@pytest.mark.parametrize('seed', range(3))
def test_events_are_the_same_when_bytes_are_received_one_at_a_time(seed: int) -> None:
    traffic = Traffic(Random(1_000 + seed))
    traffic.run(rounds=600)
    traffic.finish()
    check(traffic)
    check_again(traffic, None)
