"""Records the RPCs of a client, and calls functions before and after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import getc
from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.schema.table import Method

__all__ = ['Calls']


class Calls:
    """Records the RPCs of a client.

    Args:
        client: A client of etcd v3.

    Attributes:
        before: Called with the name of each RPC before it is sent, if set.
        after: Called with the name and the response of each RPC, if set.
    """

    def __init__(self, client: getc.Client) -> None:
        self.before: Callable[[str], object] | None = None
        self.after: Callable[[str, Any], object] | None = None
        self._made: list[tuple[str, Any]] = []
        rpc: Any = client.v3._rpc
        self._call = rpc.call
        rpc.call = self._record

    @property
    def names(self) -> list[str]:
        """The names of the RPCs since the last look, as ``['Range', 'Txn']``."""
        return [name for name, _ in self.take()]

    @property
    def last(self) -> tuple[str, Any]:
        """The name and the request of the last RPC."""
        return self._made[-1]

    def take(self) -> list[tuple[str, Any]]:
        """Return the names and the requests of the RPCs since the last call, and forget them."""
        made, self._made = self._made, []
        return made

    def _record(
        self, method: Method[Any, Any], request: Any, timeout: Timeout = DEFAULT_TIMEOUT, **options: Any
    ) -> Any:
        name = method.path.rpartition('/')[2]
        if isinstance(request, bytes):
            request = method.request.FromString(request)
        self._made.append((name, request))
        if self.before is not None:
            self.before(name)
        response = self._call(method, request, timeout, **options)
        if self.after is not None:
            self.after(name, response)
        return response
