"""What thousands of daemons and nodes cost, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tools.bench.cases import Case
from tools.bench.tables import Table

__all__ = ['crowd_table']

LEAST_WEIGHED: Final = 1000
"""Of fewer the memory says nothing: a process grows by pages."""


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
        'register': ('all registered in', _seconds),
        'each': ('memory each', _bytes),
        'requests': ('requests a second', _rate),
        'cpu_share': ('of a core', _percent),
        'greenlets': ('greenlets', _number),
        'close': ('all deleted in', _seconds),
    },
    'watchers': {
        'register': ('all registered in', _seconds),
        'each': ('memory each', _bytes),
        'each_same': ('memory each, same node', _bytes),
        'to_one': ('calls a second, events for one', _number),
        'to_all': ('calls a second, events for all', _number),
        'greenlets': ('greenlets', _number),
    },
    'directory': {
        'get': ('get', _seconds),
        'held': ('memory of each got', _bytes),
        'first': ('first of on_change', _seconds),
        'last': ('last', _seconds),
        'followed': ('memory of each followed', _bytes),
    },
}
"""By work, by the name that the stage gives a figure: its title, and how it is shown."""


def crowd_table(case: Case, found: Mapping[int, Mapping[str, float]]) -> Table:
    """What so many cost, a line for each count."""
    columns = COLUMNS[case.work]
    rows = [
        (
            f'{count:,}',
            *(
                '' if show is _bytes and count < LEAST_WEIGHED else show(figures[name])
                for name, (_, show) in columns.items()
            ),
        )
        for count, figures in found.items()
    ]
    return Table(('count', *(title for title, _ in columns.values())), rows)
