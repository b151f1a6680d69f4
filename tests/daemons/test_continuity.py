"""Tests of the continuity check, without I/O: where a watch resumes, and the difference after history was lost."""

from __future__ import annotations

import pytest

from getc.daemons.continuity import Continuity, Listing
from getc.results import Deleted, EtcdResult, Set, Value


def value(key: str, text: str, created: int, modified: int | None = None, ttl: int | None = None) -> Value:
    return Value(key, created if modified is None else modified, created, ttl=ttl, value=text)


def listing(index: int, *values: Value) -> Listing:
    return Listing(index, {each.key: each for each in values})


def written(node: Value) -> EtcdResult:
    return Set(node, etcd_index=node.modified_index)


def started(*values: Value, index: int = 10, keeps_values: bool = True) -> Continuity:
    continuity = Continuity(None, keeps_values=keeps_values)
    continuity.start(listing(index, *values))
    return continuity


def test_start_without_an_index_watches_after_the_listing() -> None:
    continuity = started(value('/a', '1', 5))
    assert (continuity.cursor, continuity.first_index) == (10, 11)


def test_start_with_an_index_watches_from_it() -> None:
    continuity = Continuity(3, keeps_values=True)
    continuity.start(listing(10, value('/a', '1', 5)))
    assert (continuity.cursor, continuity.first_index) == (3, 4)


def test_process_returns_new_changes_only_and_moves_the_cursor() -> None:
    continuity = started(value('/a', '1', 5))
    change = written(value('/a', '2', 5, 11))
    assert continuity.process([change]) == [change]
    assert continuity.process([change]) == []
    assert continuity.cursor == 11


def test_watch_resumes_at_the_last_delivered_change_and_has_to_deliver_it_first() -> None:
    continuity = started(value('/a', '1', 5))
    change, following = written(value('/a', '2', 5, 11)), written(value('/a', '3', 5, 12))
    continuity.process([change])
    assert continuity.resume_at_last_change()
    assert (continuity.first_index, continuity.awaits_marker) == (11, True)
    assert continuity.process([change]) == []
    assert not continuity.awaits_marker
    assert continuity.process([following]) == [following]


@pytest.mark.parametrize('other', [value('/a', 'x', 5, 11), value('/b', '2', 11), value('/a', '2', 5, 12)])
def test_watch_that_delivers_another_change_first_has_lost_its_history(other: Value) -> None:
    continuity = started(value('/a', '1', 5))
    continuity.process([written(value('/a', '2', 5, 11))])
    continuity.resume_at_last_change()
    assert continuity.process([written(other)]) is None


@pytest.mark.parametrize('keeps_values', [True, False])
def test_unchanged_listing_resumes_at_the_cursor(keeps_values: bool) -> None:
    continuity = started(value('/a', '1', 5), keeps_values=keeps_values)
    assert not continuity.resume_at_last_change()
    assert continuity.resume_after(listing(12, value('/a', '1', 5)))
    assert (continuity.first_index, continuity.awaits_marker) == (11, False)


def test_refresh_of_a_ttl_resumes_at_the_cursor() -> None:
    continuity = started(value('/a', '1', 5, ttl=10))
    assert continuity.resume_after(listing(12, value('/a', '1', 5, 9, ttl=10)))


@pytest.mark.parametrize('keeps_values', [True, False])
@pytest.mark.parametrize(
    'found',
    [
        listing(12, value('/a', '1', 5), value('/b', 'x', 7)),
        listing(12, value('/a', 'x', 5)),
        listing(9, value('/a', '1', 5)),
    ],
    ids=['unknown value', 'different value', 'lower index'],
)
def test_listing_that_contradicts_the_known_state_proves_another_store(found: Listing, keeps_values: bool) -> None:
    assert not started(value('/a', '1', 5), keeps_values=keeps_values).resume_after(found)


@pytest.mark.parametrize('keeps_values', [True, False])
def test_listing_with_a_later_change_resumes_and_delivers_the_change(keeps_values: bool) -> None:
    continuity = started(value('/a', '1', 5), value('/ttl', '1', 6, ttl=10), keeps_values=keeps_values)
    later = value('/ttl', '2', 6, 12, ttl=10), value('/b', '1', 11)
    assert continuity.resume_after(listing(12, value('/a', '1', 5), *later))
    assert (continuity.first_index, continuity.awaits_marker) == (11, False)
    change = written(value('/b', '1', 11))
    assert continuity.process([change]) == [change]


@pytest.mark.parametrize('keeps_values', [True, False])
def test_value_re_created_is_looked_up_from_the_last_listed_change(keeps_values: bool) -> None:
    continuity = started(value('/a', '1', 5), value('/b', '1', 7), keeps_values=keeps_values)
    assert continuity.resume_after(listing(13, value('/a', '1', 13), value('/b', '1', 7)))
    assert (continuity.first_index, continuity.awaits_marker) == (7, True)


@pytest.mark.parametrize('cursor', [20, 3])
@pytest.mark.parametrize('keeps_values', [True, False])
def test_listing_below_the_requested_index_or_the_last_listing_proves_another_store(
    keeps_values: bool, cursor: int
) -> None:
    continuity = Continuity(cursor, keeps_values=keeps_values)
    continuity.start(listing(10, value('/a', '1', 2)))
    assert not continuity.resume_after(listing(9, value('/a', '1', 2)))


@pytest.mark.parametrize('keeps_values', [True, False])
def test_missing_value_is_looked_up_from_the_last_listed_change(keeps_values: bool) -> None:
    """It may have been deleted after the cursor, or before it in another store."""
    continuity = started(value('/a', '1', 5), value('/b', '1', 7), keeps_values=keeps_values)
    assert continuity.resume_after(listing(12, value('/b', '1', 7)))
    assert (continuity.first_index, continuity.awaits_marker) == (7, True)


@pytest.mark.parametrize('keeps_values', [True, False])
def test_deletion_before_the_cursor_contradicts_the_listing(keeps_values: bool) -> None:
    continuity = started(value('/a', '1', 5), value('/b', '1', 7), keeps_values=keeps_values)
    continuity.resume_after(listing(12, value('/b', '1', 7)))
    assert continuity.process([written(value('/b', '1', 7))]) == []
    deleted = Deleted(value('/a', '', 5, 9), value('/a', '1', 5), etcd_index=9)
    assert continuity.process([deleted]) is None


def test_resync_returns_the_difference_in_the_order_of_the_keys() -> None:
    continuity = started(value('/a', '1', 1), value('/b', '1', 2), value('/c', '1', 3), value('/e', '1', 4))
    found = listing(30, value('/a', '2', 1, 20), value('/b', '1', 21), value('/d', '1', 22), value('/e', '1', 4))
    difference = continuity.resync(found)
    assert [(type(result), result.key, result.is_new) for result in difference] == [
        (Set, '/a', False),
        (Set, '/b', False),
        (Deleted, '/c', False),
        (Set, '/d', True),
    ]
    assert all(result.resync for result in difference)
    assert continuity.cursor == 30
    assert continuity.resume_after(found)


def test_resync_returns_nothing_when_no_values_are_kept() -> None:
    continuity = started(value('/a', '1', 1), keeps_values=False)
    assert continuity.resync(listing(30, value('/b', '1', 20))) == []
    assert continuity.cursor == 30
