"""keep_node: a node that is there for as long as its process is well.

Source of the rules: etcd forgets a node a TTL after the last renewal that reached it.  Our clock counts
from the moment a renewal was *sent*, and ends a margin earlier, so we know of a loss before anybody
else can have the name.
"""

from __future__ import annotations

import logging
import os
import socket
from enum import Enum
from typing import Final

from getc import timing
from getc.backends.base import AcquiringWrite, Backend, KeepGroup, KeepListener, KeptNode
from getc.daemons.base import Daemon
from getc.daemons.liveness import LivenessProbe
from getc.daemons.options import KeepOptions
from getc.daemons.owner_watch import OwnerWatch
from getc.error_context import copy_error
from getc.errors import EtcdError, EtcException, KeyNotFound, NodeExist, NodeLost, NotFile, Overtaken, TestFailed
from getc.net.client_log import ClientLog
from getc.operations import Get, Put, WatchSpec, text_of
from getc.paths import ROOT
from getc.results import EtcdResult, Node, Value
from getc.timing import Deadline

__all__ = ['Keeper', 'KeeperState']

logger = logging.getLogger('getc')

LEAST_ATTEMPT: Final = 1.5
"""Seconds for one call of an attempt to take the node, for most TTLs.

What was sent to a leader that is just gone is never answered: the next attempt has to come soon enough for the node to
be back within two seconds.  A long TTL allows for an etcd that is slower: a sixth of it, as each renewal has; a short
one for half of it, or the node would be lost when it is taken.
"""

MOST_ATTEMPT: Final = 5.0
"""Seconds for one call at most."""

LEAST_PATIENCE: Final = 5.0
"""Seconds at least after which a name that is somebody else's is looked at again, whatever its watch says."""


class KeeperState(Enum):
    """How it stands with the node."""

    STARTING = 'the node was never there yet'
    KEPT = 'the node is there'
    SUSPECT = 'the node is there, and a renewal was missed'
    LOST = 'the node is not ours at the moment'
    STOPPED = 'the keeper has ended'


