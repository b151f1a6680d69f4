"""Records what a test starts, so that leak checks need no scan of the process and a failed test leaves nothing running.

``tests/conftest.py`` creates one :class:`Leftovers` for each test.  Greenlets are recorded by gevent's spawn callback
and clients by a wrapper of their constructor, so objects of earlier tests are never counted.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import gevent
import pytest
from gevent.greenlet import Greenlet

from getc.client import Client

__all__ = [
    'FAILED',
    'Leftovers',
    'check_greenlets',
    'greenlets_of_getc',
    'has_failed',
    'open_clients',
    'running_greenlets',
]

FAILED: Final = pytest.StashKey[bool]()
"""Key in the stash of a test whose setup or body has failed."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for closing a client that a failed test left open, and for killing greenlets."""

HARNESS: Final = 'getc.testing.'
"""Greenlets of servers and proxies that serve the whole run do not belong to the test."""

_current: Leftovers | None = None


def has_failed(request: pytest.FixtureRequest) -> bool:
    """Return whether the setup or body of the test has failed; leak checks are skipped then."""
    return request.node.stash.get(FAILED, False)


def running_greenlets(*, of_harness: bool = False) -> list[Greenlet[..., Any]]:
    """Return the running greenlets that were started during this test: its own and getc's, or those of the harness."""
    assert _current is not None, 'called outside of a test'
    return _current.running_greenlets(of_harness=of_harness)


def open_clients() -> list[Client]:
    """Return the clients that were created during this test and are not closed."""
    assert _current is not None, 'called outside of a test'
    return _current.open_clients()


def greenlets_of_getc() -> list[Greenlet[..., Any]]:
    """Return the running greenlets of getc, by their names."""
    return [greenlet for greenlet in running_greenlets() if greenlet.name.startswith('getc ')]


def check_greenlets(request: pytest.FixtureRequest) -> None:
    """Fail a test that has passed so far if a greenlet of getc is still running."""
    if not has_failed(request):
        assert greenlets_of_getc() == []


class Leftovers:
    """Records the greenlets and clients that are created while it is entered."""

    def __init__(self) -> None:
        self._greenlets: weakref.WeakSet[Greenlet[..., Any]] = weakref.WeakSet()
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record greenlets and clients that are created inside."""
        global _current
        construct: Any = Client.__init__
        clients = self._clients

        @functools.wraps(construct)
        def recorded(client: Client, *args: Any, **options: Any) -> None:
            construct(client, *args, **options)
            clients.add(client)

        Greenlet.add_spawn_callback(self._greenlets.add)
        Client.__init__ = recorded  # type: ignore[method-assign]
        outer, _current = _current, self
        try:
            yield
        finally:
            _current = outer
            Client.__init__ = construct  # type: ignore[method-assign]
            Greenlet.remove_spawn_callback(self._greenlets.add)

    def running_greenlets(self, *, of_harness: bool = False) -> list[Greenlet[..., Any]]:
        """Return the recorded greenlets that are running: those of the test and getc, or those of the harness."""
        running = [greenlet for greenlet in list(self._greenlets) if not greenlet.dead]
        return [greenlet for greenlet in running if _is_of_harness(greenlet) == of_harness]

    def open_clients(self) -> list[Client]:
        """Return the recorded clients that are not closed."""
        return [client for client in list(self._clients) if not client.is_closed]

    def end_all(self) -> None:
        """Close the clients and kill the greenlets that are left, in bounded time."""
        for client in self.open_clients():
            with gevent.Timeout(2 * CLOSE_TIMEOUT, False):
                client.close(timeout=CLOSE_TIMEOUT)
        current = gevent.getcurrent()
        left = [greenlet for greenlet in self.running_greenlets() if greenlet is not current]
        with gevent.Timeout(CLOSE_TIMEOUT, False):
            gevent.killall(left)


def _is_of_harness(greenlet: Greenlet[..., Any]) -> bool:
    return (getattr(greenlet._run, '__module__', None) or '').startswith(HARNESS)
