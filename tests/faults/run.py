"""A run: cluster, workload, faults and results."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import gevent

import getc
from getc.paths import is_below
from getc.testing.binaries import EtcdBinary
from tests.faults.bugs import applied
from tests.faults.clients import Workload
from tests.faults.cluster import CLIENTS, ProxiedCluster
from tests.faults.followers import torn_pairs
from tests.faults.history import History, PhaseStarted, Resources
from tests.faults.history_reader import HistoryReader
from tests.faults.injector import Injector
from tests.faults.prober import Prober
from tests.faults.resources import measure, measure_when_settled
from tests.faults.schedule import make_schedule
from tests.faults.unexpected_errors import UnexpectedErrors
from tests.faults.verdict import Violation
from tests.faults.writers import PAIRS

__all__ = ['Run', 'RunConfig', 'RunResult']

QUIET_SECONDS: Final = 2.0
"""Seconds of workload without faults at the start and at the end."""

RECOVERY_TIMEOUT: Final = 45.0
"""Seconds to recover when no fault is active."""

SHORT_TIMEOUT: Final = 5.0
"""Seconds for an operation that should be immediate."""

EXPIRY_TIMEOUT: Final = 20.0
"""Seconds until leases that are not renewed have expired."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The configuration of a run.

    Attributes:
        seed: Determines workload and faults.
        seconds: For how long faults are injected.
        kinds: The kinds of faults.
        binary: The etcd.
        bugs: Bugs to inject into getc.
    """

    seed: int
    seconds: float
    kinds: Sequence[str]
    binary: EtcdBinary
    bugs: Sequence[str] = ()


@dataclass(slots=True)
class RunResult:
    """The results of a run.

    Attributes:
        history: The history.
        violations: Violations that are found without the history.
        version: The version of etcd.
        skipped: The number of faults that could not be injected, by kind and reason.
        errors: The number of failed calls by error class.
        mirror_reads: The number of reads of mirrors.
        mirror_syncs: The number of comparisons of mirrors, after ``sync``, with what a read has returned before.
        renewals: The number of lease renewals that were answered.
        notes: Remarks for the report.
    """

    history: History
    violations: list[Violation] = field(default_factory=list)
    version: str = ''
    skipped: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    mirror_reads: int = 0
    mirror_syncs: int = 0
    renewals: int = 0
    notes: list[str] = field(default_factory=list)


class Run:
    """One run.

    Args:
        config: The configuration.

    Attributes:
        history: The history so far.
        phase: The current phase.
        ends_at: When the injection of faults ends, in seconds of the history; None before it has started.
        injector: The injector; None before it is created.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.history = History(config.seed)
        self.phase = ''
        self.ends_at: float | None = None
        self.injector: Injector | None = None
        self._result = RunResult(self.history)

    def execute(self) -> RunResult:
        """Run everything, and stop everything at the end.

        Raises:
            IncompleteHistory: The run cannot be judged.
        """
        with ExitStack() as opened:
            opened.enter_context(applied(self.config.bugs))
            unexpected = opened.enter_context(UnexpectedErrors())
            self._start_phase('start the cluster')
            cluster = opened.enter_context(ProxiedCluster(self.config.binary))
            self._result.version = cluster.etcd.version
            if not cluster.may_kill:
                self._result.notes.append(
                    'members of this etcd may diverge after a SIGKILL, so they are killed only for wipes and restores'
                )
            self._run_workload(cluster)
        self._add_violations('getc logs no error and leaves no exception uncaught.', unexpected.found)
        return self._result

    def _run_workload(self, cluster: ProxiedCluster) -> None:
        with cluster.client(CLIENTS[0]) as client:  # objects that are created once and kept are not leaks
            client.ready()
        before = measure('before', cluster)
        self.history.add(before)
        history_reader = HistoryReader(cluster, self.history)
        probers = [Prober(cluster, self.history, name) for name in CLIENTS]
        workload = Workload(cluster, self.history)
        self.injector = Injector(cluster, history_reader, self.history)
        try:
            self._inject_faults(cluster, history_reader, probers, workload, self.injector)
            self._settle(cluster, history_reader, workload)
            self._close(cluster, before, probers, workload)
        finally:
            self.injector.stop()
            workload.close()
            for each in (history_reader, *probers):
                each.stop()

    def _inject_faults(
        self,
        cluster: ProxiedCluster,
        history_reader: HistoryReader,
        probers: Sequence[Prober],
        workload: Workload,
        injector: Injector,
    ) -> None:
        self._start_phase('start the workload')
        history_reader.start()
        for prober in probers:
            prober.start()
        workload.start()
        gevent.sleep(QUIET_SECONDS)
        self._start_phase('inject faults')
        self.ends_at = self.history.now() + self.config.seconds
        kinds = [kind for kind in self.config.kinds if kind != 'kill' or cluster.may_kill]
        injector.run(make_schedule(self.config.seed, self.config.seconds, kinds), self.config.seconds)
        self._start_phase('heal')
        for links in cluster.links.values():
            links.heal()
        cluster.etcd.recover()
        cluster.disable_auth(RECOVERY_TIMEOUT)
        gevent.sleep(QUIET_SECONDS)
        self._result.skipped = injector.skipped

    def _settle(self, cluster: ProxiedCluster, history_reader: HistoryReader, workload: Workload) -> None:
        self._start_phase('catch up')
        workload.stop_writing()
        failures = workload.failures()
        workload.stop_watching()
        self._result.errors, self._result.renewals = workload.errors, workload.renewals
        self._result.mirror_syncs = sum(mirror_worker.syncs for mirror_worker in workload.mirrors)
        self._result.mirror_reads = sum(mirror_worker.reads for mirror_worker in workload.mirrors)
        self._add_violations('No worker fails with an unexpected error.', [repr(failure) for failure in failures])
        end = time.monotonic() + EXPIRY_TIMEOUT
        while (left := cluster.leases(RECOVERY_TIMEOUT)) and time.monotonic() < end:
            gevent.sleep(0.2)  # until then nodes expire, and a closed client would not see it
        self._add_violations('No lease is renewed without a keeper.', [f'{left} leases are left'] if left else [])
        keys = {watcher.end_key for watcher in workload.watchers}
        for key in sorted(keys, key=len, reverse=True):  # the end key of the root comes last
            cluster.put(key, 'the end', RECOVERY_TIMEOUT)
        late = self._late_watchers(workload)
        self._add_violations('A watcher catches up after the last fault.', late)
        history_reader.check(RECOVERY_TIMEOUT)
        expected = {key: change.value for key, change in history_reader.keys.items() if change.value is not None}
        open_mirrors = [mirror_worker.mirror for mirror_worker in workload.mirrors if mirror_worker.mirror is not None]
        self._wait_until(lambda: not any(map(partial(_difference, expected), open_mirrors)), SHORT_TIMEOUT)
        wrong = [text for mirror in open_mirrors if (text := _difference(expected, mirror))]
        self._add_violations('A mirror equals etcd after the last fault.', wrong)
        torn = [text for mirror_worker in workload.mirrors for text in mirror_worker.torn_pairs]
        pairs = {key: value for key, value in expected.items() if is_below(key, PAIRS)}
        late = [text for mirror_worker in workload.mirrors for text in mirror_worker.late_values]
        self._add_violations('A mirror shows after sync what a read has returned before.', late)
        self._add_violations('A mirror never shows a partial transaction.', torn + torn_pairs(pairs))

    def _late_watchers(self, workload: Workload) -> list[str]:
        watching = [watcher for watcher in workload.watchers if watcher.is_watching]
        self._wait_until(lambda: all(watcher.has_seen_end for watcher in watching))
        return [
            f'{watcher.name}: {watcher.watcher}, {watcher.watcher and watcher.watcher.last_error!r}'
            for watcher in watching
            if not watcher.has_seen_end
        ]

    def _close(self, cluster: ProxiedCluster, before: Resources, probers: Sequence[Prober], workload: Workload) -> None:
        self._start_phase('close')
        for prober in probers:
            prober.stop()
        workload.close()
        self.history.add(measure_when_settled('after', cluster, before, EXPIRY_TIMEOUT))
        self._start_phase('check')

    # -- phases and results

    def _start_phase(self, phase: str) -> None:
        self.phase = phase
        self.history.add(PhaseStarted(self.history.now(), phase))

    def _wait_until(self, condition: Callable[[], object], timeout: float = RECOVERY_TIMEOUT) -> None:
        """Wait for a condition, but not longer than the timeout: the following checks report what is missing."""
        end = time.monotonic() + timeout
        while not condition() and time.monotonic() < end:
            gevent.sleep(0.05)

    def _add_violations(self, rule: str, texts: Sequence[str]) -> None:
        self._result.violations += [Violation(rule, text, ()) for text in texts]


def _difference(expected: Mapping[str, str], mirror: getc.Mirror) -> str:
    """Compare a mirror with all keys and values of etcd; return a description, empty if they are equal."""
    actual, expected = dict(mirror), {key: value for key, value in expected.items() if is_below(key, mirror.key)}
    keys = sorted(key for key in {*actual, *expected} if actual.get(key) != expected.get(key))
    texts = [f'{key} is {actual.get(key)!r}, not {expected.get(key)!r}' for key in keys[:3]]
    return f'{mirror}: {", ".join(texts)}, {len(keys)} keys in all' if keys else ''
