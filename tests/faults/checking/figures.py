"""Counts the records of a history by sort."""

from __future__ import annotations

from collections import Counter

from tests.faults.history import (
    RESTORE,
    WIPE,
    Call,
    Change,
    Fault,
    History,
    KeeperEvent,
    Outcome,
    Probe,
    Resync,
    TokenCheck,
    WatchEvent,
)

__all__ = ['figures_of']

OUTCOMES = {
    Outcome.DONE: 'done',
    Outcome.REFUSED: 'refused',
    Outcome.NOT_APPLIED: 'not applied',
    Outcome.AMBIGUOUS: 'ambiguous',
}


def figures_of(history: History) -> dict[str, int]:
    """Return the figures for a report, in order."""
    faults = Counter(fault.name for fault in history.of(Fault))
    calls = history.of(Call)
    reads = [call for call in calls if call.kind.endswith('get')]
    writes = Counter(call.outcome for call in calls if not call.kind.endswith('get'))
    seen = history.of(WatchEvent)
    probes = history.of(Probe)
    checks = history.of(TokenCheck)
    events = Counter(presence.kind for presence in history.of(KeeperEvent))
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
        'nodes kept': events['started'],
        'nodes lost': events['lost'] + events['overtaken'],
        'nodes restored': events['restored'],
        'token checks': len(checks),
        'token checks refused': sum(check.token is None for check in checks),
        'probes': len(probes),
        'probes answered': sum(probe.revision is not None for probe in probes),
    }
