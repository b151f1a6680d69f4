"""Owners: who is given a token has the node, and nobody else has."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from tests.faults.checking.log import log_of
from tests.faults.checking.ownership import Keepers, Tenure
from tests.faults.checking.violation import Violation
from tests.faults.history import Claim, History

__all__ = ['check_owners']

ONE: Final = 'A name has one owner: a keeper gives no token after etcd has let the name go.'
TRUE: Final = 'A token is the revision at which its keeper took the node.'


def check_owners(history: History) -> list[Violation]:
    """Compare each token that was given with the log."""
    keepers = Keepers(history, log_of(history))
    taken: dict[tuple[str, int], list[Tenure]] = defaultdict(list)
    for tenure in keepers.tenures:
        if tenure.keeper is not None:
            for put in tenure.puts:
                taken[tenure.keeper.keeper, put.revision].append(tenure)
    found: dict[tuple[str, int], Violation] = {}  # one for each token, though it may have been given many times
    for claim in history.of(Claim):
        if claim.token is None or (claim.keeper, claim.token) in found:
            continue
        tenures = taken.get((claim.keeper, claim.token), [])
        if not tenures:
            text = f'{claim.keeper} gave {claim.token}, and did not write {claim.key} then'
            written = [change for era in keepers.log.eras if (change := era.at(claim.token, claim.key)) is not None]
            found[claim.keeper, claim.token] = Violation.of(TRUE, text, *written, claim)
        elif all(_limit(keepers, tenure) < claim.at for tenure in tenures):
            found[claim.keeper, claim.token] = _late(claim, tenures[-1])
    return list(found.values())


def _limit(keepers: Keepers, tenure: Tenure) -> float:
    """Until when a keeper may give its token.

    What others do to its node it learns with a renewal, or when the TTL is over.  Where a backup brings back an older
    node on the lease that it renews, nothing tells: the name is its client's in any case.
    """
    assert tenure.keeper is not None
    restored = _restored(keepers, tenure)
    if restored is not None:
        return restored.over + tenure.keeper.ttl
    if tenure.end is None or tenure.end.value is None:
        is_others = tenure.end is None or keepers.intervention(tenure) is not None
    else:
        taker = None if tenure.after is None else tenure.after.keeper
        is_others = taker is None or taker.on_conflict == 'replace'
    return tenure.over + (tenure.keeper.ttl if is_others else 0.0)


def _restored(keepers: Keepers, tenure: Tenure) -> Tenure | None:
    """The tenure of another by which the same lease had the node in a backup, restored while this one lasted."""
    leases = {put.lease for put in tenure.puts}
    return next(
        (
            other
            for other in keepers.tenures
            if tenure.end is None
            and other.era.before is tenure.era
            and other.puts[0].key == tenure.puts[0].key
            and other.era.has_copy_of(other.puts[0])
            and other.keeper != tenure.keeper
            and leases & {put.lease for put in other.puts}
        ),
        None,
    )


def _late(claim: Claim, tenure: Tenure) -> Violation:
    following = None if tenure.after is None else tenure.after.puts[0]
    text = f'{claim.keeper} gave {claim.token} at {claim.at:.3f}, and {claim.key} had gone by {tenure.over:.3f}'
    return Violation.of(ONE, text, tenure.puts[0], tenure.end, following, tenure.witness_of_end, claim)
