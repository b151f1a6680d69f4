"""Stack traces, reduced to the lines that matter to the author of a test."""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

__all__ = ['Stack', 'StackLine', 'spawning_stack', 'stack_of']

MAX_FRAMES: Final = 60
"""Frames of a stack that are kept."""

GETC: Final = str(Path(__file__).parents[1])
GETC_TESTING: Final = str(Path(__file__).parent)
LIBRARIES: Final = tuple(
    str(Path(spec.origin).parent)
    for spec in map(find_spec, ('gevent', 'requests', 'urllib3'))  # does not import them
    if spec is not None and spec.origin is not None
)
RUNNERS: Final = ('/_pytest/', '/pluggy/', '/site-packages/pytest')


@dataclass(frozen=True, slots=True)
class StackLine:
    """A line of code in a stack.

    Attributes:
        path: The source file.
        line: The line number.
        function: The name of the function.
    """

    path: str
    line: int
    function: str

    @property
    def is_getc(self) -> bool:
        """True for code of getc, without ``getc.testing``."""
        return _is_in(self.path, GETC) and not _is_in(self.path, GETC_TESTING)

    @property
    def is_library(self) -> bool:
        """True for code of gevent, requests or urllib3."""
        return any(_is_in(self.path, library) for library in LIBRARIES)

    @property
    def is_user_code(self) -> bool:
        """True for code that is neither in getc, including ``getc.testing``, nor in its libraries."""
        return not (_is_in(self.path, GETC) or self.is_library)

    def __str__(self) -> str:
        source = linecache.getline(self.path, self.line).strip()
        return f'{self.path}:{self.line}, in {self.function}' + (f'\n        {source}' if source else '')


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack, innermost line first, up to the code of the test runner.

    Attributes:
        lines: The lines.
    """

    lines: tuple[StackLine, ...]

    @property
    def is_getc(self) -> bool:
        """True if the innermost line outside of libraries is in getc."""
        for line in self.lines:
            if not line.is_library:
                return line.is_getc
        return False

    @property
    def includes_getc(self) -> bool:
        """True if any line is in getc."""
        return any(line.is_getc for line in self.lines)

    def user_part(self) -> Stack:
        """Return the stack from the innermost line of user code outwards; empty if there is none."""
        for number, line in enumerate(self.lines):
            if line.is_user_code:
                return Stack(self.lines[number:])
        return Stack(())

    def __add__(self, outer: Stack) -> Stack:
        return Stack((*self.lines, *outer.lines))

    def text(self, max_lines: int) -> str:
        """Format the innermost lines."""
        return '\n    from '.join(map(str, self.lines[:max_lines]))


def stack_of(frame: Any) -> Stack:
    """Return the stack of a frame; empty for None."""
    lines: list[StackLine] = []
    while frame is not None and len(lines) < MAX_FRAMES:
        path = frame.f_code.co_filename
        if any(runner in path for runner in RUNNERS):
            break
        lines.append(StackLine(path, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return Stack(tuple(lines))


def spawning_stack(greenlet: Any) -> Stack:
    """Return the stack at which gevent spawned a greenlet; empty for others, such as the main greenlet."""
    return stack_of(getattr(greenlet, 'spawning_stack', None))


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(folder + '/')
