"""A call on its way through the servers: one after the other, as far as that can do no harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import gevent

from getc.error_context import chain_attempts, copy_error
from getc.errors import EtcException, TimedOut
from getc.net.selector import Endpoint, EndpointSelector
from getc.retry import Effect, Facts, Step, decide, outcome_of
from getc.timing import Backoff, Deadline

__all__ = ['MIN_ATTEMPT_TIMEOUT', 'call_with_failover', 'retry_until_served']

Result = TypeVar('Result')

MIN_ATTEMPT_TIMEOUT: Final = 0.1
"""Seconds.  Silence for less says nothing of a server; the shortest renewal has more, a sixth of a second."""


def call_with_failover(
    endpoints: EndpointSelector,
    attempt: Callable[[Endpoint, Deadline], Result],
    deadline: Deadline,
    effect: Effect,
    *,
    is_answered: bool = True,
) -> Result:
    """Ask one server after the other until one answers; where none does, the one that is due first once more.

    An attempt is given a share of the time, and leaves the rest to the others, as far as they may still be asked.
    Without time nobody is asked, and with less than ``MIN_ATTEMPT_TIMEOUT`` nobody is blamed for silence.

    Args:
        endpoints: The servers, which are told how they did.
        attempt: Asks one of them, by a deadline.
        deadline: The end of it all.
        effect: What asking does.
        is_answered: The server has answered when an attempt returns; a stream that is open proves nothing yet.

    Raises:
        EtcException: What the last attempt met, chained to those before it, which it names; ``maybe_applied`` is about
            all of them.
    """
    endpoint, *waiting = endpoints.candidates()
    is_alone = not waiting
    was_unknown = was_repeated = False
    previous: EtcException | None = None
    left = deadline.remaining()
    if not left:
        raise TimedOut(f'no time to ask {endpoint.url}', endpoint=endpoint.url)
    while True:
        # One part is for this attempt, one for each that may follow.
        share = deadline if is_alone else deadline.fraction(1 / (1 + len(waiting) + (not was_repeated)))
        try:
            result = attempt(endpoint, share)
        except EtcException as error:
            if left >= MIN_ATTEMPT_TIMEOUT or not isinstance(error, TimedOut):
                endpoints.judge(endpoint, error)
            if previous is not None:
                chain_attempts(error, previous)
            left = deadline.remaining()
            facts = Facts(outcome_of(error), effect, was_unknown, len(waiting), was_repeated, left > 0)
            decision = decide(facts)
            if decision.step is Step.NEXT:
                endpoint = waiting.pop(0)
            elif decision.step is Step.AGAIN:
                was_repeated = True
                endpoint = next((each for each in endpoints.candidates() if each != endpoint), endpoint)
            else:
                previous = None  # else this frame would hold it, and it this frame
                if error.maybe_applied is not decision.maybe_applied:
                    raise copy_error(error, maybe_applied=decision.maybe_applied) from error.__cause__
                raise
            previous = error
            was_unknown = decision.maybe_applied
        else:
            if is_answered:
                endpoints.served(endpoint)
            previous = None
            return result


def retry_until_served(read: Callable[[], Result], deadline: Deadline) -> Result:
    """Do a read, and if no server answers, again and again until the deadline.

    Raises what the last one met, which names what others met.
    """
    backoff = Backoff()
    met: EtcException | None = None
    while met is None or not deadline.has_passed():
        try:
            return read()
        except EtcException as error:
            if met is not None:
                met.__cause__ = None  # there may be any number of them
                chain_attempts(error, met)
            met = error
        delay = backoff.next_delay()
        has_time = deadline.remaining() > delay
        facts = Facts(outcome_of(met), Effect.NONE, was_repeated=True, has_time=has_time, is_patient=True)
        if decide(facts).step is Step.RAISE:
            break
        gevent.sleep(delay)
    raise met
