"""The v2 keys API of etcd, over HTTP by requests."""

from __future__ import annotations

__all__: list[str] = []
