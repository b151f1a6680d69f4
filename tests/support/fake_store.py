"""The store of a fake etcd, in virtual time, which executes the RPCs that getc uses."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gevent.hub import get_hub

from getc import timing
from getc.errors import (
    ConnectionError,
    LeaseNotFound,
    PermissionDenied,
)
from getc.timing import Deadline
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import (
    DeleteRangeResponse,
    PutResponse,
    RangeRequest,
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
from tests.support.fake_faults import Fault, hang, refuse

__all__ = ['FakeStore', 'is_in']

MIN_TTL = 2


@dataclass
class _Lease:
    ttl: int
    keys: set[bytes] = field(default_factory=set)
    expires_at: float = 0.0
    timer: Any = None


class FakeStore:
    """The state of a fake etcd: keys, leases, history, faults, and the open streams.

    Attributes:
        revision: The current revision.
        keys: All keys and their values.
        leases: The live leases, by ID.
        cluster_id: Identifies the store.
        raft_term: The term of the leader.
        calls: Time and method of every call.
        fault: Applied to every call; None for no fault.
        is_silent: The streams accept messages and send none.
        holds_streams: The messages of streams are on their way until ``release_streams``.
        believes: Expired leases whose keep-alive is answered all the same, as etcd 3.4.23 may do.
        doubles: Every event is sent twice, as etcd 3.4.23 may do.
        forbidden: Ranges that the user may not read or watch.
        takes_no_watch: New watches are refused with an invalid token.
        takes_no_stream: New streams are refused.
        lags_at: The revision of the lagging member that serves new streams; 0 for a member that does not lag.
        history_delay: Seconds between two responses with the history for a new watch.
        drops_progress: Progress requests are not answered, as by ``etcd grpc-proxy``.
        is_proxied: Watches are created as by ``etcd grpc-proxy`` for ranges that other clients watch: it counts them
            from 0, and the created responses have no cluster ID and the requested revision.  The proxy drops what
            follows on the first response with history, and renews leases at its own pace.
        answers_progress_early: Progress requests are answered before pending events, as by etcd < 3.4.25 and < 3.5.8.
    """

    def __init__(self) -> None:
        self.revision = 1
        self.keys: dict[bytes, KeyValue] = {}
        self.leases: dict[int, _Lease] = {}
        self.cluster_id = 1
        self.raft_term = 2
        self.calls: list[tuple[float, str]] = []
        self.fault: Fault | None = None
        self.is_silent = False
        self.holds_streams = False
        self.answered_expired_leases: set[int] = set()
        self.duplicates_events = False
        self.forbidden: set[tuple[bytes, bytes]] = set()
        self.refuses_watches = False
        self.refuses_streams = False
        self.history_delay = 0.0
        self.lags_at = 0
        self.drops_progress = False
        self.is_proxied = False
        self.answers_progress_early = False
        self.streams: list[Any] = []  # those of ``fake_rpc``
        self._faults: dict[str, deque[Fault]] = {}
        self._history: list[list[Event]] = []
        self._compacted = 0
        self._last_lease = 0x10

    # -- for tests

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

    def go_silent(self) -> None:
        """Stop responding, with open connections, as after SIGSTOP."""
        self.fault = hang
        self.is_silent = True

    def recover(self) -> None:
        """Respond again."""
        self.fault = None
        self.is_silent = False

    def wipe(self, cluster_id: int = 2, *, breaks_streams: bool = True) -> None:
        """Lose all data and start with another cluster ID.

        Args:
            cluster_id: The cluster ID.
            breaks_streams: False for streams to a ``grpc-proxy``, which watches further from the next revision on.
        """
        first = self.revision + 1
        for lease in self.leases.values():
            lease.timer.close()
        self.leases.clear()
        self.keys.clear()
        self._history.clear()
        self.revision = 1
        self._compacted = 0
        self.cluster_id = cluster_id
        if breaks_streams:
            self.break_streams()
        for stream in self.streams:
            stream.skip_to(first)

    def invalidate_tokens(self, *, permanently: bool = False) -> None:
        """Invalidate the tokens of open streams, or of all future streams too; unary calls get a new token."""
        self.refuses_watches = permanently
        for stream in self.streams:
            stream.has_invalid_token = True

    def break_streams(self) -> None:
        """Break the connections of all streams."""
        streams, self.streams = self.streams, []
        for stream in streams:
            stream.end(ConnectionError('the connection broke'))

    def release_streams(self) -> None:
        """Let the messages of streams arrive that were held back."""
        self.holds_streams = False
        for stream in self.streams:
            stream.release()

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

    # -- RPCs

    def answer(self, name: str, request: Any, deadline: Deadline, is_write: bool) -> Any:
        """Execute a call, or apply the fault for it."""
        self.calls.append((timing.now(), name))
        faults = self._faults.get(name)
        fault = faults.popleft() if faults else self.fault

        def do() -> Any:
            return getattr(self, f'_do_{name}')(request)

        return do() if fault is None else fault(do, deadline, is_write)

    def header(self) -> ResponseHeader:
        return ResponseHeader(cluster_id=self.cluster_id, revision=self.revision, raft_term=self.raft_term)

    def _do_Range(self, request: Any) -> RangeResponse:
        if (request.key, request.range_end) in self.forbidden:
            raise PermissionDenied('permission denied')
        kvs = [self.keys[key] for key in self._keys_in(request.key, request.range_end)]
        if request.keys_only:  # as from etcd 3.7 on, without the lease
            kvs = [
                KeyValue(
                    key=kv.key, create_revision=kv.create_revision, mod_revision=kv.mod_revision, version=kv.version
                )
                for kv in kvs
            ]
        last = request.max_mod_revision or self.revision
        kvs = [kv for kv in kvs if request.min_mod_revision <= kv.mod_revision <= last]
        kvs = [kv for kv in kvs if kv.create_revision <= (request.max_create_revision or self.revision)]
        if request.sort_target == RangeRequest.SortTarget.CREATE:
            is_descending = request.sort_order == RangeRequest.SortOrder.DESCEND
            kvs.sort(key=lambda kv: kv.create_revision, reverse=is_descending)
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
        ttl = lease.ttl if lease is not None else 10 if number in self.answered_expired_leases else 0
        return LeaseKeepAliveResponse(header=self.header(), ID=number, TTL=ttl)

    # -- internals

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
            stream.send_events(events)

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
