"""Runs the rounds: in each, every client works for one slice, one after the other, in random order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.bench.cases import Case
from tools.bench.environments import Launch, NotInstalled, prepare
from tools.bench.registry import BenchClient
from tools.bench.server import PREFIX, BenchServer
from tools.bench.stats import Figure, Sample, compute_figures
from tools.bench.worker_process import Unsupported, WorkerFailed, WorkerProcess

__all__ = ['Memory', 'Results', 'Runner']

ANSWER_TIMEOUT = 60.0
"""Seconds for an answer, in addition to the slice."""

SCALE_TIMEOUT = 300.0
"""Seconds for a case of scale, which may write a hundred thousand nodes first."""

WARM_UP = 0.2
"""Seconds of work before the rounds of each case, which are not counted."""

WATCH_START_TIME = 0.1
"""Seconds for a live watch to start before the first write."""

MAX_MEMORY_ROUNDS = 3

ShowProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one client, in bytes: after reading one value, and for each watch in addition."""

    client: BenchClient
    base: float
    each: float


@dataclass(slots=True)
class Results:
    """All measurements of a run.

    Attributes:
        samples: By case, by client: one sample a round, None if the client failed.
        memory: By client, one a round.
        scale: By case, by client, by count: the figures by name, see ``tools/bench/scale.py``.
        left_out: Clients that could not be started, with the reason.
        gaps: Cases that a client failed or does not support, with the reason.
        versions: Of the Python and the packages of each client.
    """

    samples: dict[Case, dict[BenchClient, list[Sample | None]]] = field(default_factory=dict)
    memory: dict[BenchClient, list[Memory]] = field(default_factory=dict)
    scale: dict[Case, dict[BenchClient, dict[int, dict[str, float]]]] = field(default_factory=dict)
    left_out: dict[BenchClient, str] = field(default_factory=dict)
    gaps: dict[tuple[Case, BenchClient], str] = field(default_factory=dict)
    versions: dict[BenchClient, dict[str, Any]] = field(default_factory=dict)

    def figures(self, case: Case, api: str) -> list[Figure]:
        """Return the figures of a case for the clients of an API, fastest first."""
        return compute_figures({one: of_one for one, of_one in self.samples.get(case, {}).items() if one.api == api})


