"""Which zone server should run which shard."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

__all__ = ['shares']


def shares(shards: Iterable[str], zones: Iterable[str]) -> dict[str, str]:
    """For each shard the zone that should run it: evenly, and with few moves when a zone comes or goes.

    Whoever knows of the same zones comes to the same answer, so nobody has to be asked.  For a moment some know of
    others, and two zones want the same shard.  That is harmless: it is the claim in etcd that makes an owner.

    Args:
        shards: The names of the shards.
        zones: The names of the zones; without any, no shard has one.
    """
    names, shards = sorted(set(zones)), sorted(shards)
    if not names:
        return {}
    room = dict.fromkeys(names, -(-len(shards) // len(names)))
    chosen = {}
    for shard in shards:
        zone = max((zone for zone in names if room[zone]), key=lambda zone: _affinity(zone, shard))
        room[zone] -= 1
        chosen[shard] = zone
    return chosen


def _affinity(zone: str, shard: str) -> bytes:
    # The same in every process, which hash() is not.
    return sha256(f'{zone}/{shard}'.encode()).digest()
