"""The cases of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

__all__ = ['CASES', 'QUICK', 'Case', 'select']

REPLAY_EVENTS = {'v2': 900, 'v3': 100_000}
"""Events of a replay.  A v2 server keeps 1,000.  A v3 server sends this many at once (see
``server.EVENTS_PER_REVISION``) and then pauses for up to 0.1 s: more events would measure the server."""

REPLAYS = 3
"""Replays of the same events in a slice, since the server may also pause before the first event."""

LIVE_EVENTS = 3_000
"""Events that are written while they are watched."""

WATCHES = 500
"""Watches whose memory is measured; a client may use more (its ``WATCHES``)."""

STEADY_SECONDS = 10.0
"""Seconds in which the requests and the CPU time of kept nodes are measured: three renewals of each lease."""

MIN_CALLBACKS = 100_000
"""Callbacks that are timed at least; a tenth of that if each one needs a write of its own."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work.

    Attributes:
        name: The name on the command line and in files.
        title: The title in reports.
        work: ``'get'``, ``'set'``, ``'lock'``, ``'connect'``, ``'replay'``, ``'live'``, ``'memory'`` or one of
            ``SCALE_WORKS``; ``'tree-get'`` and ``'tree-set'`` are the public ``get`` and ``set`` of getc, compared with
            the plain calls of other clients, and with the same guarded transaction of Go's.
        in_flight: Concurrent calls.
        size: Characters of a value.
        apis: The APIs of etcd for which the case exists.
        counts: For cases of scale: the numbers of daemons or nodes.
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
        """True if the case repeats one call."""
        return self.has_limit or self.work == 'lock'

    @property
    def has_limit(self) -> bool:
        """True if that call is one request, which a load generator can send."""
        return self.work.removeprefix('tree-') in ('get', 'set')

    @property
    def is_write(self) -> bool:
        """True if that call writes."""
        return self.is_call and not self.work.endswith('get')

    @property
    def is_watch(self) -> bool:
        """True if events are counted instead of calls."""
        return self.work in ('replay', 'live')

    def request(self, api: str, seconds: float) -> dict[str, Any]:
        """Return the request to a worker process; for a watch without the index."""
        if self.work == 'memory':
            return {'work': self.work, 'count': WATCHES}
        if self.work == 'live':
            return {'work': self.work, 'count': LIVE_EVENTS, 'times': 1}
        if self.work == 'replay':
            return {'work': self.work, 'count': REPLAY_EVENTS[api], 'times': REPLAYS}
        return {'work': self.work, 'in_flight': self.in_flight, 'size': self.size, 'seconds': seconds}

    def requests(self) -> dict[int, dict[str, Any]]:
        """Return the requests of a case of scale, by count."""
        more = {'seconds': STEADY_SECONDS, 'calls': MIN_CALLBACKS}
        return {count: {'work': self.work, 'count': count, **more} for count in self.counts}


def _calls(work: str, in_flight: int, size: int) -> Case:
    shown = f'{size} B' if size < 1024 else f'{size // 1024} KiB'
    what, apis = (f"getc's public {work[5:]}", ('v3',)) if work.startswith('tree-') else (work, ('v2', 'v3'))
    return Case(f'{work}-{in_flight}-{size}', f'{what}, {in_flight} in flight, {shown}', work, in_flight, size, apis)


def _scale(work: str, title: str, most: int) -> Case:
    counts = tuple(count for count in (100, 1_000, 10_000, 100_000) if count <= most)
    return Case(work, title, work, apis=('v3',), counts=counts)


CASES: tuple[Case, ...] = (
    *(_calls(work, in_flight, size) for size in (64, 4096) for in_flight in (1, 50, 200) for work in ('get', 'set')),
    *(_calls(work, in_flight, 64) for in_flight in (1, 50, 200) for work in ('tree-get', 'tree-set')),
    *(
        Case(f'lock-{in_flight}', f'lock: acquire and release, {in_flight} at once, no contention', 'lock', in_flight)
        for in_flight in (1, 50)
    ),
    Case('replay', 'watch: replay of past events', 'replay'),
    Case('live', 'watch: live events, per second of CPU time', 'live', apis=('v3',)),
    Case('connect', 'a new client and its first get', 'connect'),
    Case('memory', 'memory of a client, and of a watch', 'memory'),
    _scale('keepers', 'keep_node in one process, TTL 10', 10_000),
    _scale('watchers', 'on_change in one process', 10_000),
    _scale('directory', 'a directory of many nodes', 100_000),
)

QUICK = ('get-1-64', 'set-1-64', 'get-50-64', 'set-50-64', 'tree-get-50-64', 'tree-set-50-64', 'replay')
"""The cases of ``--quick``."""


def select(patterns: Sequence[str]) -> tuple[Case, ...]:
    """Return the cases whose names match one of the patterns (``get-*-64``), in the order of ``CASES``.

    Raises:
        ValueError: A pattern matches no case.
    """
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in CASES):
            raise ValueError(f'no case matches {pattern!r}; the cases are {", ".join(case.name for case in CASES)}')
    return tuple(case for case in CASES if any(fnmatchcase(case.name, pattern) for pattern in patterns))
