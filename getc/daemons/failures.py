"""Reports exceptions that user callbacks raise."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Final

__all__ = ['FAILURE_HOOKS', 'notify_failure', 'report_failure']

log = logging.getLogger(__name__)

FAILURE_HOOKS: Final[list[Callable[[BaseException], object]]] = []
"""Called with each exception that a callback raised, after the exception was logged.  For test harnesses.

Listeners must not raise.
"""


def report_failure(text: str, *args: object) -> None:
    """Log the exception that is being handled, and notify the listeners."""
    log.exception(text, *args)
    error = sys.exc_info()[1]
    if error is not None:
        notify_failure(error)


def notify_failure(error: BaseException) -> None:
    """Notify the listeners of an exception that is logged elsewhere."""
    for listener in FAILURE_HOOKS:
        listener(error)
