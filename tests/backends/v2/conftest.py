"""A certificate to speak TLS with."""

from __future__ import annotations

from tests.support.fixtures import certificate

__all__ = ['certificate']
