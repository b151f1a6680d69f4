"""A matchmaker, which assigns players to shards."""

from __future__ import annotations

from collections import Counter

import getc
from examples.zones.settings import Settings

__all__ = ['Matchmaker', 'NoFreeSeat']


class NoFreeSeat(Exception):
    """No shard with an owner has a free seat."""


class Matchmaker:
    """Assigns players to the shard with the fewest players.  Several matchmakers may run; all state is in etcd.

    Args:
        etcd: The client.

    Attributes:
        claims: The owners of the shards, as ``/claims/forest`` to ``a``.
        players: The shards of the players, as ``/players/ann`` to ``forest``.
        settings: The configuration.
    """

    def __init__(self, etcd: getc.Client) -> None:
        self._etcd = etcd
        self.settings = Settings(etcd)
        self.claims = etcd.mirror('/claims', timeout=None)
        self.players = etcd.mirror('/players', timeout=None)

    def seat(self, player: str) -> str:
        """Assign a player to a shard, and return the shard.

        A player stays in the same shard until it leaves, so the call may be repeated after an error.

        Raises:
            NoFreeSeat: There is no free seat.
            EtcException: The assignment failed; with ``maybe_applied`` the player may have a seat.
        """
        key = f'/players/{player}'
        try:
            seated = self._etcd.create(key, self._emptiest())
        except getc.NodeExist:
            return self._etcd.get(key, quorum=True).value or ''
        try:
            # Wait until the mirror contains the player, so that the next one is not assigned to the same seat.
            self.players.wait(lambda players: key in players or players.is_stale, timeout=1.0)
        except getc.TimedOut:
            pass  # a shard may get one player too many
        return seated.value or ''

    def leave(self, player: str) -> None:
        """Free the seat of a player.  Does nothing if the player has none.

        Raises:
            EtcException: The deletion failed.
        """
        try:
            self._etcd.delete(f'/players/{player}')
        except getc.KeyNotFound:
            pass

    def server_of(self, player: str) -> str | None:
        """Return the zone that runs a player's shard; None if there is none.  Does no I/O."""
        shard = self.players.get(f'/players/{player}')
        return None if shard is None else self.claims.get(f'/claims/{shard}')

    def _emptiest(self) -> str:
        """Return the shard with the fewest players among those with an owner."""
        taken = Counter(self.players.values())
        shards = [key.removeprefix('/claims/') for key in self.claims]
        free = [shard for shard in shards if taken[shard] < self.settings.seats]
        if not free:
            raise NoFreeSeat(f'none of {len(shards)} shards with an owner has a free seat ({self.settings.seats} each)')
        return min(free, key=lambda shard: (taken[shard], shard))
