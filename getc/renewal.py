"""The renewal clock: when to renew what lives for one TTL in etcd, and when it counts as lost.

etcd ends a lease, or a node with a TTL, one TTL after the last renewal that arrived.  The client cannot see when a
renewal arrived, only when the renewal was sent.  So the time until the loss starts when an acknowledged renewal was
*sent*, and it ends before the TTL does: the owner is notified before etcd can give the name to another owner.

Without gevent: timers are passed in.  The clock is ``timing.now_with_suspend``, because TTLs run out in etcd while this
machine is suspended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, Protocol

from getc import timing
from getc.errors import EtcException, NodeLost
from getc.timing import Backoff, Deadline

__all__ = ['Renewable', 'RenewalClock', 'RenewalLoop', 'Timers', 'safety_margin']

RENEWALS_PER_TTL: Final = 3
ATTEMPTS_PER_TTL: Final = 6
"""An attempt takes a sixth of the TTL at most: a renewal that hangs leaves time for others before the loss."""

MIN_MARGIN: Final = 0.5
"""Seconds."""

MAX_RETRY_DELAY: Final = 1.0
"""Maximum seconds between two attempts; a twelfth of the TTL where that is less."""


def safety_margin(ttl: float) -> float:
    """Return how many seconds before the end of its TTL a node counts as lost, since clocks differ in speed."""
    return max(MIN_MARGIN, ttl / 10)


class RenewalClock:
    """When one lease or one node has to be renewed, and when it counts as lost.

    Attributes:
        ttl: Seconds that it lives in etcd after a renewal.
        margin: Seconds before the end of the TTL at which it counts as lost.
        lost_at: When it counts as lost unless a renewal is acknowledged before: (time at which the last acknowledged
            renewal was sent) + ``ttl`` - ``margin``, in seconds of ``timing.now_with_suspend``.
        renew_at: When the next renewal is due, on the same clock.
        last_error: The error of the last attempt since the last acknowledged renewal, or None.

    Args:
        ttl: Seconds.
        sent_at: When the request was sent that granted the lease or wrote the node, on the same clock.
    """

    __slots__ = ('last_error', 'lost_at', 'margin', 'renew_at', 'ttl')

    def __init__(self, ttl: int, sent_at: float) -> None:
        self.ttl = ttl
        self.margin = safety_margin(ttl)
        self.lost_at = sent_at + ttl - self.margin
        self.renew_at = sent_at + self.interval
        self.last_error: EtcException | None = None

    @property
    def interval(self) -> float:
        """Seconds between two renewals."""
        return self.ttl / RENEWALS_PER_TTL

    @property
    def attempt_timeout(self) -> float:
        """Maximum seconds that one attempt to renew takes."""
        return self.ttl / ATTEMPTS_PER_TTL

    @property
    def has_run_out(self) -> bool:
        """True if it counts as lost."""
        return timing.now_with_suspend() >= self.lost_at

    @property
    def is_fresh(self) -> bool:
        """True if more than half of the TTL is left: one missed renewal would not lose what is added now."""
        return self.lost_at + self.margin - timing.now_with_suspend() > self.ttl / 2

    def remaining(self) -> float:
        """Return the seconds until it counts as lost, at least 0."""
        return max(0.0, self.lost_at - timing.now_with_suspend())

    def attempt_deadline(self) -> Deadline:
        """Make the deadline of an attempt that is sent now."""
        return Deadline(min(self.attempt_timeout, self.remaining()))

    def is_outdated_by(self, renewed_at: float) -> bool:
        """Return True if a renewal at this time postpones the loss."""
        return renewed_at + self.ttl - self.margin > self.lost_at

    def acknowledge(self, sent_at: float) -> bool:
        """Postpone the loss and the next renewal, since a renewal that was sent at this time was acknowledged.

        Returns:
            False if the acknowledgement came too late: what counts as lost stays lost, even if etcd still has it.
        """
        if self.has_run_out:
            return False
        self.lost_at = max(self.lost_at, sent_at + self.ttl - self.margin)
        self.renew_at = max(self.renew_at, sent_at + self.interval)
        self.last_error = None
        return True

    def loss(self, what: str, *, key: str | None = None) -> NodeLost:
        """Return the NodeLost for an expired clock.

        Args:
            what: What was lost; ``'{key}'`` for the node ``key``.
            key: The node.
        """
        error = self.last_error
        reason = 'no renewal was sent: this process, its hub or the machine did not run' if error is None else error
        loss = NodeLost(f'{what} was not renewed within its TTL of {self.ttl} s: {reason}', key=key)
        loss.__cause__ = error
        return loss


class Renewable(Protocol):
    """What a :class:`RenewalLoop` renews."""

    __slots__ = ()

    def before_renewal(self) -> None:
        """Run the liveness checks; called once before the attempts of each renewal.

        May block, for a sixth of the TTL at most, and may close the loop.
        """

    def renew(self) -> None:
        """Attempt one renewal, and call ``RenewalClock.acknowledge`` if it succeeds.  Blocks.

        If etcd shows that there is nothing left to renew, close the loop and return.

        Raises:
            EtcException: No acknowledgement came.  The loop attempts it again.
        """

    def on_renewal_missed(self, error: EtcException) -> None:
        """An attempt failed; others follow until the clock has run out.  Must not block or raise."""

    def on_expired(self) -> None:
        """The clock has run out: :meth:`RenewalClock.loss` is the error.  Has to close the loop; must not block."""


class Timers(Protocol):
    """The part of gevent that a loop uses: pass the module ``gevent``."""

    def spawn_later(self, seconds: float, run: Callable[[], None], /) -> Any:
        """Run a function in a greenlet, after so many seconds; return the greenlet."""

    def sleep(self, seconds: float, /) -> object:
        """Suspend the current greenlet for so many seconds."""

    def getcurrent(self) -> object:
        """Return the current greenlet."""


class RenewalLoop:
    """Renews at a third of the TTL, and reports the loss in time.

    Between two renewals nothing runs: there are two timers, one for the next renewal and one for the loss.  The loss is
    reported on time even while a renewal hangs.  In a forked child the loop does nothing: the parent goes on renewing.

    Args:
        kept: What is renewed.
        clock: Its clock.
        what: Its name, for the names of greenlets.
        timers: The module ``gevent``.
    """

    __slots__ = (
        '_clock',
        '_expiry',
        '_is_closed',
        '_is_due',
        '_is_renewing',
        '_kept',
        '_pid',
        '_renewal',
        '_timers',
        '_what',
    )

    def __init__(self, kept: Renewable, clock: RenewalClock, what: str, timers: Timers) -> None:
        self._kept = kept
        self._clock = clock
        self._what = what
        self._timers = timers
        self._pid = os.getpid()
        self._is_closed = False
        self._is_renewing = False
        self._is_due = False  # another renewal has to follow the one in flight at once
        self._renewal: Any = None  # a greenlet, which may wait for its time
        self._expiry: Any = None
        self._schedule_renewal(clock.renew_at)
        self._schedule_expiry()

    @property
    def in_forked_child(self) -> bool:
        """True in a process that was forked off the one that renews."""
        return os.getpid() != self._pid

    @property
    def is_closed(self) -> bool:
        """True once :meth:`close` was called."""
        return self._is_closed

    @property
    def is_active(self) -> bool:
        """True while renewals go on: not closed, not lost, not in a forked child."""
        return self._is_open and not self._clock.has_run_out

    @property
    def _is_open(self) -> bool:
        return not (self._is_closed or self.in_forked_child)

    def renew_now(self) -> None:
        """Renew without waiting for a third of the TTL to pass.  Does not block.

        A renewal in flight is followed by another one, since its answer may be from before this call.
        """
        if self._is_renewing:
            self._is_due = True
        elif self._renewal is not None:
            self._renewal.kill(block=False)
            self._schedule_renewal(timing.now_with_suspend())

    def close(self) -> None:
        """Renew no more, and report no loss.  Does not block; may be called twice, and from a renewal."""
        self._is_closed = True
        for greenlet in (self._renewal, self._expiry):
            if greenlet is not None and greenlet is not self._timers.getcurrent():
                greenlet.kill(block=False)
        self._renewal = self._expiry = None

    # -- renewals

    def _schedule_renewal(self, at: float) -> None:
        if self.is_active:
            delay = max(0.0, at - timing.now_with_suspend())
            self._renewal = self._timers.spawn_later(delay, self._renew)
            self._renewal.name = f'getc renewal of {self._what}'

    def _renew(self) -> None:
        self._is_renewing = True
        self._is_due = False
        next_at = timing.now_with_suspend() + self._clock.interval  # also if this greenlet is killed
        try:
            self._renew_until_acknowledged()
            next_at = self._clock.renew_at
        finally:
            self._is_renewing = False
            self._report_if_lost()  # the timer of the loss does not count a suspend, so it may be late
            self._schedule_renewal(timing.now_with_suspend() if self._is_due else next_at)

    def _renew_until_acknowledged(self) -> None:
        if self.is_active:
            self._kept.before_renewal()
        backoff = Backoff(cap=min(MAX_RETRY_DELAY, self._clock.attempt_timeout / 2))
        while self.is_active:
            try:
                return self._kept.renew()
            except EtcException as error:
                if self.is_active:
                    self._clock.last_error = error
                    self._kept.on_renewal_missed(error)
            self._timers.sleep(backoff.next_delay())

    # -- the loss

    def _schedule_expiry(self) -> None:
        self._expiry = self._timers.spawn_later(self._clock.remaining(), self._on_expiry_due)
        self._expiry.name = f'getc expiry of {self._what}'

    def _on_expiry_due(self) -> None:
        """Report the loss, or wait for the time to which a renewal has postponed it."""
        self._report_if_lost()
        if self._is_open:
            self._schedule_expiry()

    def _report_if_lost(self) -> None:
        if self._is_open and self._clock.has_run_out:
            self._kept.on_expired()
