"""HTTP calls and long polls, each bounded by a deadline, with every failure a typed error.

Calls and long polls have pools of their own, so that no poll ever takes the connection of a call.  A
call ends by its deadline however slowly bytes trickle, and a connection goes back to its pool only
after an answer was read to its end.  No redirects, no proxies or netrc of the environment, no
compression.
"""

from __future__ import annotations

import http.client
import weakref
from typing import TYPE_CHECKING, Final

import gevent
import greenlet
from gevent.lock import BoundedSemaphore

from getc.backends.v2.http_messages import Answer, Headers, Request
from getc.backends.v2.http_response import MAX_BODY, BadResponse, Response, TooLarge, is_body_ready, read_body
from getc.errors import ClientClosed, ConnectionError, EtcException, ProtocolError, ResponseTooLarge, TimedOut
from getc.net.affinity import ThreadAffinity
from getc.net.connect_errors import (
    MAYBE_REVOKED,
    TLS_REQUIRED,
    connect_error,
    connect_timeout,
    describe_broken,
    is_tls_rejection,
    is_tls_required,
    pending_alert,
)
from getc.net.endpoint import Endpoint
from getc.net.tls import TLSContexts
from getc.retry import Effect, Facts, Step, decide, outcome_of
from getc.timing import Deadline

if TYPE_CHECKING:
    from getc.backends.v2.http_pool import Connection, GeventAdapter, Pool

__all__ = ['Http', 'Poll']

MAX_CALLS: Final = 64
"""Calls under way at a time: more wait for their turn.  Long polls are not counted."""

MAX_IDLE_POLLS: Final = 8


