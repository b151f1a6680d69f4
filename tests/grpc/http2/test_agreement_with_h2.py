"""Junk: the same bytes to our client and to h2's; both take them or both refuse them, and both see the same in them.

Where they differ is written down in ``DIFFERENCES``, each with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import pytest
from h2 import events as h2_events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError as Refusal

from getc.errors import ProtocolError
from getc.grpc.http2.events import DataReceived, Event, HeadersReceived, StreamReset
from getc.grpc.http2.frames import END_HEADERS, MAX_STREAM_ID, PREFACE, ErrorCode, Kind
from getc.grpc.http2.protocol import Http2Connection
from tests.grpc.http2.junk import ASKED, ASKING, CANCELLED, frames_of, opened, random_frame, spoiled, valid
from tests.grpc.http2.peer import REQUEST

ALTSVC = 10


class Verdict(NamedTuple):
    """What both said of a frame; None where it was taken."""

    frame: bytes
    is_gone: bool
    ours: str | None = None
    theirs: str | None = None

    @property
    def kind(self) -> int:
        return self.frame[3] if len(self.frame) > 3 else -1

    @property
    def is_whole(self) -> bool:
        return len(self.frame) == 9 + int.from_bytes(self.frame[:3], 'big')

    @property
    def is_block(self) -> bool:
        """True if it begins a header block that goes on."""
        return self.kind in (Kind.HEADERS, Kind.PUSH_PROMISE) and not self.frame[4] & END_HEADERS

    def we_refuse(self, *rules: str) -> bool:
        return self.theirs is None and any(rule in (self.ours or '') for rule in rules)

    def h2_refuses(self, *rules: str) -> bool:
        return self.ours is None and any(rule in (self.theirs or '') for rule in rules)


DIFFERENCES: dict[str, Callable[[Verdict], bool]] = {
    'we see in the head that a frame is too long; h2 waits for the whole': lambda v: (
        not v.is_whole and v.we_refuse('a frame of more than')
    ),
    'h2 sees in the head that a frame has a wrong stream; we wait for the whole': lambda v: (
        not v.is_whole and v.h2_refuses('Received frame with invalid header')
    ),
    'we look at once at what begins a header block; h2 when it is whole': lambda v: (
        v.is_block and v.we_refuse('never opened', 'PUSH_PROMISE', 'shorter than its priority')
    ),
    'a frame after the end of its stream is for us a fault of the connection, for h2 of the stream': lambda v: (
        v.kind in (Kind.DATA, Kind.HEADERS, Kind.CONTINUATION) and v.we_refuse('on a stream that has ended (5.1)')
    ),
    "a stream's window that overflows is for us a fault of the connection, for h2 of the stream": lambda v: v.we_refuse(
        "a stream's window past"
    ),
    'we refuse RST_STREAM on a stream that was never opened, as 6.4 wants; h2 ignores it': lambda v: v.we_refuse(
        'RST_STREAM on stream'
    ),
    'of a stream that was reset h2 looks at nothing but HPACK; we hold it to the rules': lambda v: (
        v.is_gone and v.we_refuse('(8.1)', '(8.2.1)', '(8.2.2)', '(8.3)', '(8.3.2)')
    ),
    'an interim answer may come late on a stream that we have reset; h2 has not thought of it': lambda v: (
        v.is_gone and v.h2_refuses('RECV_INFORMATIONAL_HEADERS in state')
    ),
    'we know nothing of ALTSVC, and ignore it': lambda v: (
        v.kind == ALTSVC and v.h2_refuses('Frame data missing or invalid')
    ),
    'we know nothing of ENABLE_CONNECT_PROTOCOL, and ignore it': lambda v: v.h2_refuses('Setting 8 has invalid value'),
    'h2 takes any text for a status; we take three digits from 100 on': lambda v: (
        not v.is_gone and v.we_refuse('is not one :status in front')
    ),
    'we ignore the reserved bit of WINDOW_UPDATE, as 6.9 wants; h2 refuses it': lambda v: (
        v.h2_refuses('non-compliant data') and v.kind == Kind.WINDOW_UPDATE and v.frame[9] >= 0x80
    ),
    'padding may fill HEADERS to the last byte; h2 refuses the last one': lambda v: (
        v.h2_refuses('invalid padding') and v.kind == Kind.HEADERS and v.frame[9] == len(v.frame) - 10
    ),
    'TE is of requests; in an answer we let it pass': lambda v: v.h2_refuses('Invalid value for TE header'),
    'we take values with spaces around: messages of servers have them': lambda v: v.h2_refuses(
        'surrounded by whitespace'
    ),
}
"""Reasons, and the verdicts that they excuse."""


def their_client() -> H2Connection:
    """An h2 client that has done the same as ours."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    for number in (*ASKED, ASKING):
        client.send_headers(number, REQUEST)
        client.send_data(number, b'request', end_stream=number != ASKING)
    client.send_headers(CANCELLED, REQUEST, end_stream=True)
    client.reset_stream(CANCELLED, ErrorCode.CANCEL)
    return client


