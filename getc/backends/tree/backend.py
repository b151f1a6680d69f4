"""The directory tree on etcd v3: an operation is one transaction, a read one range; a TTL takes one call more."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from gevent.event import Event

from getc.backends.base import Backend, KeepGroup, Watch, WatchListener
from getc.backends.creation_order import lost_contender
from getc.backends.monotonic import RevisionGuard
from getc.backends.tree.append import Appender
from getc.backends.tree.codec import read
from getc.backends.tree.codec.contenders import (
    FoundPredecessor,
    parse_contenders,
    parse_predecessor,
    request_of_contenders,
    txn_of_predecessor,
)
from getc.backends.tree.codec.delete import parse_delete, txn_of_delete
from getc.backends.tree.codec.directory_lease import is_refused_for_lease
from getc.backends.tree.codec.events import narrow_range, range_of
from getc.backends.tree.codec.keyspace import NO_TTL, TTL, decode, directory_range, value_of
from getc.backends.tree.codec.txn_failure import missing_node_error
from getc.backends.tree.codec.write import check_put, encode_put, parse_put
from getc.backends.tree.directory_leases import DirectoryLeases
from getc.backends.tree.directory_ttl import DirectoryTTL
from getc.backends.tree.large_values import result_of_write, too_large_value
from getc.backends.tree.lease.key_watches import KeyWatches
from getc.backends.tree.lease.pool import LeasePool
from getc.backends.tree.refresher import Refresher
from getc.backends.tree.transactor import Transactor
from getc.backends.tree.watch.hub import WatchHub
from getc.backends.tree.write_leases import WriteLeases
from getc.errors import (
    ClientClosed,
    EtcdError,
    EtcException,
    EventIndexCleared,
    NotSupported,
    PermissionDenied,
    ResponseTooLarge,
)
from getc.net.failover import retry_until_served
from getc.operations import Append, Contenders, Delete, Get, Predecessor, Put, Query, WatchSpec
from getc.paths import ROOT, ancestors
from getc.results import ContendersResult, EtcdResult, Got, PredecessorResult
from getc.retry import is_transient
from getc.timing import Deadline
from getc.transactions import AnyOperation, Snapshot, SnapshotRead, Transaction, TransactionResult
from getc.v3 import V3
from getc.v3.range_stream import stream_parts
from getc.v3.ranges import PageLimit, next_key
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeRequest, RangeResponse, TxnResponse
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['TreeV3']

MAX_LISTINGS: Final = 5
"""How often a listing is started, if the revision of its first page is compacted before its last page."""


class TreeV3(Backend):
    """A backend on etcd v3.

    Args:
        v3: The services of etcd, which share the keep-alive stream; closed with the backend.
        rpc: Calls etcd.
        is_strict: Each write compares that no ancestor is a value, and that the node is not a directory.  This needs
            permission to read them.
    """

    api: Final = 'v3'

    def __init__(self, v3: V3, rpc: RpcClient, *, is_strict: bool = True) -> None:
        self._v3 = v3
        self._rpc = rpc
        self._is_strict = is_strict
        self._revision_guard = RevisionGuard(rpc.server_count, rpc.switch_server)
        self._watch_hub = WatchHub(rpc, self._revision_guard)
        self._key_watches = KeyWatches(rpc)
        self._lease_pools: dict[int, LeasePool] = {}  # by TTL
        self._write_leases = WriteLeases(rpc, v3.lease)
        self._directory_leases = DirectoryLeases(rpc, is_strict=is_strict)
        self._directory_ttl = DirectoryTTL(rpc, self._write_leases, is_strict=is_strict)
        self._refresher = Refresher(rpc, self._write_leases, self._directory_ttl, is_strict=is_strict)
        self._appender = Appender(
            rpc, self._write_leases, self._directory_leases, self._revision_guard, is_strict=is_strict
        )
        self._transactor = Transactor(rpc, self._write_leases, self._directory_leases, is_strict=is_strict)
        self._page_keys: int | None = None  # keys of the first page of the next listing; None for the maximum
        self._is_closed = False
        self._closed = Event()  # ends the delays of `ready`

    # -- operations

    def execute(self, operation: AnyOperation, deadline: Deadline) -> Any:
        if self._is_closed:
            self._check_open()
        if isinstance(operation, Get):
            result = self._read(operation, deadline)
        elif isinstance(operation, Put) and operation.refresh:  # a read, if the node keeps its lease
            result = self._refresher.refresh(operation, deadline)
            self._revision_guard.observe(result.etcd_index)
        elif isinstance(operation, (Predecessor, Contenders)):
            return self._query(operation, deadline)
        elif isinstance(operation, (Transaction, SnapshotRead)):
            return self._transact(operation, deadline)
        else:
            guard = self._revision_guard  # inline, to save frames: see RevisionGuard.run_write
            since = guard.index
            try:
                if isinstance(operation, Put):
                    result = self._put(operation, deadline)
                elif isinstance(operation, Delete):
                    result = self._delete(operation, deadline)
                else:
                    result = self._append(operation, deadline)
            except EtcdError as error:
                guard.accept_refusal(error, since)
                raise
            guard.accept(result.etcd_index, since)
        if self._watch_hub.missed_changes.watches:
            self._watch_hub.compare(result)
        return result

    # -- reads

    def _read(self, get: Get, deadline: Deadline) -> EtcdResult:
        guard = self._revision_guard
        if get.quorum is False:
            return guard.run_serializable(get, lambda get: self._get(get, deadline))
        since = guard.index  # inline, to save frames: see RevisionGuard.run_linearizable
        try:
            result = self._get(get, deadline)
        except EtcdError as error:
            if not guard.is_behind(error, since):
                guard.accept_refusal(error, since)
                raise
        else:
            if not 0 < result.etcd_index < since:
                guard.accept(result.etcd_index, since)
                return result
        return guard.repeat_linearizable(lambda: self._get(get, deadline), since)

    def _get(self, get: Get, deadline: Deadline) -> EtcdResult:
        listings = 0
        is_denied = False  # the user may not read the node and its ancestors, but perhaps the keys below it
        while True:
            try:
                if is_denied:
                    return self._read_directory(get, deadline)
                if get.key != ROOT and not get.recursive:
                    found = self._read_value(get, deadline)
                    kvs = found.kvs
                    if kvs:
                        return self._got_value(get, kvs[0], found, deadline)
                return self._read_node(get, deadline)
            except EventIndexCleared:  # compacted between two pages
                listings += 1
                if listings == MAX_LISTINGS:
                    raise
            except PermissionDenied:
                if is_denied or self._is_strict or get.key == ROOT:
                    raise
                is_denied = True

    def _read_value(self, get: Get, deadline: Deadline) -> RangeResponse:
        """Read the node as a value."""
        is_small = len(get.key) <= read.MAX_CACHED_LENGTH
        encode_request = read.encode_value_request_cached if is_small else read.encode_value_request
        try:
            return self._rpc.call(KV.Range, encode_request(get.key, get.quorum is False), deadline)
        except ResponseTooLarge as error:
            raise too_large_value(get.key, error) from error

    def _read_node(self, get: Get, deadline: Deadline) -> EtcdResult:
        """Read the node, its ancestors and the first page of the keys below it at one revision."""
        pages = PageLimit(read.PAGE, self._page_keys)

        def read_page(limit: int) -> TxnResponse:
            txn = read.txn_of_get(get, limit, is_strict=self._is_strict)
            return self._rpc.call(KV.Txn, txn, deadline, is_write=False)

        try:
            response = pages.read_shrinking(read_page)
        except ResponseTooLarge as error:
            return self._get_too_large(get, error, deadline)
        found = read.parse_get(get, response, is_strict=self._is_strict)
        if found.value is not None:
            return self._got_value(get, found.value, response, deadline)
        listing = self._list(get, found.page, pages, response.header.revision, deadline)
        if not listing.exists:
            raise missing_node_error(get.key, found.ancestors, response.header.revision)
        return self._got_directory(get, listing, response, deadline)

    def _read_directory(self, get: Get, deadline: Deadline) -> EtcdResult:
        """Read the keys below the node, for a user who has no permission to read more."""
        pages = PageLimit(read.PAGE, self._page_keys)
        page = pages.read_shrinking(
            lambda limit: self._rpc.call(KV.Range, read.first_page_request(get, limit), deadline)
        )
        listing = self._list(get, page, pages, page.header.revision, deadline)
        if not listing.exists:
            raise missing_node_error(get.key, [], page.header.revision)
        return self._got_directory(get, listing, page, deadline)

    def _list(self, get: Get, page: RangeResponse, pages: PageLimit, revision: int, deadline: Deadline) -> read.Listing:
        """Read the further pages of a directory, at the revision of its first page."""
        listing = read.Listing(get)
        pages.grow(page)
        start = listing.add_page(page.kvs, page.more)
        if start is not None and start == next_key(page.kvs[-1].key):  # else a subtree is skipped, and more may be
            start = self._stream_rest(listing, get, start, revision, deadline)
        while start is not None:
            page = self._read_page(get, start, revision, pages, deadline)
            pages.grow(page)
            start = listing.add_page(page.kvs, page.more)
        self._page_keys = pages.keys
        return listing

    def _stream_rest(
        self, listing: read.Listing, get: Get, start: bytes, revision: int, deadline: Deadline
    ) -> bytes | None:
        """Read the rest of a directory as a stream, which etcd has from 3.7 on, at the revision of its first page.

        Returns:
            The first key that was not read, because etcd has no streams, the stream has failed, or a subtree is to be
            skipped; None if there is none.
        """
        rest: bytes | None = start
        request = read.page_request(get, start, revision, 0)
        try:
            with closing(stream_parts(self._rpc, request, deadline)) as parts:
                for part in parts:
                    rest = listing.add_page(part.kvs, not part.HasField('header'))
                    if rest is not None and rest != next_key(part.kvs[-1].key):
                        return rest
        except EtcException as error:
            if rest is None or deadline.has_passed():
                raise
            if not (isinstance(error, (NotSupported, ResponseTooLarge)) or is_transient(error)):
                raise
        return rest

    def _read_page(self, get: Get, start: bytes, revision: int, pages: PageLimit, deadline: Deadline) -> RangeResponse:
        def read_page(limit: int) -> RangeResponse:
            return self._rpc.call(KV.Range, read.page_request(get, start, revision, limit), deadline)

        try:
            return pages.read_shrinking(read_page)
        except ResponseTooLarge as error:
            raise self._name_too_large(get, start, revision, error, deadline) from error

    def _get_too_large(self, get: Get, error: ResponseTooLarge, deadline: Deadline) -> EtcdResult:
        """Read the node alone, where its value and the first value below it together are too large for a response."""
        if get.key != ROOT:
            found = self._read_value(get, deadline)
            if found.kvs:
                return self._got_value(get, found.kvs[0], found, deadline)
        raise self._name_too_large(get, directory_range(get.key)[0], 0, error, deadline) from error

    def _name_too_large(
        self, get: Get, start: bytes, revision: int, error: ResponseTooLarge, deadline: Deadline
    ) -> ResponseTooLarge:
        """Make the error for a page of one key that is too large, with the name of the key."""
        found = self._rpc.call(KV.Range, read.first_key_request(get, start, revision), deadline)
        return too_large_value(decode(found.kvs[0].key), error) if found.kvs else error

    def _got_value(
        self, get: Get, kv: KeyValue, response: RangeResponse | TxnResponse, deadline: Deadline
    ) -> EtcdResult:
        header = response.header
        ttl = self._read_ttl(get.key, kv.lease, header.revision, deadline) if kv.lease else NO_TTL
        return Got(value_of(get.key, kv, ttl), None, header.revision, 0, header.raft_term)

    def _got_directory(
        self, get: Get, listing: read.Listing, response: RangeResponse | TxnResponse, deadline: Deadline
    ) -> EtcdResult:
        header, lease = response.header, listing.lease
        ttl = self._read_ttl(get.key, lease, header.revision, deadline, is_directory=True) if lease else NO_TTL
        return Got(listing.directory(ttl), None, header.revision, 0, header.raft_term)

    def _read_ttl(self, key: str, lease: int, revision: int, deadline: Deadline, *, is_directory: bool = False) -> TTL:
        """Read the TTL of a node that has a lease at a revision; none if it is that of a directory above the node."""
        if self._directory_leases.is_joined(key, lease, revision, deadline, is_directory=is_directory):
            return NO_TTL
        return self._write_leases.read_ttl(lease, deadline)

    def _query(self, query: Query, deadline: Deadline) -> PredecessorResult | ContendersResult:
        if isinstance(query, Contenders):
            request = request_of_contenders(query)
            return self._revision_guard.run_linearizable(
                lambda: parse_contenders(self._rpc.call(KV.Range, request, deadline))
            )
        txn = txn_of_predecessor(query)

        def find() -> FoundPredecessor:
            return parse_predecessor(self._rpc.call(KV.Txn, txn, deadline, is_write=False))

        found = self._revision_guard.run_linearizable(find)
        if found.result is None:
            raise lost_contender(query.key)
        return found.result

    # -- writes

    def _put(self, put: Put, deadline: Deadline) -> EtcdResult:
        check_put(put)
        if put.dir and (put.prev_exist or put.is_compared):
            return self._update_directory(put, deadline)
        if put.ttl is None:
            return self._put_on(put, 0, NO_TTL, deadline)
        with self._write_leases.lease_for(put.ttl, deadline) as (lease, ttl):
            result = self._put_on(put, lease, ttl, deadline)
            if not put.dir:
                self._directory_leases.note_role(lease, False)
            return result

    def _put_on(self, put: Put, lease: int, ttl: TTL, deadline: Deadline) -> EtcdResult:
        """Put a node on the lease of its own TTL; with 0, it joins the lease of the directory that it is in."""
        if not lease and self._directory_leases.known and self._directory_leases.recall(ancestors(put.key)).lease:
            return self._directory_leases.put(put, deadline)
        encoded = encode_put(put, lease=lease, is_strict=self._is_strict)
        try:
            response = self._rpc.call(KV.Txn, encoded, deadline, is_write=True)
        except ResponseTooLarge as error:
            result = result_of_write(self._rpc, put, error, ttl, deadline, is_strict=self._is_strict)
            return self._directory_leases.put(put, deadline) if result is None else result
        if not response.succeeded and is_refused_for_lease(put, response, is_strict=self._is_strict):
            return self._directory_leases.put(put, deadline)
        return parse_put(put, response, ttl, is_strict=self._is_strict)

    def _update_directory(self, put: Put, deadline: Deadline) -> EtcdResult:
        """Update a directory; a value gets the value '', as on etcd v2."""
        result = None if put.is_compared else self._directory_ttl.change(put, deadline)
        return self._put(replace(put, dir=False, value=''), deadline) if result is None else result

    def _delete(self, delete: Delete, deadline: Deadline) -> EtcdResult:
        txn = txn_of_delete(delete, is_strict=self._is_strict)
        try:
            response = self._rpc.call(KV.Txn, txn, deadline, is_write=True)
        except ResponseTooLarge as error:
            result = result_of_write(self._rpc, delete, error, NO_TTL, deadline, is_strict=self._is_strict)
            assert result is not None
            return result
        return parse_delete(delete, response, is_strict=self._is_strict)

    def _append(self, append: Append, deadline: Deadline) -> EtcdResult:
        return self._appender.append(append, deadline)

    # -- transactions

    def _transact(self, operation: Transaction | SnapshotRead, deadline: Deadline) -> TransactionResult | Snapshot:
        if isinstance(operation, SnapshotRead):
            if operation.index:
                return self._transactor.read(operation, deadline)
            return self._revision_guard.run_linearizable(lambda: self._transactor.read(operation, deadline))
        run = self._revision_guard.run_write if operation.is_write else self._revision_guard.run_linearizable
        done = run(lambda: self._transactor.execute(operation, deadline))
        if self._watch_hub.missed_changes.watches:
            for result in done.results:
                self._watch_hub.compare(result)
        return done

    # -- watches and kept nodes

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        if self._is_closed:
            self._check_open()
        return self._watch_hub.subscribe(spec, listener, after)

    def read_index(self, spec: WatchSpec, deadline: Deadline) -> int:
        self._check_open()
        keys = list(dict.fromkeys((range_of(spec)[0], narrow_range(spec)[0])))

        def read_revision() -> int:
            while True:
                request = RangeRequest(key=keys[0], keys_only=True)
                try:
                    return int(self._rpc.call(KV.Range, request, deadline).header.revision)
                except PermissionDenied:
                    if len(keys) == 1:
                        raise
                    del keys[0]  # the user may lack the permission for the node itself

        return self._revision_guard.observe_quorum(read_revision)

    def keep_group(self, ttl: int) -> KeepGroup:
        self._check_open()
        pool = self._lease_pools.get(ttl)
        if pool is None:
            pool = self._lease_pools[ttl] = LeasePool(
                self._rpc,
                self._v3.lease,
                self._key_watches,
                ttl,
                is_strict=self._is_strict,
                on_revision=self._watch_hub.on_revision,
            )
        return pool

    # -- life cycle

    def ready(self, deadline: Deadline) -> None:
        first = RangeRequest(key=b'\0', limit=1, keys_only=True)
        try:
            retry_until_served(lambda: self._rpc.call(KV.Range, first, deadline), deadline, self._closed)
        except PermissionDenied:
            pass  # etcd checks the permission after the consensus that a linearizable read needs

    def clear(self) -> None:
        self._v3.clear()

    def close(self) -> None:
        self._is_closed = True
        self._closed.set()
        self._key_watches.close()
        for pool in self._lease_pools.values():
            pool.close()
        self._watch_hub.close()
        self._v3.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')
