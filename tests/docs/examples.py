"""Finds the examples of a page or of a docstring, and runs them."""

from __future__ import annotations

import ast
import doctest
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Any

__all__ = ['Example', 'Kind', 'docstring_examples', 'examples_of', 'run']

REPOSITORY = Path(__file__).resolve().parents[2]


class Kind(Enum):
    """What an example is, and so how it is run."""

    SESSION = 'lines with a prompt, and what they show'
    PROGRAM = 'Python'
    TESTS = 'functions for pytest'
    TEXT = 'a command, or what a program prints: not run'
    UNKNOWN = 'a block of which nobody says what it is'


LANGUAGES = {'python': Kind.PROGRAM, 'console': Kind.TEXT, 'text': Kind.TEXT}


@dataclass(frozen=True, slots=True)
class Example:
    """One example.

    Attributes:
        kind: How it is run.
        source: Its lines, without their common indentation.
        path: The file it stands in.
        line: The number of its first line, from 1.
    """

    kind: Kind
    source: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f'{self.path.relative_to(REPOSITORY)}:{self.line}'


def examples_of(path: Path) -> list[Example]:
    """Every example of a page, in order."""
    return [_example(*block, path, 1) for block in _blocks(path.read_text('utf-8').splitlines())]


def docstring_examples(path: Path) -> list[Example]:
    """Every literal block of the docstrings of a module, and every session in them."""
    found = []
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            lines = (ast.get_docstring(node) or '').splitlines()
            first = node.body[0].lineno if lines else 0
            found += [_example(*block, path, first) for block in _blocks(lines, literal='python')]
    return found


def _example(language: str, start: int, block: list[str], path: Path, first: int) -> Example:
    source = textwrap.dedent('\n'.join(block)).strip('\n') + '\n'
    kind = Kind.SESSION if language == 'session' else LANGUAGES.get(language, Kind.UNKNOWN)
    if kind is Kind.PROGRAM and any(
        isinstance(node, ast.FunctionDef) and node.name.startswith('test_') for node in ast.parse(source).body
    ):
        kind = Kind.TESTS
    return Example(kind, source, path, first + start)


def _blocks(lines: list[str], *, literal: str = '') -> Iterator[tuple[str, int, list[str]]]:
    """The language, the place and the lines of every block; ``literal`` is the language of those that name none."""
    at = 0
    while at < len(lines):
        line = lines[at]
        text = line.strip()
        if text.startswith('>>>'):
            start = at
            while at < len(lines) and lines[at].strip():
                at += 1
            yield 'session', start, lines[start:at]
            continue
        at += 1
        directive, _, language = text.partition('::')
        is_code = directive == '.. code-block'
        if is_code or (text.endswith('::') and not text.startswith('..')):
            start = at
            indentation = _indentation(line)
            while at < len(lines) and (not lines[at].strip() or _indentation(lines[at]) > indentation):
                at += 1
            while not lines[start].strip():
                start += 1
            yield (language.strip() if is_code else literal), start, lines[start:at]


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def run(example: Example, names: dict[str, Any]) -> None:
    """Run a session or a program on these names, which it may add to.

    Raises:
        AssertionError: A session does not show what it says.
    """
    if example.kind is Kind.SESSION:
        _run_session(example, names)
    else:
        # Lines of a traceback are those of the page.
        program = '\n' * (example.line - 1) + example.source
        exec(compile(program, str(example.path), 'exec', dont_inherit=True), names)


def _run_session(example: Example, names: dict[str, Any]) -> None:
    steps = doctest.DocTestParser().get_examples(example.source, str(example))
    test = doctest.DocTest(steps, names, str(example), str(example.path), example.line - 1, example.source)
    test.globs = names  # not a copy: the next example goes on with them
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    told = StringIO()
    outcome = runner.run(test, out=told.write, clear_globs=False)
    assert outcome.attempted == example.source.count('>>> ')
    assert outcome.failed == 0, told.getvalue()
    assert getattr(outcome, 'skipped', 0) == 0, f'{example} skips a line'
