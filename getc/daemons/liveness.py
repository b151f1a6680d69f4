"""Whether a process is well: its own function is asked, one question at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from getc import timing
from getc.daemons.failures import notify_failure

__all__ = ['LivenessProbe']

logger = logging.getLogger('getc')

Spawn = Callable[..., 'gevent.Greenlet[..., None]']


class LivenessProbe:
    """Asks a function of the user's whether all is well.

    Args:
        alive: The function; what it returns counts as True or False.
        name: Whose it is, for logs.
    """

    __slots__ = ('_alive', '_answers', '_asked', '_name', '_overdue_at')

    def __init__(self, alive: Callable[[], object], name: str) -> None:
        self._alive = alive
        self._name = name
        self._asked: gevent.Greenlet[..., None] | None = None  # the question that is open, if one is
        self._answers: list[bool] = []
        self._overdue_at = 0.0

    def passes(self, patience: float, spawn: Spawn) -> bool:
        """Ask, and return whether all is well.  Blocks for so many seconds at most.

        No answer in time, an exception and being killed are a no.  Who asks while a question is open gets its answer,
        too.  A function that caught its timeout and goes on is killed when it should be asked again, which is one more
        no: at each renewal another would become thousands.

        Args:
            patience: Seconds.
            spawn: Runs the question in a greenlet, and ends it with its daemon.
        """
        asked, answers = self._asked, self._answers
        if asked is None or asked.dead:
            answers = self._answers = []
            asked = self._asked = spawn(self._ask, patience, answers)
            self._overdue_at = timing.now() + patience
        elif timing.now() >= self._overdue_at:
            asked.kill(block=False)
            return False
        asked.join(self._overdue_at - timing.now())
        if asked.dead and self._asked is asked:
            self._asked = None
        return answers == [True]

    def _ask(self, patience: float, answers: list[bool]) -> None:
        timeout = gevent.Timeout(patience)
        try:
            with timeout:
                answers.append(bool(self._alive()))
        except (Exception, gevent.Timeout) as error:
            what = f'did not answer within {patience:g} s' if error is timeout else 'raised'
            text = '%s: alive %r %s, which counts as False'
            # In a greenlet of its own: the program's handlers may block, and the question is over.
            gevent.spawn(logger.warning, text, self._name, self._alive, what, exc_info=error)
            notify_failure(error)
