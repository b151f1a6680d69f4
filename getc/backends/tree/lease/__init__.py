"""Kept nodes on etcd v3: many nodes share one lease, which is renewed for all of them."""

from __future__ import annotations

__all__: list[str] = []
