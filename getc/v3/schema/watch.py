"""Messages and RPCs of the Watch service."""

from __future__ import annotations

from enum import IntEnum

from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.mvccpb import Event
from getc.v3.schema.table import Message, Method, Repeated, build, field, int64

__all__ = ['Watch', 'WatchCancelRequest', 'WatchCreateRequest', 'WatchProgressRequest', 'WatchRequest', 'WatchResponse']


class WatchRequest(Message):
    """One message of the client on a watch stream."""

    create_request: WatchCreateRequest = field(1, oneof='request_union')
    cancel_request: WatchCancelRequest = field(2, oneof='request_union')
    progress_request: WatchProgressRequest = field(3, oneof='request_union')


class WatchCreateRequest(Message):
    """Watch a key or a range from ``start_revision`` on; 0 means from now on.

    With a ``watch_id`` of 0 the server chooses one.  Without ``fragment`` a revision is sent in one response, however
    large.
    """

    class FilterType(IntEnum):
        """The events to leave out."""

        NOPUT = 0
        NODELETE = 1

    key: bytes = field(1)
    range_end: bytes = field(2)
    start_revision: int64 = field(3)
    progress_notify: bool = field(4)
    filters: Repeated[int] = field(5, FilterType)
    prev_kv: bool = field(6)
    watch_id: int64 = field(7)
    fragment: bool = field(8)


class WatchCancelRequest(Message):
    """End one watch of the stream."""

    watch_id: int64 = field(1)


class WatchProgressRequest(Message):
    """Request a progress response for all watches of the stream."""


class WatchResponse(Message):
    """Events or a state change of one watch; a progress response for all watches has the ``watch_id`` -1.

    A refused watch is ``created`` and ``canceled`` in one response, with a ``watch_id`` of -1.  ``compact_revision``:
    the requested history was compacted up to this revision.  ``fragment``: more events of the same revision follow.
    """

    header: ResponseHeader = field(1)
    watch_id: int64 = field(2)
    created: bool = field(3)
    canceled: bool = field(4)
    compact_revision: int64 = field(5)
    cancel_reason: str = field(6)
    fragment: bool = field(7)
    events: Repeated[Event] = field(11)


build('etcdserverpb', globals())


class Watch:
    """The Watch service: any number of watches on one stream."""

    Watch = Method(
        '/etcdserverpb.Watch/Watch',
        WatchRequest,
        WatchResponse,
        client_streaming=True,
        server_streaming=True,
        reads=True,
    )
