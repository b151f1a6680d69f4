"""The tree on etcd v3, natively: an operation is one transaction, a read one range; a lease takes one call more."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore

from getc import timing
from getc.backends.base import Backend, KeepGroup, Watch, WatchListener
from getc.backends.monotonic import RevisionGuard
from getc.backends.tree.codec import read, write
from getc.backends.tree.codec.delete import deleted, txn_of_delete
from getc.backends.tree.codec.keyspace import below, decode, encode
from getc.backends.tree.codec.nodes import NO_TTL, TTL, value_of
from getc.backends.tree.codec.shapes import MISSHAPEN, misshapen
from getc.backends.tree.codec.txn_failure import conditions, error_from_failure, failure_reads, no_such_key
from getc.backends.tree.large_values import result_of_write, too_large_value
from getc.backends.tree.lease.grant import grant
from getc.backends.tree.lease.key_watches import KeyWatches
from getc.backends.tree.lease.pool import LeasePool
from getc.backends.tree.watch.hub import WatchHub
from getc.errors import (
    ClientClosed,
    EtcException,
    EventIndexCleared,
    LeaseNotFound,
    PermissionDenied,
    ResponseTooLarge,
    TestFailed,
    TimedOut,
)
from getc.net.failover import retry_until_served
from getc.operations import Append, Delete, Get, Operation, Put, WatchSpec
from getc.paths import ROOT
from getc.results import ComparedThenSwapped, EtcdResult, Got, Node, Updated, Value
from getc.timing import Backoff, Deadline
from getc.v3 import V3
from getc.v3.ranges import PageLimit
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse
from getc.v3.schema.lease import Lease, LeaseTimeToLiveRequest
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['TreeV3']

log = logging.getLogger('getc')

MAX_LISTINGS: Final = 5
"""So often a listing is begun anew because its revision was compacted on the way."""


class TreeV3(Backend):
    """A backend on etcd v3.

    Args:
        v3: etcd's services, over which the keep-alive and watch streams are shared; closed with this.
        rpc: How RPCs are called.
        is_strict: Each write makes sure that no value is above it and no directory in its place, for which the user
            needs to read there.
    """

    api: Final = 'v3'

    def __init__(self, v3: V3, rpc: RpcClient, *, is_strict: bool = True) -> None:
        self._v3 = v3
        self._rpc = rpc
        self._is_strict = is_strict
        self._horizon = RevisionGuard(rpc.servers, rpc.turn)
        self._watches = WatchHub(rpc, self._horizon)
        self._key_watches = KeyWatches(rpc)
        self._groups: dict[int, LeasePool] = {}
        self._appending: dict[str, BoundedSemaphore] = {}
        self._page_keys: int | None = None  # keys of the first page of the next listing; None for as many as may be
        self._least_ttl = 0  # seconds that the server grants at least, as far as is known
        self._is_closed = False

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        self._check_open()
        if isinstance(operation, Get):
            if operation.quorum is False:
                result = self._horizon.run_serializable(operation, lambda get: self._done(get, deadline))
            else:
                result = self._horizon.run_linearizable(lambda: self._done(operation, deadline))
        elif isinstance(operation, Put) and operation.refresh:  # which is a read, if the lease stays
            result = self._done(operation, deadline)
            self._horizon.observe(result.etcd_index)
        else:
            result = self._horizon.run_write(lambda: self._done(operation, deadline))
        if self._watches.missed_changes.watches:
            self._watches.compare(result)
        return result

    def _done(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        try:
            return self._do(operation, deadline)
        except MISSHAPEN as error:
            raise misshapen(error, is_write=operation.is_write) from error

    def _do(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        if isinstance(operation, Get):
            return self._get(operation, deadline)
        if isinstance(operation, Put):
            return self._refresh(operation, deadline) if operation.refresh else self._put(operation, deadline)
        if isinstance(operation, Delete):
            return self._delete(operation, deadline)
        return self._append(operation, deadline)

    # -- reading

    def _get(self, get: Get, deadline: Deadline) -> EtcdResult:
        attempts = 0
        while True:
            try:
                return self._got(get, deadline)
            except EventIndexCleared:  # compacted between two pages
                attempts += 1
                if attempts == MAX_LISTINGS:
                    raise
            except PermissionDenied:
                if self._is_strict or get.key == ROOT:
                    raise
                return self._list(get, deadline)

    def _got(self, get: Get, deadline: Deadline) -> EtcdResult:
        if get.key != ROOT and not get.recursive:
            found = self._range_of_value(get, deadline)
            kvs = found.kvs
            if kvs:
                return self._got_value(get, kvs[0], found, deadline)
        return self._look_closer(get, deadline)

    def _range_of_value(self, get: Get, deadline: Deadline) -> RangeResponse:
        packed = read.packed_range(get.key, get.quorum is False)
        try:
            return self._rpc.call(KV.Range, packed, deadline)
        except ResponseTooLarge as error:
            raise too_large_value(get.key, error) from error

    def _look_closer(self, get: Get, deadline: Deadline) -> EtcdResult:
        """Read all there is about a node at one revision: above it, itself, below it."""
        pages = PageLimit(read.PAGE, self._page_keys)
        try:
            response = pages.read(
                lambda limit: self._txn(read.txn_of_get(get, limit, is_strict=self._is_strict), deadline)
            )
        except ResponseTooLarge as error:
            return self._got_large(get, error, deadline)
        *above, page = (done.response_range for done in response.responses)
        if get.key != ROOT:
            itself = above.pop()
            if itself.kvs:
                return self._got_value(get, itself.kvs[0], response, deadline)
        listing = self._listing(get, page, pages, response.header.revision, deadline)
        if not listing.is_there:
            raise no_such_key(get.key, [found.kvs for found in above], response.header.revision)
        return Got(listing.directory(), None, response.header.revision, 0, response.header.raft_term)

    def _list(self, get: Get, deadline: Deadline) -> EtcdResult:
        """The directory, for a user who may read what is in it and no more."""
        pages = PageLimit(read.PAGE, self._page_keys)
        page = pages.read(lambda limit: self._range(read.first_page_of(get, limit), deadline))
        listing = self._listing(get, page, pages, page.header.revision, deadline)
        if not listing.is_there:
            raise no_such_key(get.key, [], page.header.revision)
        return Got(listing.directory(), None, page.header.revision, 0, page.header.raft_term)

    def _listing(
        self, get: Get, page: RangeResponse, pages: PageLimit, revision: int, deadline: Deadline
    ) -> read.Listing:
        """Read a directory to its end, all of it as of the revision of its first page."""
        listing = read.Listing(get)
        pages.grow(page)
        while (start := listing.feed(page.kvs, page.more)) is not None:
            page = self._page(get, start, revision, pages, deadline)
            pages.grow(page)
        self._page_keys = pages.keys
        return listing

    def _page(self, get: Get, start: bytes, revision: int, pages: PageLimit, deadline: Deadline) -> RangeResponse:
        try:
            return pages.read(lambda limit: self._range(read.page_of(get, start, revision, limit), deadline))
        except ResponseTooLarge as error:
            raise self._large_below(get, start, revision, error, deadline) from error

    def _got_large(self, get: Get, error: ResponseTooLarge, deadline: Deadline) -> EtcdResult:
        """The node, of which the value and one value below it are too large together, or one of them alone is."""
        if get.key != ROOT:
            found = self._range_of_value(get, deadline)
            if found.kvs:
                return self._got_value(get, found.kvs[0], found, deadline)
        raise self._large_below(get, below(get.key)[0], 0, error, deadline) from error

    def _large_below(
        self, get: Get, start: bytes, revision: int, error: ResponseTooLarge, deadline: Deadline
    ) -> ResponseTooLarge:
        """The error for a page of one key that is too large; it names the key."""
        found = self._range(read.first_key_of(get, start, revision), deadline)
        return too_large_value(decode(found.kvs[0].key), error) if found.kvs else error

    def _got_value(
        self, get: Get, kv: KeyValue, response: RangeResponse | TxnResponse, deadline: Deadline
    ) -> EtcdResult:
        life = self._life_of(kv.lease, deadline) if kv.lease else NO_TTL
        header = response.header
        return Got(value_of(get.key, kv, life), None, header.revision, 0, header.raft_term)

    def _life_of(self, lease: int, deadline: Deadline) -> TTL:
        """How long the keys of a lease still live; one that has just ended counts as about to."""
        response = self._rpc.call(Lease.LeaseTimeToLive, LeaseTimeToLiveRequest(ID=lease), deadline.timeout_left())
        return TTL.of(min(max(response.TTL, 0) + 1, max(response.grantedTTL, 1)), timing.wall_time())

    # -- writing

    def _put(self, put: Put, deadline: Deadline) -> EtcdResult:
        write.check(put)
        if put.ttl is None:
            return self._put_once(put, 0, NO_TTL, deadline)
        with self._lease(put.ttl, deadline) as (lease, life):
            result = self._put_once(put, lease, life, deadline)
        if put.ttl == 0:
            self._end_lease(lease, deadline)
        return result

    def _put_once(self, put: Put, lease: int, life: TTL, deadline: Deadline) -> EtcdResult:
        packed = write.packed_put(put, lease=lease, is_strict=self._is_strict)
        try:
            response = self._rpc.call(KV.Txn, packed, deadline, is_write=True)
        except ResponseTooLarge as error:
            return result_of_write(self._rpc, put, error, life, deadline, is_strict=self._is_strict)
        return write.written(put, response, life)

    def _delete(self, delete: Delete, deadline: Deadline) -> EtcdResult:
        txn = txn_of_delete(delete, is_strict=self._is_strict)
        try:
            response = self._txn(txn, deadline)
        except ResponseTooLarge as error:
            return result_of_write(self._rpc, delete, error, NO_TTL, deadline, is_strict=self._is_strict)
        return deleted(delete, response)

    @contextmanager
    def _lease(self, ttl: int | None, deadline: Deadline) -> Iterator[tuple[int, TTL]]:
        """A lease for a write, taken back if the write was refused; never if it may have happened."""
        if ttl is None:
            yield 0, NO_TTL
            return
        lease, life = grant(self._rpc, ttl, deadline)
        assert life.ttl is not None
        if ttl < life.ttl:
            self._least_ttl = life.ttl
        if ttl == 0:
            life = TTL.of(0, timing.wall_time())  # the lease is revoked as soon as the write was done
        is_wasted = False
        try:
            yield lease, life
        except EtcException as error:
            is_wasted = not error.maybe_applied
            raise
        finally:
            if is_wasted:
                gevent.spawn(self._give_back, lease)

    def _end_lease(self, lease: int, deadline: Deadline) -> None:
        """Have what was written end at once.  Where that fails, it was written all the same, and ends by itself."""
        try:
            self._v3.lease.revoke(lease, timeout=deadline.timeout_left())
        except LeaseNotFound:
            pass  # it has ended: by itself, or by an attempt whose answer was lost
        except EtcException as error:
            log.warning('what was written with a TTL of 0 ends a little later: %s', error)

    def _give_back(self, lease: int) -> None:
        try:
            self._v3.lease.revoke(lease)
        except EtcException:
            pass  # it ends by itself

    def _append(self, append: Append, deadline: Deadline) -> EtcdResult:
        """Append under the next number; where another client was faster, under the one after its."""
        write.check(append)
        with self._turn(append, deadline), self._lease(append.ttl, deadline) as (lease, life):
            result = self._append_in_turn(append, lease, life, deadline)
        if append.ttl == 0:
            self._end_lease(lease, deadline)
        return result

    @contextmanager
    def _turn(self, append: Append, deadline: Deadline) -> Iterator[None]:
        """One append to a directory at a time.  Who leaves last takes the turns along, also without having had one."""
        turn = self._appending.setdefault(append.key, BoundedSemaphore(1))
        try:
            if not turn.acquire(timeout=deadline.timeout_left()):
                raise TimedOut(f'no turn to append to {append.key} within {deadline.timeout:g} s')
            try:
                yield
            finally:
                turn.release()
        finally:
            if turn.ready() and not turn.linkcount():
                self._appending.pop(append.key, None)

    def _append_in_turn(self, append: Append, lease: int, life: TTL, deadline: Deadline) -> EtcdResult:
        number = self._horizon.index + 1
        end = b''
        backoff = Backoff(base=0.005, cap=0.2)
        while True:
            txn = write.txn_of_append(append, number, end=end, lease=lease, is_strict=self._is_strict)
            response = self._txn(txn, deadline)
            if response.succeeded:
                return write.appended(append, number, response, life)
            last = write.last_of(append, response)
            taken = write.number_of(append, last)
            if taken is None:  # another program's name: numbers come before it, whatever we do
                end = last
                continue
            number = max(response.header.revision, taken) + 1
            gevent.sleep(backoff.next_delay())

    # -- refreshing

    def _refresh(self, put: Put, deadline: Deadline) -> EtcdResult:
        """Renew the node's lease if its TTL is the same; else give it another lease."""
        assert put.ttl is not None
        write.check(put)
        while True:
            failure = failure_reads(put.key, is_strict=self._is_strict)
            txn = TxnRequest(compare=conditions(put), success=_itself(put), failure=failure)
            try:
                response = self._txn(txn, deadline)
            except ResponseTooLarge as error:
                raise too_large_value(put.key, error) from error
            if not response.succeeded:
                raise error_from_failure(put, response)
            kv = response.responses[0].response_range.kvs[0]
            if kv.lease and put.ttl and self._has_ttl(kv.lease, put.ttl, deadline):
                life = self._renewed(kv.lease, deadline)
                if life is None:
                    continue  # it has just ended
                node, header = value_of(put.key, kv, life), response.header
                return _refreshed(put, node, value_of(put.key, kv), header.revision, header.raft_term)
            try:
                return self._give_lease(put, kv, deadline)
            except TestFailed:
                if deadline.has_passed():
                    raise

    def _has_ttl(self, lease: int, ttl: int, deadline: Deadline) -> bool:
        request = LeaseTimeToLiveRequest(ID=lease)
        response = self._rpc.call(Lease.LeaseTimeToLive, request, deadline.timeout_left())
        granted_ttl: int = response.grantedTTL
        return granted_ttl == max(ttl, self._least_ttl)

    def _renewed(self, lease: int, deadline: Deadline) -> TTL | None:
        try:
            response = self._v3.lease.keep_alive(lease, timeout=deadline.timeout_left())
        except LeaseNotFound:
            return None
        return TTL.of(response.TTL, timing.wall_time())

    def _give_lease(self, put: Put, kv: KeyValue, deadline: Deadline) -> EtcdResult:
        """Put the value again with another lease, if nobody has written it meanwhile."""
        unchanged = Put(put.key, '', prev_exist=True, prev_index=kv.mod_revision)
        with self._lease(put.ttl, deadline) as (lease, life):
            request = PutRequest(key=kv.key, lease=lease, ignore_value=True, prev_kv=True)
            failure = failure_reads(put.key, is_strict=self._is_strict)
            txn = TxnRequest(compare=conditions(unchanged), success=[RequestOp(request_put=request)], failure=failure)
            response = self._txn(txn, deadline)
            if not response.succeeded:
                raise error_from_failure(unchanged, response)
        if put.ttl == 0:
            self._end_lease(lease, deadline)
        before = value_of(put.key, kv)
        index = response.header.revision
        node = replace(before, modified_index=index, ttl=life.ttl, expiration=life.expiration)
        return _refreshed(put, node, before, index, response.header.raft_term)

    # -- watches and nodes that are kept

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        self._check_open()
        return self._watches.subscribe(spec, listener, after)

    def keep(self, ttl: int) -> KeepGroup:
        self._check_open()
        group = self._groups.get(ttl)
        if group is None:
            group = LeasePool(
                self._rpc,
                self._v3.lease,
                self._key_watches,
                ttl,
                is_strict=self._is_strict,
                on_revision=self._watches.on_revision,
            )
            self._groups[ttl] = group
        return group

    # -- the end

    def ready(self, deadline: Deadline) -> None:
        first = RangeRequest(key=b'\0', limit=1, keys_only=True)
        retry_until_served(lambda: self._range(first, deadline), deadline)

    def clear(self) -> None:
        self._v3.clear()

    def close(self) -> None:
        self._is_closed = True
        self._key_watches.close()
        for group in self._groups.values():
            group.close()
        self._watches.close()
        self._v3.close()

    # -- how it is done

    def _range(self, request: RangeRequest, deadline: Deadline) -> RangeResponse:
        return self._rpc.call(KV.Range, request, deadline)

    def _txn(self, txn: TxnRequest, deadline: Deadline) -> TxnResponse:
        is_write = any(not done.HasField('request_range') for done in txn.success)
        return self._rpc.call(KV.Txn, txn, deadline, is_write=is_write)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')


def _itself(put: Put) -> list[RequestOp]:
    return [RequestOp(request_range=RangeRequest(key=encode(put.key)))]


def _refreshed(put: Put, node: Value, before: Node, index: int, term: int) -> EtcdResult:
    kind = ComparedThenSwapped if put.is_compared else Updated
    return kind(node, before, index, 0, term)
