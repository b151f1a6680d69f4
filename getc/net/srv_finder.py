"""Finds the endpoints of a client by DNS SRV: before its first call, and again whenever no endpoint responds."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.event import Event

from getc import timing
from getc.error_context import copy_error
from getc.errors import ClientClosed, ConnectionError, EtcException, TimedOut
from getc.net.affinity import ThreadAffinity
from getc.net.client_log import ClientLog
from getc.net.endpoint import Endpoint
from getc.net.resolver import is_forked_without_threads
from getc.net.selector import EndpointFinder, EndpointSelector
from getc.timing import Deadline

__all__ = ['SrvFinder']

LOOKUP_INTERVAL: Final = 5.0
"""Seconds between the starts of two look-ups, while no endpoint responds."""


class SrvFinder(EndpointFinder):
    """Looks up the endpoints of a client, and replaces those of the selector by the ones that were found.

    One look-up at a time, in a greenlet of its own: it goes on when a call that waits for it gives up.  If it fails,
    the endpoints stay.

    Args:
        url: The URL, for errors and the log.
        endpoints: The endpoints of the client.
        look_up: Returns the endpoints, at least one; blocks the greenlet; raises OSError.
        log: The log of the client.
    """

    def __init__(
        self, url: str, endpoints: EndpointSelector, look_up: Callable[[], list[Endpoint]], *, log: ClientLog
    ) -> None:
        self._url = url
        self._endpoints = weakref.ref(endpoints)
        self._look_up = look_up
        self._log = log
        self._affinity = ThreadAffinity()
        self._lookup: _Lookup | None = None
        self._next_at = -math.inf
        self._is_failing = False
        self._is_closed = False

    def wait(self, deadline: Deadline) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')
        self._affinity.check()
        lookup = self._lookup or self._start()
        if not lookup.is_over.wait(deadline.timeout_left()):
            raise TimedOut(f'{self._describe_silence()} within {deadline.timeout:g} s')
        if lookup.error is not None:
            raise copy_error(lookup.error)  # other calls raise the same error

    def on_all_down(self) -> None:
        if self._lookup is None and not self._is_closed and timing.now() >= self._next_at:
            self._start()

    def close(self) -> None:
        """End the look-up; calls that wait for it raise ClientClosed.  Does not block."""
        self._is_closed = True
        if self._lookup is not None:
            self._lookup.greenlet.kill(block=False)
            self._end(self._lookup, ClientClosed('the client was closed during the call'))

    def _start(self) -> _Lookup:
        self._next_at = timing.now() + LOOKUP_INTERVAL * timing.uniform(0.8, 1.2)
        lookup = self._lookup = _Lookup()
        lookup.greenlet = gevent.spawn(self._run, lookup)
        lookup.greenlet.name = f'getc lookup of {self._url}'
        lookup.greenlet.rawlink(lambda _: self._on_killed(lookup))  # also if it was killed before it ran
        return lookup

    def _run(self, lookup: _Lookup) -> None:
        error: EtcException | None = None
        try:
            found = self._look_up()
        except OSError as failure:
            error = ConnectionError(f'no endpoints of {self._url} were found: {failure}')
        except Exception as failure:  # of a library
            error = ConnectionError(f'no endpoints of {self._url} were found: {type(failure).__name__}: {failure}')
        if self._is_closed or self._affinity.in_forked_child:
            return
        if error is None:
            self._use(found)
        elif not self._is_failing:
            self._is_failing = True
            self._log.note(logging.WARNING, str(error))
        self._end(lookup, error)

    def _on_killed(self, lookup: _Lookup) -> None:
        """End a look-up whose greenlet was killed; no effect if the look-up is over."""
        if not (lookup.is_over.is_set() or self._affinity.in_forked_child):
            self._end(lookup, ClientClosed('the look-up was killed'))

    def _use(self, found: list[Endpoint]) -> None:
        self._is_failing = False
        endpoints = self._endpoints()
        if endpoints is not None and set(found) != set(endpoints):
            endpoints.replace(found)
            self._log.note(logging.INFO, f'the endpoints of {self._url} are {", ".join(each.url for each in found)}')

    def _end(self, lookup: _Lookup, error: EtcException | None) -> None:
        lookup.error = error
        lookup.is_over.set()
        if self._lookup is lookup:
            self._lookup = None

    def _describe_silence(self) -> str:
        what = f'the DNS look-up of {self._url} has not returned'
        if is_forked_without_threads():
            what += ', as in a forked child of a program without monkey patching (call gevent.reinit() after fork),'
        return what


class _Lookup:
    """One look-up.

    Attributes:
        greenlet: The greenlet that performs it.
        is_over: Set at its end.
        error: Why it failed; None if it succeeded.
    """

    greenlet: gevent.Greenlet[..., Any]

    def __init__(self) -> None:
        self.is_over = Event()
        self.error: EtcException | None = None
