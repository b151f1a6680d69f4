"""Tables of the cost of thousands of daemons and nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tools.bench.cases import Case
from tools.bench.registry import BenchClient
from tools.bench.tables import Table

__all__ = ['scale_table']

MIN_COUNT_FOR_MEMORY: Final = 1000
"""Memory is not shown for smaller counts, since a process grows by pages."""


def _seconds(value: float) -> str:
    return f'{value:.2f} s'


def _bytes(value: float) -> str:
    return f'{value / 1024:.1f} KiB'


def _number(value: float) -> str:
    return f'{value:,.0f}'


def _rate(value: float) -> str:
    return f'{value:.1f}'


def _percent(value: float) -> str:
    return f'{value:.1%}'


COLUMNS: Final[Mapping[str, Mapping[str, tuple[str, Callable[[float], str]]]]] = {
    'keepers': {
        'register': ('registration of all', _seconds),
        'each': ('memory each', _bytes),
        'requests': ('requests per second', _rate),
        'cpu_share': ('CPU', _percent),
        'greenlets': ('greenlets or goroutines', _number),
        'close': ('deletion of all', _seconds),
    },
    'watchers': {
        'register': ('registration of all', _seconds),
        'each': ('memory each', _bytes),
        'each_same': ('memory each, same node', _bytes),
        'to_one': ('callbacks per second, one per event', _number),
        'to_all': ('callbacks per second, all per event', _number),
        'greenlets': ('greenlets or goroutines', _number),
    },
    'directory': {
        'get': ('get', _seconds),
        'held': ('memory per node of get', _bytes),
        'first': ('first callback of on_change', _seconds),
        'last': ('last callback', _seconds),
        'followed': ('memory per node of on_change', _bytes),
    },
}
"""By work, by the name of a figure in the worker's answer: its column title and its format."""


def scale_table(case: Case, found: Mapping[BenchClient, Mapping[int, Mapping[str, float]]]) -> Table:
    """Return the results of a case of scale, a row for each count and client."""
    columns = COLUMNS[case.work]
    rows = [
        (
            one.label,
            f'{count:,}',
            *(
                '' if show is _bytes and count < MIN_COUNT_FOR_MEMORY else show(figures[name])
                for name, (_, show) in columns.items()
            ),
        )
        for count in sorted({count for counts in found.values() for count in counts})
        for one, counts in found.items()
        if (figures := counts.get(count)) is not None
    ]
    return Table(('client', 'count', *(title for title, _ in columns.values())), rows)
