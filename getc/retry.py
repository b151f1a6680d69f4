"""Whether a call is made again: decided here alone, from facts, by whoever makes calls.

=================  ======================  ==========================================================
What came of it    What it does            Then
=================  ======================  ==========================================================
etcd says no       anything                it is raised
... in doubt       anything                it is raised, and says that it may have happened
... for now        anything                it is raised; who is patient waits, and asks again
nothing was done   anything                the next server; when all were asked the one that is due
                                           first, once more; then it is raised, or waited for
it is not known    reads, may be repeated  the same
it is not known    must not happen twice   it is raised, and says that it may have happened
=================  ======================  ==========================================================

Whatever is raised says whether the call may have happened, by any of its attempts: ``maybe_applied``.

A call of the user's is not patient: it tells at once that no server answers.  Daemons are, and ``ready``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from getc.errors import (
    ConnectionError,
    EtcException,
    HTTPError,
    LeaderElect,
    ProtocolError,
    RaftInternal,
    ResponseTooLarge,
    TimedOut,
    TooManyRequests,
    Unavailable,
    WatcherCleared,
)

__all__ = [
    'Decision',
    'Effect',
    'Facts',
    'Outcome',
    'Step',
    'decide',
    'is_overdue',
    'is_transient',
    'outcome_of',
    'proxy_may_have_forwarded',
]

SERVER_FAILURES: Final = (ConnectionError, HTTPError, ProtocolError, Unavailable, LeaderElect, RaftInternal)
"""What is no answer of etcd's to what was asked: another server may do better."""

THROTTLED: Final = (WatcherCleared, TooManyRequests)
"""With these etcd says no for the moment, and has done nothing."""


GAVE_UP: Final = (408, 499)
"""With these a proxy ends a request that took too long, also one that it has passed on."""


OVERDUE: Final = (*GAVE_UP, 504)
"""With these a proxy reports that it waited too long for the server."""


class Effect(Enum):
    """What a call does to the store."""

    NONE = 'it reads'
    IDEMPOTENT = 'it writes, and sending it twice does no more than sending it once'
    NON_IDEMPOTENT = 'it writes, and must not happen twice'


class Outcome(Enum):
    """What came of an attempt that did not succeed."""

    REFUSED = 'etcd says no, and would say so again'
    MAYBE_APPLIED = 'etcd says no, would say so again, and may have done it all the same'
    THROTTLED = 'etcd says no for now'
    NOT_APPLIED = 'it did nothing: it was not sent, or not taken, or reads'
    UNKNOWN = 'it was sent, and what became of it is not known'


PERMANENT: Final = (Outcome.REFUSED, Outcome.MAYBE_APPLIED)
"""Asking again would bring the same."""

AMBIGUOUS: Final = (Outcome.UNKNOWN, Outcome.MAYBE_APPLIED)
"""A write may have happened."""


class Step(Enum):
    """What is done next."""

    NEXT = 'ask the next server'
    AGAIN = 'ask the server that is due first, once more'
    BACK_OFF = 'wait, and ask the server that is due first'
    RAISE = 'tell the caller'


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known after an attempt that did not succeed.

    Attributes:
        outcome: What came of it.
        effect: What the call does.
        was_unknown: The outcome of an earlier attempt was.
        others: Servers that were not asked yet.
        was_repeated: All were asked, and one of them once more.
        has_time: The deadline has not passed.
        is_patient: The caller waits for servers to come back.
    """

    outcome: Outcome
    effect: Effect
    was_unknown: bool = False
    others: int = 0
    was_repeated: bool = False
    has_time: bool = True
    is_patient: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done next.

    Attributes:
        step: The same.
        maybe_applied: By now the call may have changed the store.
    """

    step: Step
    maybe_applied: bool


def decide(facts: Facts) -> Decision:
    """What follows from the facts.  Nothing that must not happen twice is sent again once it may have happened."""
    maybe_applied = facts.effect is not Effect.NONE and (facts.was_unknown or facts.outcome in AMBIGUOUS)
    return Decision(_step(facts, maybe_applied), maybe_applied)


def _step(facts: Facts, maybe_applied: bool) -> Step:
    is_final = facts.outcome in PERMANENT or not facts.has_time
    if is_final or (maybe_applied and facts.effect is Effect.NON_IDEMPOTENT):
        return Step.RAISE
    if facts.outcome is not Outcome.THROTTLED:
        if facts.others:
            return Step.NEXT
        if not facts.was_repeated:
            return Step.AGAIN
    return Step.BACK_OFF if facts.is_patient else Step.RAISE


def outcome_of(error: EtcException) -> Outcome:
    """What this error says of the attempt that met it, or of all of them."""
    if isinstance(error, SERVER_FAILURES) and not isinstance(error, ResponseTooLarge):
        return Outcome.UNKNOWN if error.maybe_applied else Outcome.NOT_APPLIED
    if isinstance(error, THROTTLED):
        return Outcome.UNKNOWN if error.maybe_applied else Outcome.THROTTLED
    return Outcome.MAYBE_APPLIED if error.maybe_applied else Outcome.REFUSED


def proxy_may_have_forwarded(status: int) -> bool:
    """True unless this HTTP status says that whoever is no etcd has kept the request to himself."""
    return status in GAVE_UP or not 300 <= status < 500


def is_overdue(error: EtcException) -> bool:
    """True if the error only says that the answer took too long: for a call that waits this is no sign of a fault."""
    return isinstance(error, TimedOut) or (isinstance(error, HTTPError) and error.status_code in OVERDUE)


def is_transient(error: EtcException) -> bool:
    """True for trouble that time may heal; False for a refusal, which would only be repeated."""
    return outcome_of(error) not in PERMANENT
