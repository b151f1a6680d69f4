"""Options of daemons, validated once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from getc.operations import WatchSpec, text_of

__all__ = ['KeepOptions', 'OnConflict', 'Resync', 'WatchOptions', 'check_callback', 'value_of_owner']

OnConflict = Literal['replace', 'wait', 'raise']
"""What a keeper does at its start with a node of another owner that has a TTL."""

Resync = Literal['diff', 'notify']
"""What a watcher does after history was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepOptions:
    """Options of :meth:`getc.Client.keep_node`.

    Attributes:
        ttl: Whole seconds, 1 or more.
        on_conflict: What to do at the start with a node of another owner that has a TTL.
        alive: Called before each renewal; False removes the node.
        on_lost: Called with the :class:`~getc.Keeper` when ownership is lost.
        on_restored: Called with the :class:`~getc.Keeper` when ownership is regained.

    Raises:
        TypeError, ValueError: An option is invalid.
    """

    ttl: int = 10
    on_conflict: OnConflict = 'replace'
    alive: Callable[[], object] | None = None
    on_lost: Callable[[Any], object] | None = None
    on_restored: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        if self.ttl is None:
            raise TypeError('ttl must be an int (seconds), not None; to write a node without a TTL, use set()')
        if self.ttl == 0:
            raise ValueError('ttl must be at least 1, not 0')
        if self.on_conflict not in ('replace', 'wait', 'raise'):
            raise ValueError(f"on_conflict must be 'replace', 'wait' or 'raise', not {self.on_conflict!r}")
        for name in ('alive', 'on_lost', 'on_restored'):
            check_callback(name, getattr(self, name), is_optional=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """Options of :meth:`getc.Client.on_change` and :meth:`getc.Client.changes`.

    Attributes:
        recursive: Include every node below the key.
        initial: First deliver the existing values.
        index: Deliver the changes from this index on; None for those from now on.
        on_resync: Called with the :class:`~getc.Watcher` after a resync.
        resync: ``'diff'`` delivers the difference after history was lost, ``'notify'`` only calls ``on_resync``.

    Raises:
        TypeError, ValueError: An option is invalid.
    """

    recursive: bool = True
    initial: bool = False
    index: int | None = None
    on_resync: Callable[[Any], object] | None = None
    resync: Resync = 'diff'

    def __post_init__(self) -> None:
        if self.on_resync is not None:
            check_callback('on_resync', self.on_resync, is_optional=True)
        if self.resync not in ('diff', 'notify'):
            raise ValueError(f"resync must be 'diff' or 'notify', not {self.resync!r}")
        if self.initial and self.index:
            raise ValueError(
                'give either initial=True or an index: the first delivers existing values, the second past changes'
            )

    def spec(self, key: str) -> WatchSpec:
        """Return the watch of a key.  Raises TypeError or ValueError if the key or the index is invalid."""
        return WatchSpec(key, self.index, self.recursive)


def check_callback(name: str, function: object, *, is_optional: bool = False) -> None:
    """Raise TypeError unless the argument called ``name`` is a function, or None where it is optional."""
    if not callable(function) and not (is_optional and function is None):
        kind = 'a function or None' if is_optional else 'a function'
        raise TypeError(f'{name} must be {kind}, not {type(function).__name__}')


def value_of_owner(value: str | bytes | None) -> str:
    """Return the value of a kept node as text; None stands for the process, as ``pid@host``."""
    if value is None:
        return f'{os.getpid()}@{socket.gethostname()}'
    return text_of(value) if isinstance(value, bytes) else value
