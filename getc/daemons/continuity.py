"""Decides whether a watch may resume where it ended, or computes the difference where that is impossible.

A watch resumes only if the store still has the last change that was delivered, unchanged: the new watch starts at that
change, and has to deliver it first.  A store that was restored from a backup shares its past with the original, so an
older unchanged key proves nothing.  Before the first change, the listing is compared instead.

For each value below the key, its created index and a hash are remembered: enough to compute the difference.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from getc.paths import is_below, remove_subtree
from getc.results import Deleted, EtcdResult, Node, Set, Value

__all__ = ['Continuity', 'Listing']


class _Fingerprint(NamedTuple):
    """What is remembered of a value."""

    created: int
    digest: int

    @classmethod
    def of(cls, node: Value) -> _Fingerprint:
        return cls(node.created_index, hash(node.value))


class _Change(NamedTuple):
    """What is remembered of a change."""

    key: str
    modified: int
    digest: int

    @classmethod
    def of(cls, node: Node) -> _Change:
        return cls(node.key, node.modified_index, hash(node.value) if isinstance(node, Value) else 0)


class _Hashes:
    """Two hashes of each listed value, in 16 bytes: with them a listing can be compared, and no difference computed."""

    __slots__ = ('_creations', '_values')

    def __init__(self) -> None:
        self._creations: array[int] = array('q')
        self._values: array[int] = array('q')

    @staticmethod
    def _of_creation(value: Value) -> int:
        return hash((value.key, value.created_index))

    @staticmethod
    def _of_value(value: Value) -> int:
        return hash((value.key, value.created_index, value.value))

    def add(self, value: Value) -> None:
        self._creations.append(self._of_creation(value))
        self._values.append(self._of_value(value))

    def has_all(self, values: Iterable[Value]) -> bool:
        """Return True if each value is one of these, apart from a refresh of its TTL."""
        return set(self._values).issuperset(map(self._of_value, values))

    def has_any(self, values: Iterable[Value]) -> bool:
        """Return True if one of the values was listed, with this or another text."""
        return any(self._of_creation(value) in self._creations for value in values)

    def are_all_in(self, values: Iterable[Value]) -> bool:
        """Return True if each of these is among the values, and was not re-created."""
        return set(map(self._of_creation, values)).issuperset(self._creations)


@dataclass(frozen=True, slots=True)
class Listing:
    """The values at and below a key at an index, in the order of their keys."""

    index: int
    values: dict[str, Value]


class Continuity:
    """The position of a follower in the history of the store.  Performs no I/O.

    Args:
        cursor: The last index before the changes to deliver; None to start at the first listing.
        keeps_values: Remember a fingerprint of each value, so that a difference can be computed.  Otherwise two hashes
            of each value are remembered, until the first change after a listing.

    Attributes:
        cursor: Every change up to this index was processed.
    """

    __slots__ = ('_hashes', '_keeps_values', '_known', '_latest', '_listed_index', '_marker', 'cursor')

    def __init__(self, cursor: int | None, *, keeps_values: bool) -> None:
        self.cursor = cursor
        self._keeps_values = keeps_values
        self._known: dict[str, _Fingerprint] | None = None
        self._hashes: _Hashes | None = None  # of the listed values, where no values are kept
        self._listed_index = 0  # of the last listing
        self._latest: _Change | None = None  # the last change that was delivered or listed
        self._marker: _Change | None = None  # the change that the watch has to deliver first

    @property
    def has_started(self) -> bool:
        """True after the first listing."""
        return self._known is not None

    @property
    def first_index(self) -> int:
        """The index from which to watch."""
        assert self.cursor is not None
        return self.cursor + 1 if self._marker is None else self._marker.modified

    @property
    def awaits_marker(self) -> bool:
        """True until the watch has delivered the change that proves that the store is the same."""
        return self._marker is not None

    # -- where the watch starts

    def start(self, listing: Listing) -> None:
        """Take the first listing as the known state."""
        if self.cursor is None:
            self.cursor = listing.index
        self._reset(listing)

    def resume_at_last_change(self) -> bool:
        """Resume at the last delivered change.  Return False if none was delivered since the last listing."""
        self._marker = None
        if self._latest is None or self._latest.modified != self.cursor:
            return False
        self._marker = self._latest
        return True

    def resume_after(self, listing: Listing) -> bool:
        """Resume at the cursor, where no change was delivered since the last listing.  Return False if history is lost.

        An index lower than the cursor or the last listing, or an unknown or different value that is not newer than the
        cursor, proves that the store is another one.  If a known value is missing or was re-created, or the latest
        listed change is missing, that may have happened after the cursor, or before it in another store.  Then the
        watch starts at the latest listed change, and what it delivers decides between the two.
        A TTL refresh changes modified_index only, and watches are not notified.
        """
        assert self.cursor is not None and self._known is not None
        if listing.index < max(self.cursor, self._listed_index):
            return False
        old = [value for value in listing.values.values() if value.modified_index <= self.cursor]
        if self._hashes is None:
            is_other = not all(self._is_known(value) for value in old)
            is_unproven = self._lacks_known(listing.values)
        else:
            is_other = not self._hashes.has_all(old)
            is_unproven = self._lacks_latest(listing.values) or not self._hashes.are_all_in(listing.values.values())
        if is_other or (is_unproven and self._latest is None):
            return False
        if is_unproven:
            self._marker = self._latest
        return True

    def resync(self, listing: Listing) -> list[EtcdResult]:
        """Move the cursor to a listing after history was lost.

        Returns:
            Results that lead from the known state to the listing, in the order of the keys; none if no values are kept.
        """
        difference = list(self._difference(listing)) if self._keeps_values else []
        self.cursor = listing.index
        self._reset(listing)
        return difference

    # -- what the watch delivers

    def process(self, results: Sequence[EtcdResult]) -> list[EtcdResult] | None:
        """Process the changes of one revision.

        Returns:
            Those that were not delivered before.  None if the store does not have the history that was followed.
        """
        cursor, known = self.cursor, self._known
        assert cursor is not None and known is not None
        last = results[-1].modified_index
        if self._marker is not None:
            if self._marker not in map(_Change.of, (result.node for result in results)):
                return None
            self._marker = None
        elif last <= cursor and self._contradicts_listing(results):
            return None
        new = [result for result in results if result.modified_index > cursor]
        for result in new:
            node = result.node
            if isinstance(node, Value):
                if self._keeps_values:
                    known[node.key] = _Fingerprint.of(node)
            elif isinstance(result, Deleted):
                remove_subtree(known, node.key)
            else:  # a new directory, perhaps in place of a value
                known.pop(node.key, None)
            self._latest = _Change.of(node)
        if last > cursor:
            self.cursor = last
            self._hashes = None  # from now on the watch resumes at the last change
        return new

    # -- comparisons

    def _contradicts_listing(self, results: Sequence[EtcdResult]) -> bool:
        """Return True if these changes, up to the cursor, deleted a value that was listed at the cursor."""
        assert self._known is not None
        if self._hashes is not None:
            deleted = [result.prev_node for result in results if isinstance(result, Deleted)]
            return self._hashes.has_any([node for node in deleted if isinstance(node, Value)])
        return any(
            isinstance(result, Deleted)
            and known.created < result.modified_index
            and (key == result.key or is_below(key, result.key))
            for result in results
            for key, known in self._known.items()
        )

    def _lacks_known(self, values: Mapping[str, Value]) -> bool:
        """Return True if a known value is missing or was re-created, or the latest listed change is missing."""
        assert self._known is not None
        return self._lacks_latest(values) or any(
            key not in values or values[key].created_index != known.created for key, known in self._known.items()
        )

    def _lacks_latest(self, values: Mapping[str, Value]) -> bool:
        """Return True if the latest listed change is missing."""
        latest = self._latest
        return latest is not None and (latest.key not in values or _Change.of(values[latest.key]) != latest)

    def _is_known(self, value: Value) -> bool:
        """Return True if this is the known value, apart from a refresh of its TTL."""
        assert self._known is not None
        return self._known.get(value.key) == _Fingerprint.of(value)

    def _difference(self, listing: Listing) -> Iterator[EtcdResult]:
        assert self._known is not None
        for key in sorted({*self._known, *listing.values}):
            known, value = self._known.get(key), listing.values.get(key)
            if value is None:
                deleted = Node(key, modified_index=listing.index)
                yield Deleted(deleted, etcd_index=listing.index, resync=True)
            elif known != _Fingerprint.of(value):
                yield Set(value, etcd_index=listing.index, is_new=known is None, resync=True)

    def _reset(self, listing: Listing) -> None:
        """Take the values that the listing has at the cursor as the known state."""
        assert self.cursor is not None
        self._known = {}
        self._latest = self._marker = None
        self._listed_index = listing.index
        self._hashes = None if self._keeps_values else _Hashes()
        for value in listing.values.values():
            if value.modified_index > self.cursor:
                continue  # the watch delivers it
            if self._hashes is None:
                self._known[value.key] = _Fingerprint.of(value)
            else:
                self._hashes.add(value)
            # Not a value with a TTL: a refresh changes its index, and no watch is notified of that.
            if value.ttl is None and (self._latest is None or value.modified_index > self._latest.modified):
                self._latest = _Change.of(value)
