"""Health checks of a connection: PINGs when the server is silent, within the limits that etcd sets for PINGs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from gevent.hub import get_hub

from getc import timing
from getc.net.affinity import close_watcher

__all__ = ['CONNECTION_IDLE_TIMEOUT', 'HEALTH_INTERVAL', 'HealthCheck']

HEALTH_INTERVAL: Final = 5.0
"""Seconds between two checks for silence."""

CONNECTION_IDLE_TIMEOUT: Final = 10.0
"""Seconds of silence, with open calls, after which a PING is sent."""

PING_GAP: Final = 5.0
"""Seconds between two PINGs at least.  etcd closes connections with more frequent PINGs (``too_many_pings``)."""

PING_TIMEOUT: Final = 5.0
"""Seconds for the acknowledgement of a PING."""

PROBE_TIMEOUT: Final = 2.0
"""The same for a PING after a call has timed out and nothing was received since the call was sent."""

STALL_TOLERANCE: Final = 0.2
"""Delay of a timer, in seconds, from which on the process is taken to have been stalled."""


class HealthCheck:
    """Finds out when the server of a connection does not respond any more.

    After ``CONNECTION_IDLE_TIMEOUT`` without received data, or soon after :meth:`probe`, a PING is sent.  If nothing is
    received within its timeout, the connection is reported as dead.  Timers that fire late do not count, because data
    of the server may be unread in the socket after a stall of the process.

    Args:
        send_ping: Sends a PING and returns True; returns False without open calls, with which etcd accepts no PINGs.
        on_dead: Called with the seconds of silence when the server does not respond.
        slowdown: Factor for the intervals between PINGs, for a server that complained about them.

    Attributes:
        last_received_at: When data were received last; set by the connection.
        ping_sent_at: When the PING was sent that is not answered; None if there is none.  Reset by the connection when
            data are received.
        slowdown: The factor.
    """

    __slots__ = (
        '_checked_at',
        '_last_ping_at',
        '_on_dead',
        '_ping_timer',
        '_send_ping',
        '_suspect_since',
        '_timer',
        'last_received_at',
        'ping_sent_at',
        'slowdown',
    )

    def __init__(self, send_ping: Callable[[], bool], on_dead: Callable[[float], None], *, slowdown: float) -> None:
        self.last_received_at = timing.now()
        self.ping_sent_at: float | None = None
        self.slowdown = slowdown
        self._send_ping = send_ping
        self._on_dead = on_dead
        self._last_ping_at = -math.inf
        self._suspect_since = -math.inf  # the time of a probe whose PING was not sent yet
        self._checked_at = self.last_received_at
        self._ping_timer: Any = None
        self._timer: Any = get_hub().loop.timer(HEALTH_INTERVAL, HEALTH_INTERVAL, ref=False)
        self._timer.start(self._check)

    def probe(self) -> None:
        """Send a PING as soon as ``PING_GAP`` allows, because a call or a stream got no response in time."""
        self._suspect_since = timing.now()
        self._ping_if_allowed(PROBE_TIMEOUT)

    def close(self) -> None:
        """Stop the timers."""
        close_watcher(self._timer)
        if self._ping_timer is not None:
            close_watcher(self._ping_timer)

    def _check(self) -> None:
        now, before, self._checked_at = timing.now(), self._checked_at, timing.now()
        if now - before > 1.5 * HEALTH_INTERVAL:
            return  # the process was stalled: data of the server may be unread in the socket
        if self._suspect_since >= self.last_received_at:
            self._ping_if_allowed(PROBE_TIMEOUT)
        elif now - self.last_received_at >= CONNECTION_IDLE_TIMEOUT * self.slowdown:
            self._ping_if_allowed(PING_TIMEOUT)

    def _ping_if_allowed(self, timeout: float) -> None:
        now = timing.now()
        is_due = self.ping_sent_at is None and now - self._last_ping_at >= PING_GAP * self.slowdown
        if is_due and self._send_ping():
            self._suspect_since = -math.inf
            self.ping_sent_at = self._last_ping_at = now
            self._start_ping_timer(now, timeout)

    def _start_ping_timer(self, sent_at: float, seconds: float) -> None:
        if self._ping_timer is not None:
            self._ping_timer.close()
        due_at = timing.now() + seconds
        self._ping_timer = get_hub().loop.timer(seconds, ref=False)
        self._ping_timer.start(self._on_ping_timer, sent_at, due_at)

    def _on_ping_timer(self, sent_at: float, due_at: float) -> None:
        now = timing.now()
        if self.ping_sent_at != sent_at:
            return
        if now - due_at > STALL_TOLERANCE:  # the process was stalled: the acknowledgement may be unread in the socket
            self._start_ping_timer(sent_at, STALL_TOLERANCE)
        else:
            self._on_dead(now - self.last_received_at)
