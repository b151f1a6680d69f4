"""The streams of one connection: sends their data, resets them, and queues what waits for one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar, Final, Generic, TypeVar

from getc.grpc.health import HealthCheck
from getc.grpc.http2.protocol import Http2Connection
from getc.grpc.socket_io import SocketIO

__all__ = ['StreamOwner', 'Streams']

PING: Final = b'getcping'


class StreamOwner:
    """What uses one stream at a time.

    Attributes:
        stream_id: The number of its stream; 0 while it waits for one.
        is_lasting: The stream stays open until one side ends it.
    """

    __slots__ = ('stream_id',)

    is_lasting: ClassVar[bool] = False
    stream_id: int


Owner = TypeVar('Owner', bound=StreamOwner)


class Streams(Generic[Owner]):
    """The streams of one connection.  No method blocks or switches.

    Args:
        io: Sends the data.
        on_freed: Called when a stream was reset, so that another one may be opened.
        on_dead: Called with the seconds of silence when the server does not respond any more.
        ping_slowdown: Factor for the intervals between PINGs.

    Attributes:
        http2: The protocol state of the connection.
        open: The owners of the open streams, by the number of the stream.
        queue: What waits for a stream: the header block, the data, and whether no more data follow.
        sent_id: The highest stream of which data may have been sent.
        is_over: The connection has ended.
        health: Checks whether the server responds.
    """

    __slots__ = ('_io', '_on_freed', 'health', 'http2', 'is_over', 'open', 'queue', 'sent_id')

    def __init__(
        self,
        io: SocketIO,
        *,
        on_freed: Callable[[], object],
        on_dead: Callable[[float], None],
        ping_slowdown: float,
    ) -> None:
        self.http2 = Http2Connection()
        self.open: dict[int, Owner] = {}
        self.queue: OrderedDict[Owner, tuple[bytes, bytes, bool]] = OrderedDict()
        self.sent_id = 0
        self.is_over = False
        self._io = io
        self._on_freed = on_freed
        self.health = HealthCheck(self._send_ping, on_dead, slowdown=ping_slowdown)

    @property
    def max_streams(self) -> int:
        """Streams that the server allows to be open at a time."""
        return self.http2.max_streams

    def send(self, owner: Owner, data: bytes, end: bool) -> None:
        """Send more data on a stream."""
        if owner.stream_id:
            self.http2.send(owner.stream_id, data, end=end)
            self._io.send_soon()
        elif owner in self.queue:
            block, queued, _ = self.queue[owner]
            self.queue[owner] = block, queued + data, end

    def acknowledge(self, owner: Owner, size: int) -> None:
        """Grant the server ``size`` more bytes of window, because ``size`` bytes were consumed."""
        # Without a WINDOW_UPDATE nothing is sent from here: the acknowledgement of a PING waits for the greenlets that
        # the response beside it has woken, and is sent with their next calls.
        if self.http2.acknowledge(owner.stream_id, size):
            self._io.send_soon()

    def cancel(self, owner: Owner, code: int) -> None:
        """Remove an owner, and reset its stream if it has one."""
        if not owner.stream_id:
            self.queue.pop(owner, None)
        elif self.open.pop(owner.stream_id, None) is not None:
            self.http2.reset(owner.stream_id, code)
            self._io.send_soon()
            self._on_freed()

    def may_have_been_sent(self, owner: Owner) -> bool:
        """Return True if a part of the data was sent or may still be sent: outgoing data are not withdrawn."""
        return owner.stream_id > 0 and (owner.stream_id <= self.sent_id or not self.is_over)

    def has_unsent(self, owner: Owner) -> bool:
        """Return True if a part of the data waits for the window of the server."""
        return self.http2.unsent(owner.stream_id) > 0

    def start_queued(self) -> None:
        """Open streams for what waits, as many as the server allows."""
        while self.queue and self.http2.can_open:
            owner, (block, data, end) = self.queue.popitem(last=False)
            owner.stream_id = self.http2.open(block, data, end=end)
            self.open[owner.stream_id] = owner
            self._io.send_soon()

    def detach(self) -> list[Owner]:
        """Remove all owners, also those that wait for a stream, and return them."""
        owners = [*self.open.values(), *self.queue]
        self.open.clear()
        self.queue.clear()
        return owners

    def _send_ping(self) -> bool:
        if not self.open:
            return False
        self.http2.ping(PING)
        self._io.send_soon()
        return True
