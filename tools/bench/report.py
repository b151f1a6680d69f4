"""Reports: tables for the terminal, and pages in Markdown, reStructuredText and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tools.bench.cases import Case
from tools.bench.runner import Results
from tools.bench.scale import scale_table
from tools.bench.stats import Figure, Spread
from tools.bench.tables import Table

__all__ = ['Report', 'case_table', 'memory_table']

APIS = ('v3', 'v2')
COLUMNS = ('client', 'per second', 'noise', 'CPU each', 'p50', 'p99', 'ratio to the fastest peer', 'ratio to the limit')


def _rate(spread: Spread) -> str:
    return f'{spread.median:,.0f}'


def _times(spread: Spread | None) -> str:
    return '' if spread is None else f'{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})'


def _duration(spread: Spread | None) -> str:
    if spread is None:
        return ''
    seconds = spread.median
    return f'{seconds * 1e3:,.3g} ms' if seconds >= 1e-3 else f'{seconds * 1e6:,.3g} µs'


def _percent(spread: Spread | None) -> str:
    return '' if spread is None else f'{spread.median:.0%}'


def case_table(figures: Sequence[Figure]) -> Table:
    """Return the results of one case, a row for each client."""
    rows = [
        (
            figure.client.label,
            _rate(figure.rate),
            f'± {figure.rate.noise:.0%}',
            _duration(figure.cpu),
            _duration(figure.p50),
            _duration(figure.p99),
            _times(figure.to_peer),
            _percent(figure.to_limit),
        )
        for figure in figures
    ]
    return Table(COLUMNS, rows)


def memory_table(results: Results) -> Table:
    """Return the memory of each client, smallest first."""
    rows = []
    for one, rounds in results.memory.items():
        base = statistics.median(memory.base for memory in rounds)
        each = statistics.median(memory.each for memory in rounds)
        rows.append((base, (one.label, one.api, f'{base / 2**20:.0f} MiB', f'{each / 2**10:.1f} KiB')))
    return Table(('client', 'API', 'process', 'each watch'), [row for _, row in sorted(rows)])


@dataclass(frozen=True, slots=True)
class Report:
    """A report of one run.

    Attributes:
        results: The measurements.
        cases: The cases, in the order of the report.
        date: The date of the run, as ``2025-01-31``.
        machine: A description of the machine.
        etcd: The version of the server.
        rounds: The number of slices of each case.
        seconds: The length of a slice.
    """

    results: Results
    cases: Sequence[Case]
    date: str
    machine: Mapping[str, str]
    etcd: str
    rounds: int
    seconds: float

    # -- pages

    def _intro(self) -> str:
        machine = self.machine
        computer = ', '.join((machine['processor'], f'{machine["cores"]} cores', machine['memory'], machine['system']))
        return (
            f'Measured on {self.date} with etcd {self.etcd}, on one machine for server and client: '
            f'{computer}, Python {machine["python"]}. '
            f'{self.rounds} rounds; in each, every client works for {self.seconds:g} s, one at a time, in random '
            'order. '
            'Per second: calls (or events) per second, the median of the rounds; noise: half the interquartile range '
            'relative to the median; CPU each: CPU time of the client per call, in all its threads; p50 and p99: the '
            'duration of a call. Ratios are computed within a round, '
            'with their quartiles in parentheses. '
            'The limit is a load generator in C that does not decode responses.'
        )

    def _chapters(self) -> Iterator[tuple[str, Table]]:
        for api in APIS:
            for case in self.cases:
                figures = self.results.figures(case, api)
                if figures:
                    yield f'{api}: {case.title}', case_table(figures)
        for case in self.cases:
            if case in self.results.scale:
                yield f'v3: {case.title}', scale_table(case, self.results.scale[case])
        if self.results.memory:
            yield 'Memory of a client that has read one value, and of each watch', memory_table(self.results)

    def _remarks(self) -> list[str]:
        left_out = [f'{one.label} was not measured: {reason}' for one, reason in self.results.left_out.items()]
        gaps = [f'{one.label}, {case.title}: {reason}' for (case, one), reason in self.results.gaps.items()]
        return left_out + gaps

    def _versions(self) -> list[str]:
        lines = {}
        for one, versions in self.results.versions.items():
            packages = ', '.join(f'{name} {version}' for name, version in versions['packages'].items())
            lines[one.title] = f'{one.title}: {packages}'
        return list(lines.values())

    def as_markdown(self, picture: str | None = None) -> str:
        """Return the page in Markdown."""
        lines = ['# Benchmarks', '', self._intro(), '']
        if picture is not None:
            lines += [f'![Calls per second of each client]({picture})', '']
        for title, table in self._chapters():
            lines += [f'## {title}', '', *table.as_markdown(), '']
        for title, items in (('Remarks', self._remarks()), ('Versions', self._versions())):
            if items:
                lines += [f'## {title}', '', *(f'- {item}' for item in items), '']
        return '\n'.join(lines)

    def as_rst(self, picture: str | None = None) -> str:
        """Return the page in reStructuredText."""
        lines = ['Benchmarks', '==========', '', self._intro(), '']
        if picture is not None:
            lines += [f'.. image:: {picture}', '   :alt: Calls per second of each client', '']
        for title, table in self._chapters():
            lines += [title, '-' * len(title), '', *table.as_rst(), '']
        for title, items in (('Remarks', self._remarks()), ('Versions', self._versions())):
            if items:
                lines += [title, '-' * len(title), '', *(f'* {_plain(item)}' for item in items), '']
        return '\n'.join(lines)

    # -- data

    def as_json(self) -> str:
        """Return all measurements as JSON, with the rate in each round."""
        results = self.results
        document = {
            'date': self.date,
            'machine': dict(self.machine),
            'etcd': self.etcd,
            'rounds': self.rounds,
            'seconds': self.seconds,
            'clients': {
                one.name: {'label': one.label, 'api': one.api, 'role': one.role, **versions}
                for one, versions in results.versions.items()
            },
            'cases': {case.name: self._case(case) for case in self.cases if case in results.samples},
            'memory': {
                one.name: [{'base': memory.base, 'each': memory.each} for memory in rounds]
                for one, rounds in results.memory.items()
            },
            'scale': {
                case.name: {one.name: counts for one, counts in of_case.items()}
                for case, of_case in results.scale.items()
            },
            'left_out': {one.name: reason for one, reason in results.left_out.items()},
            'gaps': [
                {'case': case.name, 'client': one.name, 'reason': reason}
                for (case, one), reason in results.gaps.items()
            ],
        }
        return json.dumps(document, indent=1) + '\n'

    def _case(self, case: Case) -> dict[str, Any]:
        found = {}
        for api in APIS:
            for figure in self.results.figures(case, api):
                found[figure.client.name] = {
                    'rates': [sample and sample.rate for sample in self.results.samples[case][figure.client]],
                    'rate': asdict(figure.rate),
                    'cpu': None if figure.cpu is None else asdict(figure.cpu),
                    'to_peer': None if figure.to_peer is None else asdict(figure.to_peer),
                    'to_limit': None if figure.to_limit is None else asdict(figure.to_limit),
                    'p50': None if figure.p50 is None else asdict(figure.p50),
                    'p99': None if figure.p99 is None else asdict(figure.p99),
                    'to_commit': None if figure.to_commit is None else asdict(figure.to_commit),
                    'cpu_to_commit': None if figure.cpu_to_commit is None else asdict(figure.cpu_to_commit),
                }
        return found


def _plain(text: str) -> str:
    """Escape the markup of reStructuredText."""
    return ''.join('\\' + char if char in '*`|_\\' else char for char in text)
