"""What a peer's bytes tell."""

from __future__ import annotations

from typing import NamedTuple

from getc.grpc.http2.headers import Block, Fields

__all__ = [
    'AnswerReceived',
    'DataReceived',
    'Event',
    'GoAwayReceived',
    'HeadersReceived',
    'PingAcknowledged',
    'SettingsReceived',
    'StreamNotTaken',
    'StreamReset',
]


class HeadersReceived(NamedTuple):
    """The headers of an answer, or (without a status) its trailers."""

    stream_id: int
    status: int | None
    fields: Fields
    ends: bool


class DataReceived(NamedTuple):
    """A piece of an answer; ``size`` is what it takes of the windows."""

    stream_id: int
    data: bytes
    size: int
    ends: bool


class AnswerReceived(NamedTuple):
    """A whole answer, from its headers to its trailers, with one piece of data between them.

    Most answers are told so where their bytes came together; that is no promise.
    """

    stream_id: int
    head: Block
    data: bytes
    trailers: Block

    @property
    def parts(self) -> tuple[HeadersReceived, DataReceived, HeadersReceived]:
        """What says the same of an answer that is not told as a whole."""
        return (
            HeadersReceived(self.stream_id, self.head.status, self.head.fields, False),
            DataReceived(self.stream_id, self.data, len(self.data), False),
            HeadersReceived(self.stream_id, None, self.trailers.fields, True),
        )


class StreamReset(NamedTuple):
    """The peer ended a stream."""

    stream_id: int
    code: int


class StreamNotTaken(NamedTuple):
    """The peer has not processed a stream, and never will: the number is above the last one of a GOAWAY."""

    stream_id: int


class GoAwayReceived(NamedTuple):
    """No new streams are taken.  A :class:`StreamNotTaken` follows for each that will not be processed."""

    last_stream_id: int
    code: int
    debug: bytes


class SettingsReceived(NamedTuple):
    """The peer said how many streams may be open at a time."""

    max_streams: int


class PingAcknowledged(NamedTuple):
    """The answer to our ping."""

    payload: bytes


Event = (
    HeadersReceived
    | DataReceived
    | AnswerReceived
    | StreamReset
    | StreamNotTaken
    | GoAwayReceived
    | SettingsReceived
    | PingAcknowledged
)
