"""The directory tree of the v2 vocabulary on the flat keys of etcd v3."""

from __future__ import annotations

__all__: list[str] = []
