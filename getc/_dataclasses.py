"""Immutable values that are quick to make: each call makes several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import update_wrapper
from typing import Any, TypeVar

__all__ = ['fast_init']

Kind = TypeVar('Kind', bound=type)


def fast_init(kind: Kind) -> Kind:
    """Give a frozen dataclass an ``__init__`` that puts each field into its slot, and return the class.

    The one that ``dataclass`` writes sets each field by its name, past the ``__setattr__`` that forbids it, and takes
    nearly twice as long.  Nothing else is different.

    Args:
        kind: With slots, and without a field whose default is made by a factory.
    """
    slow = vars(kind)['__init__']
    names = [field.name for field in fields(kind)]
    setters: dict[str, Any] = {f'set_{name}': getattr(kind, name).__set__ for name in names}
    lines = [f'def __init__(self, {", ".join(names)}):', *(f'    set_{name}(self, {name})' for name in names)]
    if hasattr(kind, '__post_init__'):
        lines.append('    self.__post_init__()')
    exec('\n'.join(lines), setters)
    init: Callable[..., None] = update_wrapper(setters['__init__'], slow)
    init.__defaults__ = slow.__defaults__
    kind.__init__ = init  # type: ignore[misc]
    return kind
