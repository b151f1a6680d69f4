"""The endpoints of a client: their list, the order in which they are called, and the cool-down of failed ones."""

from __future__ import annotations

import logging
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Final, Protocol

from getc import timing
from getc.errors import EtcdError, EtcException, ResponseTooLarge
from getc.net.client_log import ClientLog
from getc.net.endpoint import Endpoint
from getc.retry import Outcome, is_overdue, outcome_of
from getc.timing import Deadline

__all__ = ['ConnectionState', 'EndpointFinder', 'EndpointSelector']

COOLDOWN: Final = 0.5
"""Seconds of cool-down after the first failure of an endpoint."""

MAX_COOLDOWN: Final = 2.0
"""Maximum seconds of cool-down.  An endpoint in cool-down is called last: if the others hang, a longer cool-down could
keep a renewal from the only server that has recovered until the TTL is over."""

MAX_STATE_LINES: Final = 6
"""Changes of the state that are logged in a minute; further ones are counted, and the last one is logged."""


class ConnectionState(Enum):
    """Whether the servers of a client respond."""

    CONNECTED = 'the last call was answered'
    SUSPENDED = 'no server answers'


class EndpointFinder(Protocol):
    """Finds the endpoints of a client, and passes them to :meth:`EndpointSelector.replace`."""

    def wait(self, deadline: Deadline) -> None:
        """Block until there are endpoints, or until the deadline.

        Raises:
            EtcException: None were found.
        """

    def on_all_down(self) -> None:
        """Search again, because no endpoint responds.  Must not block or raise; may be called often."""


class _Cooldown:
    """The failures of one endpoint since its last response.

    Attributes:
        failures: Number of failures in a row.
        reason: Description of the last failure, for the log.
        until: End of the cool-down, in seconds of ``timing.now``.
    """

    __slots__ = ('failures', 'reason', 'until')

    def __init__(self) -> None:
        self.failures = 0
        self.reason = ''
        self.until = 0.0


