"""Conditions and operations of transactions: several nodes, one index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from getc.results import Node

__all__ = ['Guard']


@dataclass(frozen=True, slots=True)
class Guard:
    """The condition that a kept node still belongs to the owner that kept it when the guard was read.

    A guard holds for one ownership: never again once the node was deleted, written by another client, or acquired
    again, also by the same owner.  Renewals and updates of the owner do not affect it.

    Attributes:
        key: The node.
        created_index: The index at which the node was created.
        lease_id: The lease that the node has to be on (v3); 0 if the creation alone proves the ownership.
        is_ours: Returns whether a node, which was created at that index, still belongs to the owner, where there are no
            leases (memory); None if the creation alone proves it.
    """

    key: str
    created_index: int
    lease_id: int = 0
    is_ours: Callable[[Node], bool] | None = field(default=None, repr=False, compare=False)
