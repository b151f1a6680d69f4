"""Fixtures that the tests of this folder share with others."""

from __future__ import annotations

from tests.support.fixtures import certificate, open_channel, serve

__all__ = ['certificate', 'open_channel', 'serve']
