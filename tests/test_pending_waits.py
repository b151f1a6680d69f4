"""Calls of ``wait``: closing, and the errors that they raise."""

from __future__ import annotations

import gc
import weakref

import gevent
import pytest

from getc.backends.base import Backend, Watch, WatchListener
from getc.errors import ClientClosed, ConnectionError, EtcException, PermissionDenied
from getc.operations import WatchSpec
from getc.pending_waits import PendingWaits
from getc.testing import VirtualTime
from getc.timing import Deadline


class EndedWatch(Watch):
    def close(self) -> None:
        pass


class EndingWatches(Backend):
    """Watches that are live, and then end with this kind of error."""

    def __init__(self, kind: type[EtcException]) -> None:
        self.watches = 0
        self.errors: list[weakref.ref[EtcException]] = []
        self._kind = kind

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        self.watches += 1
        error = self._kind('x')
        self.errors.append(weakref.ref(error))
        listener.on_live(1)
        listener.on_ended(error)
        return EndedWatch()


def test_close_ends_a_wait_that_backs_off_at_once(etcd_clock: VirtualTime) -> None:
    waits = PendingWaits()
    backend = EndingWatches(ConnectionError)
    waiting = gevent.spawn(waits.wait, backend, WatchSpec('/a'), Deadline(None))
    etcd_clock.advance(60)
    assert backend.watches > 30
    waits.close()
    etcd_clock.advance(0)
    assert isinstance(waiting.exception, ClientClosed)


def test_error_of_a_wait_is_in_no_reference_cycle() -> None:
    """Without the garbage collector."""
    backend = EndingWatches(PermissionDenied)
    gc.disable()
    try:
        with pytest.raises(PermissionDenied) as caught:
            PendingWaits().wait(backend, WatchSpec('/a'), Deadline(None))
        del caught
        assert [error() for error in backend.errors] == [None]
    finally:
        gc.enable()
