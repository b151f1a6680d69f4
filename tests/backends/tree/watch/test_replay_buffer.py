"""The bound of the replay buffer, and the histories of its ranges."""

from __future__ import annotations

import pytest

from getc.backends.tree.watch import replay_buffer
from getc.backends.tree.watch.replay_buffer import RangeHistory, ReplayBuffer


def revisions(history: RangeHistory, since: int = 0) -> list[int]:
    return [revision for revision, _ in history.since(since)]


def test_history_yields_later_revisions_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    history = RangeHistory(ReplayBuffer())
    for revision in (2, 5, 9):
        history.add(revision, [], 10)
    assert (revisions(history), revisions(history, 2), revisions(history, 8), revisions(history, 9)) == (
        [2, 5, 9],
        [5, 9],
        [9],
        [],
    )


def test_oldest_revision_of_all_histories_is_dropped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each history knows from which revision on it is complete."""
    monkeypatch.setattr(replay_buffer, 'BUFFER_BYTES', 4000)
    shared = ReplayBuffer()
    first, second = RangeHistory(shared), RangeHistory(shared)
    first.first_revision = second.first_revision = 1
    for revision in (2, 4):
        first.add(revision, [], 1000)
        second.add(revision + 1, [], 1000)
    assert (first.first_revision, second.first_revision) == (1, 1)
    second.add(6, [], 2000)
    assert (revisions(first), revisions(second)) == ([4], [5, 6])
    assert (first.first_revision, second.first_revision) == (3, 4)


def test_empty_revision_counts_for_a_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the number of revisions would have no bound."""
    monkeypatch.setattr(replay_buffer, 'BUFFER_BYTES', 10 * replay_buffer.MIN_BYTES)
    history = RangeHistory(ReplayBuffer())
    for revision in range(100):
        history.add(revision, [], 0)
    assert revisions(history) == list(range(90, 100))


def test_revision_larger_than_the_buffer_empties_it(monkeypatch: pytest.MonkeyPatch) -> None:
    history = RangeHistory(ReplayBuffer())
    history.add(2, [], 10)
    history.add(3, [], replay_buffer.BUFFER_BYTES + 1)
    assert revisions(history) == []
    assert history.first_revision == 4
