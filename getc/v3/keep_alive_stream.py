"""Keep-alive requests of any number of leases on one stream."""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

import gevent
from gevent.event import AsyncResult

from getc import timing
from getc.errors import ConnectionError, EtcException, LeaseNotFound, TimedOut
from getc.net.failover import MIN_ATTEMPT_TIMEOUT
from getc.timing import Deadline
from getc.v3.reopening import wait_result
from getc.v3.schema.lease import LeaseKeepAliveRequest, LeaseKeepAliveResponse
from getc.v3.stream import MessageStream

__all__ = ['KeepAliveStream']

PROXY_SILENCE: Final = 3.0
"""Timeouts of a sixth of the TTL after which a stream to ``etcd grpc-proxy`` counts as silent: the proxy renews every
third of the TTL, up to half a second late."""

Renewal: TypeAlias = 'AsyncResult[LeaseKeepAliveResponse]'  # a string: AsyncResult is not generic at run time
KeepAliveMessages = MessageStream[LeaseKeepAliveRequest, LeaseKeepAliveResponse]


class KeepAliveStream:
    """One stream for the renewals of any number of leases.

    The responses for one lease come in the order of its requests, so each response is assigned to its request.

    Args:
        messages: The gRPC stream, which this object owns from now on.
    """

    def __init__(self, messages: KeepAliveMessages) -> None:
        self._messages = messages
        self._pending: dict[int, deque[Renewal]] = {}
        self._callers = 0  # greenlets that wait for a response
        self._is_silent = False
        self._last_response_at = timing.now()
        self._reader = gevent.spawn(self._read)
        self._reader.name = 'getc lease renewals'

    @property
    def is_over(self) -> bool:
        """True if no further lease may be renewed on this stream."""
        return self._is_silent or self._messages.is_over

    def renew(self, request: LeaseKeepAliveRequest, deadline: Deadline) -> LeaseKeepAliveResponse:
        """Renew a lease, and return the server's response.  Blocks until the deadline at most.

        After a timeout the stream is not used again: the next one is on another server.  A timeout below
        ``MIN_ATTEMPT_TIMEOUT`` has no such effect, as it does not show a fault.  ``etcd grpc-proxy`` renews a lease at
        its own pace, and answers then: its TimedOut has ``is_outage=False``, and the stream is used further unless it
        has been silent for ``PROXY_SILENCE`` times this timeout.

        Raises:
            LeaseNotFound: The lease has expired or was revoked.
            ConnectionError: No answer; the lease may have been renewed.
        """
        left = deadline.remaining()
        renewal: Renewal = AsyncResult()
        self._pending.setdefault(request.ID, deque()).append(renewal)
        self._messages.send(request)
        self._callers += 1
        try:
            # After a timeout the renewal stays in the queue: its response may still arrive.
            response = wait_result(renewal, deadline, f'lease {request.ID:x} was not renewed', maybe_applied=True)
        except TimedOut as error:
            error.endpoint = self._messages.url
            if self._messages.is_grpc_proxy:
                error.is_outage = False
                if timing.now() - self._last_response_at >= PROXY_SILENCE * left:
                    self._is_silent = True
            elif left >= MIN_ATTEMPT_TIMEOUT:
                self._is_silent = True
                self._messages.report_silent(error)
            raise
        finally:
            self._callers -= 1
            if self._is_silent and not self._callers:
                self._messages.cancel()
        if response.TTL <= 0:
            cause, url = f'{request.ID:x}', self._messages.url
            raise LeaseNotFound('requested lease not found', cause, response.header.revision, endpoint=url)
        return response

    def _read(self) -> None:
        url = self._messages.url
        error: EtcException = ConnectionError(f'{url} ended the keep-alive stream', maybe_applied=True, endpoint=url)
        try:
            for response in self._messages:
                self._last_response_at = timing.now()
                pending = self._pending.get(response.ID)
                if pending:
                    pending.popleft().set(response)
                    if not pending:
                        del self._pending[response.ID]
        except EtcException as failure:
            error = failure
        finally:
            self._messages.cancel()
            unanswered, self._pending = self._pending, {}
            for renewals in unanswered.values():
                for renewal in renewals:
                    renewal.set_exception(error)
