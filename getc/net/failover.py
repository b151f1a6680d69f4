"""Failover: attempts of one call on one endpoint after the other, and retries of a read until the deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from gevent.event import Event

from getc import timing
from getc.error_context import chain_attempts, copy_error
from getc.errors import EtcException, TimedOut
from getc.net.endpoint import Endpoint
from getc.net.selector import EndpointSelector
from getc.retry import Effect, Facts, Step, decide, outcome_of
from getc.timing import Backoff, Deadline

__all__ = ['MIN_ATTEMPT_TIMEOUT', 'call_with_failover', 'retry_until_served']

Result = TypeVar('Result')

MIN_ATTEMPT_TIMEOUT: Final = 0.1
"""Seconds that an attempt needs before a timeout marks the endpoint as down: a healthy server may need as long."""


def call_with_failover(
    endpoints: EndpointSelector,
    attempt: Callable[[Endpoint, Deadline], Result],
    deadline: Deadline,
    effect: Effect,
    *,
    is_answered: bool = True,
) -> Result:
    """Attempt a call on each endpoint in turn until one succeeds, and once more on the one whose cool-down ends first.

    Each attempt gets a part of the time left, so that the attempts that may follow have time as well.  Which errors
    lead to another attempt is decided by :func:`getc.retry.decide`.  Without any time left no attempt is made.  A
    timeout marks the endpoint as down only if this attempt had ``MIN_ATTEMPT_TIMEOUT`` or longer.

    Args:
        endpoints: The endpoints; the outcome of each attempt is recorded there.
        attempt: Performs the call on one endpoint, by a deadline.
        deadline: The deadline of the whole call.
        effect: What the call does to the store.
        is_answered: A returned attempt proves that the server responds; False for opening a stream.

    Raises:
        EtcException: The error of the last attempt, chained to the earlier ones, which are part of its text.  Its
            ``maybe_applied`` covers all attempts.  Or no endpoints were found.
    """
    endpoint, *waiting = endpoints.candidates() or endpoints.wait(deadline)
    is_alone = not waiting
    was_ambiguous = was_repeated = False
    previous: EtcException | None = None
    began = timing.now()
    if deadline.at <= began:
        raise TimedOut(f'the deadline passed before {endpoint.url} could be called', endpoint=endpoint.url)
    while True:
        # One part is for this attempt, one for each that may follow.
        part = deadline if is_alone else deadline.fraction(1 / (1 + len(waiting) + (not was_repeated)))
        try:
            result = attempt(endpoint, part)
        except EtcException as error:
            now = timing.now()
            # A write that must not be repeated has all of the time, not only its part.
            if not isinstance(error, TimedOut) or max(part.at, now) - began >= MIN_ATTEMPT_TIMEOUT:
                endpoints.record_error(endpoint, error)
            if previous is not None:
                chain_attempts(error, previous)
            began = now
            waiting = [each for each in waiting if each in endpoints]  # the list may have been replaced
            facts = Facts(outcome_of(error), effect, was_ambiguous, len(waiting), was_repeated, now < deadline.at)
            decision = decide(facts)
            if decision.step is Step.NEXT:
                endpoint = waiting.pop(0)
            elif decision.step is Step.AGAIN:
                was_repeated = True
                following = endpoints.candidates()
                endpoint = next((each for each in following if each != endpoint), following[0])
            else:
                previous = None  # breaks the cycle of this frame, the error and its traceback
                if error.maybe_applied is not decision.maybe_applied:
                    raise copy_error(error, maybe_applied=decision.maybe_applied) from error.__cause__
                raise
            previous = error
            was_ambiguous = decision.maybe_applied
        else:
            if is_answered:
                endpoints.mark_up(endpoint)
            previous = None
            return result


def retry_until_served(read: Callable[[], Result], deadline: Deadline, closed: Event | None = None) -> Result:
    """Perform a read, and repeat it with a growing delay until a server answers or the deadline passes.

    Args:
        read: The read; it may be called any number of times.
        deadline: The end of the repetitions.
        closed: Set when the client is closed, so that the read raises ClientClosed: this ends the delay.

    Raises:
        EtcException: The error of the last read; its text contains those of earlier reads.
    """
    backoff = Backoff()
    closed = closed or Event()
    last: EtcException | None = None
    try:
        while last is None or not deadline.has_passed():
            try:
                return read()
            except EtcException as error:
                if last is not None:
                    last.__cause__ = None  # a chain of any length would keep every error alive
                    chain_attempts(error, last)
                last = error
            delay = backoff.next_delay()
            has_time = deadline.remaining() > delay
            facts = Facts(outcome_of(last), Effect.NONE, was_repeated=True, has_time=has_time, is_patient=True)
            if decide(facts).step is Step.RAISE:
                break
            closed.wait(delay)
        raise last
    finally:
        last = None  # breaks the cycle of this frame, the error and its traceback
