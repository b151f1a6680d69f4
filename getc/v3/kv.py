"""etcd's KV service: range, put, delete, transactions, compaction, and scans of large ranges."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Final

from getc.errors import ProtocolError
from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.range_stream import MAX_PAGE_KEYS, read_parts
from getc.v3.ranges import PageLimit, next_key
from getc.v3.rpc import RpcClient
from getc.v3.schema import kv as schema
from getc.v3.schema.kv import RangeRequest
from getc.v3.schema.mvccpb import KeyValue
from getc.v3.txn import Txn, is_write

__all__ = ['KV']

DEFAULT_OPTIONS: Final = (b'', 0, RangeRequest.SortOrder.NONE, RangeRequest.SortTarget.KEY, False, False, False)
DEFAULT_REVISIONS: Final = (0, 0, 0, 0, 0)
"""The arguments of ``range`` if only its key is given."""


class KV:
    """``etcd.v3.kv``: one method for each RPC of etcd's KV service, and :meth:`when` and :meth:`scan`, which use them.

    Keys and values are bytes.  All methods block, take a ``timeout`` in seconds (None: no limit; left out: the
    client's), and raise :class:`~getc.EtcdError` or another :class:`~getc.EtcException`.
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
            range_end: The key after the last one; ``getc.v3.prefix_end`` returns that of a prefix; ``b'\\0'`` is
                the end of the store.
            limit: Maximum number of keys to return; 0 for all.
            revision: The revision to read at; 0 for the latest.
            sort_order: One of ``RangeRequest.SortOrder``.
            sort_target: One of ``RangeRequest.SortTarget``.
            serializable: Let the server answer from its own data, which may be stale.
            keys_only: Return keys without values.
            count_only: Return the number of keys only.
            min_mod_revision: Leave out keys that were last written before this revision.
            max_mod_revision: Leave out keys that were last written after this revision.
            min_create_revision: Leave out keys that were created before this revision.
            max_create_revision: Leave out keys that were created after this revision.
            timeout: Seconds.

        Raises:
            EventIndexCleared: The revision has been compacted.
            FutureRevision: The store has not reached the revision.
            ResponseTooLarge: The response is larger than 16 MiB: set a ``limit``, or use :meth:`scan`.
        """
        revisions = (revision, min_mod_revision, max_mod_revision, min_create_revision, max_create_revision)
        others = (range_end, limit, sort_order, sort_target, serializable, keys_only, count_only)
        if others == DEFAULT_OPTIONS and revisions == DEFAULT_REVISIONS:
            request = build(RangeRequest, key=key)  # most reads: each field costs protobuf time
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

    def range_stream(
        self,
        key: bytes,
        *,
        range_end: bytes = b'',
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> Generator[schema.RangeResponse, None, None]:
        """Read a range of any size in parts, all at one revision.

        The parts follow in the order of the keys.  The last one alone has ``header``, ``more`` and ``count``.  While
        parts are not consumed, the server reads no further ones; ``close()`` of the generator ends the stream.

        etcd has this RPC from 3.7 on.  From an older server, and through ``etcd grpc-proxy``, the range is read in
        pages of the same form; that a server does not have the RPC is remembered for some minutes.

        A stream that has begun is continued in pages if its server fails, if ``revision`` is given; else the error is
        raised, because etcd sends the revision with the last part only.  :meth:`scan` always continues.

        Args:
            key: The first key.
            range_end: The key after the last one.
            limit: Maximum number of keys to return; 0 for all.
            revision: The revision to read at; 0 for the latest.
            serializable: Let the server answer from its own data, which may be stale.
            keys_only: Return keys without values.
            count_only: Return the number of keys only.
            timeout: Seconds for each part.

        Raises:
            EventIndexCleared: The revision was compacted before the end was reached.
            ResponseTooLarge: A single value is larger than 16 MiB; or a part is, and ``revision`` is not given.
        """
        request = build(
            RangeRequest,
            key=key,
            range_end=range_end,
            limit=limit,
            revision=revision,
            serializable=serializable,
            keys_only=keys_only,
            count_only=count_only,
        )
        return read_parts(self._rpc, request, timeout)

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
            value: The value.
            lease: The lease to attach the key to; 0 for none.
            prev_kv: Return the previous key-value pair.
            ignore_value: Keep the current value.
            ignore_lease: Keep the current lease.
            timeout: Seconds.

        Raises:
            LeaseNotFound: The lease does not exist; nothing was written.
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
        """Delete a key, or the keys from it up to ``range_end``.

        The response's ``deleted`` is the number of deleted keys, and ``prev_kvs`` holds them if requested.

        Raises:
            ResponseTooLarge: With ``prev_kv`` the response is larger than 16 MiB.  The keys were deleted.
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
        """Execute operations atomically, depending on conditions.  :meth:`when` is easier to read.

        Args:
            compare: The conditions.
            success: The operations to execute if all conditions hold.
            failure: The operations to execute otherwise.
            timeout: Seconds.
        """
        request = build(schema.TxnRequest, compare=compare, success=success, failure=failure)
        return self._rpc.call(schema.KV.Txn, request, timeout, is_write=is_write(request))

    def compact(
        self, revision: int, *, physical: bool = False, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.CompactionResponse:
        """Compact the history up to a revision.

        Args:
            revision: The first revision to keep.
            physical: Wait until the compacted history is removed from the disk.
            timeout: Seconds.
        """
        request = build(schema.CompactionRequest, revision=revision, physical=physical)
        return self._rpc.call(schema.KV.Compact, request, timeout)

    # -- built on the RPCs

    def when(self, *compare: schema.Compare) -> Txn:
        """Start a transaction with these conditions (see :mod:`getc.v3.txn`)."""
        return Txn(self._rpc, compare)

    def scan(
        self,
        key: bytes,
        *,
        range_end: bytes,
        revision: int = 0,
        keys_only: bool = False,
        page: int | None = None,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> Iterator[KeyValue]:
        """Iterate over a range of any size in the order of its keys, all at one revision.

        After a first page the rest is streamed from etcd 3.7, and read in pages from an older server, or if the server
        fails.  A page has fewer keys if its response would be larger than 16 MiB.

        Args:
            key: The first key.
            range_end: The key after the last one.
            revision: The revision to read at; 0 for the latest when the first page is read.
            keys_only: Return keys without values.
            page: The most keys to read at a time, always in pages; None to let getc and the server decide.
            timeout: Seconds for each page.

        Raises:
            EventIndexCleared: The revision was compacted before the end was reached.
            ResponseTooLarge: A single value is larger than 16 MiB.
            ProtocolError: A response without keys says that more keys follow.
            ValueError: ``page`` is less than 1.
        """
        if page is not None and page < 1:
            raise ValueError(f'page must be at least 1, not {page}')
        request = build(RangeRequest, key=key, range_end=range_end, revision=revision, keys_only=keys_only)
        return self._scan(request, page, timeout)

    def _scan(self, request: RangeRequest, page: int | None, timeout: Timeout) -> Iterator[KeyValue]:
        pages = PageLimit(page or MAX_PAGE_KEYS)

        def read(limit: int) -> schema.RangeResponse:
            request.limit = limit
            return self._rpc.call(schema.KV.Range, request, timeout)

        more = True
        while more:
            found = pages.read_shrinking(read)
            pages.grow(found)
            yield from found.kvs
            request.revision = request.revision or found.header.revision
            more = found.more
            if more and not found.kvs:
                raise ProtocolError('the response to a range has no keys, and says that more keys follow')
            if more:
                request.key = next_key(found.kvs[-1].key)
            if more and page is None:
                request.limit = 0
                for part in read_parts(self._rpc, request, timeout):
                    yield from part.kvs
                return
