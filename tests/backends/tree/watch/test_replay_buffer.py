"""What was told lately."""

from __future__ import annotations

import pytest

from getc.backends.tree.watch import replay_buffer
from getc.backends.tree.watch.replay_buffer import RangeHistory, ReplayBuffer


def revisions(story: RangeHistory, since: int = 0) -> list[int]:
    return [revision for revision, _ in story.since(since)]


def test_story_tells_what_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order."""
    story = RangeHistory(ReplayBuffer())
    for revision in (2, 5, 9):
        story.add(revision, [], 10)
    assert (revisions(story), revisions(story, 2), revisions(story, 8), revisions(story, 9)) == (
        [2, 5, 9],
        [5, 9],
        [9],
        [],
    )


def test_oldest_is_forgotten_whosever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each story knows from where on it is whole."""
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


def test_smallest_revision_weighs_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or their number would know no bound."""
    monkeypatch.setattr(replay_buffer, 'BUFFER_BYTES', 10 * replay_buffer.MIN_BYTES)
    story = RangeHistory(ReplayBuffer())
    for revision in range(100):
        story.add(revision, [], 0)
    assert revisions(story) == list(range(90, 100))


def test_revision_that_is_larger_than_the_room_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing before it."""
    story = RangeHistory(ReplayBuffer())
    story.add(2, [], 10)
    story.add(3, [], replay_buffer.BUFFER_BYTES + 1)
    assert revisions(story) == []
    assert story.first_revision == 4
