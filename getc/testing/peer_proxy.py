"""How the members of a cluster reach each other, and how one is cut off.

All members are told the same address of a member, so an address cannot tell who is calling.  But each etcd can be
told an HTTP proxy of its own: its *outlet*, which knows whose it is, and from there a line of its own leads to each
of the others.  The addresses lead nowhere by themselves (RFC 5737 keeps them for examples), so nothing goes past
the outlets: that is why they are not those of the loopback interface, for which etcd uses no proxy.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent

from getc.testing.ports import HOST, listener
from getc.testing.tcp_faults import FaultyLink, Socket, do_not_wait_for
from getc.testing.virtual_loop import real_sleep

__all__ = ['MemberProxy', 'PeerLine', 'PeerNetwork']

MAX_HEAD = 64 * 1024


class PeerNetwork:
    """A line from each member to each other, two for each pair.

    Members have numbers, from 1 on, which are never used again.
    """

    def __init__(self) -> None:
        self._targets: dict[int, str] = {}
        self._lines: dict[tuple[int, int], FaultyLink] = {}
        self._outlets: dict[int, MemberProxy] = {}
        self._isolated: set[int] = set()

    @property
    def isolated(self) -> frozenset[int]:
        """The members that are cut off."""
        return frozenset(self._isolated)

    @staticmethod
    def address(number: int) -> str:
        """Where the others are told to reach a member."""
        return f'http://192.0.2.{number}:2380'

    def join(self, number: int, port: int) -> None:
        """A member listens at this loopback port for the others; it may have been another before."""
        target = f'{HOST}:{port}'
        self._drop_lines(number)
        for other, its_target in self._targets.items():
            if other != number:
                self._lines[number, other] = PeerLine(its_target)
                self._lines[other, number] = PeerLine(target)
        self._targets[number] = target
        if number not in self._outlets:
            self._outlets[number] = MemberProxy(self, number).start()

    def leave(self, number: int) -> None:
        """The member is gone."""
        self._outlets.pop(number).stop()
        self._drop_lines(number)
        del self._targets[number]
        self._isolated.discard(number)

    def line(self, source: int, destination: int) -> FaultyLink:
        """What one member asks of another, and the answers.

        Raises:
            KeyError: There are no such two members.
        """
        return self._lines[source, destination]

    def line_to(self, source: int, address: str) -> FaultyLink | None:
        """The same, by the address that the members know; None if nobody has it."""
        for (start, end), line in self._lines.items():
            if start == source and self.address(end) == f'http://{address}':
                return line
        return None

    def isolate(self, number: int) -> None:
        """Cut it off from all others, in both directions."""
        self._isolated.add(number)
        for ends, line in self._lines.items():
            if number in ends:
                line.cut()

    def heal(self, number: int) -> None:
        """Let it reach the others again, but for those that are isolated themselves."""
        self._isolated.discard(number)
        for ends, line in self._lines.items():
            if number in ends and not self._isolated.intersection(ends):
                line.heal()

    def heal_all(self) -> None:
        """Undo whatever is wrong with any line."""
        self._isolated.clear()
        for line in self._lines.values():
            line.heal()

    def environment(self, number: int) -> dict[str, str]:
        """What a member's etcd has to be told."""
        return {'HTTP_PROXY': self._outlets[number].url, 'NO_PROXY': 'localhost', 'http_proxy': '', 'no_proxy': ''}

    def close(self) -> None:
        """Reset all connections.  No greenlet and no socket is left."""
        for number in list(self._outlets):
            self.leave(number)

    def _drop_lines(self, number: int) -> None:
        for ends in [ends for ends in self._lines if number in ends]:
            self._lines.pop(ends).reset()


class PeerLine(FaultyLink):
    """The line between two members, who talk all the time: nobody here waits for what they say."""

    is_waited_for = False


class MemberProxy:
    """The HTTP proxy of one member: it puts each request on the line to the one it is for.

    One connection carries one request, so that the line need not know HTTP.  A request's answer may go on for ever:
    that is how members stream what they say.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, network: PeerNetwork, number: int) -> None:
        self.url = ''
        self._network = network
        self._number = number
        self._listener: Socket | None = None
        self._unheard: set[Socket] = set()
        self._greenlets: set[gevent.Greenlet[..., None]] = set()

    def start(self) -> MemberProxy:
        """Listen on a free port, and return it."""
        listening = self._listener = listener()
        do_not_wait_for(listening)
        self.url = f'http://{HOST}:{listening.getsockname()[1]}'
        self._spawn(self._accept, listening)
        return self

    def stop(self) -> None:
        """Listen no more, and drop what was not on a line yet."""
        gevent.killall(list(self._greenlets))
        # A greenlet that was killed before its first turn has closed nothing.
        for client in self._unheard:
            client.close()
        self._unheard.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accept(self, listening: Socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:  # no file descriptor is left, or the client was gone before
                real_sleep(0.05)
                continue
            do_not_wait_for(client)
            self._unheard.add(client)
            self._spawn(self._forward, client)

    def _forward(self, client: Socket) -> None:
        line = None
        try:
            head, body = _read_head(client)
            method, url, rest = head.split(b' ', 2)
            address, _, path = url.decode('latin-1').removeprefix('http://').partition('/')
            line = self._network.line_to(self._number, address)
            if line is not None:
                version, headers = rest.split(b'\r\n', 1)
                request = b'%s /%s %s\r\nConnection: close\r\n' % (method, path.encode('latin-1'), version)
                line.take(client, request + headers + body)
        except (OSError, ValueError):
            pass  # it broke off, or is not HTTP: closed below
        finally:
            self._unheard.discard(client)
            if line is None:
                client.close()

    def _spawn(self, function: Callable[..., None], *args: object) -> None:
        greenlet: gevent.Greenlet[..., None] = gevent.spawn(function, *args)
        greenlet.name = f'outlet of member {self._number}'
        self._greenlets.add(greenlet)
        greenlet.link(self._greenlets.discard)


def _read_head(client: Socket) -> tuple[bytes, bytes]:
    """The head of a request with the line that ends it, and what came after."""
    data = b''
    while b'\r\n\r\n' not in data:
        if len(data) > MAX_HEAD or not (more := client.recv(MAX_HEAD)):
            raise ValueError('no request')
        data += more
    head, end, body = data.partition(b'\r\n\r\n')
    return head + end, body
