"""Which zone should run which shard: everybody comes to the same answer."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from examples.zones.sharing import shares
from tests.examples.stage import SHARDS

MANY = [f'shard-{number}' for number in range(100)]
ZONES = [f'zone-{number}' for number in range(10)]


@pytest.mark.parametrize('count', range(1, 11))
def test_shares_are_even(count: int) -> None:
    """No zone has more than its part, rounded up; each shard has one zone."""
    chosen = shares(MANY, ZONES[:count])
    assert sorted(chosen) == sorted(MANY)
    assert max(Counter(chosen.values()).values()) <= -(-len(MANY) // count)


def test_shares_do_not_depend_on_the_order_of_what_is_known() -> None:
    """Nor on the process that asks."""
    assert {str(shares(SHARDS, zones)) for zones in itertools.permutations('abc')} == {
        "{'canyon': 'a', 'desert': 'a', 'forest': 'b', 'harbour': 'c', 'lake': 'c', 'tundra': 'b'}"
    }
    assert shares(reversed(SHARDS), 'cba') == shares(SHARDS, 'abc')


def test_few_shards_move_when_a_zone_goes() -> None:
    """Its own have to; of the others most stay."""
    before = shares(MANY, ZONES)
    after = shares(MANY, ZONES[1:])
    stayed = [shard for shard in MANY if after[shard] == before[shard]]
    assert len(stayed) >= 75


def test_no_shard_has_a_zone_when_there_is_none() -> None:
    """And no zone a shard, where there are none."""
    assert shares(SHARDS, []) == {}
    assert shares([], 'ab') == {}
