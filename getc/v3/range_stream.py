"""Ranges as a stream: etcd 3.7 sends a range of any size in parts, as KV.RangeStream; older servers are read in pages.

A part of the stream has about as many bytes as a request may have (1.5 MB unless configured).  The server reads the
next part when the client has consumed most of the earlier ones, all parts at one revision, and counts the range once
instead of for each page.  Source: etcd 3.7, ``server/etcdserver/v3_server.go``, ``rangeStream``.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Final

from getc.errors import EtcException, NotSupported, ProtocolError, ResponseTooLarge
from getc.retry import is_transient
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.v3.ranges import PageLimit, next_key
from getc.v3.rpc import RpcClient
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import KV, RangeRequest, RangeResponse

__all__ = ['MAX_PAGE_KEYS', 'read_parts', 'stream_parts']

MAX_PAGE_KEYS: Final = 5000
"""Keys of a page at most."""


def stream_parts(
    rpc: RpcClient, request: RangeRequest, timeout: Timeout | Deadline = DEFAULT_TIMEOUT
) -> Generator[RangeResponse, None, None]:
    """Yield the parts of a range as etcd 3.7 sends them; the last part alone has a header, ``more`` and ``count``.

    Closing the generator, or an error in the greenlet that iterates over it, cancels the stream.

    Args:
        rpc: Calls etcd.
        request: The range; without sort order and revision filters, which RangeStream does not have.
        timeout: Seconds for each part, or the end of all.

    Raises:
        NotSupported: The server, or the proxy before it, has no RangeStream.
        ProtocolError: The stream ended before the last part.
    """
    is_last = False
    with closing(rpc.read_stream(KV.RangeStream, request, timeout, needs_leader=not request.serializable)) as messages:
        for message in messages:
            part = message.range_response
            if is_last or not (part.kvs or part.HasField('header')):
                raise ProtocolError('RangeStream: a part after the last one, or one without keys before it')
            is_last = part.HasField('header')
            yield part
    if not is_last:
        raise ProtocolError('RangeStream: the stream ended before the last part')


def read_parts(
    rpc: RpcClient, request: RangeRequest, timeout: Timeout | Deadline = DEFAULT_TIMEOUT
) -> Generator[RangeResponse, None, None]:
    """Yield the parts of a range, by RangeStream or in pages; the arguments and the parts are those of `stream_parts`.

    If the stream cannot go on, because a part is too large to be received or the server has failed, the rest is read
    in pages.  Only a range with a revision can be continued: the server does not send the revision before the end.

    Raises:
        EventIndexCleared: The revision was compacted before the end was reached.
        ResponseTooLarge: A single value is larger than 16 MiB; or a part is, and the request has no revision.
    """
    count = 0
    rest = RangeRequest()
    rest.CopyFrom(request)
    try:
        with closing(stream_parts(rpc, request, timeout)) as parts:
            for part in parts:
                count += len(part.kvs)
                if part.kvs:
                    rest.key = next_key(part.kvs[-1].key)
                yield part
        return
    except (NotSupported, ResponseTooLarge):
        if count and not request.revision:
            raise
    except EtcException as error:
        if not (count and request.revision and is_transient(error)):
            raise
    if request.limit:
        rest.limit = request.limit - count
    yield from _pages(rpc, rest, count, timeout)


def _pages(
    rpc: RpcClient, request: RangeRequest, count: int, timeout: Timeout | Deadline
) -> Generator[RangeResponse, None, None]:
    """Yield a range in pages; ``count`` is the number of keys before the range."""
    left = request.limit or None
    pages = PageLimit(MAX_PAGE_KEYS)
    header = ResponseHeader()

    def read(keys: int) -> RangeResponse:
        request.limit = keys if left is None else min(keys, left)
        return rpc.call(KV.Range, request, timeout)

    while True:
        page = pages.read_shrinking(read)
        pages.grow(page)
        if page.more and not page.kvs:
            raise ProtocolError('the response to a range has no keys, and says that more keys follow')
        if not header.revision:
            header.CopyFrom(page.header)
        left = None if left is None else left - len(page.kvs)
        if not page.more or left == 0:
            page.header.CopyFrom(header)
            page.count += count
            yield page
            return
        count += len(page.kvs)
        request.key = next_key(page.kvs[-1].key)
        request.revision = request.revision or header.revision
        for field in ('header', 'more', 'count'):
            page.ClearField(field)
        yield page
