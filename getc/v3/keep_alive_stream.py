"""Renewals of leases, all on one stream."""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import gevent
from gevent.event import AsyncResult

from getc.errors import ConnectionError, EtcException, LeaseNotFound, TimedOut
from getc.net.failover import MIN_ATTEMPT_TIMEOUT
from getc.timing import Deadline
from getc.v3.reopening import awaited
from getc.v3.schema.lease import LeaseKeepAliveRequest, LeaseKeepAliveResponse
from getc.v3.stream import MessageStream

__all__ = ['KeepAliveStream']

Renewal: TypeAlias = 'AsyncResult[LeaseKeepAliveResponse]'  # which cannot be written so at run time
Responses = MessageStream[LeaseKeepAliveRequest, LeaseKeepAliveResponse]


class KeepAliveStream:
    """One stream for the renewals of any number of leases.

    Answers for one lease come in the order of its requests, so each request has an answer of its own.

    Args:
        messages: The stream, which is this one's from now on.
    """

    def __init__(self, messages: Responses) -> None:
        self._messages = messages
        self._waiting: dict[int, deque[Renewal]] = {}
        self._callers = 0  # who wait for an answer
        self._is_left = False
        self._reader = gevent.spawn(self._read)
        self._reader.name = 'getc lease renewals'

    @property
    def is_over(self) -> bool:
        """True if nothing more is to be renewed here."""
        return self._is_left or self._messages.is_over

    def renew(self, request: LeaseKeepAliveRequest, deadline: Deadline) -> LeaseKeepAliveResponse:
        """Renew a lease, and return what the server says.  Blocks until the deadline at most.

        A server that does not say so in time is not asked again, unless that was next to none: the next stream is on
        another one.

        Raises:
            LeaseNotFound: It is gone.
            ConnectionError: No answer; the lease may have been renewed.
        """
        left = deadline.remaining()
        renewal: Renewal = AsyncResult()
        self._waiting.setdefault(request.ID, deque()).append(renewal)
        self._messages.send(request)
        self._callers += 1
        try:
            # Who gives up leaves its place in the queue: the answer that it does not wait for still comes.
            response = awaited(renewal, deadline, f'lease {request.ID:x} was not renewed', maybe_applied=True)
        except TimedOut as late:
            if left >= MIN_ATTEMPT_TIMEOUT:
                self._is_left = True
                self._messages.blame(late)
            raise
        finally:
            self._callers -= 1
            if self._is_left and not self._callers:
                self._messages.cancel()
        if response.TTL <= 0:
            raise LeaseNotFound(
                'requested lease not found',
                f'{request.ID:x}',
                response.header.revision,
                endpoint=self._messages.url,
            )
        return response

    def _read(self) -> None:
        error: EtcException = ConnectionError('the server ended the stream of renewals', maybe_applied=True)
        try:
            for response in self._messages:
                waiting = self._waiting.get(response.ID)
                if waiting:
                    waiting.popleft().set(response)
                    if not waiting:
                        del self._waiting[response.ID]
        except EtcException as trouble:
            error = trouble
        finally:
            self._messages.cancel()
            waiting_still, self._waiting = self._waiting, {}
            for renewals in waiting_still.values():
                for renewal in renewals:
                    renewal.set_exception(error)
