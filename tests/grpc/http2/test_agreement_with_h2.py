"""Comparison with the client of h2 on corrupted traffic: both accept or both refuse it, with the same events.

``DIFFERENCES`` lists the exceptions, each with the reason.
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
from getc.grpc.http2.frames import END_HEADERS, MAX_STREAM_ID, PREFACE, ErrorCode, FrameType
from getc.grpc.http2.protocol import Http2Connection
from tests.grpc.http2.junk import CANCELLED, COMPLETE, INCOMPLETE, frames_of, opened, random_frame, spoiled, valid
from tests.grpc.http2.peer import REQUEST

ALTSVC = 10


class Verdict(NamedTuple):
    """The errors of both clients for one frame; None if the client accepts the frame."""

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
        """True if the frame starts a header block that is continued."""
        return self.kind in (FrameType.HEADERS, FrameType.PUSH_PROMISE) and not self.frame[4] & END_HEADERS

    def we_refuse(self, *rules: str) -> bool:
        return self.theirs is None and any(rule in (self.ours or '') for rule in rules)

    def h2_refuses(self, *rules: str) -> bool:
        return self.ours is None and any(rule in (self.theirs or '') for rule in rules)


DIFFERENCES: dict[str, Callable[[Verdict], bool]] = {
    'we check the length in the header of a frame; h2 waits for the complete frame': lambda v: (
        not v.is_whole and v.we_refuse('frame larger than')
    ),
    'h2 checks the stream in the header of a frame; we wait for the complete frame': lambda v: (
        not v.is_whole and v.h2_refuses('Received frame with invalid header')
    ),
    'we check the first frame of a header block at once; h2 when the block is complete': lambda v: (
        v.is_block and v.we_refuse('never opened', 'PUSH_PROMISE', 'shorter than its priority')
    ),
    'a frame after the end of its stream is a connection error for us, a stream error for h2': lambda v: (
        v.kind in (FrameType.DATA, FrameType.HEADERS, FrameType.CONTINUATION)
        and v.we_refuse('on a closed stream (5.1)')
    ),
    'an overflow of the window of a stream is a connection error for us, a stream error for h2': lambda v: v.we_refuse(
        'stream window larger than'
    ),
    'we refuse RST_STREAM on a stream that was never opened (6.4); h2 ignores it': lambda v: v.we_refuse(
        'RST_STREAM on stream'
    ),
    'h2 checks only HPACK on a stream that was reset; we check all rules': lambda v: (
        v.is_gone and v.we_refuse('(8.1)', '(8.2.1)', '(8.2.2)', '(8.3)', '(8.3.2)')
    ),
    'we accept a late interim response on a stream that we have reset; h2 does not': lambda v: (
        v.is_gone and v.h2_refuses('RECV_INFORMATIONAL_HEADERS in state')
    ),
    'we do not know ALTSVC, and ignore it': lambda v: (
        v.kind == ALTSVC and v.h2_refuses('Frame data missing or invalid')
    ),
    'we do not know ENABLE_CONNECT_PROTOCOL, and ignore it': lambda v: v.h2_refuses('Setting 8 has invalid value'),
    'h2 accepts any text as a status; we require three digits from 100 on': lambda v: (
        not v.is_gone and v.we_refuse('not a single leading :status')
    ),
    'we ignore the reserved bit of WINDOW_UPDATE (6.9); h2 refuses it': lambda v: (
        v.h2_refuses('non-compliant data') and v.kind == FrameType.WINDOW_UPDATE and v.frame[9] >= 0x80
    ),
    'padding may fill HEADERS to the last byte; h2 refuses the last one': lambda v: (
        v.h2_refuses('invalid padding') and v.kind == FrameType.HEADERS and v.frame[9] == len(v.frame) - 10
    ),
    'we accept TE in a response': lambda v: v.h2_refuses('Invalid value for TE header'),
    'we accept values with leading and trailing spaces, which messages of servers have': lambda v: v.h2_refuses(
        'surrounded by whitespace'
    ),
}
"""Reasons, and the verdicts that they explain."""


def their_client() -> H2Connection:
    """Return an h2 client with the same requests as ours."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    for number in (*COMPLETE, INCOMPLETE):
        client.send_headers(number, REQUEST)
        client.send_data(number, b'request', end_stream=number != INCOMPLETE)
    client.send_headers(CANCELLED, REQUEST, end_stream=True)
    client.reset_stream(CANCELLED, ErrorCode.CANCEL)
    return client


