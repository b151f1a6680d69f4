"""A backend that sees one directory of another as its root."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from getc.backends.base import AcquiringWrite, Backend, KeepGroup, KeepListener, KeptNode, Watch, WatchListener
from getc.error_context import copy_error
from getc.errors import EtcdError, EtcException, HTTPError, KeyNotFound, NodeLost
from getc.operations import Operation, Put, WatchSpec, in_namespace
from getc.paths import ROOT, is_below, join, strip_prefix
from getc.results import EtcdResult, strip_namespace
from getc.timing import Deadline

__all__ = ['Namespaced']


class Namespaced(Backend):
    """Puts a path in front of every key and takes it off every result and error.

    Args:
        backend: The backend of the whole tree; closed with this one.
        namespace: A normal path.
    """

    def __init__(self, backend: Backend, namespace: str) -> None:
        self._backend = backend
        self._namespace = namespace

    @property
    def api(self) -> str | None:
        return self._backend.api

    def resolve(self, deadline: Deadline) -> Backend:
        self._backend = self._backend.resolve(deadline)
        return self

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        outer = sys.exc_info()[1]
        try:
            result = self._backend.execute(in_namespace(self._namespace, operation), deadline)
        except EtcException as error:
            _make_relative(error, self._namespace, operation.key, outer)
            raise
        return strip_namespace(result, self._namespace)

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        relative = _RelativeListener(listener, self._namespace)
        return self._backend.watch(in_namespace(self._namespace, spec), relative, after)

    def keep(self, ttl: int) -> KeepGroup:
        return _RelativeGroup(self._backend.keep(ttl), self._namespace)

    def ready(self, deadline: Deadline) -> None:
        self._backend.ready(deadline)

    def clear(self) -> None:
        self._backend.clear()

    def close(self) -> None:
        self._backend.close()


# -- errors


@contextmanager
def _relative_errors(namespace: str, key: str) -> Iterator[None]:
    """Take the namespace off whatever is raised inside, for a key inside it."""
    outer = sys.exc_info()[1]
    try:
        yield
    except EtcException as error:
        _make_relative(error, namespace, key, outer)
        raise


def _relative_copy(error: EtcException, namespace: str) -> EtcException:
    """Copy the error without the namespace: other callers may hold the original."""
    relative = copy_error(error)
    relative.__cause__ = error.__cause__
    relative.__traceback__ = error.__traceback__
    _make_relative(relative, namespace, ROOT)
    return relative


def _make_relative(error: BaseException, namespace: str, key: str, outer: BaseException | None = None) -> None:
    """Take the namespace off an error and all that it came of, up to what the caller handles at the moment."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current is not outer and current not in seen:
        seen.append(current)
        if isinstance(current, EtcException):
            _take_off(current, namespace, key)
        current = current.__cause__ or current.__context__


def _take_off(error: EtcException, namespace: str, key: str) -> None:
    if isinstance(error, EtcdError):
        if is_below(error.cause, namespace):
            error.cause = strip_prefix(namespace, error.cause)
        elif error.cause.startswith(ROOT):  # at the namespace or above it: where that does not exist, nor does the key
            error.cause = key if isinstance(error, KeyNotFound) else ROOT
        error.message = _relative_text(error.message, namespace)
        error.args = (error.message, error.cause, error.index)
    elif isinstance(error, HTTPError):
        error.message = _relative_text(error.message, namespace)
        error.args = (error.status_code, error.message)
    else:
        error.args = tuple(_relative_text(arg, namespace) if isinstance(arg, str) else arg for arg in error.args)


def _relative_text(text: str, namespace: str) -> str:
    """The text with the namespace taken off the keys in it, which are words of their own."""
    return _pattern(namespace).sub(lambda found: found[1] or ROOT, text) if namespace in text else text


@lru_cache(maxsize=64)
def _pattern(namespace: str) -> re.Pattern[str]:
    return re.compile(rf"""(?<![^\s'"(\[=:,]){re.escape(namespace)}(?:(/)|(?![\w.%-]))""")


