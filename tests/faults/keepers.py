"""Tenants: each keeps a node, alone or against others, and claims its token again and again."""

from __future__ import annotations

import math
import random
from typing import Final

import gevent

import getc
from getc.daemons.options import OnConflict
from getc.errors import NodeExist, NodeLost, Overtaken, TimedOut
from tests.faults.history import Claim, History, Presence

__all__ = ['SERVERS', 'Tenant']

SERVERS: Final = '/servers'

ASK: Final = 0.1
"""Seconds between two questions."""

BREAK: Final = 0.4
"""Seconds at most until one that tries for some time only tries again."""


class Tenant:
    """Keeps one node, and may leave it and come again.

    Args:
        client_name: What its client is called.
        client: The client.
        key: The node.
        ttl: Seconds.
        history: Where it is noted.
        chance: How long it stays.
        number: Tells apart the tenants of one client and key.
        value: What it writes; None for its name, which is unique.
        on_conflict: What it does about another's node.
        patience: Seconds for which it tries to take the node at most; None for no limit.
        stays: True if it stays to the end.
    """

    def __init__(
        self,
        client_name: str,
        client: getc.Client,
        key: str,
        ttl: int,
        history: History,
        chance: random.Random,
        *,
        number: int = 0,
        value: str | None = None,
        on_conflict: OnConflict = 'wait',
        patience: float | None = None,
        stays: bool = True,
    ) -> None:
        self.key = key
        self._client_name = client_name
        self._client = client
        self._ttl = ttl
        self._history = history
        self._rng = chance
        self._number = number
        self._value = value
        self._on_conflict: OnConflict = on_conflict
        self._patience = patience
        self._stays = stays
        self._count = 0

    def run(self) -> None:
        """Keep it until killed; then it is given back."""
        while True:
            self._count += 1
            number = f'.{self._number}' if self._number else ''
            self._live(f'{self._client_name}{number}{self.key}#{self._count}')
            gevent.sleep(self._rng.uniform(0, 2 if self._patience is None else BREAK))

    def _live(self, name: str) -> None:
        self._tell(name, 'started')
        keeper = None
        try:
            keeper = self._client.keep_node(
                self.key,
                self._value or name,
                ttl=self._ttl,
                on_conflict=self._on_conflict,
                timeout=self._patience,
                on_lost=lambda keeper: self._tell_loss(name, keeper),
                on_restored=lambda _: self._tell(name, 'restored'),
            )
            self._tell(name, 'kept')
            asked, most = 0, math.inf if self._stays else self._rng.uniform(1, 15) / ASK
            while asked < most:
                self._ask(name, keeper)
                asked += 1
                gevent.sleep(ASK)
        except (NodeExist, TimedOut):
            if self._on_conflict == 'wait' and self._patience is None:
                raise
        finally:
            self._tell(name, 'stopped')
            if keeper is not None:
                keeper.stop()

    def _ask(self, name: str, keeper: getc.Keeper) -> None:
        try:
            token = keeper.ensure()
        except NodeLost:
            token = None
        self._history.add(Claim(name, self.key, self._history.now(), token))

    def _tell_loss(self, name: str, keeper: getc.Keeper) -> None:
        self._tell(name, 'overtaken' if isinstance(keeper.last_error, Overtaken) else 'lost')

    def _tell(self, name: str, what: str) -> None:
        self._history.add(
            Presence(
                name,
                self._client_name,
                self.key,
                self._value or name,
                self._ttl,
                self._history.now(),
                what,
                self._on_conflict,
            )
        )
