"""The RPC client and the streams of a fake etcd."""

from __future__ import annotations

from typing import Any

import gevent

from getc import timing
from getc.errors import (
    ClientClosed,
    ConnectionRefused,
    EtcException,
)
from getc.timing import DEFAULT_TIMEOUT, Deadline
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.mvccpb import Event
from getc.v3.schema.watch import Watch, WatchResponse
from tests.support.fake_faults import hang
from tests.support.fake_store import FakeStore, is_in
from tests.support.fake_stream import FakeStream

__all__ = ['HISTORY_BATCH', 'FakeRpc']

PROXY_TICK = 0.5
"""Seconds between two looks of a ``grpc-proxy`` at the leases that it renews."""

HISTORY_BATCH = 5
"""Revisions in one response with history; etcd sends 1,000."""


class _Stream(FakeStream):
    """The server's end of a stream."""

    def __init__(self, etcd: FakeStore) -> None:
        super().__init__()
        self.has_invalid_token = etcd.refuses_watches
        self._held: list[Any] = []
        self._etcd = etcd
        etcd.streams.append(self)

    def push(self, *messages: Any) -> None:
        if self._etcd.holds_streams:
            self._held.extend(messages)
        else:
            super().push(*messages)

    def end(self, error: EtcException | None = None) -> None:
        self._held.clear()
        super().push(error)

    def release(self) -> None:
        """Send the messages that were held back."""
        held, self._held = self._held, []
        super().push(*held)

    def send_events(self, events: list[Event]) -> None:
        """Send the events of a revision to the watches."""

    def catch_up(self) -> None:
        """Send what the watches of a lagging member have not received."""

    def skip_to(self, revision: int) -> None:
        """Send the watches no events before this revision."""

    def call(self, _method: Any, request: Any, deadline: Deadline) -> Any:
        if self._etcd.lags_at and not request.serializable:
            return hang(lambda: None, deadline, False)
        return self._etcd.answer('Range', request, deadline, False)

    def cancel(self) -> None:
        super().cancel()
        if self in self._etcd.streams:
            self._etcd.streams.remove(self)


class _KeepAliveStream(_Stream):
    def __init__(self, etcd: FakeStore) -> None:
        super().__init__(etcd)
        self.is_grpc_proxy = etcd.is_proxied
        self._unanswered: dict[int, int] = {}  # keep-alives by lease, behind a grpc-proxy

    def send(self, message: Any) -> None:
        super().send(message)
        if self._etcd.is_silent:
            return
        if not self._etcd.is_proxied:
            self.push(self._etcd.keep_alive(message.ID))
        elif message.ID in self._unanswered:
            self._unanswered[message.ID] += 1
        else:
            self._unanswered[message.ID] = 1
            gevent.spawn(self._renew_as_proxy, message.ID)

    def _renew_as_proxy(self, number: int) -> None:
        """Renew a lease every third of its TTL, and answer the keep-alives of the client then."""
        gevent.sleep(PROXY_TICK)
        while not self.is_over:
            response = self._etcd.keep_alive(number)
            self.push(*[response] * self._unanswered[number])
            self._unanswered[number] = 0
            if response.TTL <= 0:
                return
            gevent.sleep(response.TTL / 3 + PROXY_TICK)