class Runner:
    """Measures clients on one etcd.

    Also a context manager, which ends the worker processes.

    Args:
        url: The URL of the etcd.
        clients: The clients to measure.
        rounds: The number of slices of each case.
        seconds: The length of a slice.
        rng: Draws the order of the clients in each round.
        show_progress: Called with a description of each step.
    """

    def __init__(
        self,
        url: str,
        clients: Sequence[BenchClient],
        *,
        rounds: int,
        seconds: float,
        rng: random.Random,
        show_progress: ShowProgress,
    ) -> None:
        self.results = Results()
        self._url = url
        self._server = BenchServer(url)
        self._rounds = rounds
        self._seconds = seconds
        self._rng = rng
        self._show_progress = show_progress
        self._launches: dict[BenchClient, Launch] = {}
        self._processes: dict[BenchClient, WorkerProcess] = {}
        self._indices: dict[str, int] = {}
        self._prepare(clients)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        for client in list(self._processes):
            self._end(client)

    def _prepare(self, clients: Sequence[BenchClient]) -> None:
        """Install each client and start it once; leave out clients that do not start."""
        for one in clients:
            self._show_progress(f'{one.label}: getting ready')
            try:
                self._launches[one] = prepare(one)
                with WorkerProcess(self._launches[one], self._url) as process:
                    self.results.versions[one] = process.versions
            except (NotInstalled, WorkerFailed) as error:
                self.results.left_out[one] = str(error)

    # -- cases

    def measure(self, case: Case) -> None:
        """Run all rounds of a case and add them to the results."""
        clients = [
            one
            for one in self._launches
            if one.api in case.apis and one not in self.results.left_out and (one.role != 'limit' or case.has_limit)
        ]
        if case.work == 'memory':
            self._measure_memory(case, clients)
            return
        if case.counts:
            self._measure_scale(case, [one for one in clients if one.runs_scale])
            return
        samples = self.results.samples[case] = {}
        if not case.is_watch:
            for one in clients:
                self._show_progress(f'{case.title}: {one.label} warms up')
                self._run_slice(case, one, WARM_UP)
        for number in range(self._rounds):
            for one in self._rng.sample(clients, len(clients)):
                if (case, one) not in self.results.gaps:
                    self._show_progress(f'{case.title}: round {number + 1} of {self._rounds}, {one.label}')
                    samples.setdefault(one, [None] * self._rounds)[number] = self._run_slice(case, one, self._seconds)

    def _run_slice(self, case: Case, one: BenchClient, seconds: float) -> Sample | None:
        """Run one client for one slice; return None if it failed, which excludes it from this case."""
        request = case.request(one.api, seconds)
        try:
            if case.work == 'live':
                answer = self._run_live(one, request)
            else:
                if case.work == 'replay':
                    request |= {'prefix': PREFIX, 'index': self._prepare_history(one.api, request['count'])}
                elif one.api == 'v3' and case.is_write:
                    self._server.compact()
                    self._indices.pop('v3', None)
                answer = self._process_of(one).run(request, seconds + ANSWER_TIMEOUT)
        except Unsupported as error:
            self.results.gaps[case, one] = str(error)
            return None
        except WorkerFailed as error:
            self.results.gaps[case, one] = str(error)
            self._end(one)
            return None
        cpu = answer['cpu'] / answer['operations'] if one.role != 'limit' else None  # that of children is not known
        # The rate of live events is that of the writer, so clients differ only in their CPU time.
        seconds = answer['cpu'] if case.work == 'live' else answer['seconds']
        return Sample(answer['operations'] / seconds, cpu, answer.get('p50'), answer.get('p99'))

    def _run_live(self, one: BenchClient, request: dict[str, Any]) -> dict[str, float]:
        process = self._process_of(one)
        process.send(request | {'prefix': PREFIX, 'index': self._server.next_index(one.api)})
        time.sleep(WATCH_START_TIME)
        writer = threading.Thread(target=self._server.write, args=(one.api, request['count']))
        writer.start()
        try:
            return process.receive(ANSWER_TIMEOUT)
        finally:
            writer.join()

    def _prepare_history(self, api: str, count: int) -> int:
        """Write a history of ``count`` events unless it exists; return the index of its first event."""
        if api not in self._indices:
            self._indices[api] = self._server.next_index(api)
            self._server.write_history(api, count)
        return self._indices[api]

    def _measure_memory(self, case: Case, clients: Sequence[BenchClient]) -> None:
        """Measure the memory of fresh processes."""
        for number in range(min(self._rounds, MAX_MEMORY_ROUNDS)):
            for one in self._rng.sample(clients, len(clients)):
                if (case, one) in self.results.gaps:
                    continue
                self._show_progress(f'{case.title}: round {number + 1}, {one.label}')
                self._end(one)
                try:
                    answer = self._process_of(one).run(case.request(one.api, 0), ANSWER_TIMEOUT)
                except WorkerFailed as error:
                    self.results.gaps[case, one] = str(error)
                else:
                    self.results.memory.setdefault(one, []).append(Memory(one, answer['base'], answer['each']))
                self._end(one)

    def _measure_scale(self, case: Case, clients: Sequence[BenchClient]) -> None:
        """Measure each count once, in a fresh process."""
        for one in clients:
            for count, request in case.requests().items():
                self._show_progress(f'{case.title}: {count:,}, {one.label}')
                self._server.compact()
                self._indices.pop(one.api, None)
                self._end(one)
                try:
                    answer = self._process_of(one).run(request, SCALE_TIMEOUT)
                except WorkerFailed as error:
                    self.results.gaps[case, one] = f'{count:,}: {error}'
                else:
                    self.results.scale.setdefault(case, {}).setdefault(one, {})[count] = answer
                self._end(one)

    # -- processes

    def _process_of(self, one: BenchClient) -> WorkerProcess:
        if one not in self._processes:
            self._processes[one] = WorkerProcess(self._launches[one], self._url)
        return self._processes[one]

    def _end(self, one: BenchClient) -> None:
        process = self._processes.pop(one, None)
        if process is not None:
            process.close()
