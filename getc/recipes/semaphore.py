"""A semaphore across processes: a limited number of owners at a time."""

from __future__ import annotations

from getc.operations import check_int
from getc.recipes.base import RecipeHost
from getc.recipes.contender_lock import check_recipe_key
from getc.recipes.semaphore_queue import SemaphoreQueue
from getc.recipes.shared_lock import SharedLock
from getc.results import Value
from getc.timing import DEFAULT_TIMEOUT, Timeout

__all__ = ['Semaphore']


class Semaphore(SharedLock):
    """A semaphore that a limited number of owners hold at a time, in the order in which they came.

    ``with getc.recipes.Semaphore(etcd, '/slots/render', 4) as token: ...``.  It has the methods of a
    :class:`getc.Lock`.  Each greenlet that uses it has a key of its own: the state, the token and the guard,
    ``ensure``, ``interrupting`` and ``release`` are those of the greenlet that uses them.  The semaphore is not
    re-entrant: a greenlet that holds it and acquires it again gets a RuntimeError.

    The first user stores the limit in ``KEY/limit``, where it stays.  ``acquire`` raises ValueError in a program whose
    limit is another one.

    The constructor performs no I/O.

    Args:
        host: The client.
        key: The key of the semaphore.  No value can exist there; keys of contenders are created below it.
        limit: How many may hold it at a time, 1 or more; the same in all programs.
        value: The value of the contenders' keys, text or bytes, for people; None for ``pid@host``.
        ttl: Whole seconds, 1 or more, after which what this process holds is free if the process dies.

    Raises:
        TypeError, ValueError: An argument is invalid.
    """

    def __init__(
        self, host: RecipeHost, key: str, limit: int, *, value: str | bytes | None = None, ttl: int = 10
    ) -> None:
        key, text = check_recipe_key(key, value, ttl)
        check_int('limit', limit, 1)
        super().__init__(key, SemaphoreQueue(host._recipe_context, key, limit, text, ttl))

    @property
    def limit(self) -> int:
        """How many may hold the semaphore at a time."""
        return self._queue.limit

    def holders(self, timeout: Timeout = DEFAULT_TIMEOUT) -> tuple[Value, ...]:
        """Read the keys of the owners with their values, in their order.  Blocks; one linearizable read.

        Args:
            timeout: Seconds; None for no limit, omitted for the timeout of the client.
        """
        return self.contenders(timeout)[: self.limit]

    def __repr__(self) -> str:
        return f'<getc.Semaphore {self.key} {self.state.name} limit={self.limit} ttl={self.ttl}>'
