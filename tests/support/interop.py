"""Drives etcd's own client in Go, from greenlets: the program of ``tools/interop`` on a real etcd.

A test folder imports the fixtures in its ``conftest.py``; the tests are skipped where there is no Go::

    from tests.support.interop import go, go_binary, start_go

``go`` is a running program on ``etcd_server``, ``start_go(url, ...)`` starts further ones.  Each command returns a
:class:`~tests.support.interop_process.Call` at once; ``result()`` waits for its end.  Commands run concurrently::

    def test_go_waits_for_getc(go: Go, etcd: getc.Client) -> None:
        session = go.open_session(ttl=10)                    # waits; concurrency.NewSession, a connection of its own
        held = session.lock('/locks/a').result()             # Mutex.Lock: Held(key, create_revision, ...)
        other = go.open_session()
        assert other.try_lock('/locks/a').result() is None   # Mutex.TryLock: None where Go returns ErrLocked
        waiting = other.lock('/locks/a')                     # waits in Go
        assert not waiting.is_done
        session.unlock('/locks/a').result()                  # Mutex.Unlock
        assert waiting.result().create_revision > held.create_revision
        waiting.cancel()                                     # cancels the context of a command that is in progress
        session.lock('/locks/a', timeout=0.5)                # .. or it has a deadline: GoError, code DeadlineExceeded

        session.campaign('/leader', 'ann').result()          # Election.Campaign: Held
        watching = other.observe('/leader')                  # Election.Observe
        watching.wait(Led, lambda led: led.kv.value == b'ann')
        session.proclaim('/leader', 'Ann').result()
        other.leader('/leader').result()                     # Election.Leader: GoKeyValue; GoError where there is none
        session.resign('/leader').result()

        session.close().result()                             # revokes the lease
        other.drop().result()                                # leaves the lease to its TTL, as a crash does
        session.ended.result()                               # Session.Done(): closed, dropped, revoked or expired

One session and one name are one Go object (Mutex, Election, RWMutex, DoubleBarrier): run one command of it at a time.
``Call.wait`` returns the first event of a class that a predicate accepts, and ``Call.events`` has all so far.
A failed command raises :class:`~tests.support.interop_events.GoError`; its ``message`` is Go's, such as
``'election: no leader'``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from getc.testing import EtcdServer
from tests.support.interop_events import (
    Endpoint,
    GoKeyValue,
    GoLease,
    GoRead,
    GoTxn,
    GoWrite,
    Held,
    Opened,
    ServerStatus,
    StmDone,
)
from tests.support.interop_process import TIMEOUT, Call, GoProcess
from tools.interop.build import CannotBuild, build

__all__ = ['Go', 'GoSession', 'compare', 'go', 'go_binary', 'operation', 'start_go']


class Go(GoProcess):
    """A running Go program on one etcd.  Its methods are commands; keys and values of the first group are bytes."""

    # -- keys, transactions, watches, leases

    def get(self, key: bytes, *, prefix: bool = False, revision: int = 0, serializable: bool = False) -> Call[GoRead]:
        """``Client.Get``."""
        return self.call('get', key=key, prefix=prefix, revision=revision, serializable=serializable)

    def put(self, key: bytes, value: bytes, *, lease: int = 0) -> Call[GoWrite]:
        """``Client.Put``."""
        return self.call('put', key=key, value=value, lease=lease)

    def delete(self, key: bytes, *, prefix: bool = False) -> Call[GoWrite]:
        """``Client.Delete``."""
        return self.call('delete', key=key, prefix=prefix)

    def compact(self, revision: int) -> Call[GoWrite]:
        """``Client.Compact``, which ends once the old revisions are removed."""
        return self.call('compact', revision=revision)

    def txn(
        self,
        compares: Sequence[Mapping[str, Any]],
        success: Sequence[Mapping[str, Any]],
        failure: Sequence[Mapping[str, Any]] = (),
    ) -> Call[GoTxn]:
        """``Txn.If(...).Then(...).Else(...)`` of what :func:`compare` and :func:`operation` return."""
        return self.call('txn', compares=list(compares), success=list(success), failure=list(failure))

    def watch(
        self, key: bytes, *, prefix: bool = False, revision: int = 0, previous: bool = False, progress: bool = False
    ) -> Call[None]:
        """``Client.Watch``: events ``Watching``, then ``Changed`` and ``Progress``, until it is cancelled.

        Waits until the server has created the watch.  If it refuses that, ``result()`` raises.
        """
        arguments = {'prefix': prefix, 'revision': revision, 'previous': previous, 'progress': progress}
        call: Call[None] = self.call('watch', key=key, **arguments)
        call._await(lambda: call.is_done or bool(call.events), 'the watch', TIMEOUT)
        return call

    def grant(self, ttl: int) -> Call[GoLease]:
        """``Client.Grant``, a lease that is not renewed."""
        return self.call('grant', ttl=ttl)

    def keep_alive(self, lease: int) -> Call[None]:
        """``Client.KeepAlive``: events ``Renewed`` until it is cancelled; ``Unavailable`` if the lease ends."""
        return self.call('keep_alive', lease=lease)

    def time_to_live(self, lease: int) -> Call[GoLease]:
        """``Client.TimeToLive`` with the keys of the lease."""
        return self.call('time_to_live', lease=lease)

    def revoke(self, lease: int) -> Call[None]:
        """``Client.Revoke``."""
        return self.call('revoke', lease=lease)

    # -- concurrency and experimental/recipes

    def open_session(self, ttl: int = 60) -> GoSession:
        """``concurrency.NewSession`` with a client of its own; waits until its lease is granted."""
        return GoSession(self, f'session-{next(self._numbers)}', ttl)

    def stm_add(
        self,
        numbers: Mapping[str, int],
        *,
        isolation: str = '',
        hold: bool = False,
        minimum: int | None = None,
        timeout: float = 0,
    ) -> Call[StmDone]:
        """``concurrency.NewSTM``: add to the numbers in several keys.

        Args:
            numbers: By key, what to add; an absent key is 0.
            isolation: ``'serializable-snapshot'`` (the default), ``'serializable'``, ``'repeatable-reads'`` or
                ``'read-committed'``.
            hold: Write the event ``Attempted`` after the reads of each attempt, and wait for :meth:`proceed`.
            minimum: ``FailedPrecondition`` if a number would be lower.
            timeout: Seconds after which Go gives up.
        """
        more = {'isolation': isolation, 'hold': hold, 'minimum': minimum}
        return self.call('stm_add', timeout=timeout, add=dict(numbers), **more)

    def proceed(self, transaction: Call[StmDone]) -> Call[None]:
        """Let an attempt of a transaction with ``hold`` commit."""
        return self.call('proceed', id=transaction.number)

    def enqueue(self, name: str, value: str) -> Call[None]:
        """``recipe.Queue.Enqueue``."""
        return self.call('enqueue', name=name, value=value)

    def dequeue(self, name: str) -> Call[str]:
        """``recipe.Queue.Dequeue``."""
        return self.call('dequeue', name=name)

    def enqueue_priority(self, name: str, value: str, priority: int) -> Call[None]:
        """``recipe.PriorityQueue.Enqueue``; the lowest priority is taken first."""
        return self.call('enqueue_priority', name=name, value=value, priority=priority)

    def dequeue_priority(self, name: str) -> Call[str]:
        """``recipe.PriorityQueue.Dequeue``."""
        return self.call('dequeue_priority', name=name)

    def hold_barrier(self, name: str) -> Call[None]:
        """``recipe.Barrier.Hold``."""
        return self.call('hold_barrier', name=name)

    def release_barrier(self, name: str) -> Call[None]:
        """``recipe.Barrier.Release``."""
        return self.call('release_barrier', name=name)

    def wait_barrier(self, name: str) -> Call[None]:
        """``recipe.Barrier.Wait``."""
        return self.call('wait_barrier', name=name)

    # -- naming

    def add_endpoint(self, service: str, key: str, addr: str, *, metadata: Any = None, lease: int = 0) -> Call[None]:
        """``endpoints.Manager.AddEndpoint``; ``service`` is the prefix of ``key`` without the last slash."""
        return self.call('add_endpoint', service=service, key=key, addr=addr, metadata=metadata, lease=lease)

    def delete_endpoint(self, service: str, key: str) -> Call[None]:
        """``endpoints.Manager.DeleteEndpoint``."""
        return self.call('delete_endpoint', service=service, key=key)

    def list_endpoints(self, service: str) -> Call[dict[str, Endpoint]]:
        """``endpoints.Manager.List``: the endpoints by key."""
        return self.call('list_endpoints', service=service)

    def watch_endpoints(self, service: str) -> Call[None]:
        """``endpoints.Manager.NewWatchChannel``: events ``Updated``, the first for the endpoints that exist."""
        return self.call('watch_endpoints', service=service)

    def dial(self, target: str, *, policy: str = '') -> Call[None]:
        """Open a gRPC client of ``etcd:////services/...``: events ``Resolved`` until it is cancelled.

        Waits until :meth:`status` can use the client, not for a connection.
        """
        call: Call[None] = self.call('dial', target=target, policy=policy)
        call._await(lambda: call.is_done or bool(call.events), 'the client', TIMEOUT)
        return call

    def status(self, target: str, *, timeout: float = 30.0) -> Call[ServerStatus]:
        """Call a server of a service that was dialed, which must be an etcd."""
        return self.call('status', timeout=timeout, target=target)


class GoSession:
    """A ``concurrency.Session``, and the locks and elections of it.  See :class:`Go`.

    Attributes:
        lease: The id of its lease.
        ended: Ends when the lease is not renewed any more: closed, dropped, revoked or expired.
    """

    def __init__(self, go: Go, name: str, ttl: int) -> None:
        self._go = go
        self._name = name
        self.ended: Call[Opened] = go.call('open_session', session=name, ttl=ttl)
        self.lease = self.ended.wait(Opened).lease

    def _call(self, verb: str, *, timeout: float = 0, **arguments: Any) -> Call[Any]:
        return self._go.call(verb, timeout=timeout, session=self._name, **arguments)

    def close(self) -> Call[None]:
        """``Session.Close``: revoke the lease."""
        return self._call('close_session')

    def drop(self) -> Call[None]:
        """Close the connection and leave the lease to its TTL, as a crash does."""
        return self._call('drop_session')

    # -- Mutex

    def lock(self, name: str, *, timeout: float = 0) -> Call[Held]:
        """``Mutex.Lock``.  After ``timeout`` seconds it fails with ``DeadlineExceeded``; 0: it has no limit."""
        return self._call('lock', timeout=timeout, name=name)

    def try_lock(self, name: str) -> Call[Held | None]:
        """``Mutex.TryLock``; None if another session holds the lock."""
        return self._call('try_lock', name=name)

    def unlock(self, name: str) -> Call[None]:
        """``Mutex.Unlock``."""
        return self._call('unlock', name=name)

    def owned_put(self, name: str, key: bytes, value: bytes) -> Call[GoTxn]:
        """Write a key in a transaction with ``Mutex.IsOwner``."""
        return self._call('owned_put', name=name, key=key, value=value)

    # -- Election

    def campaign(self, name: str, value: str, *, timeout: float = 0) -> Call[Held]:
        """``Election.Campaign``."""
        return self._call('campaign', timeout=timeout, name=name, value=value)

    def proclaim(self, name: str, value: str) -> Call[GoWrite]:
        """``Election.Proclaim``."""
        return self._call('proclaim', name=name, value=value)

    def resign(self, name: str) -> Call[None]:
        """``Election.Resign``."""
        return self._call('resign', name=name)

    def leader(self, name: str) -> Call[GoKeyValue]:
        """``Election.Leader``."""
        return self._call('leader', name=name)

    def observe(self, name: str) -> Call[None]:
        """``Election.Observe``: events ``Led`` until it is cancelled."""
        return self._call('observe', name=name)

    # -- experimental/recipes, which end with the session

    def read_lock(self, name: str) -> Call[None]:
        """``RWMutex.RLock``."""
        return self._call('read_lock', name=name)

    def read_unlock(self, name: str) -> Call[None]:
        """``RWMutex.RUnlock``."""
        return self._call('read_unlock', name=name)

    def write_lock(self, name: str) -> Call[None]:
        """``RWMutex.Lock``."""
        return self._call('write_lock', name=name)

    def write_unlock(self, name: str) -> Call[None]:
        """``RWMutex.Unlock``."""
        return self._call('write_unlock', name=name)

    def enter_barrier(self, name: str, count: int) -> Call[None]:
        """``DoubleBarrier.Enter``."""
        return self._call('enter_barrier', name=name, count=count)

    def leave_barrier(self, name: str, count: int) -> Call[None]:
        """``DoubleBarrier.Leave``."""
        return self._call('leave_barrier', name=name, count=count)


def compare(key: bytes, target: str, result: str, value: int | bytes) -> dict[str, Any]:
    """Return a compare for :meth:`Go.txn`.

    Args:
        key: The key.
        target: ``'create'``, ``'mod'``, ``'version'``, ``'lease'`` or ``'value'``.
        result: ``'='``, ``'!='``, ``'<'`` or ``'>'``.
        value: A number, or bytes for the target ``'value'``.
    """
    operand = {'value': value} if isinstance(value, bytes) else {'number': value}
    return {'key': key, 'target': target, 'result': result, **operand}


def operation(name: str, key: bytes, value: bytes = b'', *, lease: int = 0, prefix: bool = False) -> dict[str, Any]:
    """Return an operation for :meth:`Go.txn`: ``'put'``, ``'get'`` or ``'delete'``."""
    return {'operation': name, 'key': key, 'value': value, 'lease': lease, 'prefix': prefix}


# -- fixtures


@pytest.fixture(scope='session')
def go_binary() -> Path:
    """The Go program, which is built if it is not; the tests are skipped where there is no Go."""
    try:
        return build()
    except CannotBuild as error:
        pytest.skip(f'interoperability with Go: {error}')


@pytest.fixture
def start_go(go_binary: Path) -> Iterator[Callable[..., Go]]:
    """Start Go programs, ``start_go(url)``, that are closed after the test."""
    started: list[Go] = []

    def start_go(urls: str | Sequence[str]) -> Go:
        started.append(Go(urls, go_binary))
        return started[-1]

    yield start_go
    for one in started:
        one.close()


@pytest.fixture
def go(etcd_server: EtcdServer, start_go: Callable[..., Go]) -> Go:
    """A Go program on ``etcd_server``."""
    return start_go(etcd_server.url)
