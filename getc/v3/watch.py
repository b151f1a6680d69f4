"""etcd's Watch service: create watches and request progress."""

from __future__ import annotations

from collections.abc import Sequence

from gevent.event import AsyncResult

from getc.error_context import copy_error
from getc.errors import EtcException, NotSupported
from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.reopening import wait_result
from getc.v3.rpc import RpcClient
from getc.v3.schema.watch import WatchCreateRequest
from getc.v3.watch_iterator import WatchIterator
from getc.v3.watch_multiplexer import WatchMultiplexer

__all__ = ['Watch']


class Watch:
    """``etcd.v3.watch``: etcd's Watch service.  All watches that are created here share one stream.

    A watch ends with its connection, with an error that says why.  It is not created again automatically.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._watches = WatchMultiplexer(rpc)

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
        """Watch a key, or the keys from it up to ``range_end``; return when the server has created the watch.

        Args:
            key: The first key.
            range_end: The key after the last one; ``getc.v3.prefix_end`` returns that of a prefix.
            start_revision: The first revision to deliver, which may be in the future; 0 for changes from now on.
            progress_notify: Have the server report its revision from time to time, which keeps quiet connections alive.
            filters: Events to leave out, of ``WatchCreateRequest.FilterType``.
            prev_kv: Deliver the previous key-value pair with each event.
            fragment: Have the server split responses that are larger than its largest request; the fragments are joined
                here, by revision.  Tens of thousands of small events at a time take etcd seconds that way.
            timeout: Seconds.

        Raises:
            EventIndexCleared: History from ``start_revision`` on was compacted.  The watch may also raise this when
                it is read.
            PermissionDenied: The user may not read the range.
            EtcdError: The server refuses for another reason.
            ConnectionError: No response.
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
        self._watches.streams.get(deadline)
        watch = WatchIterator(request)
        return watch.wait_created(self._watches, deadline)

    def progress(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> int:
        """Send a progress request, and return the revision in the response, which shows that the server answers.

        All changes up to that revision have been delivered only if the server is etcd 3.4.25, 3.5.8 or newer.

        Raises:
            NotSupported: The client has no watch: etcd 3.5.8 and newer do not answer then.
            TimedOut: No response.  etcd 3.5.8 and newer wait until all watches of the client have caught up; a watch
                with a ``start_revision`` in the future has not.
            ConnectionError: The connection was lost.
        """
        deadline = self._rpc.deadline(timeout)
        stream = self._watches.streams.get(deadline)
        if not stream.has_watches:
            raise NotSupported('progress needs a watch: create one first, or read the revision from v3.kv.range')
        response: AsyncResult[int | EtcException] = AsyncResult()
        stream.call_on_progress(response.set)
        revision = wait_result(response, deadline, 'no progress response arrived')
        if isinstance(revision, EtcException):
            raise copy_error(revision)
        return revision
