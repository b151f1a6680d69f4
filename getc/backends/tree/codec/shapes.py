"""Answers of another shape than was asked for: whoever reads one meets what is missing."""

from __future__ import annotations

from typing import Final

from getc.errors import ProtocolError

__all__ = ['MISSHAPEN', 'misshapen']

MISSHAPEN: Final = (IndexError, OverflowError, ValueError)
"""What reading such an answer raises.  Operations are checked when they are made, so it is not their fault."""


def misshapen(error: Exception, *, is_write: bool) -> ProtocolError:
    """The error for it."""
    what = f'etcd v3: an answer of another shape than was asked for ({type(error).__name__})'
    return ProtocolError(what, maybe_applied=is_write)
