"""HostileConnection servers for clients of the v2 keys API."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import getc
from tests.hostile.harness import HostileConnection, Peer, v2_response
from tests.support.servers import answer_of

__all__ = ['PEERS']

OK = b'HTTP/1.1 200 OK\r\n'
JSON = 'Content-Type: application/json\r\nX-Etcd-Index: 7\r\n'
CHUNKED = OK + JSON.encode() + b'Transfer-Encoding: chunked\r\n\r\n'
MIB = 1024 * 1024
BODY = 34 * MIB
"""The limit of a body is 16 MiB, and twice that with the lines around its chunks."""

Serve = Callable[[HostileConnection], object]


def responds(data: bytes) -> Serve:
    """Send data after each request, and keep the connection open."""

    def serve(client: HostileConnection) -> None:
        while client.request():
            client.send(data)

    return serve


def says(body: bytes | str, headers: str = JSON) -> Serve:
    """Respond with a body."""
    return responds(answer_of(body if isinstance(body, bytes) else body.encode(), headers=headers))


def ends(data: bytes) -> Serve:
    """Send data after a request, and close the connection."""

    def serve(client: HostileConnection) -> None:
        client.request()
        client.send(data)

    return serve


def floods(piece: bytes, before: bytes = OK) -> Serve:
    """Send data without end."""

    def serve(client: HostileConnection) -> None:
        client.request()
        client.flood(piece, before)

    return serve


def trickles(piece: bytes, before: bytes = b'') -> Serve:
    """Send data without end, with a delay."""

    def serve(client: HostileConnection) -> None:
        client.request()
        client.trickle(piece, before)

    return serve


def silent(client: HostileConnection) -> None:
    client.wait()


def resets(client: HostileConnection) -> None:
    client.request()
    client.reset()


def bomb() -> bytes:
    """Return a response of 16 kB that decompresses to 16 MiB."""
    packed = gzip.compress(b'\0' * 16 * MIB)
    return answer_of(packed, headers=JSON + 'Content-Encoding: gzip\r\n')


def node(**fields: object) -> str:
    """Return a body with a node that has these fields."""
    return json.dumps(
        {'action': 'get', 'node': {'key': '/a', 'value': 'x', 'modifiedIndex': 7, 'createdIndex': 7} | fields}
    )


SLOW = getc.TimedOut
CUT = getc.ConnectionError

PEERS = [
    # -- endless responses
    Peer('endless body', floods(b'X' * 65_536, OK + JSON.encode() + b'\r\n'), text='more than', max_bytes=BODY),
    Peer('endless chunks', floods(b'10000\r\n' + b'X' * 65_536 + b'\r\n', CHUNKED), text='more than', max_bytes=BODY),
    Peer('endless chunks of a byte', floods(b'1\r\nX\r\n', CHUNKED), text='chunks', max_bytes=BODY),
    Peer('endless chunk extension', floods(b'X' * 65_536, CHUNKED + b'5;')),
    Peer('endless trailers', floods(b'X-More: x\r\n', CHUNKED + b'0\r\n')),
    Peer('endless headers', floods(b'X-More: ' + b'x' * 100 + b'\r\n')),
    Peer('endless short headers', floods(b'a:b\r\n')),
    Peer('endless header', floods(b'X' * 65_536, OK + b'X-More: ')),
    Peer('endless status line', floods(b'K' * 65_536, b'HTTP/1.1 200 ')),
    Peer('endless interim responses', floods(b'HTTP/1.1 100 Continue\r\n\r\n', b'')),
    Peer('endless empty lines', floods(b'\r\n', b'')),
    Peer('length over the limit', ends(OK + JSON.encode() + b'Content-Length: 16777217\r\n\r\n'), text='16777217'),
    Peer('absurd length', ends(OK + JSON.encode() + b'Content-Length: ' + b'9' * 30 + b'\r\n\r\n')),
    Peer('absurd length of thousands of digits', ends(OK + b'Content-Length: ' + b'9' * 5000 + b'\r\n\r\n')),
    # -- slow responses
    Peer('silence', silent, SLOW, 'no response', is_slow=True),
    Peer('slow bytes of the head', trickles(b'X', OK), SLOW, is_slow=True),
    Peer('slow bytes of the body', trickles(b'X', OK + b'Content-Length: 10000\r\n\r\n'), SLOW, is_slow=True),
    Peer('slow chunks', trickles(b'1\r\nX\r\n', CHUNKED), SLOW, is_slow=True),
    Peer('slow interim responses', trickles(b'HTTP/1.1 100 Continue\r\n\r\n'), SLOW, is_slow=True),
    # -- ambiguous lengths
    Peer('two lengths', ends(OK + b'Content-Length: 5\r\nContent-Length: 500\r\n\r\nhello'), text='length'),
    Peer('two lengths in one', ends(OK + b'Content-Length: 5, 500\r\n\r\nhello'), text='Content-Length'),
    Peer('length and chunks', ends(OK + b'Content-Length: 5\r\n' + CHUNKED[17:] + b'0\r\n\r\n'), text='length'),
    Peer('negative length', ends(OK + b'Content-Length: -5\r\n\r\nhello'), text='Content-Length'),
    Peer('length that is not a number', ends(OK + b'Content-Length: 5x\r\n\r\nhello'), text='Content-Length'),
    Peer('compressed in transfer', ends(OK + b'Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n'), text='transfer'),
    Peer('chunked twice', ends(OK + b'Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n'), text='transfer'),
    *(
        Peer(f'chunk of size {size.decode()[:9]!r}', ends(CHUNKED + size + b'\r\n{}\r\n0\r\n\r\n'))
        for size in (b'-2', b'zz', b'', b'0x2', b'+2', b'1_0', b'F' * 40, b'2 2')
    ),
    Peer('chunk of 8 EiB', ends(CHUNKED + b'7fffffffffffffff\r\n{}\r\n0\r\n\r\n'), CUT, 'middle of a response'),
    Peer('chunk longer than its size', ends(CHUNKED + b'2\r\n{"a":1}\r\n0\r\n\r\n')),
    # -- truncated responses
    Peer('no response', ends(b''), CUT, 'without a response'),
    Peer('reset', resets, CUT, 'broke'),
    Peer('half a head', ends(OK + b'Content-Len'), CUT, 'middle of a response'),
    Peer('half a body', ends(v2_response()[:-5]), CUT, 'middle of a response'),
    Peer('half a chunk', ends(CHUNKED + b'50\r\n{"action"'), CUT, 'middle of a response'),
    Peer('no last chunk', ends(CHUNKED + b'2\r\n{}\r\n'), CUT, 'middle of a response'),
    # -- not HTTP
    Peer('SSH', ends(b'SSH-2.0-OpenSSH_9.6\r\n')),
    Peer('HTTP/2', ends(b'\0\0\0\4\0\0\0\0\0' * 3)),
    Peer('zeros', floods(b'\0' * 65_536, b'')),
    Peer('a status of four digits', ends(b'HTTP/1.1 2000 OK\r\n\r\n')),
    Peer('a switch of protocols', ends(b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n'), getc.EtcException),
    # -- compressed although not accepted
    Peer('gzip bomb', responds(bomb()), text='compressed'),
    Peer('deflate', says(zlib.compress(b'{}'), JSON + 'Content-Encoding: deflate\r\n'), text='compressed'),
    Peer('unknown encoding', says('{}', JSON + 'Content-Encoding: x\r\n'), text='compressed'),
    # -- JSON
    Peer('deep JSON', says(b'[' * 15 * MIB), text='nested too deep', max_bytes=BODY),
    Peer('deep nodes', says('{"action":"get","node":' + '{"dir":true,"nodes":[' * 5000 + ']}' * 5000 + '}')),
    Peer('deep objects', says(b'{"a":' * 100_000), max_bytes=BODY),
    Peer('huge integer', says('{"action":"get","node":{"modifiedIndex":' + '9' * 1_000_000 + '}}'), max_bytes=BODY),
    Peer('integer over 64 bits', says(node(modifiedIndex=2**64)), text='modifiedIndex'),
    Peer('negative index', says(node(createdIndex=-1)), text='createdIndex'),
    Peer('NaN', says('{"action":"get","node":{"key":"/a","modifiedIndex":NaN}}'), text='modifiedIndex'),
    Peer('infinity', says('{"action":"get","node":{"key":"/a","modifiedIndex":1e999}}'), text='modifiedIndex'),
    Peer('true for an index', says(node(modifiedIndex=True)), text='modifiedIndex'),
    Peer('TTL that is text', says(node(ttl='5')), text='ttl'),
    Peer('TTL that is not a number', says('{"action":"get","node":{"key":"/a","ttl":NaN}}'), text='ttl'),
    Peer('expiration that is not a time', says(node(expiration='9999-99-99T99:99:99Z')), text='expiration'),
    Peer('value that is an object', says(node(value={})), text='value'),
    Peer('value of half a character', says('{"action":"get","node":{"key":"/a","value":"\\ud800"}}'), text='value'),
    Peer('key that is not a path', says(node(key='a')), text='key'),
    Peer('unknown action', says('{"action":"explode","node":{"key":"/a"}}'), text='action'),
    Peer('no node', says('{"action":"get"}'), text='node'),
    Peer('a list', says('[]'), text='not a JSON object'),
    Peer('bad UTF-8', says(b'{"action":"\xff\xfe"}'), text='not JSON'),
    Peer('UTF-16', says('{"action":"get"}'.encode('utf-16')), getc.EtcException),
    Peer('half of JSON', says('{"action":"get","node":{"key"'), text='not JSON'),
    Peer('an empty body', says(''), text='not JSON'),
    # -- pages of other servers
    Peer('login form', says('<form>', 'Content-Type: text/html\r\n'), getc.HTTPError, 'text/html'),
    Peer('503', responds(answer_of(b'busy', status='503 No', headers='')), getc.HTTPError, '503'),
]
