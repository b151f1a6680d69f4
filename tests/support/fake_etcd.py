"""An in-memory etcd v3 with injected faults, in virtual time.  It supports the RPCs that getc uses."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.hub import get_hub

from getc import timing
from getc.backends.tree.backend import TreeV3
from getc.client import Client
from getc.errors import (
    ClientClosed,
    ConnectionError,
    ConnectionRefused,
    LeaseNotFound,
    PermissionDenied,
    TimedOut,
)
from getc.timing import DEFAULT_TIMEOUT, Deadline
from getc.v3 import V3
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import (
    DeleteRangeResponse,
    PutResponse,
    RangeResponse,
    ResponseOp,
    TxnResponse,
)
from getc.v3.schema.lease import (
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
)
from getc.v3.schema.mvccpb import Event, KeyValue
from getc.v3.schema.watch import Watch, WatchResponse
from tests.support.clients import client_on
from tests.support.fake_stream import FakeStream

__all__ = ['FakeEtcd', 'FakeRpc', 'Fault', 'delay', 'drop', 'hang', 'late', 'lose_reply', 'refuse']

MIN_TTL = 2

HISTORY_BATCH = 5
"""Revisions in one response with history; etcd sends 1,000."""

Fault = Callable[[Callable[[], Any], Deadline, bool], Any]
"""Executes or fails a call, given the server's work as a function, the deadline, and whether the call is a write."""


def refuse(_do: Callable[[], Any], _deadline: Deadline, _is_write: bool) -> Any:
    """The connection is refused."""
    raise ConnectionRefused('connection refused')


def drop(_do: Callable[[], Any], _deadline: Deadline, is_write: bool) -> Any:
    """The connection breaks before the server has read the request."""
    raise ConnectionError('the connection broke', maybe_applied=is_write)


def lose_reply(do: Callable[[], Any], _deadline: Deadline, is_write: bool) -> Any:
    """The server executes the call, and the connection breaks before the response."""
    do()
    raise ConnectionError('the connection broke', maybe_applied=is_write)


def hang(_do: Callable[[], Any], deadline: Deadline, is_write: bool) -> Any:
    """The server accepts the request and does not respond."""
    gevent.sleep(deadline.remaining())
    raise TimedOut('no answer', maybe_applied=is_write)


def late(seconds: float) -> Fault:
    """The server executes the call after a number of seconds, when the client has given up."""

    def fault(do: Callable[[], Any], deadline: Deadline, is_write: bool) -> Any:
        gevent.spawn_later(seconds, do)
        return hang(do, deadline, is_write)

    return fault


def delay(seconds: float) -> Fault:
    """The server executes the call at once; its response takes a number of seconds."""

    def fault(do: Callable[[], Any], deadline: Deadline, is_write: bool) -> Any:
        response = do()
        gevent.sleep(min(seconds, deadline.remaining()))
        if deadline.has_passed():
            raise TimedOut('no answer', maybe_applied=is_write)
        return response

    return fault


@dataclass
class _Lease:
    ttl: int
    keys: set[bytes] = field(default_factory=set)
    expires_at: float = 0.0
    timer: Any = None


