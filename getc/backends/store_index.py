"""The index of the store, from any linearizable read."""

from __future__ import annotations

from getc.backends.base import Backend
from getc.errors import EtcdError, KeyNotFound, NotDir, ProtocolError
from getc.operations import Get
from getc.timing import Deadline

__all__ = ['index_of_read']


def index_of_read(backend: Backend, get: Get, deadline: Deadline) -> int:
    """Return the index of the store that a linearizable read shows, whether the node exists or not.  Blocks.

    Raises:
        ProtocolError: The response has no index.
        EtcException: The read failed, or was refused.
    """
    missing: EtcdError | None = None
    try:
        index: int | None = backend.execute(get, deadline).etcd_index
    except (KeyNotFound, NotDir) as error:  # NotDir: an ancestor is a value
        index, missing = error.index, error
    if not index:
        raise ProtocolError('the response to a read of {key} has no index', key=get.key) from missing
    return index
