"""Watches of the tree on etcd v3: subscribers of one range share one server watch."""

from __future__ import annotations

__all__: list[str] = []
