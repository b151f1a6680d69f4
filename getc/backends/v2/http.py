"""HTTP calls and long polls, each limited by a deadline, with every failure a typed error.

Calls and long polls have separate connection pools, so that a poll never takes the connection of a call.  A call ends
at its deadline however slowly bytes arrive, and a connection returns to its pool only after its response was read to
the end.  Redirects are not followed, proxies and netrc of the environment are not read, compression is not accepted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import gevent
import greenlet
from gevent.lock import BoundedSemaphore

from getc import timing
from getc.backends.v2.exchange import Exchange
from getc.backends.v2.http_response import BoundedResponse
from getc.backends.v2.messages import Request, Response
from getc.backends.v2.poll import Poll
from getc.errors import ClientClosed, ConnectionError
from getc.net.affinity import ThreadAffinity
from getc.net.endpoint import Endpoint
from getc.net.tls import TLSContexts
from getc.retry import Effect, Facts, Step, decide, outcome_of
from getc.timing import Deadline

if TYPE_CHECKING:
    from getc.backends.v2.http_pool import GeventAdapter

__all__ = ['Http']

MAX_CALLS: Final = 64
"""Calls in flight at a time; more calls wait.  Long polls are not counted."""

MAX_IDLE_POLLS: Final = 8
"""Idle connections of long polls that are kept for each server."""


class _CallTimeout(gevent.Timeout):
    """Ends one call at its deadline, or when the client is closed: a context manager, which raises the call's error.

    Args:
        exchange: The exchange of the call.
        deadline: The end of the call.
        in_flight: The timeouts of the calls in flight; this one is in it while the call is.
    """

    def __init__(self, exchange: Exchange, deadline: Deadline, in_flight: set[_CallTimeout]) -> None:
        super().__init__(deadline.timeout_left())
        self._exchange = exchange
        self._deadline = deadline
        self._in_flight = in_flight
        self._is_client_closed = False
        self._greenlet: greenlet.greenlet | None = None

    def __enter__(self) -> _CallTimeout:
        self._in_flight.add(self)
        self._greenlet = gevent.getcurrent()
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._greenlet = None
        self.close()
        self._in_flight.discard(self)
        if error is self:
            if self._is_client_closed:
                raise self._exchange.closed_error() from None
            self._exchange.on_timeout()
            raise self._exchange.timeout_error(self._deadline) from None

    def end_call(self) -> None:
        """Raise this timeout in the greenlet of the call, in the next iteration of the hub's loop."""
        self._is_client_closed = True
        gevent.get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._greenlet is not None:
            self._greenlet.throw(self)


class _Adapters:
    """The two adapters of a client: one for calls, one for long polls.

    requests and urllib3 are imported for the first connection, not by ``import getc``: in a program that calls
    ``gevent.monkey.patch_all()`` after ``import getc``, urllib3 would keep an ``ssl`` module that is half patched.
    """

    def __init__(self, contexts: TLSContexts | None, max_calls: int) -> None:
        self._contexts = {'http': None, 'https': contexts}
        self._max_calls = max_calls
        self._pair: tuple[GeventAdapter, GeventAdapter] | None = None

    @property
    def calls(self) -> GeventAdapter:
        return (self._pair or self._open())[0]

    @property
    def polls(self) -> GeventAdapter:
        return (self._pair or self._open())[1]

    def clear(self) -> None:
        for adapter in self._pair or ():
            adapter.clear()

    def retain(self, endpoints: Iterable[Endpoint]) -> None:
        for adapter in self._pair or ():
            adapter.retain(endpoints)

    def close(self) -> None:
        for adapter in self._pair or ():
            adapter.close()

    def _open(self) -> tuple[GeventAdapter, GeventAdapter]:
        from getc.backends.v2.http_pool import GeventAdapter

        calls = GeventAdapter(contexts=self._contexts, max_idle=self._max_calls)
        polls = GeventAdapter(contexts=self._contexts, max_idle=MAX_IDLE_POLLS)
        self._pair = calls, polls
        return self._pair