class Keeper(Daemon):
    """Keeps one node alive.  :meth:`getc.Client.keep_node` makes it.

    Attributes:
        key: The node.
        on_conflict: ``'replace'``, ``'wait'`` or ``'raise'``.
    """

    __slots__ = (
        '_backend',
        '_checkup',
        '_group',
        '_hold',
        '_is_asking',
        '_previous',
        '_rival',
        '_state',
        '_tell_lost',
        '_tell_restored',
        '_unanswered',
        '_value',
        'key',
        'on_conflict',
    )

    def __init__(
        self,
        log: ClientLog,
        backend: Backend,
        key: str,
        value: str | bytes | None,
        options: KeepOptions,
    ) -> None:
        if value is None:
            value = f'{os.getpid()}@{socket.gethostname()}'
        put = Put(key, text_of(value) if isinstance(value, bytes) else value, ttl=options.ttl)
        if put.key == ROOT:
            raise ValueError('the root is always there: name the node to keep')
        super().__init__(log, f'keep_node {put.key}')
        self.key = put.key
        self.on_conflict = options.on_conflict
        self._backend = backend
        self._group: KeepGroup = backend.keep(options.ttl)
        self._value = put.value or ''
        self._checkup = None if options.alive is None else LivenessProbe(options.alive, f'{log.label}: {self.name}')
        self._tell_lost = options.on_lost
        self._tell_restored = options.on_restored
        self._state = KeeperState.STARTING
        self._hold: KeptNode | None = None
        self._previous: KeptNode | None = None  # what we lost; the node may still be there and ours
        self._unanswered: set[AcquiringWrite] = set()  # those that may have taken the node
        self._rival: OwnerWatch | None = None
        self._is_asking = False  # an attempt waits for ``alive``, and has done nothing yet

    # -- what its user asks for; no I/O here

    @property
    def state(self) -> KeeperState:
        """How it stands, right from the first instruction after a stall of the process; STOPPED in a forked child."""
        if self._home.in_forked_child:
            return KeeperState.STOPPED
        if self._state in (KeeperState.KEPT, KeeperState.SUSPECT) and not self.remaining():
            return KeeperState.LOST
        return self._state

    @property
    def value(self) -> str:
        """What is, or will be, written to the node."""
        return self._value

    @property
    def ttl(self) -> int:
        """Seconds that the server gives the node, which are at least those asked for."""
        return self._group.ttl

    def remaining(self) -> float:
        """Seconds for which the node is certainly ours without another renewal; 0.0 if it is not.

        Reads the clock only: right even if this process did not run for a while, and 0.0 in a child
        that was forked off it.
        """
        if self._hold is None or self._home.in_forked_child:
            return 0.0
        return max(0.0, self._hold.lost_at - timing.now_with_suspend())

    def ensure(self) -> int:
        """Return the fencing token if the node is certainly ours now.

        The token is the index of the write that took the node.  It grows with each owner: a store that
        refuses tokens lower than the highest it has seen is safe from owners who are late.

        Raises:
            NodeLost: It is not.
            Overtaken: Its kind for when another has the node.
        """
        hold = self._hold
        if hold is None or not self.remaining():
            is_overtaken = self.state is KeeperState.LOST and isinstance(self.last_error, Overtaken)
            kind = Overtaken if is_overtaken else NodeLost
            raise kind(f'{self.key} is not kept: {self.state.name}: {self._why_not_kept()}')
        return hold.token

    def _why_not_kept(self) -> str:
        if self._home.in_forked_child:
            return 'it is kept by our parent, not by this forked child'
        if self._is_stopped:
            return 'the keeper was stopped'
        if self._hold is not None:
            return f'it was not renewed within its TTL of {self.ttl} s'
        return 'it was not written yet' if self.last_error is None else str(self.last_error)

    def __repr__(self) -> str:
        return f'<getc.Keeper {self.key} {self.state.name} ttl={self.ttl}>'

    # -- with I/O

    def update(self, value: str | bytes, timeout: float | None = 10.0) -> EtcdResult:
        """Write another value to the node; followers see it.  Blocks.

        Args:
            value: The text, or bytes.  It is remembered for when the node is written again, even if this raises: all
                that it raises has ``maybe_applied``, unless the keeper was stopped.
            timeout: Seconds; None for no limit.

        Raises:
            NodeLost: The node is not kept at the moment; it will come back with this value.
            Overtaken: Its kind for when another has the node.
            ConnectionError: No answer.
        """
        if isinstance(value, bytes):
            value = text_of(value)
        Put(self.key, value)  # checks the value
        deadline = Deadline.after(timeout)
        self._home.check()
        self._value = value
        try:
            return self._update(value, deadline)
        except EtcException as error:
            if error.maybe_applied or self.is_stopped:
                raise
            raise copy_error(error, maybe_applied=True) from error.__cause__

    def _update(self, value: str, deadline: Deadline) -> EtcdResult:
        self.ensure()
        hold = self._hold
        assert hold is not None
        try:
            return hold.update(value, deadline)
        except NodeLost as error:
            if hold is self._hold:
                hold.abandon()
                self.on_lost(error)
            raise

    def orphan(self, timeout: float | None = 5.0) -> None:
        """Stop, and leave the node to its TTL: for a successor who takes it over.  Blocks.

        Raises:
            EtcException: No answer, or a refusal.  It is stopped all the same, and the node may end before its TTL.
        """
        deadline = Deadline.after(timeout)
        if self._home.in_forked_child:
            return
        self._home.check()
        hold, self._hold, self._previous = self._hold, None, None
        self._unanswered.clear()
        try:
            if hold is not None and not self._is_stopped:
                hold.detach(deadline)
        finally:
            self.stop_begin(deadline)
            self.stop_wait(deadline)

    # -- taking the node

    def _retry_now(self) -> None:
        self._attempt_in(0)

    def _retry_soon(self) -> None:
        self._attempt_in(self._backoff.next_delay())

    def _step(self) -> float | None:
        self._drop_rival()
        if not self._may_take():
            return self.ttl / 3
        try:
            hold = self._take()
        except EtcException:
            if self._is_stopped and self._unanswered:  # whoever stops it waits for this, too
                self._spawn(self._give_back, None, self._attempt_deadline())
            raise
        if hold is None:
            return self._backoff.next_delay() if self._rival is None else self._rival.patience
        self._previous = None
        if self._is_stopped:  # what was written stays in mind, for whoever waits for the start
            hold.release(Deadline(MOST_ATTEMPT))
            return None
        self._unanswered.clear()
        self._hold = hold
        self._backoff.reset()
        was_lost = self._state is KeeperState.LOST
        self._state = KeeperState.KEPT
        self._started()
        if was_lost:
            if self._tell_restored is not None:
                self._call_soon(self._tell_restored, self)
            self._log_soon(logging.INFO, 'restored')
        return None

    def _may_take(self) -> bool:
        self._is_asking = True
        try:
            return self.check_liveness() and not self._is_stopped
        finally:
            self._is_asking = False

    def _take(self) -> KeptNode | None:
        """Write the node if it may be ours; None if it may not, yet."""
        if self._previous is not None:
            hold = self._group.reclaim(self.key, self._value, self._previous, self, self._attempt_deadline())
            if hold is not None:
                return hold
            self._previous = None
        try:
            return self._put(Put(self.key, self._value, prev_exist=False))
        except NodeExist as error:
            return self._take_over(error)

    def _take_over(self, error: NodeExist) -> KeptNode | None:
        """The node is there already: whose is it?"""
        try:
            found = self._backend.execute(Get(self.key, quorum=True), self._attempt_deadline())
        except KeyNotFound:
            return None
        if self._is_stopped:
            return None
        node = found.node
        is_starting = self._state is KeeperState.STARTING
        if isinstance(node, Value) and node.ttl is not None:
            if is_starting and self.on_conflict == 'replace':
                try:
                    return self._put(Put(self.key, self._value, prev_exist=True, prev_index=node.modified_index))
                except (KeyNotFound, TestFailed):
                    return None
            if is_starting and self.on_conflict == 'raise':
                raise error
        elif is_starting:  # nobody keeps it alive: it will not go
            raise _permanent(node, found.etcd_index)
        if is_starting:
            self.last_error = error
        self._rival = OwnerWatch(
            self._backend,
            WatchSpec(self.key, found.etcd_index + 1),
            patience=max(float(node.ttl or 0), LEAST_PATIENCE),
            on_gone=self._retry_now,
            on_ended=self._retry_soon,  # no event would show when its owner is gone
        )
        return None

    def _put(self, put: Put) -> KeptNode:
        earlier = self._unanswered.copy()
        try:
            return self._group.keep(put, self, self._attempt_deadline())
        except EtcException as error:
            if not error.maybe_applied:
                self._unanswered = earlier
            raise

    def _may_have_written(self) -> bool:
        return bool(self._unanswered)

    def _attempt_deadline(self) -> Deadline:
        return Deadline(min(max(LEAST_ATTEMPT, self.ttl / 6), self.ttl / 2, MOST_ATTEMPT))

    def _drop_rival(self) -> None:
        if self._rival is not None:
            self._rival.close()
            self._rival = None

    # -- losing it, and giving it back

    def _lose(self, error: NodeLost) -> KeptNode | None:
        """The node is not ours any more; return what held it."""
        hold, self._hold = self._hold, None
        self.last_error = error
        self._state = KeeperState.LOST
        if self._tell_lost is not None:
            self._call_soon(self._tell_lost, self)
        self._log_soon(logging.WARNING, 'lost: %s', error)
        return hold

    def _withdraw(self, hold: KeptNode) -> None:
        """Take the node away, for its process is not well."""
        try:
            hold.release(Deadline(MOST_ATTEMPT))
        except EtcException as error:
            self.last_error = error
            self._previous = hold
        finally:
            self._attempt_in(self.ttl / 3)

    def _on_stop(self, deadline: Deadline) -> None:
        self._drop_rival()
        self._state = KeeperState.STOPPED
        if self._is_asking and self._attempting is not None:
            self._attempting.kill(block=False)  # it may be ``alive`` that stops us, and would wait for itself
        hold, self._hold = self._hold or self._previous, None
        if hold is not None or (self._unanswered and (self._attempting is None or self._is_asking)):
            self._spawn(self._give_back, hold, deadline)

    def _give_back(self, hold: KeptNode | None, deadline: Deadline) -> None:
        """Delete the node if it is ours.  If that fails its TTL does it."""
        if self._home.in_forked_child:
            return
        try:
            if hold is not None:
                hold.release(deadline)
            if self._unanswered:
                self._group.delete_unanswered(self.key, self, deadline)
        except EtcException as error:
            self.last_error = error
            text = '%s: %s: could not delete the node, which goes with its TTL: %s'
            logger.warning(text, self._log.label, self.name, error)

    # -- what the lease group tells (``KeepListener``)

    @property
    def has_liveness_check(self) -> bool:
        """True if there is an ``alive``.  For the lease group."""
        return self._checkup is not None

    @property
    def unanswered(self) -> set[AcquiringWrite]:
        """Writes that may have taken the node, or may take it yet.  For the lease group."""
        return self._unanswered

    def on_writing(self, write: AcquiringWrite) -> None:
        """A write that takes the node is sent now.  For the lease group."""
        self._unanswered.add(write)  # for good if this greenlet is killed

    def check_liveness(self) -> bool:
        """Ask ``alive``.  For the lease group."""
        if self._is_stopped:
            return False
        is_alive = self._checkup is None or self._checkup.passes(self.ttl / 6, self._spawn)
        if not is_alive and self._hold is not None and not self._is_stopped:
            hold = self._lose(NodeLost(f'{self.key} was taken away: alive() says no'))
            if hold is not None:
                hold.abandon()
                self._spawn(self._withdraw, hold)
        return is_alive

    def on_renewed(self) -> None:
        """A renewal succeeded.  For the lease group."""
        if self._state is KeeperState.SUSPECT:
            self._state = KeeperState.KEPT

    def on_renewal_missed(self, error: EtcException) -> None:
        """A renewal was missed.  For the lease group."""
        self.last_error = error
        if self._state is KeeperState.KEPT:
            self._state = KeeperState.SUSPECT
            self._log_soon(logging.WARNING, 'a renewal was missed: %s', error)

    def on_lost(self, error: NodeLost) -> None:
        """The node is not held any more.  For the lease group."""
        if self._is_stopped:
            return
        hold = self._lose(error)
        # Overtaken is proven: a node that looks like ours now is not, and is not fought for.
        self._previous = None if isinstance(error, Overtaken) else hold
        self._attempt_in(self._backoff.next_delay() if isinstance(error, Overtaken) else 0)


def _permanent(node: Node, index: int) -> EtcdError:
    """The error for a node without a TTL in the place of the one to keep."""
    if isinstance(node, Value):
        reason = 'it has no TTL, so it is not taken over: delete it, or keep another key'
        return NodeExist(f'Key already exists: {reason}', node.key, index)
    return NotFile('Not a file: it is a directory, which cannot be kept', node.key, index)


_: type[KeepListener] = Keeper
