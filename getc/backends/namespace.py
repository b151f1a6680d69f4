"""A backend in a namespace: one directory of another backend is its root.

Keys that leave it are relative to that directory: in results and nodes, in errors and their causes, and in everything
that watches, keep groups and kept nodes return, raise or pass to a callback.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

from getc.backends.base import AcquiringWrite, Backend, KeepGroup, KeepListener, KeptNode, Watch, WatchListener
from getc.error_context import copy_error
from getc.errors import EtcdError, EtcException, HTTPError, KeyNotFound, NodeLost
from getc.operations import Contenders, Predecessor, Put, WatchSpec, in_namespace
from getc.paths import ROOT, is_below, join, strip_prefix
from getc.results import (
    EtcdResult,
    PredecessorResult,
    strip_contenders_namespace,
    strip_namespace,
    strip_predecessor_namespace,
)
from getc.timing import Deadline
from getc.transactions import (
    AnyOperation,
    Guard,
    SnapshotRead,
    Transaction,
    strip_transaction_namespace,
    transaction_in_namespace,
)

__all__ = ['Namespaced']


class Namespaced(Backend):
    """Prepends a path to the key of every operation, and removes it from every key in results and errors.

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

    def detect_api(self, deadline: Deadline) -> Backend:
        self._backend = self._backend.detect_api(deadline)
        return self

    def execute(self, operation: AnyOperation, deadline: Deadline) -> Any:
        if isinstance(operation, Transaction):
            with _relative_errors(self._namespace, ROOT):
                done = self._backend.execute(transaction_in_namespace(self._namespace, operation), deadline)
            return strip_transaction_namespace(done, self._namespace)
        if isinstance(operation, SnapshotRead):
            with _relative_errors(self._namespace, operation.key):
                read = replace(operation, key=join(self._namespace, operation.key))
                return self._backend.execute(read, deadline)
        handled = sys.exc_info()[1]
        backend: Any = self._backend
        try:
            result = backend.execute(in_namespace(self._namespace, operation), deadline)
        except EtcException as error:
            _make_relative(error, self._namespace, operation.key, handled)
            raise
        if isinstance(operation, Predecessor):
            return strip_predecessor_namespace(result, self._namespace)
        if isinstance(operation, Contenders):
            return strip_contenders_namespace(result, self._namespace)
        return strip_namespace(result, self._namespace)

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        relative = _RelativeListener(listener, self._namespace)
        return self._backend.watch(in_namespace(self._namespace, spec), relative, after)

    def read_index(self, spec: WatchSpec, deadline: Deadline) -> int:
        with _relative_errors(self._namespace, spec.key):
            return self._backend.read_index(in_namespace(self._namespace, spec), deadline)

    def keep_group(self, ttl: int) -> KeepGroup:
        return _RelativeGroup(self._backend.keep_group(ttl), self._namespace)

    def ready(self, deadline: Deadline) -> None:
        self._backend.ready(deadline)

    def clear(self) -> None:
        self._backend.clear()

    def close(self) -> None:
        self._backend.close()


# -- errors


@contextmanager
def _relative_errors(namespace: str, key: str) -> Iterator[None]:
    """Make the keys in errors relative; ``key`` is the relative key of the operation."""
    handled = sys.exc_info()[1]
    try:
        yield
    except EtcException as error:
        _make_relative(error, namespace, key, handled)
        raise


def _make_relative(error: BaseException, namespace: str, key: str, handled: BaseException | None) -> None:
    """Make the keys in an error and in its causes relative.

    Args:
        error: An error that nothing else refers to.
        namespace: The namespace.
        key: The relative key of the operation.
        handled: An error that the caller was handling already, so that Python made it a context; left as it is.
    """
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current is not handled and current not in seen:
        seen.append(current)
        if isinstance(current, EtcException):
            _strip_keys(current, namespace, key)
        current = current.__cause__ or current.__context__


def _relative_copy(error: EtcException, namespace: str) -> EtcException:
    """Return a copy of an error and its causes with relative keys: other listeners may have the same error."""
    relative = copy_error(error)
    relative.__traceback__ = error.__traceback__
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    relative.__cause__ = _relative_copy(cause, namespace) if isinstance(cause, EtcException) else cause
    _strip_keys(relative, namespace, ROOT)
    return relative


def _strip_keys(error: EtcException, namespace: str, key: str) -> None:
    if error.key is not None:
        error.key = strip_prefix(namespace, error.key)
    if error.earlier:
        error.earlier = tuple(_relative_text(text, namespace) for text in error.earlier)
    if isinstance(error, EtcdError):
        error.message = _relative_text(error.message, namespace)
        error.cause = _relative_cause(error, namespace, key)
        error.args = (error.message, error.cause, error.index)
    elif isinstance(error, HTTPError):
        error.message = _relative_text(error.message, namespace)
        error.args = (error.status_code, error.message)
    else:
        error.args = tuple(_relative_text(arg, namespace) if isinstance(arg, str) else arg for arg in error.args)


def _relative_cause(error: EtcdError, namespace: str, key: str) -> str:
    if is_below(error.cause, namespace):
        return strip_prefix(namespace, error.cause)
    if not error.cause.startswith(ROOT):
        return error.cause
    # The namespace or a directory above it: if that does not exist, neither does the key.
    return key if isinstance(error, KeyNotFound) else ROOT


