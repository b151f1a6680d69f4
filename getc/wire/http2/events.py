"""What a peer's bytes tell."""

from __future__ import annotations

from typing import NamedTuple

from getc.wire.http2.header_blocks import Fields

__all__ = [
    'DataReceived',
    'Event',
    'GoAwayReceived',
    'HeadersReceived',
    'PingAcknowledged',
    'SettingsReceived',
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


class StreamReset(NamedTuple):
    """The peer ended a stream.  With REFUSED_STREAM it has not begun to process it."""

    stream_id: int
    code: int


class GoAwayReceived(NamedTuple):
    """No new streams are taken.  A :class:`StreamReset` follows for each that will not be processed."""

    last_stream_id: int
    code: int
    debug: bytes


class SettingsReceived(NamedTuple):
    """The peer said how many streams may be open at a time."""

    max_streams: int


class PingAcknowledged(NamedTuple):
    """The answer to our ping."""

    payload: bytes


Event = HeadersReceived | DataReceived | StreamReset | GoAwayReceived | SettingsReceived | PingAcknowledged
