"""Retry policy: decides from facts whether a failed call is attempted again.

=====================  =====================  ================================================================
Outcome                Effect of the call     Next step
=====================  =====================  ================================================================
REFUSED                any                    raise the error
REFUSED_MAYBE_APPLIED  any                    raise the error, with ``maybe_applied=True`` for a write
THROTTLED              any                    raise the error; a patient caller backs off and attempts again
NOT_APPLIED            any                    the next endpoint; after all of them, one more attempt at the
                                              one whose cool-down ends first; then raise, or back off if
                                              patient
AMBIGUOUS              NONE, IDEMPOTENT       the same
AMBIGUOUS              NON_IDEMPOTENT         raise the error, with ``maybe_applied=True``
=====================  =====================  ================================================================

The ``maybe_applied`` of a raised error covers all attempts of the call.

Calls of the user are not patient: they raise as soon as no server answers.  Daemons and ``ready`` are patient.
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
"""Errors of one server, not answers of etcd to the request: another server may succeed."""

THROTTLING: Final = (WatcherCleared, TooManyRequests)
"""Errors with which etcd rejects a request temporarily, without applying it."""

PROXY_TIMEOUT_STATUSES: Final = (408, 499)
"""HTTP statuses with which a proxy ends a request that took too long, also after forwarding the request."""

OVERDUE_STATUSES: Final = (*PROXY_TIMEOUT_STATUSES, 504)
"""HTTP statuses with which a proxy reports that the server did not respond in time."""


class Effect(Enum):
    """What a call does to the store."""

    NONE = 'a read'
    IDEMPOTENT = 'a write that has the same effect when it is applied twice'
    NON_IDEMPOTENT = 'a write that must not be applied twice'


class Outcome(Enum):
    """What is known after a failed attempt."""

    REFUSED = 'etcd refused the request and would refuse it again'
    REFUSED_MAYBE_APPLIED = 'etcd refused the request, would refuse it again, and may have applied it'
    THROTTLED = 'etcd rejected the request temporarily, without applying it'
    NOT_APPLIED = 'the request was not applied: it was not sent, not processed, or is a read'
    AMBIGUOUS = 'the request was sent and may have been applied'


PERMANENT: Final = (Outcome.REFUSED, Outcome.REFUSED_MAYBE_APPLIED)
"""Another attempt would fail in the same way."""

MAYBE_APPLIED: Final = (Outcome.AMBIGUOUS, Outcome.REFUSED_MAYBE_APPLIED)
"""A write may have been applied."""


class Step(Enum):
    """What to do after a failed attempt."""

    NEXT = 'call the next endpoint'
    AGAIN = 'call the endpoint whose cool-down ends first once more'
    BACK_OFF = 'wait, then call the endpoint whose cool-down ends first'
    RAISE = 'raise the error'


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known after a failed attempt.

    Attributes:
        outcome: The outcome of the attempt.
        effect: What the call does to the store.
        was_ambiguous: An earlier attempt may have applied the write.
        untried: Number of endpoints that were not called yet.
        was_repeated: Every endpoint was called, and one of them twice.
        has_time: The deadline has not passed.
        is_patient: The caller waits until a server answers.
    """

    outcome: Outcome
    effect: Effect
    was_ambiguous: bool = False
    untried: int = 0
    was_repeated: bool = False
    has_time: bool = True
    is_patient: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next.

    Attributes:
        step: The next step.
        maybe_applied: The call may have changed the store by now.
    """

    step: Step
    maybe_applied: bool


def decide(facts: Facts) -> Decision:
    """Return the next step.  A non-idempotent write that may have been applied is never attempted again."""
    maybe_applied = facts.effect is not Effect.NONE and (facts.was_ambiguous or facts.outcome in MAYBE_APPLIED)
    return Decision(_next_step(facts, maybe_applied), maybe_applied)


def _next_step(facts: Facts, maybe_applied: bool) -> Step:
    is_final = facts.outcome in PERMANENT or not facts.has_time
    if is_final or (maybe_applied and facts.effect is Effect.NON_IDEMPOTENT):
        return Step.RAISE
    if facts.outcome is not Outcome.THROTTLED:
        if facts.untried:
            return Step.NEXT
        if not facts.was_repeated:
            return Step.AGAIN
    return Step.BACK_OFF if facts.is_patient else Step.RAISE


def outcome_of(error: EtcException) -> Outcome:
    """Return the outcome of the attempt, or of all attempts, that failed with this error."""
    if isinstance(error, SERVER_FAILURES) and not isinstance(error, ResponseTooLarge):
        return Outcome.AMBIGUOUS if error.maybe_applied else Outcome.NOT_APPLIED
    if isinstance(error, THROTTLING):
        return Outcome.AMBIGUOUS if error.maybe_applied else Outcome.THROTTLED
    return Outcome.REFUSED_MAYBE_APPLIED if error.maybe_applied else Outcome.REFUSED


def proxy_may_have_forwarded(status: int) -> bool:
    """Return True if a proxy that answers with this HTTP status may have forwarded the request to etcd."""
    return status in PROXY_TIMEOUT_STATUSES or not 300 <= status < 500


def is_overdue(error: EtcException) -> bool:
    """Return True if the response only took too long, which does not indicate a fault for a call that waits."""
    return isinstance(error, TimedOut) or (isinstance(error, HTTPError) and error.status_code in OVERDUE_STATUSES)


def is_transient(error: EtcException) -> bool:
    """Return True if a later attempt may succeed; False for a refusal, which would be repeated."""
    return outcome_of(error) not in PERMANENT
