"""The director: starts the servers and the lobby, hears their reports, and waits for what has to happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import gevent

import getc
from getc.testing import EtcdServer
from tools.demo.display import Display
from tools.demo.expectations import Change, Ledger
from tools.demo.processes import Actor

__all__ = ['PATIENCE', 'Director', 'Pulse', 'Scene', 'Unseen']

PATIENCE: Final = 15.0
"""Seconds for something to be seen."""


class Unseen(Exception):
    """Something that had to happen was not seen in time."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """How far a server's world was.

    Attributes:
        ticks: So many since its start.
        at: When, in seconds.
    """

    ticks: int
    at: float

    def ticks_a_second_since(self, earlier: Pulse) -> float:
        """Its speed; 0.0 if it was not heard of since."""
        return (self.ticks - earlier.ticks) / (self.at - earlier.at) if self.at > earlier.at else 0.0


class Director:
    """Plays scenes with actors and an etcd.

    Also a context manager: leaving it ends the actors.

    Args:
        etcd: Where it all happens; it runs.
        api: Which API everybody speaks.
        display: What the audience sees.
        patience: Seconds for something to be seen.

    Attributes:
        ledger: What was announced, and what was seen.
        states: The states of each server's keeper, the latest last.
        rates: The /cfg/rate that each server knows, or None.
        rate_heard_at: When each server said so, in seconds.
        pulses: The latest of each server.
        worst_gaps: Seconds between two ticks of each server at worst, all its lives together.
        roster: What the lobby shows: of each server, whether it is here.
        is_stale: The lobby knows that its roster may be behind.
    """

    def __init__(
        self, etcd: EtcdServer, *, api: Literal['v2', 'v3'], display: Display, patience: float = PATIENCE
    ) -> None:
        self.etcd = etcd
        self.ledger = Ledger()
        self.states: dict[str, list[str]] = {}
        self.rates: dict[str, str | None] = {}
        self.rate_heard_at: dict[str, float] = {}
        self.pulses: dict[str, Pulse] = {}
        self.worst_gaps: dict[str, float] = {}
        self.roster: dict[str, str] = {}
        self.is_stale = False
        self._api = api
        self._display = display
        self._patience = patience
        self._client = getc.etcd(etcd.url, api=api)
        self._rate: str | None = None
        self._actors: dict[str, Actor] = {}
        self._missing: set[str] = set()  # servers that the lobby's comparison did not find

    def __enter__(self) -> Director:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            actor.kill()
        self._client.close()

    def play(self, scenes: Sequence[Scene]) -> list[str]:
        """Play them to the end, or until one fails.  Return what went wrong, a line each."""
        try:
            for number, scene in enumerate(scenes, 1):
                self._display.scene(number, scene.__doc__ or scene.__name__)
                scene(self)
        except (Unseen, getc.EtcException) as error:
            return [str(error), *self.ledger.faults()]
        return self.ledger.faults()

    def say(self, what: str, *, who: str = 'director') -> None:
        """Tell the audience."""
        self._display.line(who, what)

    # -- what a scene has happen

    @property
    def servers(self) -> list[str]:
        """The names of the servers that are up."""
        return sorted(name for name in self._actors if name != 'lobby')

    def open_lobby(self) -> None:
        """Start the lobby."""
        self._start('lobby', 'lobby', self.etcd.url)

    def start(self, name: str) -> None:
        """Start a server."""
        self.ledger.announce(Change('lobby', name, 'joined'))
        if self._rate is not None:
            self.ledger.announce(Change(name, '/cfg', 'rate', self._rate))
        self.states[name], self.rates[name] = [], None
        self.pulses.pop(name, None)  # of an earlier life
        self._start(name, 'server', name, self.etcd.url)

    def kill(self, name: str) -> None:
        """Have a server crash."""
        self.ledger.announce(Change('lobby', name, 'expired'))
        self._actors.pop(name).kill()

    def terminate(self, name: str) -> None:
        """Ask a server to end, and wait until it has done so.

        Raises:
            Unseen: It goes on, or fails.
        """
        self.ledger.announce(Change('lobby', name, 'left'))
        actor = self._actors[name]
        actor.terminate()
        self.wait_for(f'the end of {name}', lambda: actor.status == 0)
        self._actors.pop(name).kill()

    def set_rate(self, rate: int) -> None:
        """Change the configuration of all servers.

        Raises:
            EtcException: It was not possible.
        """
        self._rate = str(rate)
        self.ledger.announce(*(Change(name, '/cfg', 'rate', self._rate) for name in self.servers))
        self._client.set('/cfg/rate', self._rate)

    def _start(self, name: str, *role: str) -> None:
        self._actors[name] = Actor(name, ['--api', self._api, *role], self._hear)

    # -- waiting for it

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until it is true.

        Raises:
            Unseen: It did not become true in time.
        """
        end = time.monotonic() + self._patience
        while not condition():
            for name, actor in self._actors.items():
                if actor.status is not None:
                    raise Unseen(f'{name} ended with status {actor.status}, before this came: {what}')
            if time.monotonic() > end:
                raise Unseen(f'did not come within {self._patience:g} s: {what}')
            gevent.sleep(0.002)

    def wait_for_all(self) -> None:
        """Wait until everything that was announced was seen.

        Raises:
            Unseen: It was not, in time.
        """
        count = len(self.ledger.outstanding())
        self.wait_for(f'all of {count} changes', lambda: not self.ledger.outstanding())

    # -- hearing of it

    def _hear(self, name: str, facts: dict[str, Any]) -> None:
        """An actor reports."""
        match facts:
            case {'state': state}:
                self.states[name].append(state)
                self.say(f'{state:<8} {getc.KeeperState[state].value}', who=name)
            case {'ticks': ticks, 'worst_gap': gap, 'at': at}:
                self.pulses[name] = Pulse(ticks, at)
                self.worst_gaps[name] = max(gap, self.worst_gaps.get(name, 0.0))
            case {'became': topic}:
                self.ledger.see(Change(name, '/servers', topic))
            case {'rate': rate}:
                self._hear_rate(name, rate)
            case {'server': server, 'change': change, 'by_comparison': by_comparison, 'roster': roster}:
                self._hear_change(server, change, by_comparison)
                self._show_roster(f'{server} {change}', roster)
            case {'resync': True, 'roster': roster}:
                self.ledger.see(Change('lobby', '/servers', 'resync'))
                self._show_roster('resync: compared with etcd', roster)
            case {'stale': is_stale, 'roster': roster}:
                self.is_stale = is_stale
                self._show_roster('the roster is stale' if is_stale else 'the roster is live again', roster)
            case _:
                raise ValueError(f'{name} reports what nobody understands: {facts}')

    def _hear_change(self, server: str, change: str, by_comparison: bool) -> None:
        """Note a change that was made.

        What a comparison tells depends on when it is made: that a server is gone, and later, as a change
        like others, that it is back; or that another node of it is there.  The roster tells that it is right.
        """
        if by_comparison:
            if change == 'gone':
                self._missing.add(server)
            else:
                self._missing.discard(server)
        elif change == 'joined' and server in self._missing:
            self._missing.remove(server)
        else:
            self.ledger.see(Change('lobby', server, change))

    def _show_roster(self, what: str, roster: dict[str, str]) -> None:
        self.roster = roster
        self._display.line('lobby', what, roster, is_stale=self.is_stale)

    def _hear_rate(self, name: str, rate: str | None) -> None:
        if rate is None:
            self.say(f'/cfg/rate is gone; {self.rates[name]} stays in force', who=name)
        else:
            self.ledger.see(Change(name, '/cfg', 'rate', rate))
        self.rates[name] = rate
        self.rate_heard_at[name] = time.monotonic()


Scene = Callable[[Director], None]
"""Its docstring is its title."""
