"""Comparison with an older getc: the package of another commit in the same run, round by round."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tools.bench.cases import Case
from tools.bench.environments import ROOT
from tools.bench.registry import BenchClient
from tools.bench.runner import Results
from tools.bench.stats import Spread
from tools.bench.tables import Table

__all__ = ['Comparison', 'NoCommit', 'clients_of', 'compare', 'comparison_table', 'extract']

PACKAGE = 'getc'
APIS = ('v3', 'v2')
SHORT = 7


class NoCommit(Exception):
    """The revision does not exist, or has no package ``getc``.  The message has the reason."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One case of one client, with both versions of getc.

    Attributes:
        case: The case.
        client: The client, with the present getc.
        rate: The ratio of its rate to that with the older getc, in the rounds.
        cpu: The same ratio of the CPU time for each operation; None if not known.
    """

    case: Case
    client: BenchClient
    rate: Spread
    cpu: Spread | None

    def verdict(self, tolerance: float) -> str:
        """Return ``'SLOWER'`` if the median of the ratios is lower than 1 by more than ``tolerance`` (0.03 is 3 %).

        It is ``'unclear'`` if a quarter of the rounds shows the opposite: the rounds are too few, or the machine is too
        busy.  Otherwise the verdict is empty.
        """
        if self.rate.median >= 1 - tolerance:
            return ''
        return 'SLOWER' if self.rate.high < 1 else 'unclear'


def extract(revision: str, root: Path = ROOT) -> tuple[str, Path]:
    """Write the package of a commit to a folder that Git ignores; return the commit's short name and the folder.

    The folder has no other file, so a worker imports ``getc`` from it and everything else from its own environment.

    Raises:
        NoCommit: The commit does not exist, or does not contain the package ``getc``.
    """
    commit = _git(root, 'rev-parse', '--verify', '--quiet', f'{revision}^{{commit}}').decode().strip()
    folder = root / f'.venv-bench-at-{commit[:SHORT]}'
    if not (folder / PACKAGE).is_dir():
        unfinished = folder.with_name(folder.name + '.part')
        shutil.rmtree(unfinished, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(_git(root, 'archive', commit, PACKAGE))) as archive:
            archive.extractall(unfinished, filter='data')
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.replace(folder)
    return commit[:SHORT], folder


def clients_of(commit: str, folder: Path, clients: Sequence[BenchClient]) -> tuple[BenchClient, ...]:
    """Return getc's clients twice, with the present package and with that of a commit, and all others once."""
    older = [replace(one, commit=commit, package=folder) for one in clients if one.role == 'ours']
    return (*clients, *older)


def compare(results: Results, cases: Sequence[Case]) -> Iterator[Comparison]:
    """Yield a comparison for each case and client that was measured with both versions."""
    for case in cases:
        for api in APIS:
            for figure in results.figures(case, api):
                if figure.to_commit is not None:
                    yield Comparison(case, figure.client, figure.to_commit, figure.cpu_to_commit)


def comparison_table(comparisons: Sequence[Comparison], commit: str, tolerance: float) -> Table:
    """Return a row for each comparison."""
    rows = [
        (one.case.title, one.client.label, _times(one.rate), _times(one.cpu), one.verdict(tolerance))
        for one in comparisons
    ]
    return Table(('case', 'client', f'rate, ratio to {commit}', 'CPU each, ratio', ''), rows)


def _times(spread: Spread | None) -> str:
    return '' if spread is None else f'{spread.median:.3f} ({spread.low:.3f}-{spread.high:.3f})'


def _git(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(['git', *arguments], cwd=root, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode('utf-8', 'replace').strip() or 'the commit does not exist'
        raise NoCommit(f'git {" ".join(arguments)}: {reason}')
    return done.stdout
