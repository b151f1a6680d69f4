"""The network between the members of a cluster, with fault injection.

All members know a member by the same address, so the address does not identify the sender.  But each etcd process can
be given an HTTP proxy of its own, a :class:`MemberProxy`, which knows its member and has a link to each of the others.
The advertised addresses are not routable (RFC 5737 reserves them for documentation), so no traffic bypasses the
proxies; loopback addresses would not do, since etcd uses no proxy for them.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent

from getc.testing.ports import HOST, listen
from getc.testing.tcp_faults import FaultyLink, Socket, unref
from getc.testing.virtual_loop import real_sleep

__all__ = ['MemberProxy', 'PeerLink', 'PeerNetwork']

MAX_HEAD_BYTES = 64 * 1024


class PeerNetwork:
    """A link from each member to each other, two for each pair.

    Members are identified by numbers, from 1 on, which are never reused.
    """

    def __init__(self) -> None:
        self._targets: dict[int, str] = {}
        self._links: dict[tuple[int, int], FaultyLink] = {}
        self._proxies: dict[int, MemberProxy] = {}
        self._isolated: set[int] = set()

    @property
    def isolated(self) -> frozenset[int]:
        """The numbers of the isolated members."""
        return frozenset(self._isolated)

    @staticmethod
    def address(number: int) -> str:
        """Return the peer URL that a member advertises."""
        return f'http://192.0.2.{number}:2380'

    def join(self, number: int, port: int) -> None:
        """Connect a member that listens for peers at this loopback port, which may differ from its previous one."""
        target = f'{HOST}:{port}'
        self._drop_links(number)
        for other, other_target in self._targets.items():
            if other != number:
                self._links[number, other] = PeerLink(other_target)
                self._links[other, number] = PeerLink(target)
        self._targets[number] = target
        if number not in self._proxies:
            self._proxies[number] = MemberProxy(self, number).start()

    def leave(self, number: int) -> None:
        """Disconnect a member for good.  Does nothing if it has not joined."""
        proxy = self._proxies.pop(number, None)
        if proxy is not None:
            proxy.stop()
        self._drop_links(number)
        self._targets.pop(number, None)
        self._isolated.discard(number)

    def link(self, source: int, destination: int) -> FaultyLink:
        """Return the connections that one member makes to another.

        Raises:
            KeyError: One of the two has not joined.
        """
        return self._links[source, destination]

    def link_to(self, source: int, address: str) -> FaultyLink | None:
        """Return the link from a member to the one that advertises this ``host:port``; None if there is none."""
        for (start, end), link in self._links.items():
            if start == source and self.address(end) == f'http://{address}':
                return link
        return None

    def isolate(self, number: int) -> None:
        """Cut a member off from all others, in both directions."""
        self._isolated.add(number)
        for ends, link in self._links.items():
            if number in ends:
                link.cut()

    def heal(self, number: int) -> None:
        """Reconnect a member to all that are not isolated themselves."""
        self._isolated.discard(number)
        for ends, link in self._links.items():
            if number in ends and not self._isolated.intersection(ends):
                link.heal()

    def heal_all(self) -> None:
        """Undo the faults of every link."""
        self._isolated.clear()
        for link in self._links.values():
            link.heal()

    def environment(self, number: int) -> dict[str, str]:
        """Return the environment variables that make a member's etcd use its proxy."""
        return {'HTTP_PROXY': self._proxies[number].url, 'NO_PROXY': 'localhost', 'http_proxy': '', 'no_proxy': ''}

    def close(self) -> None:
        """Reset all connections.  No greenlet and no socket is left."""
        for number in list(self._proxies):
            self.leave(number)

    def _drop_links(self, number: int) -> None:
        for ends in [ends for ends in self._links if number in ends]:
            self._links.pop(ends).reset()


class PeerLink(FaultyLink):
    """A link between two members.  They exchange messages all the time, which must not hold back virtual time."""

    holds_virtual_time = False


class MemberProxy:
    """The HTTP proxy of one member, which forwards each request on the link to its destination.

    Each connection carries one request, so that the link is independent of HTTP.  The response may be endless, as
    members stream their messages in this way.

    Attributes:
        url: The URL of the proxy.
    """

    def __init__(self, network: PeerNetwork, number: int) -> None:
        self.url = ''
        self._network = network
        self._number = number
        self._listener: Socket | None = None
        self._pending: set[Socket] = set()  # connections that are not on a link yet
        self._greenlets: set[gevent.Greenlet[..., None]] = set()

    def start(self) -> MemberProxy:
        """Listen on a free port, and return the proxy."""
        listener = self._listener = listen()
        unref(listener)
        self.url = f'http://{HOST}:{listener.getsockname()[1]}'
        self._spawn(self._accept, listener)
        return self

    def stop(self) -> None:
        """Stop listening, and close connections that are not on a link yet."""
        gevent.killall(list(self._greenlets))
        # A greenlet that is killed before it first runs does not execute its `finally`.
        for client in self._pending:
            client.close()
        self._pending.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accept(self, listener: Socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # out of file descriptors, or the client has disconnected already
                real_sleep(0.05)
                continue
            unref(client)
            self._pending.add(client)
            self._spawn(self._forward, client)

    def _forward(self, client: Socket) -> None:
        link = None
        try:
            head, body = _read_head(client)
            method, url, rest = head.split(b' ', 2)
            address, _, path = url.decode('latin-1').removeprefix('http://').partition('/')
            link = self._network.link_to(self._number, address)
            if link is not None:
                version, headers = rest.split(b'\r\n', 1)
                request = b'%s /%s %s\r\nConnection: close\r\n' % (method, path.encode('latin-1'), version)
                link.forward(client, request + headers + body)
        except (OSError, ValueError):
            pass  # the connection broke, or it is not HTTP: closed below
        finally:
            self._pending.discard(client)
            if link is None:
                client.close()

    def _spawn(self, function: Callable[..., None], *args: object) -> None:
        greenlet: gevent.Greenlet[..., None] = gevent.spawn(function, *args)
        greenlet.name = f'proxy of member {self._number}'
        self._greenlets.add(greenlet)
        greenlet.link(self._greenlets.discard)


def _read_head(client: Socket) -> tuple[bytes, bytes]:
    """Read the head of a request.  Return it with the empty line at its end, and the data that follow."""
    data = b''
    while b'\r\n\r\n' not in data:
        if len(data) > MAX_HEAD_BYTES or not (more := client.recv(MAX_HEAD_BYTES)):
            raise ValueError('not an HTTP request')
        data += more
    head, end, body = data.partition(b'\r\n\r\n')
    return head + end, body
