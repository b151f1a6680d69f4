"""A matchmaker: it finds places for players."""

from __future__ import annotations

from collections import Counter

import getc
from examples.zones.settings import Settings

__all__ = ['Full', 'Matchmaker']


class Full(Exception):
    """No shard that is run has a free seat."""


class Matchmaker:
    """Follows the shards and the players, and seats whoever comes.  There may be several: etcd is all they know.

    Args:
        etcd: Its client.

    Attributes:
        claims: Which zone runs which shard: ``/claims/forest`` to ``a``.
        players: Where each player is: ``/players/ann`` to ``forest``.
        settings: The configuration.
    """

    def __init__(self, etcd: getc.Client) -> None:
        self._etcd = etcd
        self.settings = Settings(etcd)
        self.claims = etcd.mirror('/claims', timeout=None)
        self.players = etcd.mirror('/players', timeout=None)

    def seat(self, player: str) -> str:
        """Give a player a seat, and return its shard.

        The same player gets the same one, until it leaves.  So it may be called again when there was no answer.

        Raises:
            Full: There is no free seat at the moment.
            EtcException: It was not possible; with a ConnectionError the player may be seated.
        """
        key = f'/players/{player}'
        try:
            seated = self._etcd.create(key, self._emptiest())
        except getc.NodeExist:
            return self._etcd.get(key, quorum=True).value or ''
        try:
            # Until we see it ourselves: who comes next shall not get the same seat.
            self.players.wait(lambda players: key in players or players.is_stale, timeout=1.0)
        except getc.TimedOut:
            pass  # then a shard may get one player too many
        return seated.value or ''

    def leave(self, player: str) -> None:
        """Free the seat of a player, who may have left already.

        Raises:
            EtcException: It was not possible.
        """
        try:
            self._etcd.delete(f'/players/{player}')
        except getc.KeyNotFound:
            pass

    def server_of(self, player: str) -> str | None:
        """The zone that a player should be connected to; None while there is none.  Does no I/O."""
        shard = self.players.get(f'/players/{player}')
        return None if shard is None else self.claims.get(f'/claims/{shard}')

    def _emptiest(self) -> str:
        """The shard with the fewest players of those that somebody runs."""
        taken = Counter(self.players.values())
        shards = [key.removeprefix('/claims/') for key in self.claims]
        free = [shard for shard in shards if taken[shard] < self.settings.seats]
        if not free:
            raise Full(f'none of {len(shards)} shards has one of its {self.settings.seats} seats free')
        return min(free, key=lambda shard: (taken[shard], shard))
