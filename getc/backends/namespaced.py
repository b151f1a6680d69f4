"""A backend that sees one directory of another as its root."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from getc.backends.base import Backend, Hold, LeaseGroup, Listener, Member, Watch
from getc.errors import EtcdError, EtcException, KeyNotFound
from getc.keys import ROOT, is_below, join, without
from getc.model import EtcdResult
from getc.operations import Operation, Put, WatchSpec, below_namespace
from getc.timing import Deadline

__all__ = ['Namespaced']


class Namespaced:
    """Puts a path in front of every key and takes it off every result and error.

    Args:
        backend: The backend of the whole tree; closed with this one.
        namespace: A normal path.
    """

    def __init__(self, backend: Backend, namespace: str) -> None:
        self._backend = backend
        self._namespace = namespace
        self.ready = backend.ready
        self.clear = backend.clear
        self.close = backend.close

    @property
    def api(self) -> str | None:
        return self._backend.api

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        with _relative_errors(self._namespace, operation.key):
            result = self._backend.execute(below_namespace(self._namespace, operation), deadline)
        return result.relative_to(self._namespace)

    def watch(self, spec: WatchSpec, listener: Listener, after: Watch | None = None) -> Watch:
        relative = _Relative(listener, self._namespace)
        return self._backend.watch(below_namespace(self._namespace, spec), relative, after)

    def keep(self, ttl: int) -> LeaseGroup:
        return _RelativeGroup(self._backend.keep(ttl), self._namespace)


@contextmanager
def _relative_errors(namespace: str, key: str) -> Iterator[None]:
    try:
        yield
    except EtcdError as error:
        _make_relative(error, namespace, key)
        raise


def _make_relative(error: EtcException, namespace: str, key: str) -> None:
    """Take the namespace off the error of a call for a key inside it."""
    if not isinstance(error, EtcdError) or not error.cause.startswith(ROOT):
        return
    if is_below(error.cause, namespace):
        error.cause = without(namespace, error.cause)
    else:  # at the namespace or above it: where that does not exist yet, nor does the key
        error.cause = key if isinstance(error, KeyNotFound) else ROOT
    error.args = (error.message, error.cause, error.index)


class _Relative:
    """A listener to changes with the namespace taken off."""

    __slots__ = ('_listener', '_namespace', 'on_caught_up', 'on_live')

    def __init__(self, listener: Listener, namespace: str) -> None:
        self._listener = listener
        self._namespace = namespace
        self.on_live = listener.on_live
        self.on_caught_up = listener.on_caught_up

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        self._listener.on_changes([result.relative_to(self._namespace) for result in results])

    def on_ended(self, error: EtcException) -> None:
        _make_relative(error, self._namespace, ROOT)
        self._listener.on_ended(error)


class _RelativeGroup:
    """A lease group whose keys are inside the namespace."""

    __slots__ = ('_group', '_namespace')

    def __init__(self, group: LeaseGroup, namespace: str) -> None:
        self._group = group
        self._namespace = namespace

    @property
    def ttl(self) -> int:
        return self._group.ttl

    def hold(self, put: Put, member: Member, deadline: Deadline) -> Hold:
        with _relative_errors(self._namespace, put.key):
            return self._group.hold(below_namespace(self._namespace, put), member, deadline)

    def adopt(self, key: str, value: str, previous: Hold, member: Member, deadline: Deadline) -> Hold | None:
        with _relative_errors(self._namespace, key):
            return self._group.adopt(join(self._namespace, key), value, previous, member, deadline)

    def withdraw(self, key: str, member: Member, deadline: Deadline) -> None:
        with _relative_errors(self._namespace, key):
            self._group.withdraw(join(self._namespace, key), member, deadline)


_: type[Backend] = Namespaced
