"""What recipes need of a client: its backend, its registry of daemons, its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from getc.backends.base import Backend
from getc.daemons.registry import DaemonRegistry
from getc.net.client_log import ClientLog
from getc.options import Options
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout

__all__ = ['RecipeContext', 'RecipeHost']


class RecipeContext:
    """What the recipes of one client have in common.

    The backend is looked up on each use: the client replaces it once the API is known, and in a forked child.

    Args:
        backend: Returns the backend of the client.
        daemons: The daemons of the client, and whatever else ends with it.
        options: The options of the client.

    Attributes:
        daemons: The same.
        options: The same.
    """

    __slots__ = ('_backend', 'daemons', 'options')

    def __init__(self, backend: Callable[[], Backend], daemons: DaemonRegistry, options: Options) -> None:
        self._backend = backend
        self.daemons = daemons
        self.options = options

    @property
    def backend(self) -> Backend:
        """The backend to use now.  Performs no I/O.

        Raises:
            ClientClosed: The client was closed.
            RuntimeError: This is not the thread of the client.
        """
        return self._backend()

    @property
    def log(self) -> ClientLog:
        """The log of the client."""
        return self.daemons.log

    def deadline(self, timeout: Timeout = DEFAULT_TIMEOUT) -> Deadline:
        """Return the deadline of a call; that of the client if there is no timeout.

        Raises:
            TypeError, ValueError: The timeout is invalid.
        """
        return Deadline(self.options.timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)


class RecipeHost(Protocol):
    """What a recipe is created with: a :class:`getc.Client`."""

    @property
    def _recipe_context(self) -> RecipeContext: ...
