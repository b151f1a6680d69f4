"""The prober: whether a quorum serves a client, whatever that client makes of it.

It goes the client's own ways, through the same proxies, but without getc (see ``gateway``): so that "etcd was there" is
known from elsewhere when getc says that it was not.
"""

from __future__ import annotations

from typing import Final

import gevent

from tests.faults.cluster import MEMBERS, Ground
from tests.faults.gateway import Refused
from tests.faults.history import History, Probe

__all__ = ['Prober']

PAUSE: Final = 0.25
"""Seconds between the end of a probe and the next one on the same way."""

NEVER_THERE: Final = 'AA=='
"""A key: a byte of zero."""

PATIENCE: Final = 1.0
"""Seconds for a step of it."""


class Prober:
    """Has each member delete what is not there, over and over, on behalf of one client.

    Nothing comes of it, and etcd does it as it does any write: while a leader is being moved it serves reads alone, and
    whoever has to write is not served.

    Args:
        ground: Where.
        history: Where answers are noted.
        client: The client.
    """

    def __init__(self, ground: Ground, history: History, client: str) -> None:
        self._ground = ground
        self._history = history
        self._client = client
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def start(self) -> None:
        """Begin, in the background."""
        for number, way in enumerate(self._ground.ways[self._client][:MEMBERS]):
            greenlet = gevent.spawn(self._probe, number, way.url)
            greenlet.name = f'prober of {self._client}'
            self._greenlets.append(greenlet)

    def stop(self) -> None:
        """Stop."""
        gevent.killall(self._greenlets)

    def _probe(self, way: int, url: str) -> None:
        gateway = self._ground.gateway(url, timeout=PATIENCE)
        try:
            while True:
                began, era = self._history.now(), self._ground.era
                revision = None
                try:
                    answer = gateway.ask('/v3/kv/deleterange', {'key': NEVER_THERE})
                    revision = int(answer['header']['revision'])
                except (OSError, Refused):
                    pass
                if era == self._ground.era:
                    self._history.add(Probe(self._client, began, self._history.now(), era, revision, way))
                gevent.sleep(PAUSE)
        finally:
            gateway.close()
