"""The public side of daemons: what keepers, watchers, mirrors and iterators of changes offer to the program."""

from __future__ import annotations

from typing import TypeVar

from getc.daemons.base import Daemon
from getc.errors import EtcException
from getc.net.affinity import Unpicklable
from getc.options import STOP_TIMEOUT
from getc.timing import Deadline

__all__ = ['DaemonHandle']

_Self = TypeVar('_Self', bound='DaemonHandle')


class DaemonHandle(Unpicklable):
    """The public side of a daemon: what a program needs.  Backends and the registry use the daemon itself.

    Also a context manager: leaving the block stops the daemon.
    """

    __slots__ = ('__weakref__', '_daemon')

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    @property
    def key(self) -> str:
        """The key of the node."""
        return self._daemon.key

    @property
    def name(self) -> str:
        """The operation and the key, for logs and errors: as ``keep_node /servers/a``."""
        return self._daemon.name

    @property
    def last_error(self) -> EtcException | None:
        """The latest error, or None; a recovery does not reset it to None."""
        return self._daemon.last_error

    def stop(self, timeout: float | None = STOP_TIMEOUT) -> None:
        """Stop.  When this returns, no callback runs or will run.  A second call does nothing.

        Blocks until callbacks and requests in flight have ended.  What still runs at the timeout is killed, and has one
        more second to end.  May be called from a callback, which then continues.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TypeError, ValueError: The timeout is invalid.
            RuntimeError: This is not the thread of the client.
        """
        self._daemon.stop(Deadline.after(timeout))

    def join(self, timeout: float | None = None) -> bool:
        """Block until the daemon has stopped, and return True; or False at the timeout.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TypeError, ValueError: The timeout is invalid.
            RuntimeError: This is not the thread of the client.
        """
        return self._daemon.join(Deadline.after(timeout))

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