class FakeEtcd:
    """An in-memory etcd.

    Attributes:
        revision: The current revision.
        keys: All keys and their values.
        leases: The live leases, by ID.
        cluster_id: Identifies the store.
        calls: Time and method of every call.
        fault: Applied to every call; None for no fault.
        is_silent: The streams accept messages and send none.
        believes: Expired leases whose keep-alive is answered all the same, as etcd 3.4.23 may do.
        doubles: Every event is sent twice, as etcd 3.4.23 may do.
        forbidden: Ranges that the user may not read or watch.
        takes_no_watch: New watches are refused with an invalid token.
        takes_no_stream: New streams are refused.
        lags_at: The revision of the lagging member that serves new streams; 0 for a member that does not lag.
        history_delay: Seconds between two responses with the history for a new watch.
        drops_progress: Progress requests are not answered, as by ``etcd grpc-proxy``.
        answers_progress_early: Progress requests are answered before pending events, as by etcd < 3.4.25 and < 3.5.8.
    """

    def __init__(self) -> None:
        self.revision = 1
        self.keys: dict[bytes, KeyValue] = {}
        self.leases: dict[int, _Lease] = {}
        self.cluster_id = 1
        self.calls: list[tuple[float, str]] = []
        self.fault: Fault | None = None
        self.is_silent = False
        self.believes: set[int] = set()
        self.doubles = False
        self.forbidden: set[tuple[bytes, bytes]] = set()
        self.takes_no_watch = False
        self.takes_no_stream = False
        self.history_delay = 0.0
        self.lags_at = 0
        self.drops_progress = False
        self.answers_progress_early = False
        self.streams: list[_Stream] = []
        self._faults: dict[str, deque[Fault]] = {}
        self._history: list[list[Event]] = []
        self._compacted = 0
        self._last_lease = 0x10

    def open(self) -> Client:
        """Return a client of this etcd."""
        rpc: Any = FakeRpc(self)
        v3 = V3(rpc)
        return client_on(TreeV3(v3, rpc), url='http://fake', v3=v3)

    # -- what a test does with it

    def next(self, name: str, *faults: Fault) -> None:
        """Apply faults to the next calls of a method, such as ``'Txn'``."""
        self._faults.setdefault(name, deque()).extend(faults)

    def times(self, name: str) -> list[float]:
        """Return the times of the calls of a method, or of its messages on streams."""
        return [at for at, called in self.calls if called == name]

    def go_down(self, fault: Fault = refuse) -> None:
        """Fail every call, and break the streams."""
        self.fault = fault
        self.break_streams()

    def fall_silent(self) -> None:
        """Stop responding, with open connections, as after SIGSTOP."""
        self.fault = hang
        self.is_silent = True

    def come_back(self) -> None:
        """Respond again."""
        self.fault = None
        self.is_silent = False

    def wipe(self, cluster_id: int = 2) -> None:
        """Lose all data and start with another cluster ID."""
        for lease in self.leases.values():
            lease.timer.close()
        self.leases.clear()
        self.keys.clear()
        self._history.clear()
        self.revision = 1
        self._compacted = 0
        self.cluster_id = cluster_id
        self.break_streams()

    def forget_tokens(self, *, for_ever: bool = False) -> None:
        """Invalidate the tokens of open streams, or of all future streams too; unary calls get a new token."""
        self.takes_no_watch = for_ever
        for stream in self.streams:
            stream.is_forgotten = True

    def break_streams(self) -> None:
        """Break the connections of all streams."""
        streams, self.streams = self.streams, []
        for stream in streams:
            stream.end(ConnectionError('the connection broke'))

    def put(self, key: str, value: str = '', lease: int = 0) -> int:
        """Put a key as another client; return the revision."""
        with self._change() as events:
            self._put(key.encode(), value.encode(), lease, events)
        return self.revision

    def put_all(self, pairs: dict[str, str]) -> int:
        """Put several keys in one revision."""
        with self._change() as events:
            for key, value in pairs.items():
                self._put(key.encode(), value.encode(), 0, events)
        return self.revision

    def delete(self, key: str) -> int:
        """Delete a key as another client."""
        with self._change() as events:
            self._delete(key.encode(), events)
        return self.revision

    def grant(self, ttl: int) -> int:
        """Create a lease."""
        self._last_lease += 1
        lease = self.leases[self._last_lease] = _Lease(max(ttl, MIN_TTL))
        self._renew(self._last_lease, lease)
        return self._last_lease

    def revoke(self, number: int) -> None:
        """Revoke a lease and delete its keys."""
        lease = self.leases.pop(number)
        lease.timer.close()
        if lease.keys:
            with self._change() as events:
                for key in sorted(lease.keys):
                    self._delete(key, events)

    def stop_lagging(self) -> None:
        """Catch up to the current revision."""
        self.lags_at = 0
        for stream in self.streams:
            stream.catch_up()

    def compact(self) -> None:
        """Compact the history up to the current revision."""
        self._compacted = self.revision

    # -- the calls

    def answer(self, name: str, request: Any, deadline: Deadline, is_write: bool) -> Any:
        """Execute a call, or apply the fault for it."""
        self.calls.append((timing.now(), name))
        faults = self._faults.get(name)
        fault = faults.popleft() if faults else self.fault

        def do() -> Any:
            return getattr(self, f'_do_{name}')(request)

        return do() if fault is None else fault(do, deadline, is_write)

    def header(self) -> ResponseHeader:
        return ResponseHeader(cluster_id=self.cluster_id, revision=self.revision, raft_term=2)

    def _do_Range(self, request: Any) -> RangeResponse:
        if (request.key, request.range_end) in self.forbidden:
            raise PermissionDenied('permission denied')
        kvs = [self.keys[key] for key in self._keys_in(request.key, request.range_end)]
        last = request.max_mod_revision or self.revision
        kvs = [kv for kv in kvs if request.min_mod_revision <= kv.mod_revision <= last]
        most = request.limit or len(kvs)
        return RangeResponse(header=self.header(), kvs=kvs[:most], more=len(kvs) > most, count=len(kvs))

    def _do_Txn(self, request: Any) -> TxnResponse:
        succeeded = all(self._holds(compare) for compare in request.compare)
        done = []
        with self._change() as events:
            for wanted in request.success if succeeded else request.failure:
                done.append(self._operate(wanted, events))
        return TxnResponse(header=self.header(), succeeded=succeeded, responses=done)

    def _do_LeaseGrant(self, request: Any) -> LeaseGrantResponse:
        number = self.grant(request.TTL)
        return LeaseGrantResponse(header=self.header(), ID=number, TTL=self.leases[number].ttl)

    def _do_LeaseRevoke(self, request: Any) -> LeaseRevokeResponse:
        if request.ID not in self.leases:
            raise LeaseNotFound('requested lease not found')
        self.revoke(request.ID)
        return LeaseRevokeResponse(header=self.header())

    def _do_LeaseTimeToLive(self, request: Any) -> LeaseTimeToLiveResponse:
        lease = self.leases.get(request.ID)
        if lease is None:
            return LeaseTimeToLiveResponse(header=self.header(), ID=request.ID, TTL=-1)
        left = int(lease.expires_at - timing.now())
        keys = sorted(lease.keys) if request.keys else []
        return LeaseTimeToLiveResponse(header=self.header(), ID=request.ID, TTL=left, grantedTTL=lease.ttl, keys=keys)

    def keep_alive(self, number: int) -> LeaseKeepAliveResponse:
        """Renew a lease."""
        self.calls.append((timing.now(), 'LeaseKeepAlive'))
        lease = self.leases.get(number)
        if lease is not None:
            self._renew(number, lease)
        ttl = lease.ttl if lease is not None else 10 if number in self.believes else 0
        return LeaseKeepAliveResponse(header=self.header(), ID=number, TTL=ttl)

    # -- how it is done

    def _renew(self, number: int, lease: _Lease) -> None:
        if lease.timer is not None:
            lease.timer.close()
        lease.expires_at = timing.now() + lease.ttl
        lease.timer = get_hub().loop.timer(lease.ttl)
        lease.timer.start(self.revoke, number)

    def _keys_in(self, key: bytes, range_end: bytes) -> list[bytes]:
        if not range_end:
            return [key] if key in self.keys else []
        return sorted(each for each in self.keys if is_in(each, key, range_end))

    def _holds(self, compare: Any) -> bool:
        found = [self.keys[key] for key in self._keys_in(compare.key, compare.range_end)] or [KeyValue()]
        name = ('version', 'create_revision', 'mod_revision', 'value', 'lease')[compare.target]
        if name == 'value' and not found[0].key:
            return False
        test = (operator.eq, operator.gt, operator.lt, operator.ne)[compare.result]
        return all(test(getattr(kv, name), getattr(compare, name)) for kv in found)

    def _operate(self, wanted: Any, events: list[Event]) -> ResponseOp:
        if wanted.HasField('request_range'):
            return ResponseOp(response_range=self._do_Range(wanted.request_range))
        if wanted.HasField('request_put'):
            put = wanted.request_put
            if put.lease and put.lease not in self.leases:
                raise LeaseNotFound('requested lease not found')
            before = self.keys.get(put.key)
            value = before.value if put.ignore_value and before is not None else put.value
            self._put(put.key, value, put.lease, events)
            return ResponseOp(response_put=PutResponse(prev_kv=before))
        delete = wanted.request_delete_range
        found = self._keys_in(delete.key, delete.range_end)
        before_all = [self.keys[key] for key in found]
        for key in found:
            self._delete(key, events)
        return ResponseOp(response_delete_range=DeleteRangeResponse(deleted=len(found), prev_kvs=before_all))

    @contextmanager
    def _change(self) -> Iterator[list[Event]]:
        """Collect the events of one revision, and send them to the watches at the end."""
        events: list[Event] = []
        self.revision += 1
        yield events
        if not events:
            self.revision -= 1
            return
        self._history.append(events)
        for stream in self.streams:
            stream.tell(events)

    def _put(self, key: bytes, value: bytes, lease: int, events: list[Event]) -> None:
        before = self.keys.get(key)
        self._detach(before)
        created, version = (before.create_revision, before.version) if before is not None else (self.revision, 0)
        after = self.keys[key] = KeyValue(
            key=key, value=value, lease=lease, create_revision=created, mod_revision=self.revision, version=version + 1
        )
        if lease:
            self.leases[lease].keys.add(key)
        events.append(Event(type=Event.EventType.PUT, kv=after, prev_kv=before))

    def _delete(self, key: bytes, events: list[Event]) -> None:
        before = self.keys.pop(key)
        self._detach(before)
        gone = KeyValue(key=key, mod_revision=self.revision)
        events.append(Event(type=Event.EventType.DELETE, kv=gone, prev_kv=before))

    def _detach(self, kv: KeyValue | None) -> None:
        if kv is not None and kv.lease in self.leases:
            self.leases[kv.lease].keys.discard(kv.key)

    def since(self, revision: int) -> list[Event]:
        """Return the events from a revision on."""
        return [event for events in self._history for event in events if event.kv.mod_revision >= revision]

    def is_compacted(self, revision: int) -> bool:
        return 0 < revision <= self._compacted


