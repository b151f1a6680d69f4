"""Whether a call is made again: the whole table, and what must never happen."""

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
NONE, SAME, ONCE = Effect.NONE, Effect.IDEMPOTENT, Effect.NON_IDEMPOTENT
REFUSED, MAYBE_APPLIED, THROTTLED, NOT_APPLIED, UNKNOWN = Outcome
NEXT, AGAIN, BACK_OFF, RAISE = Step.NEXT, Step.AGAIN, Step.BACK_OFF, Step.RAISE

# What came of it, what it does; what follows when there are others, when one may be asked once more, when that was
# done and the caller is patient, and when the caller is not; whether the call may have changed the store.
TABLE = [
    (REFUSED, NONE, RAISE, RAISE, RAISE, RAISE, False),
    (REFUSED, SAME, RAISE, RAISE, RAISE, RAISE, False),
    (REFUSED, ONCE, RAISE, RAISE, RAISE, RAISE, False),
    (MAYBE_APPLIED, NONE, RAISE, RAISE, RAISE, RAISE, False),
    (MAYBE_APPLIED, SAME, RAISE, RAISE, RAISE, RAISE, True),
    (MAYBE_APPLIED, ONCE, RAISE, RAISE, RAISE, RAISE, True),
    (THROTTLED, NONE, RAISE, RAISE, BACK_OFF, RAISE, False),
    (THROTTLED, SAME, RAISE, RAISE, BACK_OFF, RAISE, False),
    (THROTTLED, ONCE, RAISE, RAISE, BACK_OFF, RAISE, False),
    (NOT_APPLIED, NONE, NEXT, AGAIN, BACK_OFF, RAISE, False),
    (NOT_APPLIED, SAME, NEXT, AGAIN, BACK_OFF, RAISE, False),
    (NOT_APPLIED, ONCE, NEXT, AGAIN, BACK_OFF, RAISE, False),
    (UNKNOWN, NONE, NEXT, AGAIN, BACK_OFF, RAISE, False),
    (UNKNOWN, SAME, NEXT, AGAIN, BACK_OFF, RAISE, True),
    (UNKNOWN, ONCE, RAISE, RAISE, RAISE, RAISE, True),
]


@pytest.mark.parametrize(('outcome', 'effect', 'others', 'again', 'patient', 'impatient', 'applied'), TABLE)
def test_decision_follows_from_the_facts(
    outcome: Outcome, effect: Effect, others: Step, again: Step, patient: Step, impatient: Step, applied: bool
) -> None:
    """Every row; without time left all of it is raised."""
    assert decide(Facts(outcome, effect, others=2)) == Decision(others, applied)
    assert decide(Facts(outcome, effect)) == Decision(again, applied)
    assert decide(Facts(outcome, effect, was_repeated=True, is_patient=True)) == Decision(patient, applied)
    assert decide(Facts(outcome, effect, was_repeated=True)) == Decision(impatient, applied)
    assert decide(Facts(outcome, effect, others=2, has_time=False)) == Decision(RAISE, applied)


def test_table_has_every_row() -> None:
    """Each outcome with each effect, once."""
    assert [row[:2] for row in TABLE] == list(itertools.product(Outcome, Effect))


def test_what_an_earlier_attempt_may_have_done_is_not_forgotten() -> None:
    """The last server refused the connection, but an earlier one took the write and fell silent."""
    assert decide(Facts(NOT_APPLIED, SAME, was_unknown=True, was_repeated=True)) == Decision(RAISE, True)
    assert decide(Facts(NOT_APPLIED, SAME, was_unknown=True, others=1)) == Decision(NEXT, True)
    assert decide(Facts(REFUSED, SAME, was_unknown=True)) == Decision(RAISE, True)
    assert decide(Facts(NOT_APPLIED, NONE, was_unknown=True, was_repeated=True)) == Decision(RAISE, False)


def all_facts() -> list[Facts]:
    flags = (False, True)
    return [
        Facts(outcome, effect, was_unknown, others, was_repeated, has_time, is_patient)
        for outcome, effect, was_unknown, others, was_repeated, has_time, is_patient in itertools.product(
            Outcome, Effect, flags, (0, 1, 5), flags, flags, flags
        )
    ]


