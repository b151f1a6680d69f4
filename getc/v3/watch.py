"""Watches: changes of keys, as they happen."""

from __future__ import annotations

from collections.abc import Sequence

from gevent.event import AsyncResult

from getc.error_context import copy_error
from getc.errors import EtcException, NotSupported, Unauthorized
from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.reopening import ReopeningStream, awaited
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeRequest
from getc.v3.schema.watch import Watch as Schema
from getc.v3.schema.watch import WatchCreateRequest
from getc.v3.watch_iterator import WatchIterator
from getc.v3.watch_stream import WatchStream

__all__ = ['Watch']


class Watch:
    """``etcd.v3.watch``: etcd's Watch service.  All watches of a client share one stream.

    A watch ends with its connection: it tells what happened, and does not begin again by itself.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        # It knows the caller alone: a circle would keep the connections of a client that was dropped until it is found.
        self._streams = ReopeningStream(lambda deadline: WatchStream(rpc.open(Schema.Watch, deadline.timeout_left())))

    def create(
        self,
        key: bytes,
        *,
        range_end: bytes = b'',
        start_revision: int = 0,
        progress_notify: bool = False,
        filters: Sequence[int] = (),
        prev_kv: bool = False,
        fragment: bool = True,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> WatchIterator:
        """Watch a key, or the keys from it up to ``range_end``; return when the server has begun.

        Args:
            key: The first key.
            range_end: The key after the last; ``getc.v3.prefix_end`` makes one.
            start_revision: The first of interest; 0 for what comes from now on.  One that is still to come waits.
            progress_notify: Have the server say now and then how far it is, which keeps quiet connections alive.
            filters: What is left out, of ``WatchCreateRequest.FilterType``.
            prev_kv: Tell what a key was before.
            fragment: Let the server send in pieces what is larger than its largest request; they are put together
                here, by revision.  Tens of thousands of small events at a time take etcd seconds that way.
            timeout: Seconds.

        Raises:
            EventIndexCleared: History from ``start_revision`` on was compacted: raised by the watch when read, too.
            PermissionDenied: The user may not read the range.
            EtcdError: The server refuses for another reason.
            ConnectionError: No answer.
        """
        request = build(
            WatchCreateRequest,
            key=key,
            range_end=range_end,
            start_revision=start_revision,
            progress_notify=progress_notify,
            filters=filters,
            prev_kv=prev_kv,
            fragment=fragment,
        )
        deadline = self._rpc.deadline(timeout)
        stream = self._streams.get(deadline)
        try:
            return WatchIterator(stream, request).wait_created(deadline)
        except Unauthorized:
            # A stream keeps the token that it began with, which the server may have forgotten since.  A read is told
            # so, and gets another: where that may be done, so may a watch on a new stream.
            readable = RangeRequest(key=key, range_end=range_end, limit=1, keys_only=True, serializable=True)
            self._rpc.call(KV.Range, readable, deadline.timeout_left())
            self._streams.leave(stream)
            stream.leave()
            return WatchIterator(self._streams.get(deadline), request).wait_created(deadline)

    def progress(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> int:
        """Ask how far the stream has come, and return the revision.  An answer shows that the server is there.

        Every change up to that revision has been told only if the server is etcd 3.4.25, 3.5.8 or newer.

        Raises:
            NotSupported: The client has no watch: etcd 3.5.8 and newer do not answer then.
            TimedOut: No answer.  etcd 3.5.8 and newer wait until all watches of the client have caught up, which a
                watch on a revision that is still to come has not.
            ConnectionError: The connection was lost.
        """
        deadline = self._rpc.deadline(timeout)
        stream = self._streams.get(deadline)
        if not stream.has_watches:
            raise NotSupported('progress needs a watch: create one first, or read the revision from v3.kv.range')
        asked: AsyncResult[int | EtcException] = AsyncResult()
        stream.ask_progress(asked.set)
        answer = awaited(asked, deadline, 'no progress was told')
        if isinstance(answer, EtcException):
            raise copy_error(answer)
        return answer
