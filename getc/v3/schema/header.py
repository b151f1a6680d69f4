"""What heads every response."""

from __future__ import annotations

from getc.v3.schema.table import Message, build, field, int64, uint64

__all__ = ['ResponseHeader']


class ResponseHeader(Message):
    """Who answered, and when in the life of the store.

    ``revision`` is the store's at the time of the answer; 0 from what does not touch keys.  On a
    progress response of a watch it says that everything up to it was delivered.
    """

    cluster_id: uint64 = field(1)
    member_id: uint64 = field(2)
    revision: int64 = field(3)
    raft_term: uint64 = field(4)


build('etcdserverpb', globals())
