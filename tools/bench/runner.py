"""The rounds: every contestant does a slice in each, one after the other, in an order by lot."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.bench.cases import Case
from tools.bench.environments import NotInstalled, python_of
from tools.bench.registry import Contestant
from tools.bench.server import PREFIX, Ground
from tools.bench.stats import Figure, Sample, figures_of
from tools.bench.worker_process import Cannot, Failed, Performer

__all__ = ['Conductor', 'Memory', 'Results']

PATIENCE = 60.0
"""Seconds beyond the slice for an answer."""

CROWD_PATIENCE = 300.0
"""Seconds for a crowd: a hundred thousand nodes have to be written first."""

WARM_UP = 0.2
"""Seconds of work in each case that are not counted."""

HEAD_START = 0.1
"""Seconds for a live watch to begin before the first write."""

MEMORY_ROUNDS = 3

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Memory:
    """What one contestant holds, in bytes: with one value read, and for each watch more."""

    contestant: Contestant
    base: float
    each: float


@dataclass(slots=True)
class Results:
    """What was measured.

    Attributes:
        samples: By case, by contestant: one a round, None where it failed.
        memory: By contestant, one a round.
        crowds: By case, by count: the figures by name, as ``tools/bench/scale.py`` shows them.
        left_out: Contestants that could not be measured at all, and why.
        gaps: Cases that a contestant could not do, and why.
        versions: Of each contestant's Python and packages.
    """

    samples: dict[Case, dict[Contestant, list[Sample | None]]] = field(default_factory=dict)
    memory: dict[Contestant, list[Memory]] = field(default_factory=dict)
    crowds: dict[Case, dict[int, dict[str, float]]] = field(default_factory=dict)
    left_out: dict[Contestant, str] = field(default_factory=dict)
    gaps: dict[tuple[Case, Contestant], str] = field(default_factory=dict)
    versions: dict[Contestant, dict[str, Any]] = field(default_factory=dict)

    def figures(self, case: Case, api: str) -> list[Figure]:
        """The figures of a case among the contestants of an API, the fastest first."""
        return figures_of({one: of_one for one, of_one in self.samples.get(case, {}).items() if one.api == api})


class Conductor:
    """Measures contestants on one etcd.

    Also a context manager, which ends their processes.

    Args:
        url: The etcd.
        contestants: Who is measured.
        rounds: Slices that each of them does of each case.
        seconds: The length of a slice.
        lot: The source of chance, for the order in each round.
        tell: Called with what is being done, for people.
    """

    def __init__(
        self,
        url: str,
        contestants: Sequence[Contestant],
        *,
        rounds: int,
        seconds: float,
        lot: random.Random,
        tell: Tell,
    ) -> None:
        self.results = Results()
        self._url = url
        self._ground = Ground(url)
        self._rounds = rounds
        self._seconds = seconds
        self._lot = lot
        self._tell = tell
        self._pythons: dict[Contestant, str] = {}
        self._performers: dict[Contestant, Performer] = {}
        self._indices: dict[str, int] = {}
        self._prepare(contestants)

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, *_: object) -> None:
        for contestant in list(self._performers):
            self._end(contestant)

    def _prepare(self, contestants: Sequence[Contestant]) -> None:
        """Install each of them and start it once; whoever does not start is left out."""
        for one in contestants:
            self._tell(f'{one.label}: getting ready')
            try:
                self._pythons[one] = python_of(one)
                with Performer(one, self._pythons[one], self._url) as performer:
                    self.results.versions[one] = performer.versions
            except (NotInstalled, Failed) as error:
                self.results.left_out[one] = str(error)

    # -- the cases

    def measure(self, case: Case) -> None:
        """Run all rounds of a case and add them to the results."""
        players = [
            one
            for one in self._pythons
            if one.api in case.apis and one not in self.results.left_out and (one.role != 'limit' or case.is_call)
        ]
        if case.work == 'memory':
            self._weigh(case, players)
            return
        if case.counts:
            self._gather(case, [one for one in players if one.role == 'ours'])
            return
        samples = self.results.samples[case] = {}
        if not case.is_watch:
            for one in players:
                self._tell(f'{case.title}: {one.label} warms up')
                self._slice(case, one, WARM_UP)
        for number in range(self._rounds):
            for one in self._lot.sample(players, len(players)):
                if (case, one) not in self.results.gaps:
                    self._tell(f'{case.title}: round {number + 1} of {self._rounds}, {one.label}')
                    samples.setdefault(one, [None] * self._rounds)[number] = self._slice(case, one, self._seconds)

    def _slice(self, case: Case, one: Contestant, seconds: float) -> Sample | None:
        """Let one of them work; None if it failed, which ends its part in this case."""
        request = case.request(one.api, seconds)
        try:
            if case.work == 'live':
                answer = self._live(one, request)
            else:
                if case.work == 'replay':
                    request |= {'prefix': PREFIX, 'index': self._history(one.api, request['count'])}
                elif one.api == 'v3' and case.is_write:
                    self._ground.compact()
                    self._indices.pop('v3', None)
                answer = self._performer(one).ask(request, seconds + PATIENCE)
        except Cannot as error:
            self.results.gaps[case, one] = str(error)
            return None
        except Failed as error:
            self.results.gaps[case, one] = str(error)
            self._end(one)
            return None
        cpu = answer['cpu'] / answer['operations'] if one.role != 'limit' else None  # its children's is not counted
        # Of live events there are only as many as are written: what differs is what they cost.
        seconds = answer['cpu'] if case.work == 'live' else answer['seconds']
        return Sample(answer['operations'] / seconds, cpu)

    def _live(self, one: Contestant, request: dict[str, Any]) -> dict[str, float]:
        performer = self._performer(one)
        performer.begin(request | {'prefix': PREFIX, 'index': self._ground.next_index(one.api)})
        time.sleep(HEAD_START)
        writer = threading.Thread(target=self._ground.write, args=(one.api, request['count']))
        writer.start()
        try:
            return performer.finish(PATIENCE)
        finally:
            writer.join()

    def _history(self, api: str, count: int) -> int:
        """The index of the first of so many events, which are made once and then read by all."""
        if api not in self._indices:
            self._indices[api] = self._ground.next_index(api)
            self._ground.write_history(api, count)
        return self._indices[api]

    def _weigh(self, case: Case, players: Sequence[Contestant]) -> None:
        """Ask for the memory of fresh processes."""
        for number in range(min(self._rounds, MEMORY_ROUNDS)):
            for one in self._lot.sample(players, len(players)):
                if (case, one) in self.results.gaps:
                    continue
                self._tell(f'{case.title}: round {number + 1}, {one.label}')
                self._end(one)
                try:
                    answer = self._performer(one).ask(case.request(one.api, 0), PATIENCE)
                except Failed as error:
                    self.results.gaps[case, one] = str(error)
                else:
                    self.results.memory.setdefault(one, []).append(Memory(one, answer['base'], answer['each']))
                self._end(one)

    def _gather(self, case: Case, players: Sequence[Contestant]) -> None:
        """Let fresh processes do it with more and more, once each."""
        for one in players:
            for count, request in case.requests().items():
                self._tell(f'{case.title}: {count:,}')
                self._ground.compact()
                self._indices.pop(one.api, None)
                self._end(one)
                try:
                    answer = self._performer(one).ask(request, CROWD_PATIENCE)
                except Failed as error:
                    self.results.gaps[case, one] = f'{count:,}: {error}'
                else:
                    self.results.crowds.setdefault(case, {})[count] = answer
                self._end(one)

    # -- the processes

    def _performer(self, one: Contestant) -> Performer:
        if one not in self._performers:
            self._performers[one] = Performer(one, self._pythons[one], self._url)
        return self._performers[one]

    def _end(self, one: Contestant) -> None:
        performer = self._performers.pop(one, None)
        if performer is not None:
            performer.close()
