"""The state machine behind keep_node: takes a node, has the node renewed, detects its loss, and takes the node again.

etcd deletes a node one TTL after the last renewal that reached the server.  The daemon counts from the moment at which
that renewal was *sent*, and subtracts a safety margin, so that a loss is detected before another process can own the
node.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import gevent

from getc import timing
from getc.backends.base import AcquiringWrite, Backend, KeepGroup, KeptNode
from getc.daemons.base import Daemon
from getc.daemons.keeper_state import KeeperState
from getc.daemons.liveness import LivenessProbe
from getc.daemons.options import KeepOptions
from getc.daemons.owner_watch import OwnerWatch, permanent_node_error
from getc.errors import EtcException, KeyNotFound, NodeExist, NodeLost, Overtaken, TestFailed
from getc.net.client_log import ClientLog
from getc.operations import Get, Put, WatchSpec
from getc.results import EtcdResult, Value
from getc.timing import Deadline

__all__ = ['KeepDaemon']

log = logging.getLogger(__name__)

MIN_CALL_TIMEOUT: Final = 1.5
"""Seconds for one request of an attempt to take the node, for most TTLs.

A request that was sent to a leader that has just failed is never answered: the next attempt has to follow soon enough
for the node to be back within two seconds.  Long TTLs allow for a slower etcd: a sixth of the TTL, as for each renewal.
Short TTLs limit the request to half of the TTL, or the node would be lost as soon as it is taken.
"""

MAX_CALL_TIMEOUT: Final = 5.0
"""Maximum seconds for one request."""

MIN_OWNER_CHECK_INTERVAL: Final = 5.0
"""Seconds after which a node of another owner is read again at the earliest, if its watch reports nothing."""


class KeepDaemon(Daemon):
    """Keeps one node: the daemon of a :class:`~getc.Keeper`, and the ``KeepListener`` of its keep group.

    Args:
        log: The log of the client.
        backend: The store.
        key: The node.
        value: The text of the node.
        options: How to keep the node.
        keeper: The argument of ``on_lost`` and ``on_restored``.

    Attributes:
        value: The text that is, or will be, written to the node.
        unanswered: Writes without a response, which may have taken the node or may still do so.
    """

    __slots__ = (
        '_backend',
        '_group',
        '_is_detached',
        '_is_writing',
        '_keeper',
        '_loss',
        '_lost_while_acquired',
        '_node',
        '_options',
        '_owner_watch',
        '_previous',
        '_probe',
        '_state',
        '_written_value',
        'unanswered',
        'value',
    )

    def __init__(
        self, log: ClientLog, backend: Backend, key: str, value: str, options: KeepOptions, keeper: object
    ) -> None:
        super().__init__(log, key, f'keep_node {key}')
        self.value = value
        self.unanswered: set[AcquiringWrite] = set()
        self._backend = backend
        self._group: KeepGroup | None = None  # until the first attempt
        self._options = options
        self._keeper = keeper
        self._probe = None if options.alive is None else LivenessProbe(options.alive, f'{log.label}: {self.name}')
        self._state = KeeperState.STARTING
        self._node: KeptNode | None = None
        self._previous: KeptNode | None = None  # the lost node, which may still exist, unchanged
        self._owner_watch: OwnerWatch | None = None
        self._loss: NodeLost | None = None  # why the node is not owned; None before the first loss
        self._lost_while_acquired = False  # the attempt in flight got the node, and the node was lost already
        self._written_value = value  # the last one that was written
        self._is_writing = False  # the attempt in flight may have written the node
        self._is_detached = False

    # -- state; no I/O

    @property
    def state(self) -> KeeperState:
        """The state of the keeper, correct even if no timer has run; STOPPED in a forked child."""
        if self.in_forked_child:
            return KeeperState.STOPPED
        if self._state in (KeeperState.KEPT, KeeperState.SUSPECT) and not self.remaining():
            return KeeperState.LOST
        return self._state

    @property
    def ttl(self) -> int:
        """The TTL in seconds that the server grants."""
        return self._options.ttl if self._group is None else self._group.ttl

    def remaining(self) -> float:
        """Return the seconds for which the node is certainly owned without another renewal."""
        if self._node is None or self.greenlets.affinity.in_forked_child:
            return 0.0
        return max(0.0, self._node.lost_at - timing.now_with_suspend())

    def ensure(self) -> KeptNode:
        """Return the node if it is certainly owned now, or raise NodeLost or Overtaken."""
        node = self._node
        if node is None or not self.remaining():
            raise self._not_kept()
        return node

    def _not_kept(self) -> NodeLost:
        """Return the error for a node that is not owned."""
        kind = Overtaken if self.state is KeeperState.LOST and isinstance(self._loss, Overtaken) else NodeLost
        return kind(f'{{key}} is not kept: {self.state.name}: {self._reason()}', key=self.key)

    def _reason(self) -> str:
        """Return why the node is not owned, for an error."""
        if self.in_forked_child:
            return 'it is kept by the parent of this forked process'
        if self._is_stopped:
            return 'the keeper was stopped'
        if self._node is not None:
            return f'it was not renewed within its TTL of {self.ttl} s'
        if self._loss is not None:
            return str(self._loss)
        return 'it was not written yet' if self.last_error is None else str(self.last_error)

    # -- requests of the program

    def update(self, value: str, deadline: Deadline) -> EtcdResult:
        """Write another value to the node, and remember the value in any case."""
        self.value = value
        node = self.ensure()
        try:
            result = node.update(value, deadline)
        except NodeLost as error:
            if node is self._node:
                node.abandon()
                self.on_lost(error)
            elif self._node is None:  # it was lost before its turn to be written, and the group does not know why
                raise self._not_kept() from error
            raise
        self._written_value = value
        return result

    def detach(self, deadline: Deadline) -> None:
        """Stop, and leave the node to its TTL."""
        if self.in_forked_child:
            return
        self.check_thread()
        self._is_detached = True
        node, self._node, self._previous = self._node, None, None
        self.unanswered.clear()
        try:
            if node is not None and not self._is_stopped:
                node.detach(deadline)
        finally:
            self.stop_begin(deadline)
            self.stop_wait(deadline)

    # -- taking the node

    def _step(self) -> float | None:
        self._close_owner_watch()
        if self._node is not None:
            self._write_latest_value(self._node)
            return None
        if not self._prepare():
            return self.ttl / 3
        node = self._acquire()
        if self._is_stopped:
            return None
        if node is None:
            return self.retry.backoff.next_delay() if self._owner_watch is None else self._owner_watch.check_interval
        self._previous = None
        self.unanswered.clear()
        self._node = node
        self._loss = None
        self.retry.backoff.reset()
        was_lost = self._state is KeeperState.LOST
        self._state = KeeperState.KEPT
        self.mark_started()
        if was_lost:
            if self._options.on_restored is not None:
                self.callbacks.post(self._options.on_restored, self._keeper)
            self.log_event(logging.INFO, 'restored')
        return None if self._written_value == self.value else 0  # update() was called meanwhile

    def _write_latest_value(self, node: KeptNode) -> None:
        """Write the value of an update that was requested while the node was being acquired."""
        while node is self._node and self._written_value != self.value:
            try:
                self.update(self.value, self._call_deadline())
            except NodeLost:
                pass  # the value is written with the node

    def _prepare(self) -> bool:
        """Call ``alive``, and detect the API if it is unknown.  Return False if the node must not be written now."""
        if not self.check_liveness():
            if not self._is_stopped:
                text = '{key} was not written, because alive() returned False, raised or timed out'
                self.last_error = NodeLost(text, key=self.key)
            return False
        if self._group is None:
            self._backend = self._backend.detect_api(self._call_deadline())
            self._group = self._backend.keep_group(self._options.ttl)
        return not self._is_stopped

    def _acquire(self) -> KeptNode | None:
        """Write the node.  Return None if the node is another owner's, or was deleted or lost meanwhile.

        If the daemon is stopped meanwhile, the node is deleted, or left to its TTL after :meth:`detach`.
        """
        self._is_writing = True
        self._lost_while_acquired = False
        value = self.value
        node: KeptNode | None = None
        try:
            node = self._write(value)
        except EtcException:
            if self._is_stopped and self.unanswered and not self._is_detached:
                self._spawn_deletion(None, self._call_deadline())
            raise
        finally:
            self._is_writing = False
        if self._is_stopped:
            if self._is_detached:
                if node is not None:
                    node.detach(self._call_deadline())
            elif node is not None:
                self._spawn_deletion(node, self._call_deadline(), and_unanswered=False)
            elif self.unanswered:
                self._spawn_deletion(None, self._call_deadline())
            return None
        if self._lost_while_acquired:  # the node will not call on_lost again
            self._previous = node
            return None
        if node is not None:
            self._written_value = value
        return node

    def _write(self, value: str) -> KeptNode | None:
        """Write the node with this value.  Return None if the node is another owner's, or was deleted meanwhile."""
        if self._previous is not None:
            assert self._group is not None
            node = self._group.reclaim(self.key, value, self._previous, self, self._call_deadline())
            if node is not None:
                return node
            self._previous = None
            if self._is_stopped:
                return None
        try:
            return self._keep(Put(self.key, value, prev_exist=False))
        except NodeExist as error:
            return None if self._is_stopped else self._replace(value, error)

    def _replace(self, value: str, error: NodeExist) -> KeptNode | None:
        """Take over the node of another owner, wait for its end, or raise, as ``on_conflict`` says."""
        try:
            found = self._backend.execute(Get(self.key, quorum=True), self._call_deadline())
        except KeyNotFound:
            return None
        if self._is_stopped:
            return None
        node = found.node
        is_starting = self._state is KeeperState.STARTING
        if isinstance(node, Value) and node.ttl is not None:
            if is_starting and self._options.on_conflict == 'replace':
                try:
                    return self._keep(Put(self.key, value, prev_exist=True, prev_index=node.modified_index))
                except (KeyNotFound, TestFailed):
                    return None
            if is_starting and self._options.on_conflict == 'raise':
                raise error
        elif is_starting:  # without a TTL it does not go away by itself
            raise permanent_node_error(node, found.etcd_index)
        if is_starting:
            self.last_error = error
        else:
            self._loss = Overtaken('{key} was written by another client', key=self.key)
        self._owner_watch = OwnerWatch(
            self._backend,
            WatchSpec(self.key, found.etcd_index + 1),
            check_interval=max(float(node.ttl or 0), MIN_OWNER_CHECK_INTERVAL),
            on_deleted=self._retry_now,
            on_ended=self._retry_soon,
        )
        return None

    def _keep(self, put: Put) -> KeptNode:
        assert self._group is not None
        before = self.unanswered.copy()
        try:
            return self._group.keep(put, self, self._call_deadline())
        except EtcException as error:
            if not error.maybe_applied:
                self.unanswered = before
            raise

    def _may_have_written(self) -> bool:
        return bool(self.unanswered)

    def _call_deadline(self) -> Deadline:
        return Deadline(min(max(MIN_CALL_TIMEOUT, self.ttl / 6), self.ttl / 2, MAX_CALL_TIMEOUT))

    def _retry_now(self) -> None:
        self.retry.schedule(0)

    def _retry_soon(self) -> None:
        self.retry.schedule(self.retry.backoff.next_delay())

    def _close_owner_watch(self) -> None:
        if self._owner_watch is not None:
            self._owner_watch.close()
            self._owner_watch = None

    # -- KeepListener

    @property
    def has_liveness_check(self) -> bool:
        """True if there is an ``alive`` function."""
        return self._probe is not None

    def on_writing(self, write: AcquiringWrite) -> None:
        """A write that takes the node is sent now."""
        self.unanswered.add(write)  # for good if this greenlet is killed
        self._lost_while_acquired = False

    def check_liveness(self) -> bool:
        """Call ``alive``, and remove the node if the result is False.  Blocks for a sixth of the TTL at most."""
        if self._is_stopped:
            return False
        if self._probe is None or self._probe.check(self.ttl / 6, self.greenlets.spawn):
            return True
        if self._node is not None and not self._is_stopped:
            text = '{key} is to be deleted, because alive() returned False, raised or timed out'
            node = self._lose(NodeLost(text, key=self.key))
            if node is not None:
                node.abandon()
                self.greenlets.spawn(self._release, node)
        return False

    def on_renewed(self) -> None:
        """A renewal succeeded."""
        if self._state is KeeperState.SUSPECT:
            self._state = KeeperState.KEPT

    def on_renewal_missed(self, error: EtcException) -> None:
        """A renewal failed.  The node is still owned."""
        self.last_error = error
        if self._state is KeeperState.KEPT:
            self._state = KeeperState.SUSPECT
            self.log_event(logging.WARNING, 'a renewal was missed: %s', error)

    def on_lost(self, error: NodeLost) -> None:
        """The node is not owned any more."""
        if self._is_stopped:
            return
        if self._node is None:  # the group attached the node, and has not returned it yet
            self._lost_while_acquired = True
            return
        node = self._lose(error)
        # Overtaken proves another owner: do not reclaim the node, even if its value is the same.
        self._previous = None if isinstance(error, Overtaken) else node
        self.retry.schedule(self.retry.backoff.next_delay() if isinstance(error, Overtaken) else 0)

    # -- losing and deleting the node

    def _lose(self, error: NodeLost) -> KeptNode | None:
        """Become LOST, and return the node."""
        node, self._node = self._node, None
        self.last_error = self._loss = error
        self._state = KeeperState.LOST
        if self._options.on_lost is not None:
            self.callbacks.post(self._options.on_lost, self._keeper)
        self.log_event(logging.WARNING, 'lost: %s', error)
        return node

    def _release(self, node: KeptNode) -> None:
        """Delete the node of a process that is not alive."""
        try:
            node.release(Deadline(MAX_CALL_TIMEOUT))
        except EtcException as error:
            self._previous = node
            self._on_delete_failed(error)
        finally:
            self.retry.schedule(self.ttl / 3)

    def _on_stop(self, deadline: Deadline) -> None:
        self._close_owner_watch()
        self._state = KeeperState.STOPPED
        node, self._node = self._node or self._previous, None
        if not self._is_writing:
            # Also because ``alive`` may be the caller of stop(), which would wait for itself.
            self.retry.kill_attempt()
        if node is not None or (self.unanswered and not self._is_writing):
            self._spawn_deletion(node, deadline)

    def _spawn_deletion(self, node: KeptNode | None, deadline: Deadline, *, and_unanswered: bool = True) -> None:
        """Delete the node in the background, and stop its renewals in any case."""
        greenlet = self.greenlets.spawn(self._delete_node, node, deadline, and_unanswered)
        # The greenlet may be killed before its first instruction, as by ``stop(timeout=0)``.  Until it runs, the node
        # stays attached: otherwise a new keeper of the key could put it on the same lease, and lose it by this delete.
        greenlet.rawlink(partial(self._on_deletion_over, node))

    def _on_deletion_over(self, node: KeptNode | None, deletion: gevent.Greenlet[..., object]) -> None:
        if node is not None:
            node.abandon()
        if isinstance(deletion.value, gevent.GreenletExit) and not self.in_forked_child:
            text = 'the deletion of the node was interrupted: etcd deletes the node after its TTL of %d s'
            self.log_event(logging.WARNING, text, self.ttl)

    def _delete_node(self, node: KeptNode | None, deadline: Deadline, and_unanswered: bool) -> None:
        """Delete the node, and what unanswered writes created.  If that fails, etcd deletes it after its TTL."""
        if self.in_forked_child:
            return
        try:
            if node is not None:
                node.release(deadline)
            if and_unanswered and self.unanswered and self._group is not None:
                self._group.delete_unanswered(self.key, self, deadline)
        except EtcException as error:
            self._on_delete_failed(error)

    def _on_delete_failed(self, error: EtcException) -> None:
        self.last_error = error
        text = '%s: %s: could not delete the node, which etcd deletes after its TTL of %d s: %s'
        log.warning(text, self.log.label, self.name, self.ttl, error)
