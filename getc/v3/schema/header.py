"""The header of every response."""

from __future__ import annotations

from getc.v3.schema.table import Message, build, field, int64, uint64

__all__ = ['ResponseHeader']


class ResponseHeader(Message):
    """The member that answered, and the revision of the store at that time.

    ``revision`` is 0 in responses of RPCs that do not use the store.  In a progress response of a watch, every change
    up to ``revision`` was delivered.
    """

    cluster_id: uint64 = field(1)
    member_id: uint64 = field(2)
    revision: int64 = field(3)
    raft_term: uint64 = field(4)


build('etcdserverpb', globals())
