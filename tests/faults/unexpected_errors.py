"""What must not happen, whatever etcd does: errors that nobody caught, or that getc logs as its own.

Trouble that was to be expected is an exception that the caller gets, or a warning; these are no surprise.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

import gevent

__all__ = ['Surprises']


class Surprises(logging.Handler):
    """Notes them.  A context manager.

    Attributes:
        found: One text each.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self._hub = gevent.get_hub()
        self._logger = logging.getLogger('getc')

    def emit(self, record: logging.LogRecord) -> None:
        """Something was logged as an error."""
        self.found.append(self.format(record))

    def __enter__(self) -> Surprises:
        self._was_heard = self._logger.propagate
        self._logger.propagate = False  # thousands of warnings are in order
        self._logger.addHandler(self)
        self._handle_error = self._hub.handle_error
        self._hub.handle_error = self._on_error
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.handle_error = self._handle_error
        self._logger.removeHandler(self)
        self._logger.propagate = self._was_heard

    def _on_error(self, context: object, kind: Any, error: Any, trace: Any) -> None:
        """A greenlet ended with an exception."""
        if issubclass(kind, self._hub.SYSTEM_ERROR):
            self._handle_error(context, kind, error, trace)
        elif not issubclass(kind, self._hub.NOT_ERROR):
            self.found.append(f'in {context}:\n' + ''.join(traceback.format_exception(kind, error, trace)))
