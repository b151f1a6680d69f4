"""Errors that must never occur: uncaught exceptions, and messages that getc logs as errors.

Expected failures are exceptions that the caller gets, or warnings.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

import gevent

__all__ = ['UnexpectedErrors']


class UnexpectedErrors(logging.Handler):
    """Records unexpected errors.  A context manager.

    Attributes:
        found: A text for each.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self._hub = gevent.get_hub()
        self._logger = logging.getLogger('getc')

    def emit(self, record: logging.LogRecord) -> None:
        """Record a message that was logged as an error."""
        self.found.append(self.format(record))

    def __enter__(self) -> UnexpectedErrors:
        self._propagate = self._logger.propagate
        self._logger.propagate = False  # thousands of warnings are expected
        self._logger.addHandler(self)
        self._handle_error = self._hub.handle_error
        self._hub.handle_error = self._on_error
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.handle_error = self._handle_error
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagate

    def _on_error(self, context: object, kind: Any, error: Any, trace: Any) -> None:
        """Record an uncaught exception of a greenlet."""
        if issubclass(kind, self._hub.SYSTEM_ERROR):
            self._handle_error(context, kind, error, trace)
        elif not issubclass(kind, self._hub.NOT_ERROR):
            self.found.append(f'in {context}:\n' + ''.join(traceback.format_exception(kind, error, trace)))
