"""Checks tokens: a keeper returns a token only while it owns the node."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from tests.faults.checking.log import log_of
from tests.faults.checking.ownership import KeeperHistory, Ownership
from tests.faults.checking.violation import Violation
from tests.faults.history import History, TokenCheck

__all__ = ['check_owners']

SINGLE_OWNER: Final = 'A node has one owner: a keeper returns no token after its node was deleted in etcd.'
VALID_TOKEN: Final = 'A token is the revision at which its keeper took the node.'


def check_owners(history: History) -> list[Violation]:
    """Compare each token with the log."""
    keepers = KeeperHistory(history, log_of(history))
    by_token: dict[tuple[str, int], list[Ownership]] = defaultdict(list)
    for ownership in keepers.ownerships:
        if ownership.keeper is not None:
            for put in ownership.puts:
                by_token[ownership.keeper.keeper, put.revision].append(ownership)
    found: dict[tuple[str, int], Violation] = {}  # one violation for each token, however often it was returned
    for check in history.of(TokenCheck):
        if check.token is None or (check.keeper, check.token) in found:
            continue
        ownerships = by_token.get((check.keeper, check.token), [])
        if not ownerships:
            text = f'{check.keeper} returned token {check.token}, but did not write {check.key} at that revision'
            last_write_after = [
                change for era in keepers.log.eras if (change := era.at(check.token, check.key)) is not None
            ]
            found[check.keeper, check.token] = Violation.of(VALID_TOKEN, text, *last_write_after, check)
        elif all(_token_deadline(keepers, ownership) < check.at for ownership in ownerships):
            found[check.keeper, check.token] = _late(check, ownerships[-1])
    return list(found.values())


def _token_deadline(keepers: KeeperHistory, ownership: Ownership) -> float:
    """Return the time until which the keeper may return its token.

    The keeper detects changes by others with its next renewal, or at the end of the TTL.  If a backup restores an older
    node on the lease that the keeper renews, it cannot detect that, but the node belongs to its client in any case.
    """
    assert ownership.keeper is not None
    restored = _restored_ownership(keepers, ownership)
    if restored is not None:
        return restored.ended_by + ownership.keeper.ttl
    if ownership.end is None or ownership.end.value is None:
        is_by_others = ownership.end is None or keepers.intervention(ownership) is not None
    else:
        next_keeper = None if ownership.next is None else ownership.next.keeper
        is_by_others = next_keeper is None or next_keeper.on_conflict == 'replace'
    return ownership.ended_by + (ownership.keeper.ttl if is_by_others else 0.0)


def _restored_ownership(keepers: KeeperHistory, ownership: Ownership) -> Ownership | None:
    """Return the ownership of another keeper by the same lease that a restored backup brought back."""
    leases = {put.lease for put in ownership.puts}
    return next(
        (
            other
            for other in keepers.ownerships
            if ownership.end is None
            and other.era.before is ownership.era
            and other.puts[0].key == ownership.puts[0].key
            and other.era.has_copy_of(other.puts[0])
            and other.keeper != ownership.keeper
            and leases & {put.lease for put in other.puts}
        ),
        None,
    )


def _late(check: TokenCheck, ownership: Ownership) -> Violation:
    following = None if ownership.next is None else ownership.next.puts[0]
    text = f'{check.keeper} returned a token at {check.at:.3f}, but lost {check.key} by {ownership.ended_by:.3f}'
    return Violation.of(
        SINGLE_OWNER, text, ownership.puts[0], ownership.end, following, ownership.evidence_of_end, check
    )
