"""Half a minute of the whole of it, in one process and on a store in memory."""

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

Scene = tuple[float, str, Callable[[], object]]
"""Seconds before it, what is told of it, and what is done."""


class Tour:
    """Zones come, drain, are cut off and end, while players come and play.

    Args:
        screen: Where it is shown.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._store = MemoryStore()
        self._links: dict[str, MemoryLink] = {}
        self._zones: list[Zone] = []
        self._serving: list[gevent.Greenlet[..., None]] = []
        self._clients = ExitStack()
        self._etcd = self._connect(self._store.url)
        self._board = Board(self._etcd, SHARDS, is_coloured=screen.is_coloured)
        self._matchmaker = Matchmaker(self._etcd)

    def run(self) -> bool:
        """Show it to the end.  True if every player has a place where it can play, and has played."""
        background = [gevent.spawn(self._seat_players)]
        if self._screen.is_terminal:
            background.append(gevent.spawn(self._draw_again_and_again))
        with self._clients:
            try:
                for seconds, what, do in self._scenes():
                    gevent.sleep(seconds)
                    log.info('-- %s', what)
                    do()
                is_well = self._has_all_players()
                self._drain()
            finally:
                gevent.killall(background)
        log.info('-- %s', 'every player has kept its place and its gold' if is_well else 'FAILED: players were lost')
        return is_well

    def _scenes(self) -> Iterator[Scene]:
        yield 0, 'zones a and b start, and players come', lambda: self._start('a', 'b')
        yield 5, 'zone c starts, and gets its share', lambda: self._start('c')
        yield 4, 'an operator sets /cfg/step to 0.25', lambda: self._etcd.set('/cfg/step', '0.25')
        yield 4, 'an operator sets /cfg/drain/a', lambda: self._etcd.set('/cfg/drain/a', 'maintenance')
        yield 4, 'an operator deletes /cfg/drain/a', lambda: self._etcd.delete('/cfg/drain/a')
        yield 4, 'zone c is cut off from etcd', lambda: self._links['c'].disconnect()
        yield 2 * TTL, 'zone c is connected again', lambda: self._links['c'].connect()
        yield 4, 'this is how it stands', self._draw

    def _start(self, *names: str) -> None:
        for name in names:
            self._links[name] = self._store.link()
            zone = Zone(self._connect(self._links[name].url), name, ttl=TTL)
            self._zones.append(zone)
            self._serving.append(gevent.spawn(zone.run))

    def _drain(self) -> None:
        for zone in self._zones:
            zone.end()
        gevent.joinall(self._serving, raise_error=True)

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

    def _draw_again_and_again(self) -> None:
        while True:
            self._draw()
            gevent.sleep(0.1)

    def _connect(self, url: str) -> getc.Client:
        return self._clients.enter_context(getc.etcd(url))
