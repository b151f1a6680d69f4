"""The states of a keeper."""

from __future__ import annotations

from enum import Enum

__all__ = ['KeeperState']


class KeeperState(Enum):
    """The state of a keeper."""

    STARTING = 'the node was never written'
    KEPT = 'the keeper owns the node, and renewals succeed'
    SUSPECT = 'the keeper owns the node, and a renewal was missed'
    LOST = 'the keeper does not own the node at the moment'
    STOPPED = 'the keeper was stopped'