class _Span(gevent.Timeout):
    """A stay in the transport.  It ends by its deadline, or at once when the client is closed."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__(deadline.timeout_left())
        self.deadline = deadline
        self.is_cut = False
        self._greenlet: greenlet.greenlet | None = None

    def enter(self) -> None:
        self._greenlet = gevent.getcurrent()
        self.start()

    def leave(self) -> None:
        self._greenlet = None
        self.close()

    def cut(self) -> None:
        """Let it end on the next turn of the hub."""
        self.is_cut = True
        gevent.get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._greenlet is not None:
            self._greenlet.throw(self)


class _Exchange:
    """One request on its way to one server: what is known of it, for the errors.

    Attributes:
        has_left: A byte of the request may have left.
        is_stale: The connection had been used before, and failed without a byte of an answer.
    """

    def __init__(self, endpoint: Endpoint, request: Request) -> None:
        self.endpoint = endpoint
        self.request = request
        self.has_left = False
        self.is_stale = False
        self._is_reused = False
        self._connection: Connection | None = None
        self._response: Response | None = None

    @property
    def maybe_applied(self) -> bool:
        return self.request.is_write and self.has_left

    @property
    def _is_first_answer(self) -> bool:
        """True if nothing has come on the connection yet: what ends it may still end the handshake."""
        return not self._is_reused and self._response is None

    def begin(self, pool: Pool, connect_by: Deadline) -> Response:
        """Send the request, and wait for status and headers."""
        connection = self._connection = pool.take()
        self._is_reused = connection.sock is not None
        if not self._is_reused:
            self._connect(connection, connect_by)
        self.has_left = True
        try:
            connection.send_request(self.request, self.endpoint.authorization)
            response = self._response = connection.read_head()
            if not self._is_reused:
                connection.mark(answers=True)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.is_stale = self._is_reused and isinstance(error, OSError)
            if isinstance(error, OSError) and not isinstance(error, http.client.RemoteDisconnected):
                error = pending_alert(connection.sock, error)
            raise self._failed(error) from _cause(error)
        encoding = response.headers.get('Content-Encoding', 'identity')
        if encoding.strip().lower() not in ('', 'identity'):
            raise self._protocol_error('it is compressed, which was not asked for')
        return response

    def finish(self, response: Response) -> Answer:
        """Read the body."""
        try:
            body = read_body(response)
        except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
            raise self._failed(error) from _cause(error)
        if response.status == 400 and self._is_for_tls(response, body):
            raise self._turned_away(TLS_REQUIRED)
        if response.status < 400:
            return Answer(response.status, response.headers, body)
        return Answer(response.status, response.headers, body, self.endpoint.secrets)

    def release(self, pool: Pool) -> None:
        """Give the connection back if an answer was read to its end; else close it."""
        connection, response = self._connection, self._response
        self._connection = self._response = None
        if connection is None:
            return
        if response is None and not self._is_reused:
            connection.mark(answers=False)
        if response is not None and response.isclosed() and not response.will_close:
            pool.give(connection)
            return
        connection.close()
        if response is not None:
            response.close()

    # -- errors: each is mapped here, once

    def _connect(self, connection: Connection, connect_by: Deadline) -> None:
        timeout = gevent.Timeout.start_new(connect_by.timeout_left())
        connection.connect_by = connect_by
        try:
            connection.connect()
        except gevent.Timeout as fired:
            if fired is not timeout:
                raise
            raise connect_timeout(self.endpoint, connect_by) from None
        except OSError as error:
            raise connect_error(self.endpoint, error) from error
        finally:
            timeout.close()

    def _failed(self, error: Exception) -> EtcException:
        url = self.endpoint.url
        if isinstance(error, TooLarge) and self._response is not None and 'X-Etcd-Cluster-ID' in self._response.headers:
            return self._too_large(error)  # etcd's, and not the page of a proxy
        if isinstance(error, BadResponse):
            return self._protocol_error(str(error))
        if isinstance(error, http.client.IncompleteRead):
            what = f'{url} closed the connection in the middle of an answer'
        elif isinstance(error, http.client.RemoteDisconnected):
            what = f'{url} closed the connection without an answer'
            if not self.is_stale:
                what += f': {MAYBE_REVOKED}' if self.endpoint.is_secure else ', as one does that speaks TLS (https://)'
        elif isinstance(error, OSError):
            what = describe_broken(url, error)
            if is_tls_rejection(error) and self._is_first_answer:
                return ConnectionError(what, endpoint=url)
        elif (
            isinstance(error, http.client.BadStatusLine)
            and self._is_first_answer
            and is_tls_required(str(error).encode())
        ):
            return self._turned_away(TLS_REQUIRED)
        else:
            return self._protocol_error(type(error).__name__)  # its text may quote the peer's bytes
        return ConnectionError(what, maybe_applied=self.maybe_applied, endpoint=url)

    def _is_for_tls(self, response: Response, body: bytes) -> bool:
        is_page = 'json' not in response.headers.get('Content-Type', '')
        return is_page and not self.endpoint.is_secure and is_tls_required(body)

    def _turned_away(self, what: str) -> ConnectionError:
        """There is no connection after all: nothing that was sent was looked at."""
        url = self.endpoint.url
        return ConnectionError(f'no connection to {url}: {what}', endpoint=url)

    def _protocol_error(self, what: str) -> ProtocolError:
        url = self.endpoint.url
        text = f'the answer from {url} breaks HTTP or a bound: {what}'
        return ProtocolError(text, maybe_applied=self.maybe_applied, endpoint=url)

    def _too_large(self, error: TooLarge) -> ResponseTooLarge:
        url = self.endpoint.url
        text = f'{url} answered with {error}, and the bound is {MAX_BODY}'
        too_large = ResponseTooLarge(text, maybe_applied=self.maybe_applied, endpoint=url)
        too_large.size = error.size
        return too_large

    def _timed_out(self, deadline: Deadline) -> TimedOut:
        url = self.endpoint.url
        text = f'no answer from {url} within {deadline.timeout:g} s'
        return TimedOut(text, maybe_applied=self.maybe_applied, endpoint=url)

    def ended(self, span: _Span) -> EtcException:
        """The error of a span that struck."""
        if span.is_cut:
            return ClientClosed(
                'the client was closed during the call',
                maybe_applied=self.maybe_applied,
                endpoint=self.endpoint.url,
            )
        if not self.has_left:
            return connect_timeout(self.endpoint, span.deadline)
        return self._timed_out(span.deadline)


def _cause(error: Exception) -> OSError | None:
    """What may be shown of an error: http.client's quote the peer, and a traceback has frames with what was sent."""
    return error.with_traceback(None) if isinstance(error, OSError) else None


