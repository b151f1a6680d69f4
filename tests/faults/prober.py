"""Probes whether a quorum serves a client.

Probes go through the links of the client, but do not use getc (see ``gateway``), so that they show independently when
etcd was available.
"""

from __future__ import annotations

from typing import Final

import gevent

from tests.faults.cluster import MEMBERS, ProxiedCluster
from tests.faults.gateway import RequestRefused
from tests.faults.history import History, Probe

__all__ = ['Prober']

PROBE_INTERVAL: Final = 0.25
"""Seconds between two probes of a link."""

ABSENT_KEY: Final = 'AA=='
"""A key that does not exist: a zero byte."""

REQUEST_TIMEOUT: Final = 1.0
"""Seconds for each operation of the socket."""


class Prober:
    """Deletes a key that does not exist, repeatedly, through each link of a client.

    That has no effect, but needs a quorum and a leader like any write: while the leader is moved, members serve reads
    only.

    Args:
        cluster: The cluster.
        history: Records the probes.
        client: The name of the client.
    """

    def __init__(self, cluster: ProxiedCluster, history: History, client: str) -> None:
        self._cluster = cluster
        self._history = history
        self._client = client
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def start(self) -> None:
        """Start in the background."""
        for number, link in enumerate(self._cluster.links[self._client][:MEMBERS]):
            greenlet = gevent.spawn(self._probe, number, link.url)
            greenlet.name = f'prober of {self._client}'
            self._greenlets.append(greenlet)

    def stop(self) -> None:
        """Stop probing."""
        gevent.killall(self._greenlets)

    def _probe(self, link: int, url: str) -> None:
        gateway = self._cluster.gateway(url, timeout=REQUEST_TIMEOUT)
        try:
            while True:
                began, era = self._history.now(), self._cluster.era
                revision = None
                try:
                    answer = gateway.request('/v3/kv/deleterange', {'key': ABSENT_KEY})
                    revision = int(answer['header']['revision'])
                except (OSError, RequestRefused):
                    pass
                if era == self._cluster.era:
                    self._history.add(Probe(self._client, began, self._history.now(), era, revision, link))
                gevent.sleep(PROBE_INTERVAL)
        finally:
            gateway.close()