class _WatchStream(_Stream):
    def __init__(self, etcd: FakeStore) -> None:
        super().__init__(etcd)
        self.watches: dict[int, tuple[bytes, bytes, int]] = {}
        self._proxied = 0  # watches that a grpc-proxy has created
        self._begins: dict[int, int] = {}  # first revision of each watch on a lagging member
        self._lagging: set[int] = set()  # watches that have not received all history

    def send(self, message: Any) -> None:
        super().send(message)
        if self._etcd.is_silent:
            return
        if message.HasField('create_request'):
            self._create(message.create_request)
        elif message.HasField('cancel_request'):
            self.watches.pop(message.cancel_request.watch_id, None)
        else:
            self._answer_progress()

    def _create(self, request: Any) -> None:
        etcd = self._etcd
        self._etcd.calls.append((timing.now(), 'WatchCreate'))
        number, header = request.watch_id, etcd.header()
        if etcd.is_proxied:
            number, self._proxied = self._proxied, self._proxied + 1
        if self.has_invalid_token or (request.key, request.range_end) in etcd.forbidden:
            refusal = WatchResponse(header=header, watch_id=-1, created=True, canceled=True)
            why = 'invalid auth token' if self.has_invalid_token else 'permission denied'
            refusal.cancel_reason = f'rpc error: code = Unauthenticated desc = etcdserver: {why}'
            self.push(refusal)
            return
        if etcd.lags_at:
            header.revision = etcd.lags_at
        if etcd.is_proxied:
            header = ResponseHeader(revision=request.start_revision)
        self.push(WatchResponse(header=header, watch_id=number, created=True))
        if etcd.is_compacted(request.start_revision):
            self.push(WatchResponse(header=header, watch_id=number, canceled=True, compact_revision=etcd.revision))
            return
        first = request.start_revision or etcd.revision + 1
        self.watches[number] = request.key, request.range_end, first
        if first <= etcd.revision:
            self._lagging.add(number)
            if etcd.lags_at:
                self._begins[number] = first
            elif etcd.history_delay:
                gevent.spawn(self._send_slowly, number, first)
            else:
                self._send_history(number, first)

    def catch_up(self) -> None:
        begins, self._begins = self._begins, {}
        for number, first in begins.items():
            self._send_history(number, first)

    def skip_to(self, revision: int) -> None:
        self.watches = {number: (key, end, revision) for number, (key, end, _) in self.watches.items()}

    def _send_slowly(self, number: int, begin: int) -> None:
        while number in self.watches and number in self._lagging:
            gevent.sleep(self._etcd.history_delay)
            begin = self._send_next(number, begin)

    def _send_history(self, number: int, begin: int) -> None:
        while number in self._lagging:
            begin = self._send_next(number, begin)
            if self._etcd.is_proxied:  # which drops what follows on the first batch
                self._lagging.discard(number)

    def _send_next(self, number: int, begin: int) -> int:
        """Send the next response with history to a watch; return the first revision that it has not received."""
        etcd, end = self._etcd, begin + HISTORY_BATCH
        if number in self.watches:
            events = [event for event in etcd.since(begin) if event.kv.mod_revision < end]
            self._send_matching(number, events, min(end - 1, etcd.revision))
        if end > etcd.revision:
            self._lagging.discard(number)
        return end

    def _answer_progress(self) -> None:
        etcd = self._etcd
        if not etcd.drops_progress and (etcd.answers_progress_early or (self.watches and not self._lagging)):
            header = etcd.header()
            header.revision = etcd.lags_at or header.revision
            self.push(WatchResponse(header=header, watch_id=-1))

    def send_events(self, events: list[Event]) -> None:
        for number in list(self.watches):
            if number not in self._lagging:
                self._send_matching(number, events, self._etcd.revision)

    def _send_matching(self, number: int, events: list[Event], revision: int) -> None:
        key, range_end, first = self.watches[number]
        wanted = [event for event in events if event.kv.mod_revision >= first and is_in(event.kv.key, key, range_end)]
        if wanted and not self._etcd.is_silent:
            for _ in range(2 if self._etcd.duplicates_events else 1):
                response = WatchResponse(header=self._etcd.header(), watch_id=number, events=wanted)
                response.header.revision = revision
                self.push(response)


class FakeRpc:
    """Replaces :class:`getc.v3.rpc.RpcClient`.

    Args:
        etcd: The server.
    """

    def __init__(self, etcd: FakeStore) -> None:
        self._etcd = etcd
        self._streams: list[_Stream] = []
        self._is_closed = False

    def call(self, method: Any, request: Any, timeout: Any = DEFAULT_TIMEOUT, *, is_write: bool | None = None) -> Any:
        self._check_open()
        name = method.path.rpartition('/')[2]
        if isinstance(request, bytes):
            request = method.request.FromString(request)
        gevent.sleep(0)  # a real call switches greenlets
        return self._etcd.answer(
            name, request, self.deadline(timeout), not method.reads if is_write is None else is_write
        )

    def open(self, method: Any, timeout: Any = DEFAULT_TIMEOUT) -> Any:
        self._check_open()
        gevent.sleep(0)
        etcd = self._etcd
        if etcd.refuses_streams:
            raise ConnectionRefused('no streams')

        def connect() -> Any:
            stream = (_WatchStream if method is Watch.Watch else _KeepAliveStream)(etcd)
            self._streams.append(stream)
            return stream

        return connect() if etcd.fault is None else etcd.fault(connect, self.deadline(timeout), False)

    def server_count(self) -> int:
        return 1

    def switch_server(self) -> None:
        pass

    def deadline(self, timeout: Any) -> Deadline:
        if isinstance(timeout, Deadline):
            return timeout
        return Deadline.after(10.0 if timeout is DEFAULT_TIMEOUT else timeout)

    def clear(self) -> None:
        pass

    def close(self) -> None:
        self._is_closed = True
        for stream in self._streams:
            if not stream.is_over:
                stream.end(ClientClosed('the client was closed'))

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')
