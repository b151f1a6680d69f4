"""What is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

__all__ = ['CASES', 'QUICK', 'Case', 'select']

PAST = {'v2': 900, 'v3': 100_000}
"""Events of a replay.  A v2 server remembers 1,000.  A v3 server sends so many at once (see ``ground.TOGETHER``): then
it rests for up to a tenth of a second, and with more it would be the server that is measured."""

REPLAYS = 3
"""So often the same is read in a slice: before it begins, too, the server may rest."""

LIVE = 3_000
"""Events as they happen."""

WATCHES = 500
"""Begun at once, to see what one costs; a contestant may take more (its ``WATCHES``)."""


STEADY = 10.0
"""Seconds in which the requests and the CPU of kept nodes are counted: three renewals of everything."""

CALLS = 100_000
"""Calls of callbacks that are timed, at least; a tenth of that where each is a write."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work.

    Attributes:
        name: For the command line and the files.
        title: For people.
        work: ``'get'``, ``'set'``, ``'connect'``, ``'replay'``, ``'live'``, ``'memory'`` or a crowd's; ``'tree-get'``
            and ``'tree-set'`` are getc's public ``get`` and ``set``, beside the others' plain ones.
        in_flight: Calls under way at a time.
        size: Characters of a value.
        apis: Those of etcd's APIs that have it.
        counts: Of a crowd, which only getc is asked for: how many there are, each time more.
    """

    name: str
    title: str
    work: str
    in_flight: int = 1
    size: int = 64
    apis: tuple[str, ...] = ('v2', 'v3')
    counts: tuple[int, ...] = ()

    @property
    def is_call(self) -> bool:
        """True if it is the same call again and again."""
        return self.work.removeprefix('tree-') in ('get', 'set')

    @property
    def is_write(self) -> bool:
        """True if it is one that writes."""
        return self.is_call and self.work.endswith('set')

    @property
    def is_watch(self) -> bool:
        """True if events are counted, not calls."""
        return self.work in ('replay', 'live')

    def request(self, api: str, seconds: float) -> dict[str, Any]:
        """What the contestant is asked; for a watch the index is still missing."""
        if self.work == 'memory':
            return {'work': self.work, 'count': WATCHES}
        if self.work == 'live':
            return {'work': self.work, 'count': LIVE, 'times': 1}
        if self.work == 'replay':
            return {'work': self.work, 'count': PAST[api], 'times': REPLAYS}
        return {'work': self.work, 'in_flight': self.in_flight, 'size': self.size, 'seconds': seconds}

    def requests(self) -> dict[int, dict[str, Any]]:
        """What is asked of a crowd, by count."""
        more = {'seconds': STEADY, 'calls': CALLS}
        return {count: {'work': self.work, 'count': count, **more} for count in self.counts}


def _calls(work: str, in_flight: int, size: int) -> Case:
    shown = f'{size} B' if size < 1024 else f'{size // 1024} KiB'
    what, apis = (f"getc's public {work[5:]}", ('v3',)) if work.startswith('tree-') else (work, ('v2', 'v3'))
    return Case(f'{work}-{in_flight}-{size}', f'{what}, {in_flight} in flight, {shown}', work, in_flight, size, apis)


def _crowd(work: str, title: str, most: int) -> Case:
    counts = tuple(count for count in (100, 1_000, 10_000, 100_000) if count <= most)
    return Case(work, title, work, apis=('v3',), counts=counts)


CASES: tuple[Case, ...] = (
    *(_calls(work, in_flight, size) for size in (64, 4096) for in_flight in (1, 50, 200) for work in ('get', 'set')),
    *(_calls(work, in_flight, 64) for in_flight in (1, 50, 200) for work in ('tree-get', 'tree-set')),
    Case('replay', 'watch: events of the past', 'replay'),
    Case('live', 'watch: events as they happen, in a second of CPU', 'live', apis=('v3',)),
    Case('connect', 'a new client and its first get', 'connect'),
    Case('memory', 'memory of a client, and of a watch', 'memory'),
    _crowd('keepers', 'keep_node in one process, TTL 10', 10_000),
    _crowd('watchers', 'on_change in one process', 10_000),
    _crowd('directory', 'a directory of so many nodes', 100_000),
)

QUICK = ('get-1-64', 'set-1-64', 'get-50-64', 'set-50-64', 'tree-get-50-64', 'tree-set-50-64', 'replay')
"""The cases that say most in a minute."""


def select(patterns: Sequence[str]) -> tuple[Case, ...]:
    """The cases whose names match one of the patterns (``get-*-64``), in their own order.

    Raises:
        ValueError: A pattern matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in CASES):
            raise ValueError(f'no case is called {pattern!r}; there are {", ".join(case.name for case in CASES)}')
    return tuple(case for case in CASES if any(fnmatchcase(case.name, pattern) for pattern in patterns))
