"""Networking on gevent: sockets, TLS, name resolution, endpoints, failover, and thread and process affinity."""

from __future__ import annotations

__all__: list[str] = []