class Http:
    """An HTTP client for any number of servers, for one client of etcd.

    Args:
        contexts: The TLS contexts of ``https`` endpoints, or None if there are none.
        max_calls: Calls in flight at a time.

    Example::

        http = Http(TLS().contexts())
        response = http.call(endpoint, Request('GET', '/version'), Deadline.after(10))
        response.status, response.body
        http.close()
    """

    def __init__(self, contexts: TLSContexts | None = None, *, max_calls: int = MAX_CALLS) -> None:
        self._adapters = _Adapters(contexts, max_calls)
        self._slots = BoundedSemaphore(max_calls)
        self._timeouts: set[_CallTimeout] = set()
        self._is_closed = False
        self._affinity = ThreadAffinity()
        weakref.finalize(self, _close_soon, self._affinity, self._adapters).atexit = False

    @property
    def adapter(self) -> GeventAdapter:
        """The adapter that calls use, to mount on a ``requests.Session``."""
        return self._adapters.calls

    def call(
        self,
        endpoint: Endpoint,
        request: Request,
        deadline: Deadline,
        *,
        connect_by: Deadline | None = None,
        takes_slot: bool = True,
    ) -> Response:
        """Send the request and return the whole response.  Blocks until the deadline at most.

        A read on a stale connection is sent once more; a write never is.

        Args:
            endpoint: The server.
            request: The request.
            deadline: The end of the call.
            connect_by: An earlier end of the wait for a connection, or None.
            takes_slot: Wait while ``max_calls`` are in flight; False for a health check, which would measure that wait.

        Raises:
            ConnectionError: No response; ``maybe_applied`` is True for a write of which a byte may have been sent.
            TimedOut: No response by the deadline.  ``is_outage`` is False if the call waited for most of the time,
                because ``max_calls`` were in flight.
            ProtocolError: The response violates HTTP or a limit.
            ClientClosed: ``close`` was called, before or during the call.
        """
        exchange = Exchange(endpoint, request)
        with self._limit(exchange, deadline):
            if not takes_slot:
                return self._call(exchange, connect_by or deadline)
            exchange.queued_at = timing.now()
            with self._slots:
                exchange.started_at = timing.now()
                return self._call(exchange, connect_by or deadline)

    def _call(self, exchange: Exchange, connect_by: Deadline) -> Response:
        try:
            return self._attempt(exchange, connect_by)
        except ConnectionError as error:
            effect = Effect.NON_IDEMPOTENT if exchange.request.is_write else Effect.NONE
            facts = Facts(outcome_of(error), effect, was_repeated=not exchange.is_stale)
            if decide(facts).step is not Step.AGAIN:
                raise
        self._adapters.calls.pool_of(exchange.endpoint).clear()  # the other idle connections are as old
        return self._attempt(exchange, connect_by)

    def _attempt(self, exchange: Exchange, connect_by: Deadline) -> Response:
        pool = self._adapters.calls.pool_of(exchange.endpoint)
        try:
            return exchange.finish(exchange.send(pool, connect_by))
        finally:
            exchange.release(pool)

    def poll(self, endpoint: Endpoint, request: Request, deadline: Deadline) -> Poll:
        """Send the request of a long poll, and return the poll once its headers have arrived.

        Blocks until the deadline at most.  The caller closes the poll.  Raises the errors of ``call``.
        """
        exchange = Exchange(endpoint, request)
        poll: Poll | None = None
        with self._limit(exchange, deadline):
            pool = self._adapters.polls.pool_of(endpoint)
            try:
                poll = Poll(exchange, exchange.send(pool, deadline), pool, self._read_body)
                return poll
            finally:
                if poll is None:
                    exchange.release(pool)

    def _read_body(self, exchange: Exchange, response: BoundedResponse, deadline: Deadline) -> Response:
        """Read the body of a long poll."""
        with self._limit(exchange, deadline):
            return exchange.finish(response)

    def _limit(self, exchange: Exchange, deadline: Deadline) -> _CallTimeout:
        if self._is_closed:
            raise ClientClosed('the client is closed')
        self._affinity.check()
        if deadline.has_passed():
            raise exchange.timeout_error(deadline)
        return _CallTimeout(exchange, deadline, self._timeouts)

    def clear(self) -> None:
        """Close idle connections."""
        self._adapters.clear()

    def retain(self, endpoints: Iterable[Endpoint]) -> None:
        """Close the idle connections to all other servers, and those in use when their exchange has ended."""
        self._adapters.retain(endpoints)

    def close(self) -> None:
        """Close idle connections, and end calls in flight with ClientClosed.  Does not block."""
        self._is_closed = True
        for timeout in list(self._timeouts):
            timeout.end_call()
        self._adapters.close()


def _close_soon(affinity: ThreadAffinity, adapters: _Adapters) -> None:
    """Close the connections of an ``Http`` that was dropped without ``close``."""
    affinity.call_soon(adapters.close)
