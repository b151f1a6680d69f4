"""Bugs that are injected into getc, to verify that the checkers find them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest import mock

from getc import retry
from getc.backends.base import AcquiringWrite, KeepListener, KeptNode
from getc.backends.tree.codec.keyspace import encode
from getc.backends.tree.lease.pool import LeasePool
from getc.backends.tree.lease.shared_lease import SharedLease
from getc.daemons.continuity import Continuity, Listing
from getc.daemons.follower import Follower
from getc.errors import NodeExist
from getc.net import failover
from getc.operations import Put
from getc.results import EtcdResult
from getc.timing import Deadline
from getc.v3.schema.kv import KV, Compare, DeleteRangeRequest, RangeRequest, RequestOp, TxnRequest
from getc.v3.watch_health import WatchHealthCheck

__all__ = ['BUGS', 'applied']

SKIPPED_EVENT: Final = 20
"""The number of the event that a watcher does not deliver."""

LOSS_DELAY: Final = 6.0
"""Seconds by which a loss is reported too late."""


@contextmanager
def skipped_event() -> Iterator[None]:
    """Skip one event of each watcher."""
    on_changes = Follower.on_changes
    counts: dict[Follower, int] = {}

    def skipping(self: Follower, results: Sequence[EtcdResult]) -> None:
        counts[self] = counts.get(self, 0) + 1
        if counts[self] != SKIPPED_EVENT:
            on_changes(self, results)

    with mock.patch.object(Follower, 'on_changes', skipping):
        yield


@contextmanager
def blind_retry() -> Iterator[None]:
    """Retry a write without a response as if it were idempotent."""

    def retry_always(facts: retry.Facts) -> retry.Decision:
        is_write = facts.effect is retry.Effect.NON_IDEMPOTENT
        return retry.decide(replace(facts, effect=retry.Effect.IDEMPOTENT) if is_write else facts)

    with mock.patch.object(failover, 'decide', retry_always):
        yield


@contextmanager
def late_loss() -> Iterator[None]:
    """Report the loss of a node when another keeper may already own it in etcd."""
    init = SharedLease.__init__

    def late(self: SharedLease, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self.clock.margin -= LOSS_DELAY
        self.clock.lost_at += LOSS_DELAY

    with mock.patch.object(SharedLease, '__init__', late):
        yield


@contextmanager
def value_ownership() -> Iterator[None]:
    """Take over a node with the value of an unanswered write of the keeper, regardless of its lease."""
    keep, delete_unanswered = LeasePool.keep, LeasePool.delete_unanswered

    def unchanged(group: LeasePool, key: str, writes: Collection[AcquiringWrite], deadline: Deadline) -> Compare | None:
        found = group._rpc.call(KV.Range, RangeRequest(key=encode(key)), deadline).kvs
        if not found or found[0].value not in [encode(write.value) for write in writes]:
            return None
        return Compare(key=encode(key), target=Compare.CompareTarget.MOD, mod_revision=found[0].mod_revision)

    def keep_by_value(self: LeasePool, put: Put, member: KeepListener, deadline: Deadline) -> KeptNode:
        earlier = tuple(member.unanswered)
        try:
            return keep(self, put, member, deadline)
        except NodeExist:
            key, value = put.key, put.value or ''
            condition = unchanged(self, key, earlier, deadline)
            if condition is None:
                raise
            taken = self._on_lease(
                key, lambda lease: self._move(key, value, condition, lease, member, deadline), deadline
            )
            if taken is None:
                raise
            return taken

    def delete_by_value(self: LeasePool, key: str, member: KeepListener, deadline: Deadline) -> None:
        condition = unchanged(self, key, member.unanswered, deadline)
        if condition is not None:
            delete = RequestOp(request_delete_range=DeleteRangeRequest(key=encode(key)))
            self._rpc.call(KV.Txn, TxnRequest(compare=[condition], success=[delete]), deadline)
        else:
            delete_unanswered(self, key, member, deadline)

    with mock.patch.multiple(LeasePool, keep=keep_by_value, delete_unanswered=delete_by_value):
        yield


@contextmanager
def loose_continuity() -> Iterator[None]:
    """Accept any unchanged value as proof that the store is the same, also after a restore."""
    resume_at_last_change, resume_after = Continuity.resume_at_last_change, Continuity.resume_after

    def list_always(self: Continuity) -> bool:
        return False

    def resume_loosely(self: Continuity, listing: Listing) -> bool:
        values, cursor = listing.values.values(), self.cursor
        assert cursor is not None
        is_other = any(value.modified_index <= cursor and not self._is_known(value) for value in values)
        if not is_other and listing.index >= cursor and any(map(self._is_known, values)):
            return True
        return resume_at_last_change(self) or resume_after(self, listing)

    with mock.patch.multiple(Continuity, resume_at_last_change=list_always, resume_after=resume_loosely):
        yield


@contextmanager
def early_live() -> Iterator[None]:
    """Report LIVE as soon as the server has created the watch, before the pending events are delivered."""
    on_live = Follower.on_live

    def live(self: Follower, index: int) -> None:
        on_live(self, index)
        if not self._continuity.awaits_marker:
            self.on_caught_up()

    with mock.patch.object(Follower, 'on_live', live):
        yield


@contextmanager
def ping_health_check() -> Iterator[None]:
    """Accept PING replies, from whatever peer, as proof that a watch stream is healthy."""
    with mock.patch.object(WatchHealthCheck, '_find_fault', return_value=None):
        yield


BUGS: Final = {
    'skipped-event': skipped_event,
    'blind-retry': blind_retry,
    'late-loss': late_loss,
    'value-ownership': value_ownership,
    'loose-continuity': loose_continuity,
    'early-live': early_live,
    'ping-health-check': ping_health_check,
}


@contextmanager
def applied(names: Sequence[str]) -> Iterator[None]:
    """Apply bugs to getc inside the context."""
    with ExitStack() as bugs:
        for name in names:
            bugs.enter_context(BUGS[name]())
        yield
