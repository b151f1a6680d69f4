"""Presence: a node is there as long as its client is served, and is back soon; its keeper knows before it goes.

When a revision happened is known up to some moments only.  What is called late here was late whenever it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from tests.faults.checking.log import log_of
from tests.faults.checking.ownership import Keepers, Tenure
from tests.faults.checking.service import Service
from tests.faults.checking.violation import Violation
from tests.faults.history import History, Presence

__all__ = ['check_presence']

THERE: Final = 'A kept node is there as long as a quorum served its client within the TTL.'
BACK: Final = 'A kept node is back within 2 s after the first success.'
KNOWN: Final = 'A keeper says LOST, or refuses its token, before etcd lets the name go.'
RESPECT: Final = "A keeper that waits does not take another's node."
TRUE: Final = 'When a keeper says that it has the node, the node is there.'
PROBED: Final = 'The client of each keeper is probed: else nobody knows when it was served.'

SOON: Final = 2.0
"""Seconds in which a node is back."""

MARGIN: Final = 0.5
"""Seconds beyond what the attempts of a renewal may take, for a busy machine and for a connection that is made anew."""


def check_presence(history: History) -> list[Violation]:
    """Compare what keepers said, and what probes say that they could do, with the log."""
    keepers = Keepers(history, log_of(history))
    service = Service(history)
    found = [*_groundless(keepers), *_unprobed(keepers, service)]
    for number, tenure in enumerate(keepers.tenures):
        if tenure.keeper is None:
            continue
        if tenure.end is not None and not keepers.had_stopped_before(tenure.keeper, tenure.over):
            found += _taken(tenure, tenure.keeper, keepers, service)
        found += _late(tenure, tenure.keeper, _next(keepers, number), keepers, service)
    return found


def _patience(keeper: Presence, impaired: int) -> float:
    """Seconds in which a renewal succeeds: it is begun after a third of the TTL, and each way is given a sixth."""
    return keeper.ttl / 3 + keeper.ttl / 6 * (1 + impaired) + MARGIN


def _unprobed(keepers: Keepers, service: Service) -> Iterator[Violation]:
    for client in sorted({keeper.client for keeper in keepers.by_name.values()}):
        if not service.is_known(client):
            yield Violation.of(PROBED, f'{client} was not')


def _groundless(keepers: Keepers) -> Iterator[Violation]:
    for keeper in keepers.by_name.values():
        began = [tenure.began for tenure in keepers.tenures if tenure.keeper == keeper]
        if not began and not keepers.is_alone_with_its_value(keeper):
            continue  # it claimed no token, so it is not known what it wrote
        for said in keepers.holdings(keeper):
            if said.at < min(began, default=math.inf):
                yield Violation.of(TRUE, f'{said.keeper}: {said.key} had not been written', said)


def _taken(tenure: Tenure, keeper: Presence, keepers: Keepers, service: Service) -> Iterator[Violation]:
    """The node was deleted, or given to another, and not because its keeper stopped."""
    assert tenure.end is not None
    is_given = tenure.end.value is not None
    if is_given:
        taker = None if tenure.after is None else tenure.after.keeper
        if taker is None or taker.on_conflict == 'replace':
            return
        loss = keepers.first_loss(keeper, tenure.written)
        if taker.client == keeper.client and loss is not None and loss.at <= tenure.over:
            return  # its client has let it go, and knows by the lease that the node is nobody else's
        text = f'{taker.keeper} wrote over the node of {keeper.keeper}'
        yield Violation.of(RESPECT, text, tenure.puts[-1], taker, tenure.end)
    elif keepers.intervention(tenure) is not None:
        return
    else:
        yield from _vanished(tenure, keeper, service)
    yield from _unannounced(tenure, keeper, keepers)


def _vanished(tenure: Tenure, keeper: Presence, service: Service) -> Iterator[Violation]:
    """Its lease ran out.  Was there time enough to renew it?"""
    assert tenure.end is not None
    for (began, ended), impaired in service.stretches(keeper.client, tenure.over - keeper.ttl, tenure.still):
        if ended - began > _patience(keeper, impaired):
            text = (
                f'{keeper.key} of {keeper.keeper} went between {tenure.still:.3f} and {tenure.over:.3f}, '
                f'though {keeper.client} was served from {began:.3f} to {ended:.3f}'
            )
            yield Violation.of(THERE, text, tenure.puts[-1], tenure.end)
            return


def _unannounced(tenure: Tenure, keeper: Presence, keepers: Keepers) -> Iterator[Violation]:
    assert tenure.end is not None
    if not any(tenure.began <= said.at <= tenure.over for said in keepers.holdings(keeper)):
        return  # it did not know that it had the node
    loss = keepers.first_loss(keeper, tenure.written)
    if loss is None or loss.at > tenure.over:
        when = 'never' if loss is None else f'at {loss.at:.3f}'
        text = f'{keeper.keeper} said so {when}, and {keeper.key} had gone by {tenure.over:.3f}'
        yield Violation.of(KNOWN, text, tenure.puts[-1], tenure.end, tenure.witness_of_end, loss)


def _next(keepers: Keepers, number: int) -> Tenure | None:
    """The next tenure of the same node, of this era or a later one."""
    tenure = keepers.tenures[number]
    if tenure.after is not None:
        return tenure.after
    key = tenure.puts[0].key
    later = (other for other in keepers.tenures if other.puts[0].key == key and other.era.number > tenure.era.number)
    return min(later, key=lambda other: (other.era.number, other.puts[0].revision), default=None)


def _late(
    tenure: Tenure, keeper: Presence, following: Tenure | None, keepers: Keepers, service: Service
) -> Iterator[Violation]:
    """The node was gone, until the next tenure of anybody.  Was it for too long?"""
    stopped = keepers.stopped(keeper)
    is_given = tenure.end is not None and tenure.end.value is not None
    if is_given or tenure.over == math.inf or keepers.had_stopped_before(keeper, tenure.over):
        return
    wait_until = min(math.inf if following is None else following.began, math.inf if stopped is None else stopped.at)
    if tenure.end is not None:
        wait_until = min(wait_until, tenure.era.wiped)
    else:
        wait_until = min([wait_until, *(era.wiped for era in keepers.log.eras[tenure.era.number + 1 :])])
    loss = keepers.first_loss(keeper, tenure.written)
    for (began, ended), impaired in service.stretches(keeper.client, tenure.over, wait_until):
        known = began + keeper.ttl / 3 + keeper.ttl / 6
        if loss is not None:
            known = min(known, max(began, loss.at))
        allowed = known + SOON + impaired * keeper.ttl / 6
        if ended > allowed:
            text = (
                f'{keeper.key} of {keeper.keeper} was gone at {tenure.over:.3f}, and was not there at {ended:.3f}, '
                f'though {keeper.client} was served from {began:.3f} on'
            )
            back = None if following is None else following.puts[0]
            yield Violation.of(BACK, text, tenure.end or tenure.puts[-1], tenure.witness_of_end, loss, back)
            return
