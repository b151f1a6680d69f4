"""The assignment of shards to zone servers."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

__all__ = ['assign_shards']


def assign_shards(shards: Iterable[str], zones: Iterable[str]) -> dict[str, str]:
    """Assign shards to zones: evenly, and with few moves when a zone is added or removed (rendezvous hashing).

    The result depends only on the names, so zones that know the same zones agree without a leader.  While their
    knowledge differs, two zones may want the same shard.  That is harmless, since the claim in etcd decides.

    Args:
        shards: The names of the shards.
        zones: The names of the zones.

    Returns:
        The zone of each shard; empty if there are no zones.
    """
    names, shards = sorted(set(zones)), sorted(shards)
    if not names:
        return {}
    capacity = dict.fromkeys(names, -(-len(shards) // len(names)))
    assigned = {}
    for shard in shards:
        zone = max((zone for zone in names if capacity[zone]), key=lambda zone: _affinity(zone, shard))
        capacity[zone] -= 1
        assigned[shard] = zone
    return assigned


def _affinity(zone: str, shard: str) -> bytes:
    # The same in every process, unlike hash().
    return sha256(f'{zone}/{shard}'.encode()).digest()