class EndpointSelector:
    """Owns the list of the endpoints of one client, and selects the endpoint for each call.

    The current endpoint is called until it fails.  Then another one becomes current, and the failed one starts a
    cool-down that grows with each failure in a row and ends with the next response.  No endpoint is excluded: if all
    are in cool-down, the one whose cool-down ends first is called.

    The list can be replaced at any time.  What is reported about an endpoint that was removed has no effect.

    Args:
        endpoints: At least one, unless ``finder`` is set before the first call.
        on_state: Called with each new state; must not block or raise.
        log: The log of the client; None for a new one.
        rng: Random number generator for the jitter of the cool-down; None for that of ``timing.set_rng``.

    Attributes:
        finder: Finds the endpoints when there are none, or when none responds; None if the list does not change.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint] = (),
        *,
        on_state: Callable[[ConnectionState], object] | None = None,
        log: ClientLog | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.finder: EndpointFinder | None = None
        self._endpoints = tuple(endpoints)
        self._current = self._endpoints[0] if self._endpoints else None
        self._cooldowns: dict[Endpoint, _Cooldown] = {}
        self._subscribers: list[weakref.WeakMethod[Callable[[], object]]] = []
        self._on_state = on_state
        self._state: ConnectionState | None = None
        self._log = log if log is not None else ClientLog()
        self._suspended_at = 0.0
        self._uniform = timing.uniform if rng is None else rng.uniform

    @property
    def current(self) -> Endpoint | None:
        """The endpoint that is called first; None if there are no endpoints yet."""
        return self._current

    @property
    def state(self) -> ConnectionState | None:
        """Whether the servers respond; None before the first call."""
        return self._state

    def candidates(self) -> list[Endpoint]:
        """Return all endpoints in the order for one call.

        The current endpoint is the first; those in cool-down are the last, in the order in which their cool-downs end.
        Empty if there are no endpoints yet: then call :meth:`wait`.
        """
        if self._current is None or len(self._endpoints) == 1:
            return list(self._endpoints)
        at = self._endpoints.index(self._current)
        ring = self._endpoints[at:] + self._endpoints[:at]
        if not self._cooldowns:
            return list(ring)
        now = timing.now()
        return sorted(ring, key=lambda endpoint: self._cooldown_until(endpoint, now))

    def wait(self, deadline: Deadline) -> list[Endpoint]:
        """Block until there are endpoints, and return them as :meth:`candidates` does.

        Raises:
            EtcException: None were found by the deadline.
        """
        while self._current is None:
            if self.finder is None:
                raise ValueError('no endpoint is given')
            self.finder.wait(deadline)
        return self.candidates()

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the list of endpoints.  Does not block.

        Calls in flight go on; calls that fail over use the new list.  Endpoints that stay keep their connections and
        their cool-downs.

        Args:
            endpoints: At least one.
        """
        kept = {endpoint: endpoint for endpoint in self._endpoints}  # connections belong to these objects
        replaced = tuple(kept.get(endpoint, endpoint) for endpoint in dict.fromkeys(endpoints))
        if not replaced:
            raise ValueError('no endpoint is given')
        self._endpoints = replaced
        self._cooldowns = {each: self._cooldowns[each] for each in replaced if each in self._cooldowns}
        if self._current not in replaced:
            self._current = replaced[0]
            self._current = self.candidates()[0]
        self._subscribers = [subscriber for subscriber in self._subscribers if subscriber() is not None]
        for subscriber in self._subscribers:
            on_change = subscriber()
            if on_change is not None:
                on_change()

    def subscribe(self, on_change: Callable[[], object]) -> None:
        """Call a method after each change of the list, as long as its object exists.

        Args:
            on_change: A bound method; it must not block or raise.
        """
        self._subscribers.append(weakref.WeakMethod(on_change))

    def mark_down(self, endpoint: Endpoint, reason: object = None) -> None:
        """Mark an endpoint as failed: start its cool-down and, if it is the current one, switch to the next.

        Args:
            endpoint: The endpoint.
            reason: The error, for the log, or None.
        """
        if endpoint not in self._endpoints:
            return
        cooldown = self._cooldowns.setdefault(endpoint, _Cooldown())
        cooldown.reason = 'no response' if reason is None else str(reason)
        now = timing.now()
        if cooldown.until <= now:  # else it is the same failure, reported by another call that was in flight
            seconds = min(MAX_COOLDOWN, COOLDOWN * 2.0 ** min(cooldown.failures, 30))
            cooldown.failures += 1
            cooldown.until = now + seconds * self._uniform(0.5, 1.0)
        if self._current == endpoint:
            self._current = self.candidates()[0]
            if self._current != endpoint and not self._is_down():
                text = f'{_describe(endpoint, cooldown)}; switching to {self._current}'
                self._log.note(logging.WARNING, text, key=('switch', endpoint.url))
        if self._is_down():
            self._set_state(ConnectionState.SUSPENDED)
            if self.finder is not None:
                self.finder.on_all_down()

    def record_error(self, endpoint: Endpoint, error: EtcException) -> None:
        """Update the endpoint after a failed attempt.

        Only an outage starts a cool-down and counts for SUSPENDED.  If the server responds, but cannot process the
        request, another endpoint becomes current.
        """
        if error.is_outage:
            self.mark_down(endpoint, error)
            return
        if isinstance(error, (EtcdError, ResponseTooLarge)):
            self.mark_up(endpoint)
        if outcome_of(error) in (Outcome.NOT_APPLIED, Outcome.AMBIGUOUS) and not is_overdue(error):
            self._switch_from(endpoint)

    def mark_up(self, endpoint: Endpoint) -> None:
        """Mark an endpoint as healthy after a response: end its cool-down and make it the current one."""
        if self._cooldowns:
            self._cooldowns.pop(endpoint, None)
        if endpoint is not self._current:
            if endpoint not in self._endpoints:
                return
            self._current = endpoint
        if self._state is not ConnectionState.CONNECTED:
            self._set_state(ConnectionState.CONNECTED)

    def switch(self) -> None:
        """Make another endpoint the current one, because the current server responds with wrong or stale data."""
        if self._current is not None:
            self._switch_from(self._current)

    def _switch_from(self, endpoint: Endpoint) -> None:
        if self._current == endpoint and len(self._endpoints) > 1:
            self._current = next(each for each in self.candidates() if each != endpoint)

    def _is_down(self) -> bool:
        """Return True if every endpoint has failed since its last response."""
        return len(self._cooldowns) == len(self._endpoints)

    def _cooldown_until(self, endpoint: Endpoint, now: float) -> float:
        cooldown = self._cooldowns.get(endpoint)
        return 0.0 if cooldown is None or cooldown.until <= now else cooldown.until

    def _set_state(self, state: ConnectionState) -> None:
        if state is self._state:
            return
        if state is ConnectionState.SUSPENDED:
            self._suspended_at = timing.now()
            reasons = '; '.join(_describe(endpoint, self._cooldowns[endpoint]) for endpoint in self._endpoints)
            self._log.note(logging.WARNING, f'SUSPENDED: {state.value}: {reasons}', key='state', limit=MAX_STATE_LINES)
        else:
            was_suspended = self._state is ConnectionState.SUSPENDED
            outage = f'; was SUSPENDED for {timing.now() - self._suspended_at:.1f} s' if was_suspended else ''
            level = logging.WARNING if was_suspended else logging.INFO
            text = f'CONNECTED: {self._current} responded{outage}'
            self._log.note(level, text, key='state', limit=MAX_STATE_LINES)
        self._state = state
        if self._on_state is not None:
            self._on_state(state)

    def __len__(self) -> int:
        return len(self._endpoints)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)


def _describe(endpoint: Endpoint, cooldown: _Cooldown) -> str:
    """Return the reason of the cool-down with the URL of the endpoint, which most error texts contain already."""
    return cooldown.reason if endpoint.url in cooldown.reason else f'{endpoint.url}: {cooldown.reason}'
