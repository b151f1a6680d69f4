"""The outcome of the tests on one server, counted by folder, and the table of all servers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ['Count', 'Results', 'dump', 'read_junit', 'rst_table', 'text_table']


NO_API: Final = 'does not support the v2 API'
"""In the reason of a skipped test: see ``tests/support/api_support.py``."""

SKIPPED: Final = {'skipped: no v2 API': 'without_api', 'skipped: other reasons': 'otherwise_skipped'}
"""The rows of a table with the skipped tests, and their attributes of ``Results``."""


@dataclass(slots=True)
class Count:
    """Tests of one folder.  ``failed`` includes errors of fixtures."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        if not self.passed + self.failed + self.skipped:
            return '-'
        text = f'{self.passed:,}'
        return f'{self.failed:,} of {self.passed + self.failed:,} FAILED' if self.failed else text


@dataclass(slots=True)
class Results:
    """What one run of the tests on a server has shown.

    Attributes:
        version: The server's, such as ``3.7.3``.
        source: Where its binary comes from.
        seconds: Duration of the run.
        folders: The counts by folder of ``tests/``.
        names: The names of the tests that failed.
        without_api: How many tests were skipped because the server has no v2 API.
    """

    version: str
    source: str
    seconds: float
    folders: dict[str, Count] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    without_api: int = 0

    @property
    def is_good(self) -> bool:
        """True if tests ran and none failed."""
        counts = self.folders.values()
        return any(count.passed for count in counts) and not any(count.failed for count in counts) and not self.names

    @property
    def otherwise_skipped(self) -> int:
        """How many tests were skipped for other reasons."""
        return sum(count.skipped for count in self.folders.values()) - self.without_api


def read_junit(path: Path, results: Results) -> None:
    """Count the test cases of a JUnit file that pytest has written.

    Raises:
        OSError: The file does not exist: pytest did not get as far as that.
        xml.etree.ElementTree.ParseError: The file is not whole.
    """
    for case in ElementTree.parse(path).iter('testcase'):
        name = case.get('classname', '').split('.')
        folder = name[1] if len(name) > 1 and name[0] == 'tests' else name[0]
        count = results.folders.setdefault(folder, Count())
        outcome = {child.tag: child.get('message', '') for child in case}
        if outcome.keys() & {'failure', 'error'}:
            count.failed += 1
            results.names.append(f'{case.get("classname")}::{case.get("name")}')
        elif 'skipped' in outcome:
            count.skipped += 1
            results.without_api += NO_API in outcome['skipped']
        else:
            count.passed += 1


def text_table(runs: Sequence[Results], folders: Sequence[str]) -> str:
    """Return one row for each folder, one column for each server, for a terminal."""
    rows = [['', *(f'etcd {run.version}' for run in runs)]]
    rows += [[folder, *(str(run.folders.get(folder, Count())) for run in runs)] for folder in folders]
    rows += [[title, *(f'{getattr(run, name):,}' for run in runs)] for title, name in SKIPPED.items()]
    rows.append(['time', *(f'{run.seconds / 60:.1f} min' for run in runs)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        '  '.join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])


def rst_table(runs: Sequence[Results], folders: Sequence[str], made_on: str) -> str:
    """Return the same table as reStructuredText, for the documentation.

    Args:
        runs: The runs, one column each.
        folders: The folders, one row each.
        made_on: The commit, for a comment.
    """
    lines = [f'.. Made by `make test-servers ARGS=--write` on {made_on}.', '']
    lines += ['.. list-table::', '   :header-rows: 1', '', '   * - Tests']
    lines += [f'     - etcd {run.version}' for run in runs]
    for folder in folders:
        lines.append(f'   * - ``tests/{folder}``')
        lines += [f'     - {run.folders.get(folder, Count())}' for run in runs]
    for title, name in SKIPPED.items():
        lines.append(f'   * - {title}')
        lines += [f'     - {getattr(run, name):,}' for run in runs]
    return '\n'.join(lines) + '\n'


def dump(runs: Sequence[Results]) -> str:
    """Return the runs as JSON, for other programs."""
    return json.dumps(
        [
            {
                'version': run.version,
                'source': run.source,
                'seconds': round(run.seconds, 1),
                'folders': {
                    name: {'passed': count.passed, 'failed': count.failed, 'skipped': count.skipped}
                    for name, count in sorted(run.folders.items())
                },
                'failed': run.names,
            }
            for run in runs
        ],
        indent=2,
    )
