"""Starts the game servers and the lobby, processes their reports, and waits for expected changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import gevent

import getc
from getc.testing import EtcdServer
from tools.demo.display import Display
from tools.demo.expectations import Change, Expectations
from tools.demo.processes import RoleProcess

__all__ = ['TIMEOUT', 'ExpectationTimeout', 'Orchestrator', 'Step', 'TickCount']

TIMEOUT: Final = 120.0
"""Seconds until an expectation has failed.  Generous: a process takes many seconds to start on a busy machine."""


class ExpectationTimeout(Exception):
    """An expected condition did not become true in time."""


@dataclass(frozen=True, slots=True)
class TickCount:
    """The tick counter of a server's world at one moment.

    Attributes:
        ticks: Ticks since the world's start.
        at: The time of the reading, in seconds.
    """

    ticks: int
    at: float

    def rate_since(self, earlier: TickCount) -> float:
        """Return the ticks a second since an earlier reading; 0.0 if this is the same one."""
        return (self.ticks - earlier.ticks) / (self.at - earlier.at) if self.at > earlier.at else 0.0


class Orchestrator:
    """Runs the steps of the demo with role processes and an etcd.

    Also a context manager, which kills the processes at its end.

    Args:
        etcd: A running etcd.
        api: The API that every process uses.
        display: Prints what happens.
        timeout: Seconds until an expectation has failed.

    Attributes:
        expectations: Expected and observed changes.
        states: The states of each server's keeper, the latest last.
        rates: The /cfg/rate that each server has received; None if there is none.
        rate_received_at: When each server's report of it arrived, in seconds.
        tick_counts: The latest of each server.
        worst_gaps: The longest time between two ticks of each server over all its processes, in seconds.
        roster: The servers that the lobby shows, with 'here' or how they went.
        is_stale: True if the lobby reports that its roster may be behind.
    """

    def __init__(
        self, etcd: EtcdServer, *, api: Literal['v2', 'v3'], display: Display, timeout: float = TIMEOUT
    ) -> None:
        self.etcd = etcd
        self.expectations = Expectations()
        self.states: dict[str, list[str]] = {}
        self.rates: dict[str, str | None] = {}
        self.rate_received_at: dict[str, float] = {}
        self.tick_counts: dict[str, TickCount] = {}
        self.worst_gaps: dict[str, float] = {}
        self.roster: dict[str, str] = {}
        self.is_stale = False
        self._api = api
        self._display = display
        self._timeout = timeout
        self._client = getc.etcd(etcd.url, api=api, timeout=timeout)
        self._rate: str | None = None
        self._processes: dict[str, RoleProcess] = {}
        self._missing: set[str] = set()  # servers that the lobby's resync did not find

    def __enter__(self) -> Orchestrator:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
        self._client.close()

    def run_steps(self, steps: Sequence[Step]) -> list[str]:
        """Run the steps until the last one, or until one fails.  Return the faults, one line each."""
        try:
            for number, step in enumerate(steps, 1):
                self._display.step(number, step.__doc__ or step.__name__)
                step(self)
        except (ExpectationTimeout, getc.EtcException) as error:
            return [str(error), *self.expectations.faults()]
        return self.expectations.faults()

    def log(self, message: str, *, source: str = 'demo') -> None:
        """Print a line."""
        self._display.line(source, message)

    # -- actions of a step

    @property
    def servers(self) -> list[str]:
        """The names of the servers that run."""
        return sorted(name for name in self._processes if name != 'lobby')

    def start_lobby(self) -> None:
        """Start the lobby."""
        self._start('lobby', 'lobby', self.etcd.url)

    def start_server(self, name: str) -> None:
        """Start a game server."""
        self.expectations.expect(Change('lobby', name, 'joined'))
        if self._rate is not None:
            self.expectations.expect(Change(name, '/cfg', 'rate', self._rate))
        self.states[name], self.rates[name] = [], None
        self.tick_counts.pop(name, None)  # of an earlier process
        self._start(name, 'server', name, self.etcd.url)

    def kill_server(self, name: str) -> None:
        """Kill a game server by SIGKILL."""
        self.expectations.expect(Change('lobby', name, 'expired'))
        self._processes.pop(name).kill()

    def terminate_server(self, name: str) -> None:
        """Send SIGTERM to a game server and wait until it has ended.

        Raises:
            ExpectationTimeout: It still runs, or ended with an error.
        """
        self.expectations.expect(Change('lobby', name, 'left'))
        process = self._processes.pop(name)
        process.terminate()
        try:
            self.wait_for(f'the end of {name}', lambda: process.status is not None)
        finally:
            process.kill()
        if process.status != 0:
            raise ExpectationTimeout(f'{name} ended with status {process.status} after SIGTERM, expected 0')

    def set_rate(self, rate: int) -> None:
        """Change the configuration of all servers.

        Raises:
            EtcException: The write failed.
        """
        self._rate = str(rate)
        self.expectations.expect(*(Change(name, '/cfg', 'rate', self._rate) for name in self.servers))
        self._client.set('/cfg/rate', self._rate)

    def _start(self, name: str, *role: str) -> None:
        self._processes[name] = RoleProcess(name, ['--api', self._api, *role], self._on_report)

    # -- waiting

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until the condition is true.

        Raises:
            ExpectationTimeout: It did not become true in time, or a process has ended.
        """
        end = time.monotonic() + self._timeout
        while not condition():
            for name, process in self._processes.items():
                if process.status is not None:
                    raise ExpectationTimeout(f'{name} ended with status {process.status} while waiting for {what}')
            if time.monotonic() > end:
                raise ExpectationTimeout(f'waited {self._timeout:g} s in vain for {what}')
            gevent.sleep(0.01)

    def wait_for_all(self) -> None:
        """Wait until every expected change was observed.

        Raises:
            ExpectationTimeout: A change was not observed in time.
        """
        count = len(self.expectations.missing())
        self.wait_for(f'all of {count} changes', lambda: not self.expectations.missing())

    # -- processing of reports

    def _on_report(self, name: str, facts: dict[str, Any]) -> None:
        match facts:
            case {'state': state}:
                self.states[name].append(state)
                self.log(f'{state:<8} {getc.KeeperState[state].value}', source=name)
            case {'ticks': ticks, 'worst_gap': gap, 'at': at}:
                self.tick_counts[name] = TickCount(ticks, at)
                self.worst_gaps[name] = max(gap, self.worst_gaps.get(name, 0.0))
            case {'became': topic}:
                self.expectations.observe(Change(name, '/servers', topic))
            case {'rate': rate}:
                self._on_rate(name, rate)
            case {'server': server, 'change': change, 'resync': resync, 'roster': roster}:
                self._on_server_change(server, change, resync)
                self._show_roster(f'{server} {change}', roster)
            case {'resynced': True, 'roster': roster}:
                self.expectations.observe(Change('lobby', '/servers', 'resync'))
                self._show_roster('resync: compared with etcd', roster)
            case {'stale': is_stale, 'roster': roster}:
                self.is_stale = is_stale
                self._show_roster('the roster is stale' if is_stale else 'the roster is live again', roster)
            case _:
                raise ValueError(f'unknown report of {name}: {facts}')

    def _on_server_change(self, server: str, change: str, resync: bool) -> None:
        """Record a change, unless it is part of a resync.

        What a resync reports depends on its time: that a server is gone and later, as an ordinary change, that it
        is back; or that it has another node.  Only the roster at the end is determined.
        """
        if resync:
            if change == 'gone':
                self._missing.add(server)
            else:
                self._missing.discard(server)
        elif change == 'joined' and server in self._missing:
            self._missing.remove(server)
        else:
            self.expectations.observe(Change('lobby', server, change))

    def _show_roster(self, message: str, roster: dict[str, str]) -> None:
        self.roster = roster
        self._display.line('lobby', message, roster, is_stale=self.is_stale)

    def _on_rate(self, name: str, rate: str | None) -> None:
        if rate is None:
            self.log(f'/cfg/rate is gone; {self.rates[name]} stays in force', source=name)
        else:
            self.expectations.observe(Change(name, '/cfg', 'rate', rate))
        self.rates[name] = rate
        self.rate_received_at[name] = time.monotonic()


Step = Callable[[Orchestrator], None]
"""Its docstring is its title."""
