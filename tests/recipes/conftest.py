"""Fixtures of the tests of recipes."""

from __future__ import annotations

from tests.support.interop import go, go_binary, start_go

__all__ = ['go', 'go_binary', 'start_go']
