"""Retry policy: the whole table, and its invariants."""

from __future__ import annotations

import itertools
import random

import pytest

from getc import errors
from getc.errors import EtcException
from getc.grpc.framing import Status
from getc.retry import Decision, Effect, Facts, Outcome, Step, decide, is_transient, outcome_of
from getc.v3.status_errors import error_of_status

NO_SPACE = 'etcdserver: mvcc: database space exceeded'
NONE, IDEMPOTENT, NON_IDEMPOTENT = Effect.NONE, Effect.IDEMPOTENT, Effect.NON_IDEMPOTENT
REFUSED, REFUSED_MAYBE_APPLIED, THROTTLED, NOT_APPLIED, AMBIGUOUS = Outcome
NEXT, AGAIN, BACK_OFF, RAISE = Step.NEXT, Step.AGAIN, Step.BACK_OFF, Step.RAISE

# Outcome and effect; the next step with endpoints that were not called yet, with none left, after one was called twice
# and the caller is patient, and if the caller is not; whether the call may have changed the store.
TABLE = [
    (REFUSED, NONE, RAISE, RAISE, RAISE, RAISE, False),
    (REFUSED, IDEMPOTENT, RAISE, RAISE, RAISE, RAISE, False),
    (REFUSED, NON_IDEMPOTENT, RAISE, RAISE, RAISE, RAISE, False),
    (REFUSED_MAYBE_APPLIED, NONE, RAISE, RAISE, RAISE, RAISE, False),
    (REFUSED_MAYBE_APPLIED, IDEMPOTENT, RAISE, RAISE, RAISE, RAISE, True),
    (REFUSED_MAYBE_APPLIED, NON_IDEMPOTENT, RAISE, RAISE, RAISE, RAISE, True),
    (THROTTLED, NONE, RAISE, RAISE, BACK_OFF, RAISE, False),
    (THROTTLED, IDEMPOTENT, RAISE, RAISE, BACK_OFF, RAISE, False),
    (THROTTLED, NON_IDEMPOTENT, RAISE, RAISE, BACK_OFF, RAISE, False),
    (NOT_APPLIED, NONE, NEXT, AGAIN, BACK_OFF, RAISE, False),
    (NOT_APPLIED, IDEMPOTENT, NEXT, AGAIN, BACK_OFF, RAISE, False),
    (NOT_APPLIED, NON_IDEMPOTENT, NEXT, AGAIN, BACK_OFF, RAISE, False),
    (AMBIGUOUS, NONE, NEXT, AGAIN, BACK_OFF, RAISE, False),
    (AMBIGUOUS, IDEMPOTENT, NEXT, AGAIN, BACK_OFF, RAISE, True),
    (AMBIGUOUS, NON_IDEMPOTENT, RAISE, RAISE, RAISE, RAISE, True),
]


@pytest.mark.parametrize(('outcome', 'effect', 'untried', 'again', 'patient', 'impatient', 'applied'), TABLE)
def test_decide_returns_the_step_of_the_table(
    outcome: Outcome, effect: Effect, untried: Step, again: Step, patient: Step, impatient: Step, applied: bool
) -> None:
    """Without time left, every error is raised."""
    assert decide(Facts(outcome, effect, untried=2)) == Decision(untried, applied)
    assert decide(Facts(outcome, effect)) == Decision(again, applied)
    assert decide(Facts(outcome, effect, was_repeated=True, is_patient=True)) == Decision(patient, applied)
    assert decide(Facts(outcome, effect, was_repeated=True)) == Decision(impatient, applied)
    assert decide(Facts(outcome, effect, untried=2, has_time=False)) == Decision(RAISE, applied)


def test_table_has_every_row() -> None:
    assert [row[:2] for row in TABLE] == list(itertools.product(Outcome, Effect))


def test_maybe_applied_covers_earlier_attempts() -> None:
    """The last server refused the connection, but an earlier one received the write and did not respond."""
    assert decide(Facts(NOT_APPLIED, IDEMPOTENT, was_ambiguous=True, was_repeated=True)) == Decision(RAISE, True)
    assert decide(Facts(NOT_APPLIED, IDEMPOTENT, was_ambiguous=True, untried=1)) == Decision(NEXT, True)
    assert decide(Facts(REFUSED, IDEMPOTENT, was_ambiguous=True)) == Decision(RAISE, True)
    assert decide(Facts(NOT_APPLIED, NONE, was_ambiguous=True, was_repeated=True)) == Decision(RAISE, False)


def all_facts() -> list[Facts]:
    flags = (False, True)
    return [
        Facts(outcome, effect, was_ambiguous, untried, was_repeated, has_time, is_patient)
        for outcome, effect, was_ambiguous, untried, was_repeated, has_time, is_patient in itertools.product(
            Outcome, Effect, flags, (0, 1, 5), flags, flags, flags
        )
    ]