def seen_by_h2(events: list[h2_events.Event]) -> list[HeadersReceived | DataReceived | StreamReset]:
    """What h2 tells, in our words, as far as it is about streams."""
    told: list[HeadersReceived | DataReceived | StreamReset] = []
    for event in events:
        ends = getattr(event, 'stream_ended', None) is not None
        if isinstance(event, h2_events.ResponseReceived):
            status, *fields = ((bytes(name), bytes(value)) for name, value in event.headers)
            told.append(HeadersReceived(event.stream_id, int(status[1]), tuple(fields), ends))
        elif isinstance(event, h2_events.TrailersReceived):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            told.append(HeadersReceived(event.stream_id, None, tuple(fields), ends))
        elif isinstance(event, h2_events.DataReceived):
            told.append(DataReceived(event.stream_id, event.data, event.flow_controlled_length, ends))
        elif isinstance(event, h2_events.StreamReset) and event.remote_reset:
            told.append(StreamReset(event.stream_id, int(event.error_code)))
    return told


def judge(random: Random) -> Verdict | None:
    """Give both the same spoiled bytes, and return the first verdict that is a refusal; None if there is none."""
    frames = valid(random)
    ours, theirs = opened(Http2Connection()), their_client()
    gone = {CANCELLED}
    for piece in frames[:2]:
        ours.receive(piece)
        theirs.receive_data(piece)
    for piece in spoiled(frames[2:], random):
        events: list[Event] = []
        others: list[h2_events.Event] = []
        verdict = Verdict(piece, int.from_bytes(piece[5:9], 'big') & MAX_STREAM_ID in gone)
        try:
            events = ours.receive(piece)
        except ProtocolError as error:
            verdict = verdict._replace(ours=str(error))
        try:
            others = theirs.receive_data(piece)
        except Refusal as error:
            verdict = verdict._replace(theirs=f'{type(error).__name__}: {error}')
        if verdict.ours is not None or verdict.theirs is not None:
            if verdict.ours is not None:
                check_farewell(ours)
            return verdict
        about_streams = [e for e in events if isinstance(e, HeadersReceived | DataReceived | StreamReset)]
        if verdict.kind == Kind.GOAWAY:
            break  # h2 takes nothing more after it
        # A window that overflows when all was sent is nothing to us; h2 ends the stream.
        gone.update(e.stream_id for e in others if isinstance(e, h2_events.StreamReset) and not e.remote_reset)
        assert [e for e in about_streams if e.stream_id not in gone] == [
            e for e in seen_by_h2(others) if e.stream_id not in gone
        ]
        gone.update(e.stream_id for e in about_streams if isinstance(e, StreamReset) or e.ends)
    return None


def check_farewell(client: Http2Connection) -> None:
    """The last that is sent is why it ends, and from then on nothing is taken."""
    *_, last = frames_of(client.take().removeprefix(PREFACE))
    kind, code = last[3], int.from_bytes(last[13:17], 'big')
    assert kind == Kind.GOAWAY
    assert code in set(ErrorCode) - {ErrorCode.NO_ERROR}
    with pytest.raises(ProtocolError):
        client.receive(b'')
    assert not client.has_outgoing


@pytest.mark.parametrize('batch', range(25))
def test_junk_is_refused_when_and_only_when_h2_refuses_it(batch: int) -> None:
    """Nothing but a ProtocolError comes out, GOAWAY is the last that is sent, and what was taken tells the same."""
    for seed in range(batch * 20, batch * 20 + 20):
        verdict = judge(Random(seed))
        if verdict is not None and (verdict.ours is None or verdict.theirs is None):
            reasons = [reason for reason, excuses in DIFFERENCES.items() if excuses(verdict)]
            assert len(reasons) == 1, (seed, verdict)


@pytest.mark.parametrize('seed', range(20))
def test_valid_traffic_is_taken_by_both(seed: int) -> None:
    """The junk is made of it."""
    ours, theirs = opened(Http2Connection()), their_client()
    for piece in valid(Random(seed)):
        told = [e for e in ours.receive(piece) if isinstance(e, HeadersReceived | DataReceived | StreamReset)]
        assert told == seen_by_h2(theirs.receive_data(piece))
    assert not ours.open_streams


@pytest.mark.parametrize('seed', range(200))
def test_anything_at_all_is_taken_or_refused(seed: int) -> None:
    """Bytes that were never HTTP/2, after valid ones: no other error comes out."""
    random = Random(seed)
    client = opened(Http2Connection())
    client.receive(b''.join(valid(random)))
    junk = b''.join(random_frame(random) for _ in range(50)) if seed % 2 else random.randbytes(100_000)
    with pytest.raises(ProtocolError, match=r'^HTTP/2: '):
        client.receive(junk + b'HTTP/1.1 400 Bad Request\r\n\r\n')
    check_farewell(client)
