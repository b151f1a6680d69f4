"""The one hook of getc that runs in a forked child.

``tests/test_process_state.py`` lists all state of getc that belongs to the process and not to a client.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

__all__ = ['after_fork']

log = logging.getLogger(__name__)

_callbacks: Final[list[Callable[[], None]]] = []


def after_fork(callback: Callable[[], None]) -> None:
    """Call a function in each forked child, in the order of registration.

    The callbacks run before ``os.fork`` returns.  They must not block or switch.  An exception is logged and does not
    prevent the other callbacks.
    """
    _callbacks.append(callback)


def _run_in_child() -> None:
    for callback in _callbacks:
        try:
            callback()
        except Exception:
            log.exception('%r failed after a fork', callback)


os.register_at_fork(after_in_child=_run_in_child)