# -- watches


class _RelativeListener:
    """A listener to changes with the namespace taken off."""

    __slots__ = ('_listener', '_namespace', 'on_caught_up', 'on_live')

    def __init__(self, listener: WatchListener, namespace: str) -> None:
        self._listener = listener
        self._namespace = namespace
        self.on_live = listener.on_live
        self.on_caught_up = listener.on_caught_up

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        self._listener.on_changes([strip_namespace(result, self._namespace) for result in results])

    def on_ended(self, error: EtcException) -> None:
        self._listener.on_ended(_relative_copy(error, self._namespace))


# -- nodes that are kept


class _RelativeGroup:
    """A lease group whose keys are inside the namespace."""

    __slots__ = ('_group', '_namespace')

    def __init__(self, group: KeepGroup, namespace: str) -> None:
        self._group = group
        self._namespace = namespace

    @property
    def ttl(self) -> int:
        return self._group.ttl

    def keep(self, put: Put, member: KeepListener, deadline: Deadline) -> KeptNode:
        relative = _RelativeMember(member, self._namespace)
        with _relative_errors(self._namespace, put.key):
            hold = self._group.keep(in_namespace(self._namespace, put), relative, deadline)
        return _RelativeHold(hold, self._namespace, put.key)

    def reclaim(
        self, key: str, value: str, previous: KeptNode, member: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        assert isinstance(previous, _RelativeHold)
        relative = _RelativeMember(member, self._namespace)
        with _relative_errors(self._namespace, key):
            hold = self._group.reclaim(join(self._namespace, key), value, previous.hold, relative, deadline)
        return None if hold is None else _RelativeHold(hold, self._namespace, key)

    def delete_unanswered(self, key: str, member: KeepListener, deadline: Deadline) -> None:
        with _relative_errors(self._namespace, key):
            self._group.delete_unanswered(join(self._namespace, key), member, deadline)


class _RelativeMember:
    """The callbacks of a node inside the namespace, with the namespace taken off what they are told."""

    __slots__ = ('_member', '_namespace')  # there are thousands

    def __init__(self, member: KeepListener, namespace: str) -> None:
        self._member = member
        self._namespace = namespace

    @property
    def has_liveness_check(self) -> bool:
        return self._member.has_liveness_check

    @property
    def unanswered(self) -> Collection[AcquiringWrite]:
        return self._member.unanswered

    def on_writing(self, write: AcquiringWrite) -> None:
        self._member.on_writing(write)

    def check_liveness(self) -> bool:
        return self._member.check_liveness()

    def on_renewed(self) -> None:
        self._member.on_renewed()

    def on_renewal_missed(self, error: EtcException) -> None:
        self._member.on_renewal_missed(_relative_copy(error, self._namespace))

    def on_lost(self, error: NodeLost) -> None:
        relative = _relative_copy(error, self._namespace)
        assert isinstance(relative, NodeLost)
        self._member.on_lost(relative)


class _RelativeHold:
    """A held node inside the namespace.

    Attributes:
        hold: The same, as the backend knows it.
    """

    __slots__ = ('_key', '_namespace', 'hold')  # there are thousands

    def __init__(self, hold: KeptNode, namespace: str, key: str) -> None:
        self.hold = hold
        self._namespace = namespace
        self._key = key

    @property
    def token(self) -> int:
        return self.hold.token

    @property
    def lost_at(self) -> float:
        return self.hold.lost_at

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        with _relative_errors(self._namespace, self._key):
            return strip_namespace(self.hold.update(value, deadline), self._namespace)

    def release(self, deadline: Deadline) -> None:
        with _relative_errors(self._namespace, self._key):
            self.hold.release(deadline)

    def detach(self, deadline: Deadline) -> None:
        with _relative_errors(self._namespace, self._key):
            self.hold.detach(deadline)

    def abandon(self) -> None:
        self.hold.abandon()