def test_non_idempotent_write_is_never_repeated_when_it_may_have_been_applied() -> None:
    """In all combinations of facts."""
    for facts in all_facts():
        maybe_applied = facts.was_ambiguous or facts.outcome in (AMBIGUOUS, REFUSED_MAYBE_APPLIED)
        if facts.effect is NON_IDEMPOTENT and maybe_applied:
            assert decide(facts) == Decision(RAISE, True)


def test_maybe_applied_is_false_for_reads() -> None:
    """In all combinations of facts."""
    assert not any(decide(facts).maybe_applied for facts in all_facts() if facts.effect is NONE)


def test_error_is_raised_after_the_deadline_or_a_refusal() -> None:
    """In all combinations of facts."""
    for facts in all_facts():
        if not facts.has_time or facts.outcome in (REFUSED, REFUSED_MAYBE_APPLIED):
            assert decide(facts).step is RAISE


def test_only_patient_callers_back_off() -> None:
    """In all combinations of facts."""
    for facts in all_facts():
        assert facts.is_patient or decide(facts).step is not BACK_OFF


@pytest.mark.parametrize('seed', range(20))
def test_call_ends_and_is_applied_at_most_once_with_any_outcomes(seed: int) -> None:
    """Follows the decisions through attempts with random outcomes."""
    rng = random.Random(seed)
    for effect, servers in itertools.product(Effect, (1, 2, 3, 5)):
        untried, attempts, unknown, was_ambiguous, was_repeated = servers - 1, 0, 0, False, False
        while True:
            attempts += 1
            outcome = rng.choice(
                [NOT_APPLIED, NOT_APPLIED, NOT_APPLIED, AMBIGUOUS, REFUSED, REFUSED_MAYBE_APPLIED, THROTTLED]
            )
            unknown += outcome in (AMBIGUOUS, REFUSED_MAYBE_APPLIED)
            decision = decide(Facts(outcome, effect, was_ambiguous, untried, was_repeated))
            if decision.step is RAISE:
                break
            was_ambiguous = decision.maybe_applied
            was_repeated = decision.step is AGAIN
            untried -= decision.step is NEXT
        assert attempts <= servers + 1
        assert untried >= 0
        assert effect is not NON_IDEMPOTENT or unknown <= 1
        assert decision.maybe_applied is (effect is not NONE and unknown > 0)


@pytest.mark.parametrize(
    ('error', 'outcome'),
    [
        (errors.ConnectionRefused('x'), NOT_APPLIED),
        (errors.ConnectionError('x', maybe_applied=True), AMBIGUOUS),
        (errors.TimedOut('x'), NOT_APPLIED),
        (errors.TimedOut('x', maybe_applied=True), AMBIGUOUS),
        (errors.HTTPError(503, maybe_applied=True), AMBIGUOUS),
        (errors.HTTPError(404), NOT_APPLIED),
        (errors.ProtocolError('x', maybe_applied=True), AMBIGUOUS),
        (errors.RaftInternal('x'), AMBIGUOUS),
        (errors.LeaderElect('x'), AMBIGUOUS),
        (errors.NoLeader('x'), NOT_APPLIED),
        (errors.Unavailable('x'), NOT_APPLIED),
        (error_of_status(Status(8, NO_SPACE), '/x', is_write=True), REFUSED_MAYBE_APPLIED),
        (error_of_status(Status(8, NO_SPACE), '/x', is_write=False), REFUSED),
        (errors.TooManyRequests('x'), THROTTLED),
        (errors.TooManyRequests('x', maybe_applied=True), AMBIGUOUS),
        (errors.LeaseNotFound('x', maybe_applied=True), REFUSED_MAYBE_APPLIED),
        (errors.ClientClosed('x', maybe_applied=True), REFUSED_MAYBE_APPLIED),
        (errors.WatcherCleared('x'), THROTTLED),
        (errors.KeyNotFound('x'), REFUSED),
        (errors.NodeExist('x'), REFUSED),
        (errors.Unauthorized('x'), REFUSED),
        (errors.PermissionDenied('x'), REFUSED),
        (errors.LeaseNotFound('x'), REFUSED),
        (errors.NotSupported('x'), REFUSED),
        (errors.ClientClosed('x'), REFUSED),
    ],
)
def test_outcome_of_error_decides_whether_it_is_transient(error: EtcException, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome
    assert is_transient(error) is (outcome not in (REFUSED, REFUSED_MAYBE_APPLIED))
    assert error.maybe_applied is (outcome in (AMBIGUOUS, REFUSED_MAYBE_APPLIED))


def test_outcome_of_covers_every_error_class() -> None:
    """A new class is a refusal unless it is derived from, or added to, the transient ones."""
    kinds = {getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert {kind for kind in kinds if is_transient(kind('1') if kind is not errors.HTTPError else kind(500))} == {
        errors.ConnectionError,
        errors.ConnectionRefused,
        errors.TimedOut,
        errors.HTTPError,
        errors.ProtocolError,
        errors.RaftInternal,
        errors.LeaderElect,
        errors.Unavailable,
        errors.NoLeader,
        errors.TooManyRequests,
        errors.WatcherCleared,
    }
