"""Servers that mean harm to a client of the v2 keys API."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import getc
from tests.hostile.harness import Hostile, Peer, v2_answer
from tests.support.servers import answer_of

__all__ = ['PEERS']

OK = b'HTTP/1.1 200 OK\r\n'
JSON = 'Content-Type: application/json\r\nX-Etcd-Index: 7\r\n'
CHUNKED = OK + JSON.encode() + b'Transfer-Encoding: chunked\r\n\r\n'
MIB = 1024 * 1024
BODY = 34 * MIB
"""A body is 16 MiB at most; in chunks, with what is around them, twice that."""

Serve = Callable[[Hostile], object]


def answers(data: bytes) -> Serve:
    """Send this after each request, and keep the connection."""

    def serve(client: Hostile) -> None:
        while client.request():
            client.send(data)

    return serve


def says(body: bytes | str, headers: str = JSON) -> Serve:
    """Answer with this body."""
    return answers(answer_of(body if isinstance(body, bytes) else body.encode(), headers=headers))


def ends(data: bytes) -> Serve:
    """Send this after a request, and close."""

    def serve(client: Hostile) -> None:
        client.request()
        client.send(data)

    return serve


def floods(piece: bytes, before: bytes = OK) -> Serve:
    """Send this without end."""

    def serve(client: Hostile) -> None:
        client.request()
        client.flood(piece, before)

    return serve


def trickles(piece: bytes, before: bytes = b'') -> Serve:
    """Send this without end, slowly."""

    def serve(client: Hostile) -> None:
        client.request()
        client.trickle(piece, before)

    return serve


def silent(client: Hostile) -> None:
    client.wait()


def resets(client: Hostile) -> None:
    client.request()
    client.reset()


def bomb() -> bytes:
    """16 MiB of zeros in 16 kB."""
    packed = gzip.compress(b'\0' * 16 * MIB)
    return answer_of(packed, headers=JSON + 'Content-Encoding: gzip\r\n')


def node(**fields: object) -> str:
    """An answer with a node that has these fields."""
    return json.dumps(
        {'action': 'get', 'node': {'key': '/a', 'value': 'x', 'modifiedIndex': 7, 'createdIndex': 7} | fields}
    )


SLOW = getc.TimedOut
CUT = getc.ConnectionError

PEERS = [
    # -- without end
    Peer('endless body', floods(b'X' * 65_536, OK + JSON.encode() + b'\r\n'), told='more than', most=BODY),
    Peer('endless chunks', floods(b'10000\r\n' + b'X' * 65_536 + b'\r\n', CHUNKED), told='more than', most=BODY),
    Peer('endless chunks of a byte', floods(b'1\r\nX\r\n', CHUNKED), told='chunks', most=BODY),
    Peer('endless chunk extension', floods(b'X' * 65_536, CHUNKED + b'5;')),
    Peer('endless trailers', floods(b'X-More: x\r\n', CHUNKED + b'0\r\n')),
    Peer('endless headers', floods(b'X-More: ' + b'x' * 100 + b'\r\n')),
    Peer('endless short headers', floods(b'a:b\r\n')),
    Peer('endless header', floods(b'X' * 65_536, OK + b'X-More: ')),
    Peer('endless status line', floods(b'K' * 65_536, b'HTTP/1.1 200 ')),
    Peer('endless interim answers', floods(b'HTTP/1.1 100 Continue\r\n\r\n', b'')),
    Peer('endless empty lines', floods(b'\r\n', b'')),
    Peer('length past the bound', ends(OK + JSON.encode() + b'Content-Length: 16777217\r\n\r\n'), told='16777217'),
    Peer('absurd length', ends(OK + JSON.encode() + b'Content-Length: ' + b'9' * 30 + b'\r\n\r\n')),
    Peer('absurd length of thousands of digits', ends(OK + b'Content-Length: ' + b'9' * 5000 + b'\r\n\r\n')),
    # -- slowly
    Peer('silence', silent, SLOW, 'no response', is_slow=True),
    Peer('a byte of the head now and then', trickles(b'X', OK), SLOW, is_slow=True),
    Peer('a byte of the body now and then', trickles(b'X', OK + b'Content-Length: 10000\r\n\r\n'), SLOW, is_slow=True),
    Peer('a chunk now and then', trickles(b'1\r\nX\r\n', CHUNKED), SLOW, is_slow=True),
    Peer('an interim answer now and then', trickles(b'HTTP/1.1 100 Continue\r\n\r\n'), SLOW, is_slow=True),
    # -- lengths that say one thing and another
    Peer('two lengths', ends(OK + b'Content-Length: 5\r\nContent-Length: 500\r\n\r\nhello'), told='length'),
    Peer('two lengths in one', ends(OK + b'Content-Length: 5, 500\r\n\r\nhello'), told='Content-Length'),
    Peer('length and chunks', ends(OK + b'Content-Length: 5\r\n' + CHUNKED[17:] + b'0\r\n\r\n'), told='length'),
    Peer('negative length', ends(OK + b'Content-Length: -5\r\n\r\nhello'), told='Content-Length'),
    Peer('length that is no number', ends(OK + b'Content-Length: 5x\r\n\r\nhello'), told='Content-Length'),
    Peer('compressed in transfer', ends(OK + b'Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n'), told='transfer'),
    Peer('chunked twice', ends(OK + b'Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n'), told='transfer'),
    *(
        Peer(f'chunk of size {size.decode()[:9]!r}', ends(CHUNKED + size + b'\r\n{}\r\n0\r\n\r\n'))
        for size in (b'-2', b'zz', b'', b'0x2', b'+2', b'1_0', b'F' * 40, b'2 2')
    ),
    Peer('chunk of 8 EiB', ends(CHUNKED + b'7fffffffffffffff\r\n{}\r\n0\r\n\r\n'), CUT, 'middle of a response'),
    Peer('chunk longer than it says', ends(CHUNKED + b'2\r\n{"a":1}\r\n0\r\n\r\n')),
    # -- cut
    Peer('no answer', ends(b''), CUT, 'without a response'),
    Peer('reset', resets, CUT, 'broke'),
    Peer('half a head', ends(OK + b'Content-Len'), CUT, 'middle of a response'),
    Peer('half a body', ends(v2_answer()[:-5]), CUT, 'middle of a response'),
    Peer('half a chunk', ends(CHUNKED + b'50\r\n{"action"'), CUT, 'middle of a response'),
    Peer('no last chunk', ends(CHUNKED + b'2\r\n{}\r\n'), CUT, 'middle of a response'),
    # -- not HTTP
    Peer('SSH', ends(b'SSH-2.0-OpenSSH_9.6\r\n')),
    Peer('HTTP/2', ends(b'\0\0\0\4\0\0\0\0\0' * 3)),
    Peer('zeros', floods(b'\0' * 65_536, b'')),
    Peer('a status past three digits', ends(b'HTTP/1.1 2000 OK\r\n\r\n')),
    Peer('a switch of protocols', ends(b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n'), getc.EtcException),
    # -- compressed, though nobody asked for it
    Peer('gzip bomb', answers(bomb()), told='compressed'),
    Peer('deflate', says(zlib.compress(b'{}'), JSON + 'Content-Encoding: deflate\r\n'), told='compressed'),
    Peer('unknown encoding', says('{}', JSON + 'Content-Encoding: x\r\n'), told='compressed'),
    # -- JSON
    Peer('deep JSON', says(b'[' * 15 * MIB), told='nested too deep', most=BODY),
    Peer('deep nodes', says('{"action":"get","node":' + '{"dir":true,"nodes":[' * 5000 + ']}' * 5000 + '}')),
    Peer('deep objects', says(b'{"a":' * 100_000), most=BODY),
    Peer('huge integer', says('{"action":"get","node":{"modifiedIndex":' + '9' * 1_000_000 + '}}'), most=BODY),
    Peer('integer past 64 bits', says(node(modifiedIndex=2**64)), told='modifiedIndex'),
    Peer('negative index', says(node(createdIndex=-1)), told='createdIndex'),
    Peer('NaN', says('{"action":"get","node":{"key":"/a","modifiedIndex":NaN}}'), told='modifiedIndex'),
    Peer('infinity', says('{"action":"get","node":{"key":"/a","modifiedIndex":1e999}}'), told='modifiedIndex'),
    Peer('true for an index', says(node(modifiedIndex=True)), told='modifiedIndex'),
    Peer('TTL that is text', says(node(ttl='5')), told='ttl'),
    Peer('TTL that is no number', says('{"action":"get","node":{"key":"/a","ttl":NaN}}'), told='ttl'),
    Peer('expiration that is no time', says(node(expiration='9999-99-99T99:99:99Z')), told='expiration'),
    Peer('value that is an object', says(node(value={})), told='value'),
    Peer('value of half a character', says('{"action":"get","node":{"key":"/a","value":"\\ud800"}}'), told='value'),
    Peer('key that is no path', says(node(key='a')), told='key'),
    Peer('unknown action', says('{"action":"explode","node":{"key":"/a"}}'), told='action'),
    Peer('no node', says('{"action":"get"}'), told='node'),
    Peer('a list', says('[]'), told='not a JSON object'),
    Peer('bad UTF-8', says(b'{"action":"\xff\xfe"}'), told='not JSON'),
    Peer('UTF-16', says('{"action":"get"}'.encode('utf-16')), getc.EtcException),
    Peer('half of JSON', says('{"action":"get","node":{"key"'), told='not JSON'),
    Peer('an empty body', says(''), told='not JSON'),
    # -- another's pages
    Peer('login form', says('<form>', 'Content-Type: text/html\r\n'), getc.HTTPError, 'text/html'),
    Peer('503', answers(answer_of(b'busy', status='503 No', headers='')), getc.HTTPError, '503'),
]
