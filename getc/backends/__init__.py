"""Backends: execute operations, watch keys and keep nodes, on each API of etcd and on a store in memory."""

from __future__ import annotations

__all__: list[str] = []