def test_write_that_may_have_happened_is_never_sent_again() -> None:
    """Whatever else is so: of all combinations of facts there are, none repeats one that must not happen twice."""
    for facts in all_facts():
        if facts.effect is ONCE and (facts.outcome in (UNKNOWN, MAYBE_APPLIED) or facts.was_unknown):
            assert decide(facts) == Decision(RAISE, True)


def test_read_is_never_said_to_have_changed_anything() -> None:
    """In no combination."""
    assert not any(decide(facts).maybe_applied for facts in all_facts() if facts.effect is NONE)


def test_nothing_is_done_after_the_deadline_or_a_refusal() -> None:
    """In no combination."""
    for facts in all_facts():
        if not facts.has_time or facts.outcome in (REFUSED, MAYBE_APPLIED):
            assert decide(facts).step is RAISE


def test_only_the_patient_wait() -> None:
    """In no combination does a call of the user's wait for servers to come back."""
    for facts in all_facts():
        assert facts.is_patient or decide(facts).step is not BACK_OFF


@pytest.mark.parametrize('seed', range(20))
def test_call_ends_and_is_applied_once_at_most_whatever_happens(seed: int) -> None:
    """A call is led by the decisions through attempts of any outcome, as whoever makes calls does."""
    rng = random.Random(seed)
    for effect, servers in itertools.product(Effect, (1, 2, 3, 5)):
        others, attempts, unknown, was_unknown, was_repeated = servers - 1, 0, 0, False, False
        while True:
            attempts += 1
            outcome = rng.choice([NOT_APPLIED, NOT_APPLIED, NOT_APPLIED, UNKNOWN, REFUSED, MAYBE_APPLIED, THROTTLED])
            unknown += outcome in (UNKNOWN, MAYBE_APPLIED)
            decision = decide(Facts(outcome, effect, was_unknown, others, was_repeated))
            if decision.step is RAISE:
                break
            was_unknown = decision.maybe_applied
            was_repeated = decision.step is AGAIN
            others -= decision.step is NEXT
        assert attempts <= servers + 1
        assert others >= 0
        assert effect is not ONCE or unknown <= 1
        assert decision.maybe_applied is (effect is not NONE and unknown > 0)


@pytest.mark.parametrize(
    ('error', 'outcome'),
    [
        (errors.ConnectionRefused('x'), NOT_APPLIED),
        (errors.ConnectionError('x', maybe_applied=True), UNKNOWN),
        (errors.TimedOut('x'), NOT_APPLIED),
        (errors.TimedOut('x', maybe_applied=True), UNKNOWN),
        (errors.HTTPError(503, maybe_applied=True), UNKNOWN),
        (errors.HTTPError(404), NOT_APPLIED),
        (errors.ProtocolError('x', maybe_applied=True), UNKNOWN),
        (errors.RaftInternal('x'), UNKNOWN),
        (errors.LeaderElect('x'), UNKNOWN),
        (errors.NoLeader('x'), NOT_APPLIED),
        (errors.Unavailable('x'), NOT_APPLIED),
        (error_of_status(Status(8, NO_SPACE), '/x', is_write=True), MAYBE_APPLIED),
        (error_of_status(Status(8, NO_SPACE), '/x', is_write=False), REFUSED),
        (errors.TooManyRequests('x'), THROTTLED),
        (errors.TooManyRequests('x', maybe_applied=True), UNKNOWN),
        (errors.LeaseNotFound('x', maybe_applied=True), MAYBE_APPLIED),
        (errors.ClientClosed('x', maybe_applied=True), MAYBE_APPLIED),
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
def test_error_says_what_came_of_the_attempt(error: EtcException, outcome: Outcome) -> None:
    """And so whether trouble may pass, and whether a write may have happened."""
    assert outcome_of(error) is outcome
    assert is_transient(error) is (outcome not in (REFUSED, MAYBE_APPLIED))
    assert error.maybe_applied is (outcome in (UNKNOWN, MAYBE_APPLIED))


def test_every_error_there_is_has_an_outcome() -> None:
    """Also those that somebody adds: a refusal, unless it is a kind of trouble."""
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
