"""Change the TTL of a directory: renew its lease, or move the directory and the nodes in it to another lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import gevent

from getc.backends.tree.codec.directory_lease import MAX_TXN_OPS
from getc.backends.tree.codec.directory_ttl import (
    DirectoryState,
    batches_of,
    keys_request,
    nodes_to_move,
    parse_change,
    parse_state,
    result_of_renewal,
    txn_of_change,
    txn_of_move,
    txn_of_state,
)
from getc.backends.tree.codec.keyspace import NO_TTL, TTL, marker
from getc.backends.tree.codec.responses import RANGE, malformed, results_of_txn
from getc.backends.tree.write_leases import WriteLeases
from getc.error_context import copy_error
from getc.errors import EtcException, TestFailed
from getc.operations import Put
from getc.results import EtcdResult
from getc.timing import Backoff, Deadline
from getc.v3.ranges import PageLimit, next_key
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeResponse, TxnResponse
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['DirectoryTTL']

PAGE: Final = 5000
"""Maximum number of keys of a page."""

MAX_UNFINISHED: Final = 1000
"""Remembered directories whose change has broken off."""


class DirectoryTTL:
    """Updates and refreshes directories.

    The marker of the directory is moved first: from then on, writes of getc put new nodes on the new lease.  With it,
    in the same transaction, the nodes are moved that have no TTL of their own, as far as they fit and are not being
    written; the others follow in further transactions.  If that breaks off, the next change of the directory by this
    client moves the rest.

    Args:
        rpc: Calls etcd.
        leases: Grants and renews leases.
        is_strict: See :class:`~getc.backends.tree.backend.TreeV3`.
    """

    def __init__(self, rpc: RpcClient, leases: WriteLeases, *, is_strict: bool) -> None:
        self._rpc = rpc
        self._leases = leases
        self._is_strict = is_strict
        self._unfinished: dict[str, set[int]] = {}  # leases from which nodes are still to be moved, by directory

    def change(self, put: Put, deadline: Deadline) -> EtcdResult | None:
        """Execute an update or a refresh of a directory; return None if the node is a value.

        Raises like ``Backend.execute``.
        """
        backoff = Backoff(base=0.005, cap=0.2)
        takes_nodes = True
        while True:
            state = self._read(put.key, deadline)
            if state is None:
                return None
            result = self._attempt(put, state, takes_nodes, deadline)
            if result is not None:
                return result
            takes_nodes = False  # one of them may be written all the time
            gevent.sleep(min(backoff.next_delay(), max(0.0, deadline.remaining())))

    def _attempt(self, put: Put, state: DirectoryState, takes_nodes: bool, deadline: Deadline) -> EtcdResult | None:
        """Return None if the directory has changed since it was read."""
        try:
            return self._change(put, state, takes_nodes, deadline)
        except TestFailed:
            return None

    def _change(self, put: Put, state: DirectoryState, takes_nodes: bool, deadline: Deadline) -> EtcdResult:
        """Raise TestFailed if the directory has changed since it was read."""
        if put.ttl is None:
            return self._move(put.key, state, state.outer.lease, NO_TTL, takes_nodes, deadline)
        if put.ttl and state.has_own_ttl and self._leases.has_ttl(state.lease, put.ttl, deadline):
            ttl = self._leases.renew(state.lease, deadline)
            if ttl is None:
                raise _changed(state)
            if put.refresh and put.key not in self._unfinished:
                return result_of_renewal(put.key, state, ttl)
            return self._move(put.key, state, state.lease, ttl, takes_nodes, deadline)
        with self._leases.lease_for(put.ttl, deadline) as (lease, ttl):
            return self._move(put.key, state, lease, ttl, takes_nodes, deadline)

    def _read(self, key: str, deadline: Deadline) -> DirectoryState | None:
        def read(limit: int) -> TxnResponse:
            txn = txn_of_state(key, limit, is_strict=self._is_strict)
            return self._rpc.call(KV.Txn, txn, deadline, is_write=False)

        response = PageLimit(min(PAGE, MAX_TXN_OPS)).read_shrinking(read)
        return parse_state(key, response, is_strict=self._is_strict)

    # -- to another lease

    def _move(
        self, key: str, state: DirectoryState, new: int, ttl: TTL, takes_nodes: bool, deadline: Deadline
    ) -> EtcdResult:
        """Put the marker and the nodes on a lease.  Raises TestFailed if the directory has changed since its read."""
        old = {state.lease} | self._unfinished.get(key, set())
        nodes = nodes_to_move(key, state.page.kvs, old, new) if takes_nodes else []
        txn = txn_of_change(key, state, new, nodes, is_strict=self._is_strict)
        is_whole = len(txn.success) == 1 + len(nodes) and takes_nodes and not state.page.more
        if state.has_own_ttl and not is_whole:  # else the nodes that are moved later could expire before
            if self._leases.renew(state.lease, deadline) is None:
                raise _changed(state)
            for lease in old - {0, state.lease}:
                self._leases.renew(lease, deadline)
        with self._finishing(key, old):
            response = self._rpc.call(KV.Txn, txn, deadline, is_write=True)
            if not response.succeeded:
                raise _changed(state)
            result = parse_change(key, state, response, ttl)
            try:
                index = self._move_nodes(key, old, new, result.etcd_index, deadline)
            except EtcException as error:
                raise copy_error(error, maybe_applied=True) from error
        return replace(result, etcd_index=index)

    @contextmanager
    def _finishing(self, key: str, old: set[int]) -> Iterator[None]:
        """Remember the leases from which nodes are moved, until all of them are.

        From before the first request on: that may be applied although its answer is lost.
        """
        if len(self._unfinished) >= MAX_UNFINISHED:
            del self._unfinished[next(iter(self._unfinished))]
        self._unfinished[key] = old | self._unfinished.get(key, set())
        yield
        left = self._unfinished.pop(key, set()) - old
        if left:
            self._unfinished[key] = left

    def _move_nodes(self, key: str, old: set[int], new: int, index: int, deadline: Deadline) -> int:
        """Put the nodes in a directory on the lease that its marker has.  Return the latest revision.

        If another client gives the directory another lease meanwhile, the nodes are put on that one.
        """
        count = MAX_TXN_OPS - 2
        backoff = Backoff(base=0.005, cap=0.2)
        while True:
            is_refused = False
            for page in self._pages(key, deadline):
                for batch in batches_of(nodes_to_move(key, page, old, new), count):
                    response = self._rpc.call(KV.Txn, txn_of_move(key, batch, new), deadline, is_write=True)
                    if response.succeeded:
                        index = response.header.revision
                        continue
                    (found,) = results_of_txn(response, RANGE)
                    if not found.kvs:
                        return index
                    new = found.kvs[0].lease
                    is_refused = True
            if not is_refused:
                return index
            count = max(1, count // 4)  # fewer nodes are less likely to be written meanwhile
            gevent.sleep(min(backoff.next_delay(), max(0.0, deadline.remaining())))

    def _pages(self, key: str, deadline: Deadline) -> Iterator[list[KeyValue]]:
        """Yield the keys of a directory, page by page; each page is as it is when it is read."""
        pages = PageLimit(PAGE)
        start: bytes | None = marker(key)
        while start is not None:
            page = pages.read_shrinking(partial(self._read_page, key, start, deadline))
            pages.grow(page)
            yield list(page.kvs)
            if page.more and not page.kvs:
                raise malformed('a page of {key} has no keys, although more keys follow', is_write=False, key=key)
            start = next_key(page.kvs[-1].key) if page.more else None

    def _read_page(self, key: str, start: bytes, deadline: Deadline, limit: int) -> RangeResponse:
        return self._rpc.call(KV.Range, keys_request(key, start, limit), deadline)


def _changed(state: DirectoryState) -> TestFailed:
    return TestFailed('Compare failed', 'the directory has changed', state.response.header.revision)
