"""A queue of contenders below one key: where they are created, and what each of them waits for."""

from __future__ import annotations

from enum import Enum
from typing import Final

from getc.backends.base import Backend, Watch, WatchListener
from getc.errors import EtcException, TimedOut
from getc.operations import Contenders, WatchSpec
from getc.recipes.base import RecipeContext
from getc.results import PredecessorResult, Value
from getc.timing import Deadline

__all__ = ['ContenderQueue', 'ContenderState']

MIN_CALL_TIMEOUT: Final = 1.5
"""Seconds for one request, for most TTLs: a leader that has failed never answers, so the next request has to follow."""

MAX_CALL_TIMEOUT: Final = 5.0
"""Maximum seconds for one request."""

MAX_VALUE_IN_ERROR: Final = 100
"""Characters of the first contender's value in an error."""


class ContenderState(Enum):
    """The state of a contender, and of a lock."""

    OUT = 'it has no key'
    WAITING = 'its key is created or exists, and another contender is before it'
    HELD = 'it is first, and its key cannot have expired'
    SUSPECT = 'it is held, and the last attempt to renew its key has failed'
    LOST = 'it was held, and its key is gone or no longer provably its own'
    LEAVING = 'its key is being deleted'


class ContenderQueue:
    """A queue of contenders below one key.

    An RWLock passes a ``scope``, a semaphore a ``limit``.  Override :meth:`watch_earlier` to wait for something else
    than the deletion of the nearest earlier key.

    Args:
        context: The context of the client.
        name: Names the recipe in errors and logs, as ``lock /locks/a``.
        directory: Contenders are created directly below it.
        value: The value of the keys.
        ttl: Their TTL, whole seconds.
        scope: Every earlier key below this directory counts; by default ``directory``.
        limit: A contender is first enough if fewer keys than this were created before its own.

    Attributes:
        context, name, directory, value, ttl, scope, limit: The same.
        known: How many of the nearest earlier keys an answer names at most; ``limit`` or more.
    """

    def __init__(
        self,
        context: RecipeContext,
        name: str,
        directory: str,
        value: str,
        ttl: int,
        *,
        scope: str | None = None,
        limit: int = 1,
    ) -> None:
        self.context = context
        self.name = name
        self.directory = directory
        self.value = value
        self.ttl = ttl
        self.scope = directory if scope is None else scope
        self.limit = limit
        self.known = limit

    def prepare(self, backend: Backend, deadline: Deadline) -> None:
        """Do what has to be done before a contender is created.  May block, and raise like ``execute``."""

    def contenders(self, deadline: Deadline) -> tuple[Value, ...]:
        """Read the keys of the queue with their values, the owner first.  Blocks; one linearizable read."""
        backend = self.context.backend.detect_api(deadline)
        return backend.execute(Contenders(self.directory), deadline).values

    def watch_earlier(self, backend: Backend, answer: PredecessorResult, listener: WatchListener) -> Watch:
        """Watch what the contender of this answer waits for.  Does not block.

        The listener wakes the contender with each deletion, and when the watch ends.  The watch starts at the revision
        after that of the answer: a watch from now on could miss the deletion.
        """
        assert answer.nearest is not None
        return backend.watch(WatchSpec(answer.nearest.key, answer.index + 1, is_exact=True), listener)

    def call_deadline(self, deadline: Deadline) -> Deadline:
        """Return the deadline of one request, which may be repeated until ``deadline``."""
        seconds = min(max(MIN_CALL_TIMEOUT, self.ttl / 6), self.ttl / 2, MAX_CALL_TIMEOUT)
        return deadline.fraction(1.0, at_most=seconds)

    def timed_out(
        self, deadline: Deadline, answer: PredecessorResult | None, cause: EtcException | None = None
    ) -> TimedOut:
        """Return the error of an acquire whose deadline has passed.

        Args:
            deadline: The deadline.
            answer: The last answer, which names the contender that is first; None without one.
            cause: The error of the last request, if it was not answered.
        """
        text = f'{self.name} was not acquired within {deadline.timeout:g} s'
        first = None if answer is None else answer.first
        if answer is not None and first is not None:
            value = first.value if len(first.value) <= MAX_VALUE_IN_ERROR else f'{first.value[:MAX_VALUE_IN_ERROR]}...'
            text += f': {first.key} is first, with the value {value!r} and the index {first.created_index}'
            if answer.is_first_permanent:
                text += '; it has no TTL, so it blocks the queue until it is deleted'
        if cause is not None:
            text += f': {cause}'
        error = TimedOut(text, endpoint=None if cause is None else cause.endpoint, key=self.directory)
        error.is_outage = cause is not None
        error.__cause__ = cause
        return error
