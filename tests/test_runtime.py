"""Callbacks in forked children."""

from __future__ import annotations

import os

import pytest

from getc import runtime


def test_callbacks_run_in_a_forked_child_in_order_also_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def fail() -> None:
        called.append('first')
        raise RuntimeError('no')

    monkeypatch.setattr(runtime, '_callbacks', [fail, lambda: called.append('second')])
    pid = os.fork()
    if not pid:
        os._exit(0 if called == ['first', 'second'] else 1)
    _, status = os.waitpid(pid, 0)
    assert (status, called) == (0, [])


def test_after_fork_registers_the_callbacks_of_getc() -> None:
    from getc.grpc import channel
    from getc.net import resolver, sockets

    callbacks = [resolver._reset_in_child, sockets._disconnect_in_child, channel._abandon_in_child]
    assert [callback for callback in runtime._callbacks if callback in callbacks] == callbacks
