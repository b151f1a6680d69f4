"""getc's own suite uses the plugin that comes with it."""

from __future__ import annotations

import signal

import pytest

from pytest_getc import show_failures


@pytest.fixture(autouse=True)
def _failures_end_the_test() -> None:
    """A test's timeout ends it, whatever its greenlets wait for."""
    show_failures()


@pytest.fixture(autouse=True, scope='session')
def _interrupts_reach_programs() -> None:
    """Handle SIGINT here if it is ignored, as in a background job of a shell: programs would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
