"""Events: what the bytes received from a peer mean for streams and for the connection."""

from __future__ import annotations

from typing import NamedTuple

from getc.grpc.http2.headers import Fields, HeaderBlock

__all__ = [
    'DataReceived',
    'Event',
    'GoAwayReceived',
    'HeadersReceived',
    'ResponseReceived',
    'SettingsReceived',
    'StreamReset',
    'StreamUnprocessed',
]


class HeadersReceived(NamedTuple):
    """The headers of a response, or its trailers, which have no status; ``ends`` is True if they have END_STREAM."""

    stream_id: int
    status: int | None
    fields: Fields
    ends: bool


class DataReceived(NamedTuple):
    """A part of the body.

    Attributes:
        stream_id: The stream.
        data: The bytes of the body.
        size: The bytes that count against the windows, which include padding.
        ends: The frame has END_STREAM.
    """

    stream_id: int
    data: bytes
    size: int
    ends: bool


class ResponseReceived(NamedTuple):
    """A complete response: headers, one DATA frame and trailers.

    Most responses are reported in this form if their frames are received together; any may be reported in parts.
    """

    stream_id: int
    headers: HeaderBlock
    data: bytes
    trailers: HeaderBlock

    @property
    def parts(self) -> tuple[HeadersReceived, DataReceived, HeadersReceived]:
        """The events for the same response in parts."""
        return (
            HeadersReceived(self.stream_id, self.headers.status, self.headers.fields, False),
            DataReceived(self.stream_id, self.data, len(self.data), False),
            HeadersReceived(self.stream_id, None, self.trailers.fields, True),
        )


class StreamReset(NamedTuple):
    """The peer reset a stream."""

    stream_id: int
    code: int


class StreamUnprocessed(NamedTuple):
    """The peer has not processed a stream and never will: its number is above the last stream of a GOAWAY."""

    stream_id: int


class GoAwayReceived(NamedTuple):
    """The peer accepts no new streams.  A :class:`StreamUnprocessed` follows for each stream above the last one."""

    last_stream_id: int
    code: int
    debug: bytes


class SettingsReceived(NamedTuple):
    """The peer changed the number of streams that may be open at a time."""

    max_streams: int


Event = (
    HeadersReceived
    | DataReceived
    | ResponseReceived
    | StreamReset
    | StreamUnprocessed
    | GoAwayReceived
    | SettingsReceived
)
