"""How far a client has seen: nothing that it is told later may be older.

A read that one server answers alone may be answered by one that lags behind, after a switch for one.  Its index tells:
then all servers are asked.  What they agree on counts in any case.  If that is less than what was seen before they were
asked, the store went back: it was wiped, or restored from a backup, and is seen anew from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from getc.errors import EtcdError, FutureRevision
from getc.model import EtcdResult
from getc.operations import Get
from getc.retry import may_pass

__all__ = ['Horizon']


class Horizon:
    """How far a client has seen.

    Attributes:
        index: Of the latest that it was told; 0 before anything.
    """

    __slots__ = ('index',)

    def __init__(self) -> None:
        self.index = 0

    def saw(self, index: int) -> None:
        """It was told of this by a server alone."""
        if index > self.index:
            self.index = index

    def agreed(self, index: int, since: int) -> None:
        """All servers agreed that they are here, when they were asked; ``since`` is what had been seen before.

        0 is no index: the answer does not tell it, as where a proxy cuts it out.
        """
        if 0 < index < since:
            self.index = index  # the store went back
        else:
            self.saw(index)

    def agree(self, execute: Callable[[], EtcdResult]) -> EtcdResult:
        """Do what all servers agree on: a write, or a linearizable read."""
        since = self.index
        try:
            result = execute()
        except EtcdError as error:
            if error.index is not None and not may_pass(error):
                self.agreed(error.index, since)
            raise
        self.agreed(result.etcd_index, since)
        return result

    def read(self, get: Get, execute: Callable[[Get], EtcdResult]) -> EtcdResult:
        """Read from one server; from all, if that one has not come as far as was seen."""
        since = self.index
        try:
            result = execute(get)
        except FutureRevision:
            pass  # the rest of a listing came to one that lags behind who began it
        except EtcdError as error:
            if error.index is None or error.index >= since or may_pass(error):
                raise
        else:
            if result.etcd_index >= since:
                self.saw(result.etcd_index)
                return result
        return self.agree(lambda: execute(replace(get, quorum=True)))
