"""Detects from response headers that the store of a watch stream was replaced while the stream stayed open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from getc.errors import ConnectionError, EtcException, EventIndexCleared, FutureRevision
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import RangeRequest, RangeResponse
from getc.v3.schema.mvccpb import Event
from getc.v3.schema.watch import WatchResponse

__all__ = ['RESTARTED', 'WatchedStore']

PUT: Final = Event.EventType.PUT

RESTARTED: Final = (
    'etcd behind the grpc-proxy {url} was restarted or replaced, or has another leader: '
    'the proxy does not show what its watches have missed'
)
"""Why the watches of a stream to a grpc-proxy have to be created again."""


class WatchedStore:
    """The store behind a watch stream, as the headers of its server show it.

    A restart of etcd ends the streams of its clients, but not those of the clients of ``etcd grpc-proxy``, which
    watches further from the next revision on, whatever store etcd has then.  The term of the leader shows a restart,
    and also every other election.  A server that is wiped and started with the same options may have the same id and
    the same term: then only a change that it does not have shows that.

    """

    __slots__ = ('_cluster_id', '_marker', '_raft_term', '_revision')

    def __init__(self) -> None:
        self._marker: tuple[bytes, int] | None = None  # key and revision of the last put that was received
        self._cluster_id = 0  # 0 before the first header
        self._raft_term = 0
        self._revision = 0

    @property
    def is_known(self) -> bool:
        """True once a header has shown the store."""
        return self._cluster_id != 0

    def is_same(self, header: ResponseHeader) -> bool:
        """Return True if a header is of the same store in the same term.

        A header that ``etcd grpc-proxy`` has made itself has no cluster id, and shows nothing.
        """
        is_silent = not (header.cluster_id and self.is_known)
        return is_silent or (header.cluster_id, header.raft_term) == (self._cluster_id, self._raft_term)

    def observe(self, header: ResponseHeader) -> bool:
        """Remember the header of a read; return False if it is not of the same store, or the store went back."""
        if not self.is_same(header) or header.revision < self._revision:
            return False
        if header.cluster_id:
            self._cluster_id, self._raft_term, self._revision = header.cluster_id, header.raft_term, header.revision
        return True

    def check(self, response: WatchResponse, url: str) -> None:
        """Check that the response to a watch is of the same store, and remember its last put.

        Raises:
            ConnectionError: It is not.
        """
        if not self.is_same(response.header):
            error = ConnectionError(RESTARTED.format(url=url), endpoint=url)
            error.is_outage = False
            raise error
        for event in reversed(response.events):
            if event.type == PUT:
                self._marker = event.kv.key, event.kv.mod_revision
                return

    def has_last_put(self, read: Callable[[RangeRequest], RangeResponse]) -> bool:
        """Read whether the store has the last put that was received; True if nothing disproves that.  Blocks.

        Args:
            read: Performs a linearizable read.
        """
        if self._marker is None:
            return True
        key, revision = self._marker
        try:
            found = read(RangeRequest(key=key, revision=revision, keys_only=True)).kvs
        except FutureRevision:
            return False
        except EventIndexCleared:
            self._marker = None
            return True
        except EtcException:
            return True
        return bool(found) and found[0].mod_revision == revision