def is_in(key: bytes, first: bytes, end: bytes) -> bool:
    """Return whether the key is in the range."""
    return key == first if not end else first <= key and (end == b'\0' or key < end)


class _Stream(FakeStream):
    """The server's end of a stream."""

    def __init__(self, etcd: FakeEtcd) -> None:
        super().__init__()
        self.is_forgotten = etcd.takes_no_watch
        self._etcd = etcd
        etcd.streams.append(self)

    def tell(self, events: list[Event]) -> None:
        """Send the events of a revision to the watches."""

    def catch_up(self) -> None:
        """Send what the watches of a lagging member have not received."""

    def call(self, _method: Any, request: Any, deadline: Deadline) -> Any:
        if self._etcd.lags_at and not request.serializable:
            return hang(lambda: None, deadline, False)
        return self._etcd.answer('Range', request, deadline, False)

    def cancel(self) -> None:
        super().cancel()
        if self in self._etcd.streams:
            self._etcd.streams.remove(self)


class _KeepAliveStream(_Stream):
    def send(self, message: Any) -> None:
        super().send(message)
        if not self._etcd.is_silent:
            self.say(self._etcd.keep_alive(message.ID))


class _WatchStream(_Stream):
    def __init__(self, etcd: FakeEtcd) -> None:
        super().__init__(etcd)
        self.watches: dict[int, tuple[bytes, bytes, int]] = {}
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
        if self.is_forgotten or (request.key, request.range_end) in etcd.forbidden:
            refusal = WatchResponse(header=header, watch_id=-1, created=True, canceled=True)
            why = 'invalid auth token' if self.is_forgotten else 'permission denied'
            refusal.cancel_reason = f'rpc error: code = Unauthenticated desc = etcdserver: {why}'
            self.say(refusal)
            return
        if etcd.lags_at:
            header.revision = etcd.lags_at
        self.say(WatchResponse(header=header, watch_id=number, created=True))
        if etcd.is_compacted(request.start_revision):
            self.say(WatchResponse(header=header, watch_id=number, canceled=True, compact_revision=etcd.revision))
            return
        first = request.start_revision or etcd.revision + 1
        self.watches[number] = request.key, request.range_end, first
        if first <= etcd.revision:
            self._lagging.add(number)
            if etcd.lags_at:
                self._begins[number] = first
            elif etcd.history_delay:
                gevent.spawn(self._tell_slowly, number, first)
            else:
                self._tell_history(number, first)

    def catch_up(self) -> None:
        begins, self._begins = self._begins, {}
        for number, first in begins.items():
            self._tell_history(number, first)

    def _tell_slowly(self, number: int, begin: int) -> None:
        while number in self.watches and number in self._lagging:
            gevent.sleep(self._etcd.history_delay)
            begin = self._tell_next(number, begin)

    def _tell_history(self, number: int, begin: int) -> None:
        while number in self._lagging:
            begin = self._tell_next(number, begin)

    def _tell_next(self, number: int, begin: int) -> int:
        """Send the next response with history to a watch; return the first revision that it has not received."""
        etcd, end = self._etcd, begin + HISTORY_BATCH
        if number in self.watches:
            events = [event for event in etcd.since(begin) if event.kv.mod_revision < end]
            self._tell(number, events, min(end - 1, etcd.revision))
        if end > etcd.revision:
            self._lagging.discard(number)
        return end

    def _answer_progress(self) -> None:
        etcd = self._etcd
        if not etcd.drops_progress and (etcd.answers_progress_early or (self.watches and not self._lagging)):
            header = etcd.header()
            header.revision = etcd.lags_at or header.revision
            self.say(WatchResponse(header=header, watch_id=-1))

    def tell(self, events: list[Event]) -> None:
        for number in list(self.watches):
            if number not in self._lagging:
                self._tell(number, events, self._etcd.revision)

    def _tell(self, number: int, events: list[Event], revision: int) -> None:
        key, range_end, first = self.watches[number]
        wanted = [event for event in events if event.kv.mod_revision >= first and is_in(event.kv.key, key, range_end)]
        if wanted and not self._etcd.is_silent:
            for _ in range(2 if self._etcd.doubles else 1):
                response = WatchResponse(header=self._etcd.header(), watch_id=number, events=wanted)
                response.header.revision = revision
                self.say(response)


class FakeRpc:
    """Replaces :class:`getc.v3.rpc.RpcClient`.

    Args:
        etcd: The server.
    """

    def __init__(self, etcd: FakeEtcd) -> None:
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
        if etcd.takes_no_stream:
            raise ConnectionRefused('no streams')

        def connect() -> Any:
            stream = (_WatchStream if method is Watch.Watch else _KeepAliveStream)(etcd)
            self._streams.append(stream)
            return stream

        return connect() if etcd.fault is None else etcd.fault(connect, self.deadline(timeout), False)

    servers = 1

    def turn(self) -> None:
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
