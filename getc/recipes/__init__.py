"""Recipes: coordination of processes, built on the backends and the daemons."""

from __future__ import annotations

from getc.recipes.stm import STM
from getc.recipes.transaction import TransactionBuilder

__all__ = ['STM', 'TransactionBuilder']
