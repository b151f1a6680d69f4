"""A game server: present while it is well, and told of its configuration while it runs.

``run`` is all that it needs of getc.  Nothing is monkey-patched.  ``tell`` is where another server would log.
"""

from __future__ import annotations

import signal
import time
from typing import Final, Literal

import gevent
from gevent.event import Event

import getc
from tools.demo.reports import Tell, when_dismissed

__all__ = ['TICK', 'TTL', 'World', 'look_after', 'run']

TTL: Final = 3
"""Seconds after which the node of a server that died is gone."""

TICK: Final = 1 / 50
"""Seconds from one step of the world to the next."""


def run(name: str, url: str, api: Literal['v2', 'v3'], tell: Tell) -> None:
    """Be the game server of this name, until SIGTERM."""
    world = World()
    gevent.signal_handler(signal.SIGTERM, world.end)
    when_dismissed(world.end)
    ticking = gevent.spawn(world.tick)

    with getc.etcd(url, api=api) as etcd:

        @etcd.on_change('/cfg', initial=True)  # what is there now, then every change, each exactly once
        def configure(result: getc.EtcdResult) -> None:
            if result.key == '/cfg/rate':
                if result.value is not None:  # deleted: the last one stays in force
                    world.rate = result.value
                tell(rate=result.value)

        def close_doors(keeper: getc.Keeper) -> None:
            """Others may take us for dead from now on: players stay, no new ones come."""
            world.is_open = False
            tell(became='lost')

        def open_doors(keeper: getc.Keeper) -> None:
            """getc has registered us again."""
            world.is_open = True
            tell(became='restored')

        keeper = etcd.keep_node(
            f'/servers/{name}',
            f'{name}.example:7000',
            ttl=TTL,
            alive=world.is_ticking,  # a server that hangs shall not look present
            on_lost=close_doors,
            on_restored=open_doors,
        )
        world.is_open = True
        look_after(world, keeper, tell)
    # Here the client is closed and the node deleted: who follows sees at once that the server left.
    ticking.join()


def look_after(world: World, keeper: getc.Keeper, tell: Tell) -> None:
    """Report each state of the keeper, and now and then how the world ticks, until its end."""
    state, told_at = None, 0.0
    while not world.ended.is_set():
        if keeper.state is not state:  # asking it does no I/O
            state = keeper.state
            tell(state=state.name)
        if time.monotonic() - told_at > 0.5:
            told_at = time.monotonic()
            tell(ticks=world.ticks, worst_gap=world.worst_gap, at=told_at)
        world.ended.wait(0.02)


class World:
    """What the players are in.  It ticks, whatever becomes of etcd."""

    def __init__(self) -> None:
        self.rate = '1'
        self.is_open = False
        self.ended = Event()
        self.ticks = 0
        self.worst_gap = 0.0
        self._ticked_at = time.monotonic()

    def tick(self) -> None:
        """Go on, step by step, until the end."""
        due = time.monotonic()
        while not self.ended.is_set():
            now = time.monotonic()
            self.worst_gap = max(self.worst_gap, now - self._ticked_at)
            self._ticked_at = now
            self.ticks += 1
            due = max(due + TICK, now)
            gevent.sleep(due - now)

    def is_ticking(self) -> bool:
        """True if the last tick was not long ago."""
        return time.monotonic() - self._ticked_at < 1.0

    def end(self) -> None:
        """Let it be over."""
        self.ended.set()
