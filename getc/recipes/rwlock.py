"""A lock across processes that many readers or one writer hold."""

from __future__ import annotations

from gevent import getcurrent

from getc.net.affinity import Unpicklable
from getc.operations import Contenders
from getc.recipes.base import RecipeContext, RecipeHost
from getc.recipes.contender_lock import check_recipe_key
from getc.recipes.contenders import ContenderQueue
from getc.recipes.lock import TurnLock
from getc.recipes.shared_lock import SharedLock
from getc.results import Value
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout

__all__ = ['RWLock', 'ReadLock', 'WriteLock']


class RWLock(Unpicklable):
    """A lock that many readers or one writer hold, in the order in which they came.

    :meth:`getc.Client.rwlock` returns it: ``with etcd.rwlock('/locks/world').read as token: ...``.  :attr:`read` and
    :attr:`write` have the methods of a :class:`~getc.Lock`.  A reader waits for the writers that came before it, a
    writer for all that came before it.  So a reader that comes after a waiting writer waits for it, and no contender
    starves.

    Other processes may use ``RWMutex`` of Go's ``experimental/recipes``, or getc.

    Each greenlet reads with a key of its own.  The greenlets that write through one object take turns, in order.  A
    greenlet that reads cannot write before it has released ``read``, nor the other way round.

    The constructor performs no I/O.

    Args:
        host: The client.
        key: The key of the lock.  No value can exist there; keys of contenders are created below it.
        value: The value of the contenders' keys, text or bytes, for people; None for ``pid@host``.
        ttl: Whole seconds, 1 or more, after which the lock is free if this process dies.

    Raises:
        TypeError, ValueError: An argument is invalid.
    """

    def __init__(self, host: RecipeHost, key: str, value: str | bytes | None = None, *, ttl: int = 10) -> None:
        self._key, text = check_recipe_key(key, value, ttl)
        context = host._recipe_context
        self._read = ReadLock(self, _SideQueue(context, 'read', self._key, text, ttl, waits_for='write'))
        self._write = WriteLock(self, _SideQueue(context, 'write', self._key, text, ttl, waits_for=''))

    @property
    def key(self) -> str:
        """The key of the lock."""
        return self._key

    @property
    def value(self) -> str:
        """The value of the contenders' keys."""
        return self._read.value

    @property
    def ttl(self) -> int:
        """The requested TTL in seconds."""
        return self._read.ttl

    @property
    def read(self) -> ReadLock:
        """The lock of the readers."""
        return self._read

    @property
    def write(self) -> WriteLock:
        """The lock of the writers."""
        return self._write

    def contenders(self, timeout: Timeout = DEFAULT_TIMEOUT) -> tuple[Value, ...]:
        """Read the keys of all readers and writers with their values, in their order.  Blocks; one linearizable read.

        Either the first one is a writer, who holds the lock, or all readers before the first writer hold it.

        Args:
            timeout: Seconds; None for no limit, omitted for the timeout of the client.
        """
        return self._read.contenders(timeout)

    def __repr__(self) -> str:
        read, write = self._read.state.name, self._write.state.name
        return f'<getc.RWLock {self._key} read={read} write={write} ttl={self.ttl}>'

    def _check_other_side(self, other: ReadLock | WriteLock, wanted: str) -> None:
        """Raise RuntimeError if this greenlet holds the other lock, for which it would wait without a limit."""
        if other._is_used_by(getcurrent()):
            held = other._queue.name
            raise RuntimeError(f'this greenlet holds {held}: it would wait for itself; release it before you {wanted}')


class ReadLock(SharedLock):
    """The lock of the readers of an :class:`~getc.RWLock`, ``rwlock.read``, with the methods of a :class:`~getc.Lock`.

    Many hold it at a time, also greenlets of one process.  The state, the token and the guard, ``ensure``,
    ``interrupting`` and ``release`` are those of the greenlet that uses them: a greenlet releases what it has acquired.
    ``on_lost`` calls a function for each greenlet whose key was lost.
    """

    def __init__(self, rwlock: RWLock, queue: ContenderQueue) -> None:
        super().__init__(rwlock.key, queue)
        self._rwlock = rwlock

    def _acquire(self, deadline: Deadline, *, may_wait: bool) -> int | None:
        self._rwlock._check_other_side(self._rwlock.write, 'read')
        return super()._acquire(deadline, may_wait=may_wait)


class WriteLock(TurnLock):
    """The lock of the writers of an :class:`~getc.RWLock`, ``rwlock.write``, with the methods of a :class:`~getc.Lock`.

    One holds it at a time, and no reader meanwhile.  The greenlets that use one object take turns, in order, and
    contend for each turn with one key.  Any greenlet may release it.
    """

    def __init__(self, rwlock: RWLock, queue: ContenderQueue) -> None:
        super().__init__(rwlock.key, queue)
        self._rwlock = rwlock

    def _acquire(self, deadline: Deadline, *, may_wait: bool) -> int | None:
        self._rwlock._check_other_side(self._rwlock.read, 'write')
        return super()._acquire(deadline, may_wait=may_wait)


class _SideQueue(ContenderQueue):
    """The queue of the readers or of the writers, whose listing shows both.

    Args:
        context: The context of the client.
        side: Where contenders are created below the key of the lock.
        key: The key of the lock.
        value: The value of the keys.
        ttl: Their TTL, whole seconds.
        waits_for: Earlier contenders below this name are waited for, or all of them if it is empty.
    """

    def __init__(self, context: RecipeContext, side: str, key: str, value: str, ttl: int, *, waits_for: str) -> None:
        scope = f'{key}/{waits_for}' if waits_for else key
        super().__init__(context, f'{side} lock {key}', f'{key}/{side}', value, ttl, scope=scope)
        self._key = key

    def contenders(self, deadline: Deadline) -> tuple[Value, ...]:
        backend = self.context.backend.detect_api(deadline)
        return backend.execute(Contenders(self._key), deadline).values
