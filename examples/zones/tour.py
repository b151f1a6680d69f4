"""A demonstration of half a minute, in one process and on a store in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final

import gevent

import getc
from examples.zones.board import Board, Screen
from examples.zones.matchmaker import Matchmaker
from examples.zones.zone import SHARDS, Zone
from getc.testing import MemoryLink, MemoryStore

__all__ = ['PLAYERS', 'Tour']

log = logging.getLogger('zones')

TTL: Final = 3
PLAYERS: Final = ('ann', 'bob', 'cid', 'dot', 'eve', 'fay', 'gus', 'hal', 'ida', 'jon', 'kim', 'lea')

Step = tuple[float, str, Callable[[], object]]
"""Seconds to wait before the step, its title, and its action."""


class Tour:
    """Starts, drains, disconnects and stops zones, while players join and play.

    Args:
        screen: Shows the board and the messages.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._store = MemoryStore()
        self._links: dict[str, MemoryLink] = {}
        self._zones: list[Zone] = []
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._clients = ExitStack()
        self._etcd = self._connect(self._store.url)
        self._board = Board(self._etcd, SHARDS, is_colored=screen.is_colored)
        self._matchmaker = Matchmaker(self._etcd)

    def run(self) -> bool:
        """Run all steps.  Return True if every player has a shard with an owner, and has gold."""
        background = [gevent.spawn(self._seat_players)]
        if self._screen.is_terminal:
            background.append(gevent.spawn(self._redraw))
        with self._clients:
            try:
                for seconds, title, action in self._steps():
                    gevent.sleep(seconds)
                    log.info('-- %s', title)
                    action()
                has_all = self._has_all_players()
                self._drain()
            finally:
                gevent.killall(background)
        log.info('-- %s', 'every player has kept its place and its gold' if has_all else 'FAILED: players were lost')
        return has_all

    def _steps(self) -> Iterator[Step]:
        yield 0, 'zones a and b start, and players join', lambda: self._start('a', 'b')
        yield 5, 'zone c starts, and takes its share', lambda: self._start('c')
        yield 4, 'an operator sets /cfg/step to 0.25', lambda: self._etcd.set('/cfg/step', '0.25')
        yield 4, 'an operator sets /cfg/drain/a', lambda: self._etcd.set('/cfg/drain/a', 'maintenance')
        yield 4, 'an operator deletes /cfg/drain/a', lambda: self._etcd.delete('/cfg/drain/a')
        yield 4, 'zone c is disconnected from etcd', lambda: self._links['c'].disconnect()
        yield 2 * TTL, 'zone c is connected again', lambda: self._links['c'].connect()
        yield 4, 'the final state', self._draw

    def _start(self, *names: str) -> None:
        for name in names:
            self._links[name] = self._store.link()
            zone = Zone(self._connect(self._links[name].url), name, ttl=TTL)
            self._zones.append(zone)
            self._greenlets.append(gevent.spawn(zone.run))

    def _drain(self) -> None:
        for zone in self._zones:
            zone.stop()
        gevent.joinall(self._greenlets, raise_error=True)

    def _seat_players(self) -> None:
        self._matchmaker.claims.wait(lambda claims: len(claims) == len(SHARDS))
        for player in PLAYERS:
            log.info('matchmaker: %s goes to the %s', player, self._matchmaker.seat(player))
            gevent.sleep(0.5)

    def _has_all_players(self) -> bool:
        gold: dict[str, int] = {}
        for world in self._etcd.mirror('/worlds').nodes.values():
            gold.update(world.json()['gold'])
        return all(gold.get(player) and self._matchmaker.server_of(player) for player in PLAYERS)

    def _draw(self) -> None:
        self._screen.draw(self._board.lines())

    def _redraw(self) -> None:
        while True:
            self._draw()
            gevent.sleep(0.1)

    def _connect(self, url: str) -> getc.Client:
        return self._clients.enter_context(getc.etcd(url))
