"""A certificate for servers with TLS."""

from __future__ import annotations

from tests.support.fixtures import certificate

__all__ = ['certificate']