class _Adapters:
    """The connections of one transport: those of calls, and those of long polls.

    requests and urllib3 are imported when the first connection is needed, not by ``import getc``: a program that calls
    ``gevent.monkey.patch_all()`` after that import would be left with an urllib3 whose ``ssl`` is half patched.
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
    """HTTP to any number of servers, for one client.

    Args:
        contexts: The TLS contexts of ``https`` endpoints, or None without such.
        max_calls: Calls under way at a time.

    Example::

        transport = Http(TLS().contexts())
        answer = transport.call(endpoint, Request('GET', '/version'), Deadline.after(10))
        answer.status, answer.body
        transport.close()
    """

    def __init__(self, contexts: TLSContexts | None = None, *, max_calls: int = MAX_CALLS) -> None:
        self._adapters = _Adapters(contexts, max_calls)
        self._turns = BoundedSemaphore(max_calls)
        self._spans: set[_Span] = set()
        self._is_closed = False
        self._home = ThreadAffinity()
        weakref.finalize(self, _close_soon, self._home, self._adapters).atexit = False

    @property
    def adapter(self) -> GeventAdapter:
        """The adapter for requests that calls use, to mount on a ``requests.Session``."""
        return self._adapters.calls

    def call(
        self, endpoint: Endpoint, request: Request, deadline: Deadline, *, connect_by: Deadline | None = None
    ) -> Answer:
        """Send the request and return the whole answer.  Blocks until the deadline at most.

        A read whose connection had gone stale is sent once more; a write never is.

        Args:
            endpoint: The server.
            request: What to send.
            deadline: The end of the call.
            connect_by: An earlier end of the wait for a connection, or None.

        Raises:
            ConnectionError: No answer; ``maybe_applied`` is True for a write of which a byte may have left.
            ProtocolError: The answer breaks HTTP or a bound.
            ClientClosed: ``close`` was called, before or meanwhile.
        """
        exchange = _Exchange(endpoint, request)
        span = self._enter(exchange, deadline)
        try:
            with self._turns:
                try:
                    return self._call(exchange, connect_by or deadline)
                except ConnectionError as error:
                    effect = Effect.NON_IDEMPOTENT if request.is_write else Effect.NONE
                    facts = Facts(outcome_of(error), effect, was_repeated=not exchange.is_stale)
                    if decide(facts).step is not Step.AGAIN:
                        raise
                self._adapters.calls.pool_of(endpoint).clear()  # the others are as old
                return self._call(exchange, connect_by or deadline)
        except gevent.Timeout as fired:
            if fired is not span:
                raise
            raise exchange.ended(span) from None
        finally:
            self._leave(span)

    def _call(self, exchange: _Exchange, connect_by: Deadline) -> Answer:
        pool = self._adapters.calls.pool_of(exchange.endpoint)
        try:
            return exchange.finish(exchange.begin(pool, connect_by))
        finally:
            exchange.release(pool)

    def poll(self, endpoint: Endpoint, request: Request, deadline: Deadline) -> Poll:
        """Send the request of a long poll and return when its headers came.  Blocks until the deadline at most.

        Whoever gets the poll closes it.  Raises what ``call`` does.
        """
        exchange = _Exchange(endpoint, request)
        span = self._enter(exchange, deadline)
        pool = self._adapters.polls.pool_of(endpoint)
        poll: Poll | None = None
        try:
            poll = Poll(self, exchange, exchange.begin(pool, deadline), pool)
            return poll
        except gevent.Timeout as fired:
            if fired is not span:
                raise
            raise exchange.ended(span) from None
        finally:
            self._leave(span)
            if poll is None:
                exchange.release(pool)

    def _enter(self, exchange: _Exchange, deadline: Deadline) -> _Span:
        if self._is_closed:
            raise ClientClosed('the client is closed')
        self._home.check()
        span = _Span(deadline)
        if deadline.has_passed():
            raise exchange.ended(span)
        self._spans.add(span)
        span.enter()
        return span

    def _leave(self, span: _Span) -> None:
        span.leave()
        self._spans.discard(span)

    def clear(self) -> None:
        """Close the connections that are not in use."""
        self._adapters.clear()

    def close(self) -> None:
        """Close idle connections, and end calls under way with ClientClosed.  Does not block."""
        self._is_closed = True
        for span in list(self._spans):
            span.cut()
        self._adapters.close()


def _close_soon(home: ThreadAffinity, adapters: _Adapters) -> None:
    """Nobody can call any more: the client was dropped without an end."""
    home.call_soon(adapters.close)


class Poll:
    """A long poll: the headers came, the body comes when it comes.

    Attributes:
        endpoint: Who was asked.
        status: The HTTP status.
        headers: Names in any case.
    """

    def __init__(self, transport: Http, exchange: _Exchange, response: Response, pool: Pool) -> None:
        self.endpoint = exchange.endpoint
        self.status: int = response.status
        self.headers: Headers = response.headers
        self._transport = transport
        self._exchange = exchange
        self._response = response
        self._pool = pool

    def wait(self, timeout: float | None) -> bool:
        """Return True as soon as the body or its end begins to come; False after the timeout (seconds)."""
        return is_body_ready(self._response, timeout)

    def read(self, deadline: Deadline) -> Answer:
        """The whole answer.  Blocks until the deadline at most.  Raises what ``Http.call`` does."""
        span = self._transport._enter(self._exchange, deadline)
        try:
            return self._exchange.finish(self._response)
        except gevent.Timeout as fired:
            if fired is not span:
                raise
            raise self._exchange.ended(span) from None
        finally:
            self._transport._leave(span)

    def close(self) -> None:
        """Let the connection go: kept for the next poll if the answer was read, else closed.  May be called twice."""
        self._exchange.release(self._pool)

    def __enter__(self) -> Poll:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
