"""Append nodes to a directory: chooses the next number, and tries again if the number is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore

from getc.backends.monotonic import RevisionGuard
from getc.backends.tree.codec.append import (
    check_append,
    directories_of,
    encode_append,
    key_of_number,
    last_key_of,
    names_request,
    next_name,
    number_of,
    parse_append,
)
from getc.backends.tree.codec.directory_lease import NO_LEASE
from getc.backends.tree.codec.keyspace import NO_TTL, TTL
from getc.backends.tree.directory_leases import DirectoryLeases
from getc.backends.tree.write_leases import WriteLeases
from getc.errors import TimedOut
from getc.operations import Append
from getc.results import EtcdResult
from getc.timing import Backoff, Deadline
from getc.v3.ranges import PageLimit
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, RangeResponse

__all__ = ['Appender']

MAX_PAGE_NAMES: Final = 5000
"""Maximum number of keys of a page of names."""


class Appender:
    """Appends nodes: one append to a directory is in flight at a time, so a client does not compete with itself.

    The number is the last observed revision plus 1.  If another client was faster, the number after its number follows.
    If another program has created a name that sorts after the number, the names after the number are read, in pages;
    then only names that were created since can refuse the append.

    Args:
        rpc: Calls etcd.
        leases: Grants leases.
        directory_leases: Knows the leases of directories.
        revision_guard: Knows the last observed revision.
        is_strict: See :class:`~getc.backends.tree.backend.TreeV3`.
    """

    def __init__(
        self,
        rpc: RpcClient,
        leases: WriteLeases,
        directory_leases: DirectoryLeases,
        revision_guard: RevisionGuard,
        *,
        is_strict: bool,
    ) -> None:
        self._rpc = rpc
        self._leases = leases
        self._directory_leases = directory_leases
        self._revision_guard = revision_guard
        self._is_strict = is_strict
        self._locks: dict[str, BoundedSemaphore] = {}  # by directory

    def append(self, append: Append, deadline: Deadline) -> EtcdResult:
        """Execute an ``Append``.  Raises like ``Backend.execute``."""
        check_append(append)
        with self._locked(append.key, deadline):
            if append.ttl is None:
                return self._append(append, 0, NO_TTL, deadline)
            with self._leases.lease_for(append.ttl, deadline) as (lease, ttl):
                return self._append(append, lease, ttl, deadline)

    @contextmanager
    def _locked(self, key: str, deadline: Deadline) -> Iterator[None]:
        """Hold the lock of a directory; the last greenlet that leaves drops the lock, even if it never held it."""
        lock = self._locks.setdefault(key, BoundedSemaphore(1))
        try:
            if not lock.acquire(timeout=deadline.timeout_left()):
                raise TimedOut(
                    f'could not append to {{key}} within {deadline.timeout:g} s: another append is in flight', key=key
                )
            try:
                yield
            finally:
                lock.release()
        finally:
            if lock.ready() and not lock.linkcount():
                self._locks.pop(key, None)

    def _append(self, append: Append, lease: int, ttl: TTL, deadline: Deadline) -> EtcdResult:
        number = self._revision_guard.index + 1
        read_at = 0  # at this revision no number was above ``number``; 0 before the names were read
        joined = NO_LEASE if lease else self._directory_leases.recall(directories_of(append))
        backoff = Backoff(base=0.005, cap=0.2)
        while True:
            txn = encode_append(append, number, read_at=read_at, lease=lease, is_strict=self._is_strict, joined=joined)
            response = self._rpc.call(KV.Txn, txn, deadline, is_write=True)
            if response.succeeded:
                return parse_append(append, number, response, ttl)
            last = last_key_of(append, response, is_strict=self._is_strict)
            if last is None:
                joined = self._directory_leases.read(directories_of(append), deadline)
            else:
                taken = number_of(append, last)
                number = max(number, response.header.revision + 1, (taken or 0) + 1)
                if taken is None or read_at:  # there may be numbers below a name that another program chose
                    highest, read_at = self._read_names(append, number, read_at, deadline)
                    number = max(number, highest + 1)
            gevent.sleep(min(backoff.next_delay(), deadline.remaining()))

    def _read_names(self, append: Append, number: int, since: int, deadline: Deadline) -> tuple[int, int]:
        """Read the names that sort after a number and were created after a revision.

        Returns:
            The highest number among them, or 0; and the revision up to which every name was read.
        """
        highest = revision = 0
        pages = PageLimit(MAX_PAGE_NAMES)
        start: bytes | None = key_of_number(append, number)
        while start is not None:
            page = pages.read_shrinking(partial(self._read_page, append, start, since, deadline))
            pages.grow(page)
            revision = revision or page.header.revision
            highest = max([highest, *(number_of(append, kv.key) or 0 for kv in page.kvs)])
            start = next_name(append, page)
        return highest, revision

    def _read_page(self, append: Append, start: bytes, since: int, deadline: Deadline, limit: int) -> RangeResponse:
        return self._rpc.call(KV.Range, names_request(append, start, since, limit), deadline)
