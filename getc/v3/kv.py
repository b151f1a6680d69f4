"""Keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.ranges import PageLimit, after
from getc.v3.rpc import RpcClient
from getc.v3.schema import kv as schema
from getc.v3.schema.kv import RangeRequest
from getc.v3.schema.mvccpb import KeyValue
from getc.v3.txn import Txn, is_write

__all__ = ['KV']

PAGE: Final = 5000

PLAIN: Final = (b'', 0, RangeRequest.SortOrder.NONE, RangeRequest.SortTarget.KEY, False, False, False)
NO_REVISIONS: Final = (0, 0, 0, 0, 0)
"""What a range is asked with if only its key is given."""


class KV:
    """``etcd.v3.kv``: one method for each RPC of etcd's KV service, and a few words for what is made of them.

    Keys and values are bytes.  All methods block, take a ``timeout`` in seconds (None: no limit; left out: the
    client's), and raise :class:`~getc.EtcdError`, :class:`~getc.ConnectionError` and the like.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    def range(
        self,
        key: bytes,
        *,
        range_end: bytes = b'',
        limit: int = 0,
        revision: int = 0,
        sort_order: int = RangeRequest.SortOrder.NONE,
        sort_target: int = RangeRequest.SortTarget.KEY,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> schema.RangeResponse:
        """Read a key, or the keys from it up to ``range_end``.

        Args:
            key: The first key.
            range_end: The key after the last; ``getc.v3.prefix_end`` makes one; ``b'\\0'`` is the end of the store.
            limit: Keys at most; 0 for all.
            revision: Read as of it; 0 for the newest.
            sort_order: One of ``RangeRequest.SortOrder``.
            sort_target: One of ``RangeRequest.SortTarget``.
            serializable: What the asked server knows will do, which may be old.
            keys_only: Leave values out.
            count_only: Only count.
            min_mod_revision: Leave out keys that were last written before it.
            max_mod_revision: Leave out keys that were last written after it.
            min_create_revision: Leave out keys that were created before it.
            max_create_revision: Leave out keys that were created after it.
            timeout: Seconds.

        Raises:
            EventIndexCleared: The revision has been compacted.
            FutureRevision: It is still to come.
            ResponseTooLarge: The answer would be larger than 16 MiB: set a ``limit``, or use :meth:`scan`.
        """
        revisions = (revision, min_mod_revision, max_mod_revision, min_create_revision, max_create_revision)
        others = (range_end, limit, sort_order, sort_target, serializable, keys_only, count_only)
        if others == PLAIN and revisions == NO_REVISIONS:
            request = build(RangeRequest, key=key)  # most reads: each field takes protobuf its time
        else:
            request = build(
                RangeRequest,
                key=key,
                range_end=range_end,
                limit=limit,
                revision=revision,
                sort_order=sort_order,
                sort_target=sort_target,
                serializable=serializable,
                keys_only=keys_only,
                count_only=count_only,
                min_mod_revision=min_mod_revision,
                max_mod_revision=max_mod_revision,
                min_create_revision=min_create_revision,
                max_create_revision=max_create_revision,
            )
        return self._rpc.call(schema.KV.Range, request, timeout)

    def put(
        self,
        key: bytes,
        value: bytes = b'',
        *,
        lease: int = 0,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> schema.PutResponse:
        """Write a key.

        Args:
            key: The key.
            value: Its value.
            lease: The lease that it lives by; 0 for none.
            prev_kv: Tell what it was before.
            ignore_value: Keep the value it has.
            ignore_lease: Keep the lease it has.
            timeout: Seconds.

        Raises:
            LeaseNotFound: The lease is gone; nothing was written.
        """
        request = build(
            schema.PutRequest,
            key=key,
            value=value,
            lease=lease,
            prev_kv=prev_kv,
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
        )
        return self._rpc.call(schema.KV.Put, request, timeout)

    def delete_range(
        self, key: bytes, *, range_end: bytes = b'', prev_kv: bool = False, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.DeleteRangeResponse:
        """Delete a key, or the keys from it up to ``range_end``; ``deleted`` says how many, ``prev_kvs`` which.

        Raises:
            ResponseTooLarge: With ``prev_kv`` the answer is larger than 16 MiB.  The keys were deleted.
        """
        request = build(schema.DeleteRangeRequest, key=key, range_end=range_end, prev_kv=prev_kv)
        return self._rpc.call(schema.KV.DeleteRange, request, timeout)

    def txn(
        self,
        *,
        compare: Sequence[schema.Compare] = (),
        success: Sequence[schema.RequestOp] = (),
        failure: Sequence[schema.RequestOp] = (),
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> schema.TxnResponse:
        """Do one thing or the other, as one; :meth:`when` reads better.

        Args:
            compare: What must hold, all of it.
            success: What is done if it does.
            failure: What is done if it does not.
            timeout: Seconds.
        """
        request = build(schema.TxnRequest, compare=compare, success=success, failure=failure)
        return self._rpc.call(schema.KV.Txn, request, timeout, is_write=is_write(request))

    def compact(
        self, revision: int, *, physical: bool = False, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.CompactionResponse:
        """Forget the history up to a revision.

        Args:
            revision: The first that is kept.
            physical: Wait until it is gone from the disk, too.
            timeout: Seconds.
        """
        request = build(schema.CompactionRequest, revision=revision, physical=physical)
        return self._rpc.call(schema.KV.Compact, request, timeout)

    # -- made of them

    def when(self, *compare: schema.Compare) -> Txn:
        """Begin a transaction that depends on these comparisons (see :mod:`getc.v3.txn`)."""
        return Txn(self._rpc, compare)

    def scan(
        self,
        key: bytes,
        *,
        range_end: bytes,
        revision: int = 0,
        keys_only: bool = False,
        page: int = PAGE,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> Iterator[KeyValue]:
        """Read a range of any size in the order of its keys, in pages, all as of one revision.

        A page has fewer keys where an answer with that many would be larger than 16 MiB.

        Args:
            key: The first key.
            range_end: The key after the last.
            revision: Read as of it; 0 for the newest when the first page is read.
            keys_only: Leave values out.
            page: Keys read at a time, at most.
            timeout: Seconds for each page.

        Raises:
            EventIndexCleared: The revision was compacted before the end was reached.
            ResponseTooLarge: A single value is larger than 16 MiB.
            ValueError: ``page`` is less than 1.
        """
        if page < 1:
            raise ValueError(f'page is at least 1, not {page}')
        return self._pages(key, range_end, revision, keys_only, page, timeout)

    def _pages(
        self, key: bytes, range_end: bytes, revision: int, keys_only: bool, page: int, timeout: Timeout
    ) -> Iterator[KeyValue]:
        pages = PageLimit(page)
        more = True
        while more:
            found = pages.read(self._page_of(key, range_end, revision, keys_only, timeout))
            pages.grow(found)
            yield from found.kvs
            revision = revision or found.header.revision
            more = found.more
            if more:
                key = after(found.kvs[-1].key)

    def _page_of(
        self, key: bytes, range_end: bytes, revision: int, keys_only: bool, timeout: Timeout
    ) -> Callable[[int], schema.RangeResponse]:
        return lambda limit: self.range(
            key, range_end=range_end, limit=limit, revision=revision, keys_only=keys_only, timeout=timeout
        )
