"""One key of a contender: created, renewed, lost and removed."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Final

import gevent

from getc.backends.base import AcquiringWrite, Backend, KeepGroup, KeepListener, KeptNode, WatchListener
from getc.backends.creation_order import lost_contender
from getc.errors import ClientClosed, EtcException, NodeLost, NotDir
from getc.operations import Predecessor, Put
from getc.paths import child_prefix
from getc.recipes.contender_queue import ContenderQueue, ContenderState
from getc.results import Deleted, EtcdResult, PredecessorResult
from getc.retry import is_transient
from getc.timing import Backoff, Deadline

__all__ = ['ContenderKey', 'EarlierKey']

log = logging.getLogger(__name__)


class ContenderKey(KeepListener):
    """One key of a contender, with a random name.  It is the ``KeepListener`` of its keep group.

    Args:
        queue: The queue.
        on_change: Called with this key and HELD after a renewal, SUSPECT after an attempt that failed, LOST.  The
            function must not block, switch or raise.

    Attributes:
        key: The key.
        backend: The backend that keeps it; None before the first request.
        node: The kept key; None before it was created.
        loss: Why it is not kept any more, or None.
        refusal: The error with which etcd has refused to delete it, or None.
        unanswered: The writes that may have created the key, if no write was answered.
    """

    __slots__ = (
        '_group',
        '_on_change',
        '_pid',
        '_queue',
        '_was_tried',
        'backend',
        'key',
        'loss',
        'node',
        'refusal',
        'unanswered',
    )

    has_liveness_check: Final = False
    unanswered: Collection[AcquiringWrite]

    def __init__(self, queue: ContenderQueue, on_change: Callable[[ContenderKey, ContenderState], object]) -> None:
        self.key = f'{child_prefix(queue.directory)}{secrets.token_hex(8)}'
        self.backend: Backend | None = None
        self.node: KeptNode | None = None
        self.loss: NodeLost | None = None
        self.refusal: EtcException | None = None
        self.unanswered = ()
        self._queue = queue
        self._on_change = on_change
        self._group: KeepGroup | None = None
        self._was_tried = False  # try_remove was called
        self._pid = os.getpid()

    @property
    def may_exist(self) -> bool:
        """True if the key was created, or a write that creates it was not answered."""
        return self.node is not None or bool(self.unanswered)

    def create(self, deadline: Deadline) -> PredecessorResult | None:
        """Create the key and keep it; return the earlier keys if they are known.  Blocks.  Raises like ``execute``.

        After a call without an answer another call cannot create the key twice: it finds the key, or creates it.
        """
        queue, before = self._queue, self.unanswered
        backend = self.backend = queue.context.backend.detect_api(deadline)
        query = Predecessor(self.key, 0, queue.scope, queue.known)
        if not self.may_exist:
            queue.prepare(backend, deadline)
        try:
            self._group = backend.keep_group(queue.ttl)
            put = Put(self.key, queue.value, prev_exist=False)
            self.node, answer = self._group.contend(put, self, query, deadline)
        except EtcException as error:
            if not error.maybe_applied:
                self.unanswered = before
            if isinstance(error, NotDir):
                error.hint = f'a value exists at or above {queue.directory}: delete it, or use another key'
            raise
        return answer

    def find_earlier(self, deadline: Deadline) -> PredecessorResult:
        """Read the earlier keys, if the key still exists.  Blocks.  Raises like ``execute``, and NodeLost."""
        assert self.backend is not None and self.node is not None
        query = Predecessor(self.key, self.node.token, self._queue.scope, self._queue.known)
        return self.backend.execute(query, deadline)

    def remove(self) -> None:
        """Delete the key: :meth:`try_remove`, repeated until etcd answers or the key has expired.  Blocks."""
        end = Deadline(self._queue.ttl)
        backoff = Backoff()
        while os.getpid() == self._pid and not self.try_remove(self._queue.call_deadline(end)):
            if end.has_passed():
                self._on_not_removed('no answer')
                return
            gevent.sleep(min(backoff.next_delay(), end.remaining()))

    def try_remove(self, deadline: Deadline) -> bool:
        """Delete the key by its token, and return False if etcd has not answered.  Blocks until the deadline at most.

        A refusal is logged, and kept in ``refusal``.  If the key was gone before the first call, that is its ``loss``.
        """
        is_first, self._was_tried = not self._was_tried, True
        try:
            was_deleted = self._remove(deadline)
        except ClientClosed:
            return True
        except EtcException as error:
            if is_transient(error):
                return False
            self.refusal = error
            self._on_not_removed(error)
            return True
        if is_first and not was_deleted and self.loss is None:
            self.loss = lost_contender(self.key)
        return True

    def _remove(self, deadline: Deadline) -> bool:
        if self.node is None:  # the greenlet that has created the key was killed, or got no answer
            try:
                self.create(deadline)
            except NodeLost:
                assert self._group is not None
                self._group.delete_unanswered(self.key, self, deadline)
                return True
        assert self.node is not None
        return self.node.release(deadline)

    def _on_not_removed(self, error: object) -> None:
        label, ttl = self._queue.context.log.label, self._queue.ttl
        text = '%s: %s: could not delete %s, which expires after its TTL of %d s: %s'
        log.warning(text, label, self._queue.name, self.key, ttl, error)

    # -- ``KeepListener``

    def on_writing(self, write: AcquiringWrite) -> None:
        self.unanswered = (*self.unanswered, write)

    def check_liveness(self) -> bool:
        return True

    def on_renewed(self) -> None:
        self._on_change(self, ContenderState.HELD)

    def on_renewal_missed(self, error: EtcException) -> None:
        self._on_change(self, ContenderState.SUSPECT)

    def on_lost(self, error: NodeLost) -> None:
        self.loss = error
        self._on_change(self, ContenderState.LOST)


class EarlierKey(WatchListener):
    """Notifies a contender when an earlier key is deleted, or when its watch ends.

    Args:
        on_over: Called then.  The function must not block, switch or raise.

    Attributes:
        is_deleted: The key was deleted.
        has_ended: The watch has ended.
    """

    __slots__ = ('_on_over', 'has_ended', 'is_deleted')

    def __init__(self, on_over: Callable[[], object]) -> None:
        self._on_over = on_over
        self.is_deleted = False
        self.has_ended = False

    def is_over(self) -> bool:
        """Return True if the contender has to query again."""
        return self.is_deleted or self.has_ended

    def on_live(self, index: int) -> None:
        pass

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        if any(isinstance(result, Deleted) for result in results):
            self.is_deleted = True
            self._on_over()

    def on_ended(self, error: EtcException) -> None:
        self.has_ended = True
        self._on_over()