def seen_by_h2(events: list[h2_events.Event]) -> list[HeadersReceived | DataReceived | StreamReset]:
    """Return the events of h2 about streams as our events."""
    found: list[HeadersReceived | DataReceived | StreamReset] = []
    for event in events:
        ends = getattr(event, 'stream_ended', None) is not None
        if isinstance(event, h2_events.ResponseReceived):
            status, *fields = ((bytes(name), bytes(value)) for name, value in event.headers)
            found.append(HeadersReceived(event.stream_id, int(status[1]), tuple(fields), ends))
        elif isinstance(event, h2_events.TrailersReceived):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            found.append(HeadersReceived(event.stream_id, None, tuple(fields), ends))
        elif isinstance(event, h2_events.DataReceived):
            found.append(DataReceived(event.stream_id, event.data, event.flow_controlled_length, ends))
        elif isinstance(event, h2_events.StreamReset) and event.remote_reset:
            found.append(StreamReset(event.stream_id, int(event.error_code)))
    return found


def judge(random: Random) -> Verdict | None:
    """Pass the same corrupted frames to both, and return the first verdict with an error; None without one."""
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
                check_goaway(ours)
            return verdict
        about_streams = [e for e in events if isinstance(e, HeadersReceived | DataReceived | StreamReset)]
        if verdict.kind == FrameType.GOAWAY:
            break  # h2 accepts no more frames after it
        # We ignore an overflow of the window of a request that was sent; h2 resets the stream.
        gone.update(e.stream_id for e in others if isinstance(e, h2_events.StreamReset) and not e.remote_reset)
        assert [e for e in about_streams if e.stream_id not in gone] == [
            e for e in seen_by_h2(others) if e.stream_id not in gone
        ]
        gone.update(e.stream_id for e in about_streams if isinstance(e, StreamReset) or e.ends)
    return None


def check_goaway(client: Http2Connection) -> None:
    """Check that GOAWAY with an error is the last frame, and that nothing is accepted any more."""
    *_, last = frames_of(client.take().removeprefix(PREFACE))
    kind, code = last[3], int.from_bytes(last[13:17], 'big')
    assert kind == FrameType.GOAWAY
    assert code in set(ErrorCode) - {ErrorCode.NO_ERROR}
    with pytest.raises(ProtocolError):
        client.receive(b'')
    assert not client.outgoing_frames


@pytest.mark.parametrize('batch', range(25))
def test_junk_is_refused_when_and_only_when_h2_refuses_it(batch: int) -> None:
    """With a ProtocolError and a GOAWAY; accepted frames lead to the same events."""
    for seed in range(batch * 20, batch * 20 + 20):
        verdict = judge(Random(seed))
        if verdict is not None and (verdict.ours is None or verdict.theirs is None):
            reasons = [reason for reason, explains in DIFFERENCES.items() if explains(verdict)]
            assert len(reasons) == 1, (seed, verdict)


@pytest.mark.parametrize('seed', range(20))
def test_valid_traffic_is_accepted_by_both(seed: int) -> None:
    ours, theirs = opened(Http2Connection()), their_client()
    for piece in valid(Random(seed)):
        events = [e for e in ours.receive(piece) if isinstance(e, HeadersReceived | DataReceived | StreamReset)]
        assert events == seen_by_h2(theirs.receive_data(piece))
    assert not len(ours._receiving.streams)


@pytest.mark.parametrize('seed', range(200))
def test_random_bytes_raise_nothing_but_a_protocol_error(seed: int) -> None:
    random = Random(seed)
    client = opened(Http2Connection())
    client.receive(b''.join(valid(random)))
    junk = b''.join(random_frame(random) for _ in range(50)) if seed % 2 else random.randbytes(100_000)
    with pytest.raises(ProtocolError, match=r'^HTTP/2: '):
        client.receive(junk + b'HTTP/1.1 400 Bad Request\r\n\r\n')
    check_goaway(client)
