"""The workload: three clients and the workers that use them."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import gevent

import getc
from tests.faults.cluster import CLIENTS, ProxiedCluster
from tests.faults.followers import MirrorWorker, StateSampler, WatchWorker
from tests.faults.history import History
from tests.faults.keepers import SERVERS, KeeperWorker
from tests.faults.registers import RegisterWorker
from tests.faults.writers import PAIRS, QUEUE, AppendWorker, PairWorker

__all__ = ['Workload']

REGISTERS = '/reg'
NAMES = '/names'
ROOT = '/'


class Workload:
    """Three clients with their workers.

    Args:
        cluster: The cluster.
        history: Records everything.

    Attributes:
        clients: The clients by name.
        watchers: The workers with a watcher.
        mirrors: The workers with a mirror.
        renewals: The number of lease renewals that were answered.
    """

    def __init__(self, cluster: ProxiedCluster, history: History) -> None:
        self.clients: dict[str, getc.Client] = {}
        self.watchers: list[WatchWorker] = []
        self.mirrors: list[MirrorWorker] = []
        self.renewals = 0
        self._cluster = cluster
        self._history = history
        self._writers: list[RegisterWorker | AppendWorker | PairWorker] = []
        self._keepers: list[KeeperWorker] = []
        self._greenlets: dict[object, gevent.Greenlet[..., None]] = {}
        self._sampler: gevent.Greenlet[..., None] | None = None

    @property
    def errors(self) -> Counter[str]:
        """The number of failed calls by error class."""
        return sum((writer.errors for writer in self._writers), Counter())

    def start(self) -> None:
        """Open the clients and start all workers."""
        for name in CLIENTS:
            self.clients[name] = self._cluster.client(name)
            self._count_renewals(self.clients[name])
            self._add_workers(name)
        self._add_rival_keepers()
        for each in (*self.watchers, *self.mirrors, *self._keepers, *self._writers):
            self._greenlets[each] = gevent.spawn(each.run)
        self._sampler = gevent.spawn(StateSampler(self._history).run, [*self.watchers, *self.mirrors])

    def failures(self) -> list[BaseException]:
        """Return the exceptions of workers that have failed."""
        return [greenlet.exception for greenlet in self._greenlets.values() if greenlet.exception is not None]

    def stop_writing(self) -> None:
        """Kill the workers that write; keepers give back their nodes.  Watch callbacks do not block any more."""
        for watcher in self.watchers:
            watcher.blocks = False
        self._kill([*self._writers, *self._keepers])

    def stop_watching(self) -> None:
        """Kill the workers that start watchers and read mirrors.  Their current watchers and mirrors continue."""
        self._kill([*self.watchers, *self.mirrors])

    def close(self) -> None:
        """Close all clients and drop all references.  May be called twice."""
        if self._sampler is not None:
            self._sampler.kill()
            self._sampler = None
        gevent.killall(list(self._greenlets.values()), block=False)
        gevent.joinall([gevent.spawn(client.close) for client in self.clients.values()])
        gevent.killall(list(self._greenlets.values()))
        self.clients.clear()
        self._greenlets.clear()
        for each in (self.watchers, self.mirrors, self._keepers, self._writers):
            each.clear()

    def _kill(
        self, workers: list[RegisterWorker | AppendWorker | PairWorker | KeeperWorker | WatchWorker | MirrorWorker]
    ) -> None:
        gevent.killall([self._greenlets[each] for each in workers if each in self._greenlets])

    def _count_renewals(self, client: getc.Client) -> None:
        keep_alive = client.v3.lease.keep_alive

        def counted(*args: Any, **options: Any) -> Any:
            answer = keep_alive(*args, **options)
            self.renewals += 1
            return answer

        client.v3.lease.keep_alive = counted  # type: ignore[method-assign]

    # -- the workers

    def _add_workers(self, name: str) -> None:
        client, history = self.clients[name], self._history
        for number in (1, 2):
            title = f'{name}/register {number}'
            self._writers.append(RegisterWorker(title, name, client, history, self._rng(title)))
        self._writers.append(AppendWorker(f'{name}/appender', name, client, history, self._rng(f'{name}/appender')))
        self._writers.append(PairWorker(f'{name}/pairs', name, client, history, self._rng(f'{name}/pairs')))
        self._keepers += [
            self._keeper(name, f'{SERVERS}/{name}-5', 5),
            self._keeper(name, f'{SERVERS}/{name}-4', 4),
            self._keeper(name, f'{SERVERS}/{name}-passing', 5, on_conflict='replace', runs_to_end=False),
        ]
        self.watchers += [
            self._watcher(name, REGISTERS),
            self._watcher(name, {'a': ROOT, 'b': SERVERS, 'c': PAIRS}[name]),
            self._watcher(name, {'a': PAIRS, 'b': REGISTERS, 'c': ROOT}[name], blocks=True),
            self._watcher(name, {'a': NAMES, 'b': QUEUE, 'c': NAMES}[name], runs_to_end=False),
            # The only watcher of this key in its client, so it has a server watch of its own.
            self._watcher(name, {'a': f'{PAIRS}/0', 'b': f'{PAIRS}/1', 'c': f'{PAIRS}/2'}[name], resumes=True),
        ]
        self.mirrors += [
            MirrorWorker(f'{name}: mirror of {key}', key, name, client, self._cluster, history)
            for key in (PAIRS, QUEUE)
        ]

    def _add_rival_keepers(self) -> None:
        for name in ('a', 'b'):
            self._keepers.append(self._keeper(name, f'{NAMES}/first', 4, runs_to_end=False))
            self._keepers.append(self._keeper(name, f'{NAMES}/lasting', 4))
        for name in ('b', 'c'):
            self._keepers.append(self._keeper(name, f'{NAMES}/replaced', 5, on_conflict='replace', runs_to_end=False))

        # All of them write the same value.  One of them holds the node most of the time, and the others try to take it.
        for number, (name, on_conflict, timeout) in enumerate(
            [('a', 'wait', None), ('a', 'raise', 0.5), ('b', 'raise', 2.0), ('c', 'raise', 0.5), ('c', 'wait', 1.0)]
        ):
            options = {'number': number, 'on_conflict': on_conflict, 'timeout': timeout, 'runs_to_end': timeout is None}
            self._keepers.append(self._keeper(name, f'{NAMES}/same', 4, value='same', **options))

    def _keeper(self, name: str, key: str, ttl: int, **options: Any) -> KeeperWorker:
        rng = self._rng(f'{name}{key} {options.get("number", 0)}')
        return KeeperWorker(name, self.clients[name], key, ttl, self._history, rng, **options)

    def _watcher(self, name: str, key: str, **options: Any) -> WatchWorker:
        title = f'{name}:{key}' + ''.join(f' {option}={value}' for option, value in options.items())
        client, rng = self.clients[name], self._rng(title)
        return WatchWorker(title, key, name, client, self._cluster, self._history, rng, **options)

    def _rng(self, title: str) -> random.Random:
        return random.Random(f'{self._history.seed} {title}')
