"""What a watch saw, as results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from getc.backends.tree.codec.keyspace import Range, below, encode, marker, node_of, subtree_range
from getc.backends.tree.codec.nodes import deleted_node, value_of
from getc.operations import WatchSpec
from getc.results import Deleted, Directory, EtcdResult, Expired, Node, Set
from getc.v3.schema.mvccpb import Event
from getc.v3.schema.watch import WatchCreateRequest

__all__ = ['leases_of', 'narrow_range', 'range_of', 'request_of', 'results_of']


def range_of(spec: WatchSpec) -> Range:
    """The keys to watch: one range, for two would tell in no order.  ``results_of`` leaves out what else is in it."""
    if spec.recursive:
        return subtree_range(spec.key)
    return encode(spec.key), marker(spec.key) + b'\0'


def narrow_range(spec: WatchSpec) -> Range:
    """The same for a user who may not read all of that: without a value in the directory's place."""
    return below(spec.key) if spec.recursive else (encode(spec.key), b'')


def request_of(watched: Range, start_revision: int) -> WatchCreateRequest:
    """The watch of a range; a ``start_revision`` of 0 is from now on."""
    key, range_end = watched
    return WatchCreateRequest(
        key=key, range_end=range_end, start_revision=start_revision, prev_kv=True, fragment=True, progress_notify=False
    )


def leases_of(events: Iterable[Event]) -> set[int]:
    """The leases of the keys that were deleted: whoever knows if they are gone knows if the keys expired."""
    return {event.prev_kv.lease for event in events if event.type == Event.EventType.DELETE and event.prev_kv.lease}


def results_of(
    spec: WatchSpec, events: Iterable[Event], index: int, term: int, is_gone: Callable[[int], bool]
) -> Iterator[EtcdResult]:
    """The results for whoever follows that.

    Args:
        spec: What is followed.
        events: Of one revision.
        index: The server's when it told.
        term: The election's.
        is_gone: Whether a lease has ended.
    """
    for event in events:
        found = node_of(event.kv.key)
        if found is None:
            continue
        key, is_marker = found
        if not spec.covers(key):
            continue
        yield _result(event, key, is_marker, index, term, is_gone)


def _result(
    event: Event, key: str, is_marker: bool, index: int, term: int, is_gone: Callable[[int], bool]
) -> EtcdResult:
    kv = event.kv
    before: Node | None = None
    if event.HasField('prev_kv'):
        old = event.prev_kv
        before = Directory(key, old.mod_revision, old.create_revision) if is_marker else value_of(key, old)
    if event.type == Event.EventType.PUT:
        node: Node = Directory(key, kv.mod_revision, kv.create_revision) if is_marker else value_of(key, kv)
        return Set(node, before, index, 0, term, kv.version == 1)
    created = 0 if before is None else before.created_index
    kind = Expired if event.prev_kv.lease and is_gone(event.prev_kv.lease) else Deleted
    node = Directory(key, kv.mod_revision, created) if is_marker else deleted_node(key, kv.mod_revision, created)
    return kind(node, before, index, 0, term)
