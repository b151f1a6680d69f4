"""How much of everything there was in a history."""

from __future__ import annotations

from collections import Counter

from tests.faults.history import (
    RESTORE,
    WIPE,
    Call,
    Change,
    Claim,
    Fault,
    History,
    Outcome,
    Presence,
    Probe,
    Resync,
    Seen,
)

__all__ = ['figures_of']

OUTCOMES = {
    Outcome.DONE: 'done',
    Outcome.REFUSED: 'refused',
    Outcome.NOT_APPLIED: 'not applied',
    Outcome.AMBIGUOUS: 'ambiguous',
}


def figures_of(history: History) -> dict[str, int]:
    """The figures of a report, in the order in which it shows them."""
    faults = Counter(fault.name for fault in history.of(Fault))
    calls = history.of(Call)
    reads = [call for call in calls if call.kind.endswith('get')]
    writes = Counter(call.outcome for call in calls if not call.kind.endswith('get'))
    seen = history.of(Seen)
    probes = history.of(Probe)
    claims = history.of(Claim)
    told = Counter(presence.what for presence in history.of(Presence))
    return {
        'faults': faults.total(),
        **{f'faults: {name}': count for name, count in sorted(faults.items())},
        'eras': 1 + faults[WIPE] + faults[RESTORE],
        'changes in the log': len(history.of(Change)),
        'writes': writes.total(),
        **{f'writes {name}': writes[outcome] for outcome, name in OUTCOMES.items()},
        'reads': len(reads),
        'reads answered': sum(call.outcome is Outcome.DONE for call in reads),
        'events': sum(not event.resync for event in seen),
        'events of resyncs': sum(event.resync for event in seen),
        'resyncs': len(history.of(Resync)),
        'nodes kept': told['started'],
        'nodes lost': told['lost'] + told['overtaken'],
        'nodes restored': told['restored'],
        'claims': len(claims),
        'claims refused': sum(claim.token is None for claim in claims),
        'probes': len(probes),
        'probes answered': sum(probe.revision is not None for probe in probes),
    }
