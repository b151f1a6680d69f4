"""Checks kept nodes: a node exists while its client is served, is restored soon, and its loss is reported in time.

The time of a revision is known within bounds only.  A violation is reported only if it holds for all possible times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from tests.faults.checking.log import log_of
from tests.faults.checking.ownership import KeeperHistory, Ownership
from tests.faults.checking.service import Service
from tests.faults.checking.violation import Violation
from tests.faults.history import History, KeeperEvent

__all__ = ['check_presence']

KEPT_WHILE_SERVED: Final = 'A kept node exists as long as a quorum served its client within the TTL.'
RESTORED_SOON: Final = 'A lost node is restored within 2 s after the first successful request.'
LOSS_REPORTED: Final = 'A keeper reports LOST, or refuses its token, before its node is deleted in etcd.'
NO_TAKEOVER: Final = "A keeper with on_conflict='wait' does not overwrite the node of another keeper."
REPORTED_NODE_EXISTS: Final = 'When a keeper reports that it owns the node, the node exists.'
CLIENTS_PROBED: Final = 'The client of each keeper is probed, so that it is known when it was served.'

RESTORE_SECONDS: Final = 2.0
"""Seconds in which a node has to be restored."""

MARGIN: Final = 0.5
"""Seconds in addition to the attempts of a renewal, for a busy machine and a new connection."""


def check_presence(history: History) -> list[Violation]:
    """Compare the events of keepers, and the service that probes show, with the log."""
    keepers = KeeperHistory(history, log_of(history))
    service = Service(history)
    found = [*_false_reports(keepers), *_unprobed(keepers, service)]
    for number, ownership in enumerate(keepers.ownerships):
        if ownership.keeper is None:
            continue
        if ownership.end is not None and not keepers.had_stopped_before(ownership.keeper, ownership.ended_by):
            found += _ended_unexpectedly(ownership, ownership.keeper, keepers, service)
        found += _not_restored(ownership, ownership.keeper, _next_ownership(keepers, number), keepers, service)
    return found


def _renewal_seconds(keeper: KeeperEvent, impaired: int) -> float:
    """Return the seconds that a renewal may take: it starts after a third of the TTL, and each link gets a sixth."""
    return keeper.ttl / 3 + keeper.ttl / 6 * (1 + impaired) + MARGIN


def _unprobed(keepers: KeeperHistory, service: Service) -> Iterator[Violation]:
    for client in sorted({keeper.client for keeper in keepers.by_name.values()}):
        if not service.has_probes(client):
            yield Violation.of(CLIENTS_PROBED, f'client {client} was not probed')


def _false_reports(keepers: KeeperHistory) -> Iterator[Violation]:
    for keeper in keepers.by_name.values():
        began = [ownership.started_after for ownership in keepers.ownerships if ownership.keeper == keeper]
        if not began and not keepers.is_alone_with_its_value(keeper):
            continue  # it returned no token, so its writes are unknown
        for event in keepers.confirmations(keeper):
            if event.at < min(began, default=math.inf):
                yield Violation.of(
                    REPORTED_NODE_EXISTS, f'{event.keeper} reported {event.key} before writing it', event
                )


def _ended_unexpectedly(
    ownership: Ownership, keeper: KeeperEvent, keepers: KeeperHistory, service: Service
) -> Iterator[Violation]:
    """Check an ownership that ended by a deletion or a write of another, although its keeper was not stopped."""
    assert ownership.end is not None
    was_overwritten = ownership.end.value is not None
    if was_overwritten:
        next_keeper = None if ownership.next is None else ownership.next.keeper
        if next_keeper is None or next_keeper.on_conflict == 'replace':
            return
        loss = keepers.first_loss(keeper, ownership.last_write_after)
        if next_keeper.client == keeper.client and loss is not None and loss.at <= ownership.ended_by:
            return  # its client has released it, and the lease proves that no other client owns it
        text = f'{next_keeper.keeper} overwrote the node of {keeper.keeper}'
        yield Violation.of(NO_TAKEOVER, text, ownership.puts[-1], next_keeper, ownership.end)
    elif keepers.intervention(ownership) is not None:
        return
    else:
        yield from _expired(ownership, keeper, service)
    yield from _unreported(ownership, keeper, keepers)


def _expired(ownership: Ownership, keeper: KeeperEvent, service: Service) -> Iterator[Violation]:
    """Check whether there was service enough to renew the expired lease."""
    assert ownership.end is not None
    for (began, ended), impaired in service.intervals(
        keeper.client, ownership.ended_by - keeper.ttl, ownership.last_held
    ):
        if ended - began > _renewal_seconds(keeper, impaired):
            text = (
                f'{keeper.key} of {keeper.keeper} was deleted by {ownership.ended_by:.3f}, '
                f'though {keeper.client} was served from {began:.3f} to {ended:.3f}'
            )
            yield Violation.of(KEPT_WHILE_SERVED, text, ownership.puts[-1], ownership.end)
            return


def _unreported(ownership: Ownership, keeper: KeeperEvent, keepers: KeeperHistory) -> Iterator[Violation]:
    assert ownership.end is not None
    if not any(ownership.started_after <= event.at <= ownership.ended_by for event in keepers.confirmations(keeper)):
        return  # it had not learned that it owns the node
    loss = keepers.first_loss(keeper, ownership.last_write_after)
    if loss is None or loss.at > ownership.ended_by:
        when = 'never' if loss is None else f'at {loss.at:.3f}'
        text = f'{keeper.keeper} reported the loss {when}, but {keeper.key} was deleted by {ownership.ended_by:.3f}'
        yield Violation.of(LOSS_REPORTED, text, ownership.puts[-1], ownership.end, ownership.evidence_of_end, loss)


def _next_ownership(keepers: KeeperHistory, number: int) -> Ownership | None:
    """Return the next ownership of the same node, in this or a later era."""
    ownership = keepers.ownerships[number]
    if ownership.next is not None:
        return ownership.next
    key = ownership.puts[0].key
    later = (
        other for other in keepers.ownerships if other.puts[0].key == key and other.era.number > ownership.era.number
    )
    return min(later, key=lambda other: (other.era.number, other.puts[0].revision), default=None)


def _not_restored(
    ownership: Ownership, keeper: KeeperEvent, following: Ownership | None, keepers: KeeperHistory, service: Service
) -> Iterator[Violation]:
    """Check that the node was restored soon after it was lost."""
    stopped = keepers.stopped(keeper)
    was_overwritten = ownership.end is not None and ownership.end.value is not None
    if was_overwritten or ownership.ended_by == math.inf or keepers.had_stopped_before(keeper, ownership.ended_by):
        return
    end = min(math.inf if following is None else following.started_after, math.inf if stopped is None else stopped.at)
    if ownership.end is not None:
        end = min(end, ownership.era.exclusive_until)
    else:
        end = min([end, *(era.exclusive_until for era in keepers.log.eras[ownership.era.number + 1 :])])
    loss = keepers.first_loss(keeper, ownership.last_write_after)
    for (began, ended), impaired in service.intervals(keeper.client, ownership.ended_by, end):
        detected = began + keeper.ttl / 3 + keeper.ttl / 6
        if loss is not None:
            detected = min(detected, max(began, loss.at))
        allowed = detected + RESTORE_SECONDS + impaired * keeper.ttl / 6
        if ended > allowed:
            text = (
                f'{keeper.key} of {keeper.keeper} was lost at {ownership.ended_by:.3f}, missing at {ended:.3f}, '
                f'though {keeper.client} was served from {began:.3f} on'
            )
            back = None if following is None else following.puts[0]
            yield Violation.of(
                RESTORED_SOON, text, ownership.end or ownership.puts[-1], ownership.evidence_of_end, loss, back
            )
            return
