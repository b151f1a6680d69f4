"""Hints on how to fix an error, added to the error of an operation that was refused."""

from __future__ import annotations

from typing import Final

from getc.errors import EtcdError, NotFile, PermissionDenied, Unauthorized
from getc.operations import Delete, Operation, Put, WatchSpec
from getc.transactions import SnapshotRead, Transaction

__all__ = ['add_hint']

PERMISSION_HINT: Final = (
    'the user needs a role for this key, and on etcd v3 also read permission for the keys above it, '
    'with and without a slash at the end, unless the client is created with strict=False'
)


def add_hint(error: EtcdError, operation: Operation | WatchSpec | Transaction | SnapshotRead) -> None:
    """Add to an error the key of the operation, if the server leaves it out, and a hint on how to fix it."""
    if isinstance(operation, Transaction):
        if isinstance(error, PermissionDenied):
            error.hint = PERMISSION_HINT.replace('this key', 'each key of the transaction')
    elif isinstance(error, PermissionDenied):
        if not error.cause:
            error.cause = operation.key
            error.args = (error.message, error.cause, error.index)
        error.hint = PERMISSION_HINT
    elif isinstance(error, Unauthorized) and error.cause:
        # etcd v2 returns the same error for a wrong password and for a missing role.
        error.hint = f'the password is wrong, or the user needs a role for {operation.key}'
    elif isinstance(error, NotFile) and not error.hint:
        error.hint = _directory_hint(operation)


def _directory_hint(operation: Operation | WatchSpec | SnapshotRead) -> str:
    if isinstance(operation, (Put, Delete)) and operation.is_compared:
        return 'prev_value and prev_index cannot be used with a directory'
    if isinstance(operation, Delete):
        return 'it is a directory: delete it with dir=True if it is empty, with recursive=True otherwise'
    if isinstance(operation, Put) and (operation.refresh or (operation.dir and operation.prev_exist)):
        return 'it is a directory, which etcd 3.5 cannot change on v2'
    if isinstance(operation, Put) and operation.dir:
        is_for_ttl = operation.ttl is not None
        return 'it is a directory already' + ': change its TTL by update or refresh' * is_for_ttl
    return 'it is a directory: write below it, or delete it first with recursive=True'
