"""Where code was: the lines of a stack that say something to the author of a test."""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

__all__ = ['Place', 'Stack', 'stack_of', 'stack_of_spawning']

DEPTH: Final = 60
"""Frames of a stack that are kept."""

GETC: Final = str(Path(__file__).parents[1])
HARNESS: Final = str(Path(__file__).parent)
LIBRARIES: Final = tuple(
    str(Path(spec.origin).parent)
    for spec in map(find_spec, ('gevent', 'requests', 'urllib3'))  # found, not imported
    if spec is not None and spec.origin is not None
)
RUNNERS: Final = ('/_pytest/', '/pluggy/', '/site-packages/pytest')


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code.

    Attributes:
        path: Its file.
        line: Its number.
        function: What it is in.
    """

    path: str
    line: int
    function: str

    @property
    def is_getc(self) -> bool:
        """True for getc itself, but for what tests with it."""
        return _is_in(self.path, GETC) and not _is_in(self.path, HARNESS)

    @property
    def is_library(self) -> bool:
        """True for gevent, and for what getc has its HTTP from."""
        return any(_is_in(self.path, library) for library in LIBRARIES)

    @property
    def is_users(self) -> bool:
        """True for neither getc, with its harness, nor its libraries."""
        return not (_is_in(self.path, GETC) or self.is_library)

    def __str__(self) -> str:
        source = linecache.getline(self.path, self.line).strip()
        return f'{self.path}:{self.line}, in {self.function}' + (f'\n        {source}' if source else '')


@dataclass(frozen=True, slots=True)
class Stack:
    """Where code was, from the inside to the outside, up to whatever runs the tests.

    Attributes:
        places: The lines.
    """

    places: tuple[Place, ...]

    @property
    def is_of_getc(self) -> bool:
        """True if getc did it: the innermost line that is not a library's is one of getc's."""
        for place in self.places:
            if not place.is_library:
                return place.is_getc
        return False

    @property
    def has_getc(self) -> bool:
        """True if getc is anywhere on it."""
        return any(place.is_getc for place in self.places)

    def from_the_user(self) -> Stack:
        """Without the lines of getc and its libraries at its inner end; empty where there are no others."""
        for number, place in enumerate(self.places):
            if place.is_users:
                return Stack(self.places[number:])
        return Stack(())

    def __add__(self, outer: Stack) -> Stack:
        return Stack((*self.places, *outer.places))

    def text(self, most: int) -> str:
        """So many of its inner lines."""
        return '\n    from '.join(map(str, self.places[:most]))


def stack_of(frame: Any) -> Stack:
    """Where this frame, or None for no frame, is now."""
    places: list[Place] = []
    while frame is not None and len(places) < DEPTH:
        path = frame.f_code.co_filename
        if any(runner in path for runner in RUNNERS):
            break
        places.append(Place(path, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return Stack(tuple(places))


def stack_of_spawning(greenlet: Any) -> Stack:
    """Where a greenlet was spawned; gevent remembers it.  Empty for one that was not, as the main one."""
    return stack_of(getattr(greenlet, 'spawning_stack', None))


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(folder + '/')
