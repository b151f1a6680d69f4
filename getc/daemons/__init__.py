"""Background daemons of a client: keepers, watchers, mirrors, and what they are built on."""

from __future__ import annotations

__all__: list[str] = []
