"""Watches: the range to watch, and events as results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from getc.backends.tree.codec.keyspace import (
    Range,
    deleted_node,
    directory_range,
    encode,
    marker,
    node_of,
    subtree_range,
    value_of,
)
from getc.operations import WatchSpec
from getc.results import Deleted, Directory, EtcdResult, Expired, Node, Set
from getc.v3.schema.mvccpb import Event
from getc.v3.schema.watch import WatchCreateRequest

__all__ = ['leases_of', 'narrow_range', 'range_of', 'request_of', 'results_of']


def range_of(spec: WatchSpec) -> Range:
    """Return the range to watch: one, since two watches have no mutual order.  ``results_of`` drops its other keys."""
    if spec.recursive:
        return subtree_range(spec.key)
    if spec.is_exact:
        return encode(spec.key), b''
    return encode(spec.key), marker(spec.key) + b'\0'


def narrow_range(spec: WatchSpec) -> Range:
    """Return a narrower range, for users without permission for the whole: events of the node itself may be missing."""
    if spec.is_exact:
        return range_of(spec)
    return directory_range(spec.key) if spec.recursive else (encode(spec.key), b'')


def request_of(key_range: Range, start_revision: int) -> WatchCreateRequest:
    """Return the request for a watch of a range; a ``start_revision`` of 0 is from now on."""
    key, range_end = key_range
    return WatchCreateRequest(
        key=key, range_end=range_end, start_revision=start_revision, prev_kv=True, fragment=True, progress_notify=False
    )


def leases_of(events: Iterable[Event]) -> set[int]:
    """Return the leases of deleted keys: whether such a lease still exists distinguishes expiry from deletion."""
    return {event.prev_kv.lease for event in events if event.type == Event.EventType.DELETE and event.prev_kv.lease}


def results_of(
    spec: WatchSpec, events: Sequence[Event], index: int, term: int, is_expired: Callable[[int], bool]
) -> Iterator[EtcdResult]:
    """Yield the results of events, for a subscriber to ``spec``.

    Args:
        spec: What the subscriber watches.
        events: Events of one revision.
        index: The revision of the response's header.
        term: The raft term.
        is_expired: Returns whether a lease has expired or was revoked.
    """
    # etcd 3.4 may send an event twice in one response.
    for event in events if len(events) == 1 else {event.kv.key: event for event in events}.values():
        found = (spec.key, False) if spec.is_exact else node_of(event.kv.key)
        if found is None:
            continue
        key, is_marker = found
        if not spec.covers(key):
            continue
        yield _result(event, key, is_marker, index, term, is_expired)


def _result(
    event: Event, key: str, is_marker: bool, index: int, term: int, is_expired: Callable[[int], bool]
) -> EtcdResult:
    kv = event.kv
    prev_node: Node | None = None
    if event.HasField('prev_kv'):
        prev_kv = event.prev_kv
        if is_marker:
            prev_node = Directory(key, prev_kv.mod_revision, prev_kv.create_revision)
        else:
            prev_node = value_of(key, prev_kv)
    if event.type == Event.EventType.PUT:
        node: Node = Directory(key, kv.mod_revision, kv.create_revision) if is_marker else value_of(key, kv)
        return Set(node, prev_node, index, 0, term, kv.version == 1)
    created = 0 if prev_node is None else prev_node.created_index
    kind = Expired if event.prev_kv.lease and is_expired(event.prev_kv.lease) else Deleted
    node = Directory(key, kv.mod_revision, created) if is_marker else deleted_node(key, kv.mod_revision, created)
    return kind(node, prev_node, index, 0, term)
