"""Recipes: coordination of processes through etcd, built on the backends and the daemons."""

from __future__ import annotations

from getc.recipes.campaign import CandidacyState
from getc.recipes.candidacy import Candidacy
from getc.recipes.contender_queue import ContenderState
from getc.recipes.interrupts import LeadershipLost, LockInterrupt
from getc.recipes.leader import Leader
from getc.recipes.leader_loop import LeaderLoop, Term
from getc.recipes.lock import Lock
from getc.recipes.rwlock import ReadLock, RWLock, WriteLock
from getc.recipes.semaphore import Semaphore
from getc.recipes.stm import STM
from getc.recipes.transaction import TransactionBuilder

__all__ = [
    'STM',
    'Candidacy',
    'CandidacyState',
    'ContenderState',
    'Leader',
    'LeaderLoop',
    'LeadershipLost',
    'Lock',
    'LockInterrupt',
    'RWLock',
    'ReadLock',
    'Semaphore',
    'Term',
    'TransactionBuilder',
    'WriteLock',
]