def _relative_text(text: str, namespace: str) -> str:
    """Return a server's text, or the text of another error in a text, with relative keys.

    Only a whole word is a key.  Texts of getc itself have ``{key}`` instead: see :class:`getc.EtcException`.
    """
    return _pattern(namespace).sub(lambda found: found[1] or ROOT, text) if namespace in text else text


@lru_cache(maxsize=64)
def _pattern(namespace: str) -> re.Pattern[str]:
    return re.compile(rf"""(?<![^\s'"(\[=:,]){re.escape(namespace)}(?:(/)|(?![\w.%-]))""")


# -- watches


class _RelativeListener(WatchListener):
    """Passes changes and errors with relative keys to a listener."""

    __slots__ = ('_listener', '_namespace')

    def __init__(self, listener: WatchListener, namespace: str) -> None:
        self._listener = listener
        self._namespace = namespace

    def on_live(self, index: int) -> None:
        self._listener.on_live(index)

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        self._listener.on_changes([strip_namespace(result, self._namespace) for result in results])

    def on_caught_up(self) -> None:
        self._listener.on_caught_up()

    def on_ended(self, error: EtcException) -> None:
        self._listener.on_ended(_relative_copy(error, self._namespace))


# -- kept nodes


class _RelativeGroup(KeepGroup):
    """A keep group whose keys are relative to the namespace."""

    __slots__ = ('_group', '_namespace')

    def __init__(self, group: KeepGroup, namespace: str) -> None:
        self._group = group
        self._namespace = namespace

    @property
    def ttl(self) -> int:
        return self._group.ttl

    def keep(self, put: Put, listener: KeepListener, deadline: Deadline) -> KeptNode:
        relative = _RelativeKeepListener(listener, self._namespace)
        with _relative_errors(self._namespace, put.key):
            node = self._group.keep(in_namespace(self._namespace, put), relative, deadline)
        return _RelativeNode(node, self._namespace, put.key)

    def reclaim(
        self, key: str, value: str, previous: KeptNode, listener: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        assert isinstance(previous, _RelativeNode)
        relative = _RelativeKeepListener(listener, self._namespace)
        with _relative_errors(self._namespace, key):
            node = self._group.reclaim(join(self._namespace, key), value, previous.node, relative, deadline)
        return None if node is None else _RelativeNode(node, self._namespace, key)

    def contend(
        self, put: Put, listener: KeepListener, predecessor: Predecessor, deadline: Deadline
    ) -> tuple[KeptNode, PredecessorResult | None]:
        relative = _RelativeKeepListener(listener, self._namespace)
        inside = in_namespace(self._namespace, predecessor)
        with _relative_errors(self._namespace, put.key):
            node, found = self._group.contend(in_namespace(self._namespace, put), relative, inside, deadline)
        if found is not None:
            found = strip_predecessor_namespace(found, self._namespace)
        return _RelativeNode(node, self._namespace, put.key), found

    def delete_unanswered(self, key: str, listener: KeepListener, deadline: Deadline) -> None:
        with _relative_errors(self._namespace, key):
            self._group.delete_unanswered(join(self._namespace, key), listener, deadline)


class _RelativeKeepListener(KeepListener):
    """Passes errors with relative keys to a keep listener."""

    __slots__ = ('_listener', '_namespace')  # one for each of thousands of nodes

    def __init__(self, listener: KeepListener, namespace: str) -> None:
        self._listener = listener
        self._namespace = namespace

    @property
    def has_liveness_check(self) -> bool:
        return self._listener.has_liveness_check

    @property
    def unanswered(self) -> Collection[AcquiringWrite]:
        return self._listener.unanswered

    def on_writing(self, write: AcquiringWrite) -> None:
        self._listener.on_writing(write)

    def check_liveness(self) -> bool:
        return self._listener.check_liveness()

    def on_renewed(self) -> None:
        self._listener.on_renewed()

    def on_renewal_missed(self, error: EtcException) -> None:
        self._listener.on_renewal_missed(_relative_copy(error, self._namespace))

    def on_lost(self, error: NodeLost) -> None:
        relative = _relative_copy(error, self._namespace)
        assert isinstance(relative, NodeLost)
        self._listener.on_lost(relative)


class _RelativeNode(KeptNode):
    """A kept node whose key is relative to the namespace.

    Attributes:
        node: The same node, kept by the backend of the whole tree.
    """

    __slots__ = ('_key', '_namespace', 'node')  # one for each of thousands of nodes

    def __init__(self, node: KeptNode, namespace: str, key: str) -> None:
        self.node = node
        self._namespace = namespace
        self._key = key

    @property
    def token(self) -> int:
        return self.node.token

    @property
    def lost_at(self) -> float:
        return self.node.lost_at

    @property
    def guard(self) -> Guard:
        return replace(self.node.guard, key=self._key)

    def watch(self) -> None:
        self.node.watch()

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        with _relative_errors(self._namespace, self._key):
            return strip_namespace(self.node.update(value, deadline), self._namespace)

    def release(self, deadline: Deadline) -> bool:
        with _relative_errors(self._namespace, self._key):
            return self.node.release(deadline)

    def detach(self, deadline: Deadline) -> None:
        with _relative_errors(self._namespace, self._key):
            self.node.detach(deadline)

    def abandon(self) -> None:
        self.node.abandon()
