"""The troupe: three clients, and all that is done with them."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import gevent

import getc
from tests.faults.cluster import CLIENTS, Ground
from tests.faults.followers import Follower, Reader, StateRecorder
from tests.faults.history import History
from tests.faults.keepers import SERVERS, Tenant
from tests.faults.registers import Process
from tests.faults.writers import PAIRS, QUEUE, Appender, PairWriter

__all__ = ['Troupe']

REGISTERS = '/reg'
NAMES = '/names'
ALL = '/'


class Troupe:
    """Works for three clients.

    Args:
        ground: Where.
        history: Where it is noted.

    Attributes:
        clients: By name.
        followers: Who watches.
        readers: Who has a mirror.
        renewals: How many renewals of leases were answered.
    """

    def __init__(self, ground: Ground, history: History) -> None:
        self.clients: dict[str, getc.Client] = {}
        self.followers: list[Follower] = []
        self.readers: list[Reader] = []
        self.renewals = 0
        self._ground = ground
        self._history = history
        self._writers: list[Process | Appender | PairWriter] = []
        self._tenants: list[Tenant] = []
        self._working: dict[object, gevent.Greenlet[..., None]] = {}
        self._recording: gevent.Greenlet[..., None] | None = None

    @property
    def errors(self) -> Counter[str]:
        """How many calls ended with each class of error."""
        return sum((writer.errors for writer in self._writers), Counter())

    def start(self) -> None:
        """Open the clients, and have everybody work."""
        for name in CLIENTS:
            self.clients[name] = self._ground.client(name)
            self._count_renewals(self.clients[name])
            self._hire(name)
        self._hire_rivals()
        for each in (*self.followers, *self.readers, *self._tenants, *self._writers):
            self._working[each] = gevent.spawn(each.run)
        self._recording = gevent.spawn(StateRecorder(self._history).run, [*self.followers, *self.readers])

    def failures(self) -> list[BaseException]:
        """What those died of who have ended."""
        return [work.exception for work in self._working.values() if work.exception is not None]

    def stop_writing(self) -> None:
        """Have nobody change anything any more: calls are killed, nodes given back.  Watching goes on, and is quick."""
        for follower in self.followers:
            follower.stalls = False
        self._dismiss([*self._writers, *self._tenants])

    def stop_following(self) -> None:
        """Have nobody begin to watch any more, nor look.  The watchers and mirrors that there are go on."""
        self._dismiss([*self.followers, *self.readers])

    def close(self) -> None:
        """Close all clients, whatever still goes on, and let go of everything.  May be called twice."""
        if self._recording is not None:
            self._recording.kill()
            self._recording = None
        gevent.killall(list(self._working.values()), block=False)
        gevent.joinall([gevent.spawn(client.close) for client in self.clients.values()])
        gevent.killall(list(self._working.values()))
        self.clients.clear()
        self._working.clear()
        for each in (self.followers, self.readers, self._tenants, self._writers):
            each.clear()

    def _dismiss(self, members: list[Process | Appender | PairWriter | Tenant | Follower | Reader]) -> None:
        gevent.killall([self._working[each] for each in members if each in self._working])

    def _count_renewals(self, client: getc.Client) -> None:
        keep_alive = client.v3.lease.keep_alive

        def counted(*args: Any, **options: Any) -> Any:
            answer = keep_alive(*args, **options)
            self.renewals += 1
            return answer

        client.v3.lease.keep_alive = counted  # type: ignore[method-assign]

    # -- who they are

    def _hire(self, name: str) -> None:
        client, history = self.clients[name], self._history
        for number in (1, 2):
            title = f'{name}/register {number}'
            self._writers.append(Process(title, name, client, history, self._rng(title)))
        self._writers.append(Appender(f'{name}/appender', name, client, history, self._rng(f'{name}/appender')))
        self._writers.append(PairWriter(f'{name}/pairs', name, client, history, self._rng(f'{name}/pairs')))
        self._tenants += [
            self._tenant(name, f'{SERVERS}/{name}-5', 5),
            self._tenant(name, f'{SERVERS}/{name}-4', 4),
            self._tenant(name, f'{SERVERS}/{name}-passing', 5, on_conflict='replace', stays=False),
        ]
        self.followers += [
            self._follower(name, REGISTERS),
            self._follower(name, {'a': ALL, 'b': SERVERS, 'c': PAIRS}[name]),
            self._follower(name, {'a': PAIRS, 'b': REGISTERS, 'c': ALL}[name], stalls=True),
            self._follower(name, {'a': NAMES, 'b': QUEUE, 'c': NAMES}[name], stays=False),
            # Nobody else of its client watches just that: so it needs a watch of its own.
            self._follower(name, {'a': f'{PAIRS}/0', 'b': f'{PAIRS}/1', 'c': f'{PAIRS}/2'}[name], resumes=True),
        ]
        self.readers += [
            Reader(f'{name}: mirror of {key}', key, name, client, self._ground, history) for key in (PAIRS, QUEUE)
        ]

    def _hire_rivals(self) -> None:
        for name in ('a', 'b'):
            self._tenants.append(self._tenant(name, f'{NAMES}/first', 4, stays=False))
            self._tenants.append(self._tenant(name, f'{NAMES}/lasting', 4))
        for name in ('b', 'c'):
            self._tenants.append(self._tenant(name, f'{NAMES}/replaced', 5, on_conflict='replace', stays=False))

        # All have one value.  Most of the time one of them has the node, and the others try to take it.
        for number, (name, on_conflict, patience) in enumerate(
            [('a', 'wait', None), ('a', 'raise', 0.5), ('b', 'raise', 2.0), ('c', 'raise', 0.5), ('c', 'wait', 1.0)]
        ):
            options = {'number': number, 'on_conflict': on_conflict, 'patience': patience, 'stays': patience is None}
            self._tenants.append(self._tenant(name, f'{NAMES}/same', 4, value='same', **options))

    def _tenant(self, name: str, key: str, ttl: int, **options: Any) -> Tenant:
        chance = self._rng(f'{name}{key} {options.get("number", 0)}')
        return Tenant(name, self.clients[name], key, ttl, self._history, chance, **options)

    def _follower(self, name: str, key: str, **options: Any) -> Follower:
        title = f'{name}:{key}' + ''.join(f' {option}={value}' for option, value in options.items())
        client, chance = self.clients[name], self._rng(title)
        return Follower(title, key, name, client, self._ground, self._history, chance, **options)

    def _rng(self, title: str) -> random.Random:
        return random.Random(f'{self._history.seed} {title}')
