"""How long it takes until a node that was lost is back, once etcd is."""

from __future__ import annotations

from collections import defaultdict

from tests.faults.checking.service import Service
from tests.faults.history import History, Presence

__all__ = ['slowest_recovery']


def slowest_recovery(history: History) -> tuple[float, str]:
    """The longest time for which a client was served without a break, and had not told yet that its node is back.

    A name that others want, too, may be theirs meanwhile, and is left out.

    Returns:
        Seconds, and the keeper; 0.0 and an empty name if nothing was lost.
    """
    service = Service(history)
    told = history.of(Presence)
    clients: dict[str, set[str]] = defaultdict(set)
    for said in told:
        clients[said.key].add(said.client)
    lost: dict[str, Presence] = {}
    slowest = (0.0, '')
    for said in (said for said in told if len(clients[said.key]) == 1):
        if said.what == 'lost':
            lost[said.keeper] = said
        elif said.what == 'restored' and (loss := lost.pop(said.keeper, None)) is not None:
            stretches = service.stretches(said.client, loss.at, said.at)
            longest = max((ended - began for (began, ended), _ in stretches), default=0.0)
            slowest = max(slowest, (longest, said.keeper))
    return slowest
