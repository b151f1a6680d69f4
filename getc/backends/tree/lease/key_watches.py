"""Watches of the keys of held nodes: a replaced owner learns of it by one event, not only by its next renewal.

All are on one stream of their own, so that a large history on the client's other watches does not delay them.  Each is
a watch of one key: one message when the node is taken, and no traffic while nothing happens.  With 10,000 of them each
took 0.25 KiB here and 1.1 KiB in etcd 3.5.  A watch proves nothing: renewals do.
"""

from __future__ import annotations

from typing import Final, Protocol

import gevent

from getc.errors import ClientClosed, EtcException, Unauthorized
from getc.net.affinity import ThreadAffinity
from getc.retry import is_transient
from getc.timing import Backoff
from getc.v3.rpc import RpcClient
from getc.v3.schema.mvccpb import Event
from getc.v3.schema.watch import Watch as Schema
from getc.v3.schema.watch import WatchCreateRequest, WatchResponse
from getc.v3.watch_stream import Substream, WatchStream

__all__ = ['KeyWatch', 'KeyWatches']

DELETE: Final = Event.EventType.DELETE


class _Owned(Protocol):
    """A node that is held on a lease.

    Attributes:
        raw_key: Its key.
        lease_id: The lease.
        known_at: The revision at which the node was last known to be on it.
    """

    @property
    def raw_key(self) -> bytes: ...

    @property
    def lease_id(self) -> int: ...

    @property
    def known_at(self) -> int: ...

    def on_taken(self, *, is_deleted: bool) -> None:
        """The node was deleted, or written with another lease.  Must not block or raise."""


class KeyWatch:
    """The watch of one node.

    Attributes:
        stream: Where it is.
        is_due: It has ended, and begins again with the next renewal.
        was_refused: It was refused the last time.
    """

    __slots__ = ('_owned', '_ticket', '_watches', 'is_due', 'stream', 'was_refused')

    def __init__(self, watches: KeyWatches, owned: _Owned) -> None:
        self.stream: WatchStream | None = None
        self.is_due = False
        self.was_refused = False
        self._watches = watches
        self._owned = owned
        self._ticket: Substream | None = None

    def begin_again(self) -> None:
        """Begin once more after it has ended.  Does not block."""
        self.is_due = False
        self._watches.begin(self)

    def close(self) -> None:
        """Notify the node no more.  Does not block."""
        self.is_due = False
        self._watches.forget(self)
        ticket, self._ticket = self._ticket, None
        if ticket is not None and self.stream is not None:
            self.stream.cancel(ticket)

    def start(self, stream: WatchStream) -> None:
        """Begin on this stream, with what came after the node was last known to be ours."""
        self.stream = stream
        try:
            request = WatchCreateRequest(key=self._owned.raw_key, start_revision=self._owned.known_at + 1)
            self._ticket = stream.add(request, self)
        except EtcException as error:
            self.on_ended(error)

    # -- the stream's (``Sink``)

    def on_created(self, response: WatchResponse) -> None:
        self.was_refused = False
        self._watches.on_created()

    def on_response(self, response: WatchResponse) -> None:
        owned = self._owned
        for event in response.events:
            is_later = event.kv.mod_revision > owned.known_at  # etcd 3.4 may send an event twice
            is_deleted = event.type == DELETE
            if is_later and self._ticket is not None and (is_deleted or event.kv.lease != owned.lease_id):
                owned.on_taken(is_deleted=is_deleted)

    def on_ended(self, error: EtcException) -> None:
        self._ticket = None
        self._watches.on_ended(self, error)


class KeyWatches:
    """The watches of a client's nodes.

    Where their stream breaks they begin again on another one, with what they have missed.  A watch that is refused
    begins again with the next renewal: by then the client has a token that is valid.  Refused twice in a row it is
    left off, and its node to the renewals.

    Args:
        rpc: How RPCs are called.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._home = ThreadAffinity()
        self._stream: WatchStream | None = None
        self._opening: gevent.Greenlet[..., None] | None = None
        self._waiting: dict[KeyWatch, None] = {}  # for a stream
        self._backoff = Backoff()
        self._has_failed = False  # no watch has begun on the last stream
        self._is_closed = False

    def watch(self, owned: _Owned) -> KeyWatch:
        """Watch the key of a node.  Does not block."""
        watch = KeyWatch(self, owned)
        self.begin(watch)
        return watch

    def begin(self, watch: KeyWatch) -> None:
        """Ask for the watch, once there is a stream.  Does not block."""
        if self._stream is not None and not self._stream.is_over:
            watch.start(self._stream)
            return
        self._waiting[watch] = None
        if self._opening is None:
            self._opening = gevent.spawn(self._open)
            self._opening.name = 'getc stream of key watches, opening'

    def close(self) -> None:
        """End all of them.  Does not block."""
        self._is_closed = True
        self._waiting.clear()
        if self._opening is not None:
            self._opening.kill(block=False)
        if self._stream is not None:
            self._stream.close(ClientClosed('the client was closed'))

    # -- for the watches

    def forget(self, watch: KeyWatch) -> None:
        """It is closed."""
        self._waiting.pop(watch, None)

    def on_created(self) -> None:
        """One of them is on."""
        self._has_failed = False
        self._backoff.reset()

    def on_ended(self, watch: KeyWatch, error: EtcException) -> None:
        """One of them has ended without having been closed."""
        if is_transient(error):
            self.begin(watch)
            return
        watch.is_due = not watch.was_refused
        watch.was_refused = True
        if isinstance(error, Unauthorized) and self._stream is not None and self._stream is watch.stream:
            self._stream.leave()  # it has the token that it began with
            self._stream = None

    def _open(self) -> None:
        try:
            while self._waiting and not self._home.in_forked_child:
                if self._has_failed:
                    gevent.sleep(self._backoff.next_delay())
                self._has_failed = True
                self._open_once()
        finally:
            self._opening = None

    def _open_once(self) -> None:
        try:
            stream = self._stream = WatchStream(self._rpc.open(Schema.Watch))
        except EtcException as error:
            if not is_transient(error):
                for watch in self._take_waiting():
                    watch.on_ended(error)
            return
        if self._is_closed:
            stream.close(ClientClosed('the client was closed'))
        for watch in self._take_waiting():
            watch.start(stream)

    def _take_waiting(self) -> dict[KeyWatch, None]:
        waiting, self._waiting = self._waiting, {}
        return waiting
