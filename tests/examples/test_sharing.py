"""The assignment of shards to zones, which depends only on their names."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from examples.zones.sharing import assign_shards
from tests.examples.zone_world import SHARDS

MANY = [f'shard-{number}' for number in range(100)]
ZONES = [f'zone-{number}' for number in range(10)]


@pytest.mark.parametrize('count', range(1, 11))
def test_assignment_is_even(count: int) -> None:
    chosen = assign_shards(MANY, ZONES[:count])
    assert sorted(chosen) == sorted(MANY)
    assert max(Counter(chosen.values()).values()) <= -(-len(MANY) // count)


def test_assignment_does_not_depend_on_order_or_process() -> None:
    assert {str(assign_shards(SHARDS, zones)) for zones in itertools.permutations('abc')} == {
        "{'canyon': 'a', 'desert': 'a', 'forest': 'b', 'harbour': 'c', 'lake': 'c', 'tundra': 'b'}"
    }
    assert assign_shards(reversed(SHARDS), 'cba') == assign_shards(SHARDS, 'abc')


def test_few_shards_move_when_a_zone_is_removed() -> None:
    """Besides those of the removed zone."""
    before = assign_shards(MANY, ZONES)
    after = assign_shards(MANY, ZONES[1:])
    stayed = [shard for shard in MANY if after[shard] == before[shard]]
    assert len(stayed) >= 75


def test_assignment_is_empty_when_there_are_no_zones_or_no_shards() -> None:
    assert assign_shards(SHARDS, []) == {}
    assert assign_shards([], 'ab') == {}
