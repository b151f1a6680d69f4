"""Workers that keep a node, alone or in competition, and check its token repeatedly."""

from __future__ import annotations

import math
import random
from typing import Final

import gevent

import getc
from getc.daemons.options import OnConflict
from getc.errors import NodeExist, NodeLost, Overtaken, TimedOut
from tests.faults.history import History, KeeperEvent, TokenCheck

__all__ = ['SERVERS', 'KeeperWorker']

SERVERS: Final = '/servers'

CHECK_INTERVAL: Final = 0.1
"""Seconds between two checks of the token."""

MAX_PAUSE: Final = 0.4
"""Maximal pause of a worker with a timeout before it tries again, in seconds."""


class KeeperWorker:
    """Keeps a node, and may release it and try again.

    Args:
        client_name: The name of the client.
        client: The client.
        key: The node.
        ttl: Seconds.
        history: Records events and checks.
        rng: Determines how long it keeps the node.
        number: Distinguishes workers with the same client and key.
        value: The value to write; None for its own name, which is unique.
        on_conflict: As for keep_node.
        timeout: As for keep_node.
        runs_to_end: It does not release the node before the end of the run.
    """

    def __init__(
        self,
        client_name: str,
        client: getc.Client,
        key: str,
        ttl: int,
        history: History,
        rng: random.Random,
        *,
        number: int = 0,
        value: str | None = None,
        on_conflict: OnConflict = 'wait',
        timeout: float | None = None,
        runs_to_end: bool = True,
    ) -> None:
        self.key = key
        self._client_name = client_name
        self._client = client
        self._ttl = ttl
        self._history = history
        self._rng = rng
        self._number = number
        self._value = value
        self._on_conflict: OnConflict = on_conflict
        self._timeout = timeout
        self._runs_to_end = runs_to_end
        self._count = 0

    def run(self) -> None:
        """Keep the node until killed, then release it."""
        while True:
            self._count += 1
            number = f'.{self._number}' if self._number else ''
            self._keep(f'{self._client_name}{number}{self.key}#{self._count}')
            gevent.sleep(self._rng.uniform(0, 2 if self._timeout is None else MAX_PAUSE))

    def _keep(self, name: str) -> None:
        self._record(name, 'started')
        keeper = None
        try:
            keeper = self._client.keep_node(
                self.key,
                self._value or name,
                ttl=self._ttl,
                on_conflict=self._on_conflict,
                timeout=self._timeout,
                on_lost=lambda keeper: self._record_loss(name, keeper),
                on_restored=lambda _: self._record(name, 'restored'),
            )
            self._record(name, 'kept')
            checks, max_checks = 0, math.inf if self._runs_to_end else self._rng.uniform(1, 15) / CHECK_INTERVAL
            while checks < max_checks:
                self._check_token(name, keeper)
                checks += 1
                gevent.sleep(CHECK_INTERVAL)
        except (NodeExist, TimedOut):
            if self._on_conflict == 'wait' and self._timeout is None:
                raise
        finally:
            self._record(name, 'stopped')
            if keeper is not None:
                keeper.stop()

    def _check_token(self, name: str, keeper: getc.Keeper) -> None:
        try:
            token = keeper.ensure()
        except NodeLost:
            token = None
        self._history.add(TokenCheck(name, self.key, self._history.now(), token))

    def _record_loss(self, name: str, keeper: getc.Keeper) -> None:
        self._record(name, 'overtaken' if isinstance(keeper.last_error, Overtaken) else 'lost')

    def _record(self, name: str, kind: str) -> None:
        self._history.add(
            KeeperEvent(
                name,
                self._client_name,
                self.key,
                self._value or name,
                self._ttl,
                self._history.now(),
                kind,
                self._on_conflict,
            )
        )
