"""A game server: registered while it is healthy, and notified of configuration changes while it runs.

``run`` contains all that a game server needs of getc.  Nothing is monkey-patched.  A real server would write a log
instead of calling ``report``.
"""

from __future__ import annotations

import signal
import time
from typing import Final, Literal

import gevent
from gevent.event import Event

import getc
from tools.demo.reports import Report, on_stdin_closed

__all__ = ['TICK', 'TTL', 'World', 'report_state', 'run']

TTL: Final = 3
"""Seconds after which etcd deletes the node of a server that has crashed."""

TICK: Final = 1 / 50
"""Seconds from one step of the world to the next."""

HANG_TIMEOUT: Final = 5.0
"""Seconds without a tick after which the world counts as hung.  Longer than any pause of a busy machine."""


def run(name: str, url: str, api: Literal['v2', 'v3'], report: Report) -> None:
    """Run the game server of this name until SIGTERM."""
    world = World()
    gevent.signal_handler(signal.SIGTERM, world.stop)
    on_stdin_closed(world.stop)
    ticking = gevent.spawn(world.tick)

    with getc.etcd(url, api=api) as etcd:

        @etcd.on_change('/cfg', initial=True)  # the present configuration, then every change, each exactly once
        def configure(result: getc.EtcdResult) -> None:
            if result.key == '/cfg/rate':
                if result.value is not None:  # deleted: keep the last rate
                    world.rate = result.value
                report(rate=result.value)

        def close_doors(keeper: getc.Keeper) -> None:
            """Other processes may consider this server dead: keep the players, accept no new ones."""
            world.is_open = False
            report(became='lost')

        def open_doors(keeper: getc.Keeper) -> None:
            """getc has registered this server again."""
            world.is_open = True
            report(became='restored')

        keeper = etcd.keep_node(
            f'/servers/{name}',
            f'{name}.example:7000',
            ttl=TTL,
            alive=world.is_ticking,  # a server that hangs must not appear registered
            on_lost=close_doors,
            on_restored=open_doors,
        )
        world.is_open = True
        report_state(world, keeper, report)
    # The client is closed here and the node deleted: followers see at once that the server left.
    ticking.join()


def report_state(world: World, keeper: getc.Keeper, report: Report) -> None:
    """Report each new state of the keeper, and the world's ticks twice a second, until the world stops."""
    state, reported_at = None, 0.0
    while not world.stopped.is_set():
        if keeper.state is not state:  # reading `state` does no I/O
            state = keeper.state
            report(state=state.name)
        if time.monotonic() - reported_at > 0.5:
            reported_at = time.monotonic()
            report(ticks=world.ticks, worst_gap=world.worst_gap, at=reported_at)
        world.stopped.wait(0.02)


class World:
    """The game world.  It ticks, also while etcd is down."""

    def __init__(self) -> None:
        self.rate = '1'
        self.is_open = False
        self.stopped = Event()
        self.ticks = 0
        self.worst_gap = 0.0
        self._ticked_at = time.monotonic()

    def tick(self) -> None:
        """Run step after step until the world is stopped."""
        due = time.monotonic()
        while not self.stopped.is_set():
            now = time.monotonic()
            self.worst_gap = max(self.worst_gap, now - self._ticked_at)
            self._ticked_at = now
            self.ticks += 1
            due = max(due + TICK, now)
            gevent.sleep(due - now)

    def is_ticking(self) -> bool:
        """Return True if the last tick is recent."""
        return time.monotonic() - self._ticked_at < HANG_TIMEOUT

    def stop(self) -> None:
        """Stop the world."""
        self.stopped.set()
