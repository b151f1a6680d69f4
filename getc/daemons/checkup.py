"""Whether a process is well: its own function is asked, one question at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

__all__ = ['Checkup']

logger = logging.getLogger('getc')

Spawn = Callable[..., 'gevent.Greenlet[..., None]']


class Checkup:
    """Asks a function of the user's whether all is well.

    Args:
        alive: The function; what it returns counts as True or False.
        name: Whose it is, for logs.
    """

    __slots__ = ('_alive', '_asked', '_name')

    def __init__(self, alive: Callable[[], object], name: str) -> None:
        self._alive = alive
        self._name = name
        self._asked: gevent.Greenlet[..., None] | None = None  # the last question, if it does not end

    def passes(self, patience: float, spawn: Spawn) -> bool:
        """Ask, and return whether all is well.  Blocks for so many seconds at most.

        No answer in time, an exception and being killed are a no.  A function that catches its timeout and goes on is
        killed when it should be asked again, which is one more no: at each renewal another would become thousands.

        Args:
            patience: Seconds.
            spawn: Runs the question in a greenlet, and ends it with its daemon.
        """
        if self._asked is not None and not self._asked.dead:
            self._asked.kill(block=False)
            return False
        answers: list[bool] = []
        asked = self._asked = spawn(self._ask, patience, answers)
        asked.join(patience)
        if asked.dead:
            self._asked = None
        return answers == [True]

    def _ask(self, patience: float, answers: list[bool]) -> None:
        timeout = gevent.Timeout(patience)
        try:
            with timeout:
                answers.append(bool(self._alive()))
        except (Exception, gevent.Timeout) as error:
            what = f'did not answer within {patience:g} s' if error is timeout else 'raised'
            logger.warning('%s: alive %r %s, which counts as False', self._name, self._alive, what, exc_info=True)
