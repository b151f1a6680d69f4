"""A store in memory with the semantics of etcd v2, for tests and for programs without a server."""

from __future__ import annotations

__all__: list[str] = []
