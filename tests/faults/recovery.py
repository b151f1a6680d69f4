"""Measures how long it takes to restore a lost node when etcd is available again."""

from __future__ import annotations

from collections import defaultdict

from tests.faults.checking.service import Service
from tests.faults.history import History, KeeperEvent

__all__ = ['slowest_recovery']


def slowest_recovery(history: History) -> tuple[float, str]:
    """Find the longest uninterrupted service of a client before it restored a lost node.

    Nodes with several keepers are left out, because another keeper may hold them.

    Returns:
        Seconds and the keeper; 0.0 and an empty name if nothing was lost.
    """
    service = Service(history)
    events = history.of(KeeperEvent)
    clients: dict[str, set[str]] = defaultdict(set)
    for event in events:
        clients[event.key].add(event.client)
    lost: dict[str, KeeperEvent] = {}
    slowest = (0.0, '')
    for event in (event for event in events if len(clients[event.key]) == 1):
        if event.kind == 'lost':
            lost[event.keeper] = event
        elif event.kind == 'restored' and (loss := lost.pop(event.keeper, None)) is not None:
            intervals = service.intervals(event.client, loss.at, event.at)
            longest = max((ended - began for (began, ended), _ in intervals), default=0.0)
            slowest = max(slowest, (longest, event.keeper))
    return slowest
