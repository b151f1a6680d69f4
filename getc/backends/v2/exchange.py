"""One HTTP request and its response on one connection, with every failure mapped to an error of getc."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Final

import gevent

from getc import timing
from getc.backends.v2.http_response import MAX_BODY, BadResponse, BoundedResponse, TooLarge, read_body
from getc.backends.v2.messages import Request, Response
from getc.errors import ClientClosed, ConnectionError, EtcException, ProtocolError, ResponseTooLarge, TimedOut
from getc.net.connect_errors import (
    MAYBE_NO_UPSTREAM,
    MAYBE_REVOKED,
    MAYBE_TLS_REQUIRED,
    TLS_REQUIRED,
    connect_error,
    connect_timeout,
    describe_broken,
    is_tls_rejection,
    is_tls_required,
    pending_alert,
)
from getc.net.endpoint import Endpoint
from getc.timing import Deadline

if TYPE_CHECKING:
    from getc.backends.v2.http_pool import Connection, Pool

__all__ = ['Exchange']

TOO_MANY_CALLS: Final = 'as many calls as a client may have at a time were in flight'


class Exchange:
    """One request to one server, and the facts that its errors need.

    Attributes:
        endpoint: The server.
        request: The request.
        may_have_been_sent: True once a byte of the request may have left.
        is_stale: True if the connection had been used before, and failed without a byte of a response.
        queued_at: When the call began to wait until fewer calls are in flight (``timing.now``); None if it does not.
        started_at: When that wait ended; None before.
    """

    def __init__(self, endpoint: Endpoint, request: Request) -> None:
        self.endpoint = endpoint
        self.request = request
        self.may_have_been_sent = False
        self.is_stale = False
        self.queued_at: float | None = None
        self.started_at: float | None = None
        self._is_reused = False
        self._connection: Connection | None = None
        self._response: BoundedResponse | None = None
        self._silent: Connection | None = None  # a new connection on which nothing was received yet

    @property
    def maybe_applied(self) -> bool:
        """True if the request is a write that the server may have received."""
        return self.request.is_write and self.may_have_been_sent

    @property
    def _may_be_handshake(self) -> bool:
        """True if nothing was received on the connection yet: a failure may still be the end of the TLS handshake."""
        return not self._is_reused and self._response is None

    def send(self, pool: Pool, connect_by: Deadline) -> BoundedResponse:
        """Send the request, and return the response once its status and headers have arrived."""
        connection = self._connection = pool.take()
        self._is_reused = connection.sock is not None
        self._silent = None
        if not self._is_reused:
            self._connect(connection, connect_by)
            self._silent = connection
        self.may_have_been_sent = True
        try:
            connection.send_request(self.request, self.endpoint.authorization)
            response = self._response = connection.read_head()
            if not self._is_reused:
                connection.mark(is_good=True)
            self._silent = None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._mark_silent()
            self.is_stale = self._is_reused and isinstance(error, OSError)
            if isinstance(error, OSError) and not isinstance(error, http.client.RemoteDisconnected):
                error = pending_alert(connection.sock, error)
            raise self._error_from(error) from _cause(error)
        encoding = response.headers.get('Content-Encoding', 'identity')
        if encoding.strip().lower() not in ('', 'identity'):
            raise self._protocol_error('it is compressed, although the request does not accept compression')
        return response

    def finish(self, response: BoundedResponse) -> Response:
        """Read the body, and return the whole response."""
        try:
            body = read_body(response)
        except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
            raise self._error_from(error) from _cause(error)
        if response.status == 400 and self._is_page_of_a_tls_port(response, body):
            raise self._no_connection(TLS_REQUIRED)
        if response.status < 400:
            return Response(response.status, response.headers, body)
        return Response(response.status, response.headers, body, self.endpoint.secrets)

    def release(self, pool: Pool) -> None:
        """Return the connection to its pool if the response was read to its end; else close the connection."""
        connection, response = self._connection, self._response
        self._connection = self._response = None
        if connection is None:
            return
        if response is not None and response.isclosed() and not response.will_close:
            pool.give(connection)
            return
        connection.close()
        if response is not None:
            response.close()

    def on_timeout(self) -> None:
        """Record that the server at the connection's address does not respond, for the next connection to its host."""
        self._mark_silent()

    def timeout_error(self, deadline: Deadline) -> EtcException:
        """Return the error of an exchange that has reached its deadline."""
        error = self._timeout_error(deadline)
        if self._was_queued_most_of_the_time():
            error.is_outage = False
        return error

    def _timeout_error(self, deadline: Deadline) -> EtcException:
        if self.queued_at is not None and self.started_at is None:
            text = f'the request to {self.endpoint.url} was not sent within {deadline.timeout:g} s: {TOO_MANY_CALLS}'
            return TimedOut(text, endpoint=self.endpoint.url)
        if not self.may_have_been_sent:
            return connect_timeout(self.endpoint, deadline)
        url = self.endpoint.url
        text = f'no response from {url} within {deadline.timeout:g} s'
        return TimedOut(text, maybe_applied=self.maybe_applied, endpoint=url)

    def closed_error(self) -> ClientClosed:
        """Return the error of an exchange during which the client was closed."""
        text = 'the client was closed during the call'
        return ClientClosed(text, maybe_applied=self.maybe_applied, endpoint=self.endpoint.url)

    def _was_queued_most_of_the_time(self) -> bool:
        if self.queued_at is None:
            return False
        now = timing.now()
        return self.started_at is None or self.started_at - self.queued_at > now - self.started_at

    def _mark_silent(self) -> None:
        silent, self._silent = self._silent, None
        if silent is not None:
            silent.mark(is_good=False)

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

    def _error_from(self, error: Exception) -> EtcException:
        url = self.endpoint.url
        if isinstance(error, TooLarge) and self._response is not None and 'X-Etcd-Cluster-ID' in self._response.headers:
            return self._too_large(error)  # a response of etcd, not a proxy's page
        if isinstance(error, BadResponse):
            return self._protocol_error(str(error))
        if isinstance(error, http.client.IncompleteRead):
            what = f'{url} closed the connection in the middle of a response'
        elif isinstance(error, http.client.RemoteDisconnected):
            what = f'{url} closed the connection without a response'
            if not self.is_stale:
                hint = MAYBE_REVOKED if self.endpoint.is_secure else MAYBE_TLS_REQUIRED
                what += f': {hint}; or {MAYBE_NO_UPSTREAM}'
        elif isinstance(error, OSError):
            what = describe_broken(url, error)
            if is_tls_rejection(error) and self._may_be_handshake:
                return ConnectionError(what, endpoint=url)
        elif (
            isinstance(error, http.client.BadStatusLine)
            and self._may_be_handshake
            and is_tls_required(str(error).encode())
        ):
            return self._no_connection(TLS_REQUIRED)
        else:
            return self._protocol_error(type(error).__name__)  # its text may quote bytes of the peer
        return ConnectionError(what, maybe_applied=self.maybe_applied, endpoint=url)

    def _is_page_of_a_tls_port(self, response: BoundedResponse, body: bytes) -> bool:
        is_page = 'json' not in response.headers.get('Content-Type', '')
        return is_page and not self.endpoint.is_secure and is_tls_required(body)

    def _no_connection(self, what: str) -> ConnectionError:
        """Return the error of a connection that the server rejected: it did not process the request."""
        url = self.endpoint.url
        return ConnectionError(f'no connection to {url}: {what}', endpoint=url)

    def _protocol_error(self, what: str) -> ProtocolError:
        url = self.endpoint.url
        text = f'the response from {url} violates HTTP or a limit of getc: {what}'
        return ProtocolError(text, maybe_applied=self.maybe_applied, endpoint=url)

    def _too_large(self, error: TooLarge) -> ResponseTooLarge:
        url = self.endpoint.url
        text = f'{url} responded with {error}; the limit is {MAX_BODY}'
        too_large = ResponseTooLarge(text, maybe_applied=self.maybe_applied, endpoint=url)
        too_large.size = error.size
        return too_large


def _cause(error: Exception) -> OSError | None:
    """Return what may be chained: errors of http.client quote the peer, and a traceback has frames with the request."""
    return error.with_traceback(None) if isinstance(error, OSError) else None
