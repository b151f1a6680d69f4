"""The addresses of hosts: a resolver that hangs stalls neither the hub nor who can do without it.

gevent asks the system's resolver in ten threads, which all of the program shares: a few hosts that no name server
answers for would take them all.  So each host is asked for once at a time, for all who wait, and few hosts at a time.
What was answered is remembered, and used where the next answer is late or none.
"""

from __future__ import annotations

import ipaddress
import math
import os
import socket
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import gevent
import gevent.monkey
import gevent.socket
from gevent.event import AsyncResult
from gevent.hub import get_hub
from gevent.lock import BoundedSemaphore

from getc import timing

__all__ = ['Address', 'Resolve', 'Resolver', 'is_forked_without_threads', 'names']

MAX_LOOKUPS: Final = 4
"""Hosts that are asked for at a time: less than half of gevent's threads."""

CACHE_SECONDS: Final = 5.0
"""Seconds for which an answer is good without asking again, unless none of its addresses was."""

MAX_FAILED_ADDRESSES: Final = 1000
"""Addresses that are remembered because they do not answer."""

LOOKUP_GRACE: Final = 1.0
"""Seconds for a new answer where there is an old one."""


class Address(NamedTuple):
    """Where to connect to.

    Attributes:
        family: The address family.
        sockaddr: What a socket of that family connects to.
    """

    family: int
    sockaddr: Any


Resolve = Callable[[str, int], Sequence[Address]]
"""Asks for the addresses of a host; blocks the greenlet; raises OSError."""

Lookup: TypeAlias = 'AsyncResult[None]'  # which cannot be written so at run time


class _Answer(NamedTuple):
    addresses: list[Address]
    fresh_until: float


class Resolver:
    """What the hosts of one thread are called.

    Args:
        resolve: Who is asked.
    """

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or _resolved
        self._answers: dict[tuple[str, int], _Answer] = {}
        self._failed_at: dict[Address, float] = {}  # addresses that did not answer since they last did
        self._good: dict[tuple[str, int], Address] = {}  # which answered last
        self._lookups: dict[tuple[str, int], Lookup] = {}
        self._turns = BoundedSemaphore(MAX_LOOKUPS)

    def addresses(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, at least one, those first that are most likely good.

        Blocks without a limit if it was never asked for before, and else for a moment at most: the caller sets the
        limit.  An address is its own, and nobody is asked.

        Raises:
            OSError: There is none.
        """
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        known = self._answers.get((host, port))
        if known is not None and timing.now() < known.fresh_until:
            return self._ranked(host, port)
        lookup = self._lookups.get((host, port))
        if lookup is None or lookup.ready():
            lookup = self._begin(host, port)
        lookup.wait(None if known is None else LOOKUP_GRACE)
        if lookup.successful():
            return self._ranked(host, port)
        if known is not None:
            self._answers[host, port] = known._replace(
                fresh_until=timing.now() + CACHE_SECONDS
            )  # asked soon enough again
            return self._ranked(host, port)
        assert lookup.exception is not None
        raise copy(lookup.exception)  # which others raise, too

    def known(self, host: str, port: int) -> list[Address]:
        """The addresses of a host as far as they are known, without a lookup.  Does not block."""
        literal = _literal(host, port)
        return self._ranked(host, port) if literal is None else [literal]

    def is_looking_up(self, host: str, port: int) -> bool:
        """True if the host is asked for, and no answer has come."""
        lookup = self._lookups.get((host, port))
        return lookup is not None and not lookup.ready()

    def mark_good(self, host: str, port: int, address: Address) -> None:
        """The server at this address has answered: it is the first to be tried from now on."""
        self._failed_at.pop(address, None)
        if (host, port) in self._answers:
            self._good[host, port] = address

    def failed(self, host: str, port: int, address: Address) -> None:
        """The server at this address takes no connection, or says nothing on one: it is the last to be tried."""
        if (host, port) in self._answers:
            if len(self._failed_at) >= MAX_FAILED_ADDRESSES:
                self._failed_at.clear()
            self._failed_at[address] = timing.now()

    def expire(self, host: str, port: int) -> None:
        """None of the addresses took a connection: there may be others by now."""
        known = self._answers.get((host, port))
        if known is not None:
            self._answers[host, port] = known._replace(fresh_until=0.0)

    def _ranked(self, host: str, port: int) -> list[Address]:
        """Known addresses: the one that answered last, those that are not known to fail, the longest failed first."""
        known = self._answers.get((host, port))
        if known is None:
            return []
        good = self._good.get((host, port))
        return sorted(known.addresses, key=lambda each: (self._failed_at.get(each, -math.inf), each != good))

    def _begin(self, host: str, port: int) -> Lookup:
        lookup: Lookup = AsyncResult()
        self._lookups[host, port] = lookup
        asking = gevent.spawn(self._look_up, host, port, lookup)
        asking.name = f'getc lookup of {host}'
        asking.link(lambda _: self._end(host, port, lookup))  # also if it is killed, perhaps before it has begun
        return lookup

    def _look_up(self, host: str, port: int, lookup: Lookup) -> None:
        """Ask.  Nobody ends this: the thread that asks could not be ended, and would be in use all the same."""
        try:
            with self._turns:
                found = list(dict.fromkeys(self._resolve(host, port)))
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, 'it has no address')
            self._answers[host, port] = _Answer(found, timing.now() + CACHE_SECONDS)
            lookup.set(None)
        except OSError as error:
            lookup.set_exception(error)
        except Exception as error:  # a name that cannot be encoded, for one
            lookup.set_exception(socket.gaierror(socket.EAI_NONAME, f'it cannot be asked for: {error}'))

    def _end(self, host: str, port: int, lookup: Lookup) -> None:
        if self._lookups.get((host, port)) is lookup:
            del self._lookups[host, port]
        if not lookup.ready():  # those who wait must not wait for ever
            lookup.set_exception(socket.gaierror(socket.EAI_AGAIN, 'the lookup was killed'))


def _literal(host: str, port: int) -> Address | None:
    """The address that the host is; None if it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return Address(socket.AF_INET, (host, port))
    scope = address.scope_id
    number = 0 if scope is None else int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
    return Address(socket.AF_INET6, (host.partition('%')[0], port, 0, number))


def _resolved(host: str, port: int) -> Sequence[Address]:
    found = gevent.socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


_names: WeakKeyDictionary[Any, Resolver] = WeakKeyDictionary()


def names() -> Resolver:
    """The names of this thread."""
    hub = get_hub()
    found = _names.get(hub)
    if found is None:
        found = _names[hub] = Resolver()
    return found


_was_forked = False


def is_forked_without_threads() -> bool:
    """True in a forked child where lookups may hang for ever: gevent's threads are the parent's until gevent.reinit().

    A program that has gevent patch ``os`` need not call it.
    """
    return _was_forked and not gevent.monkey.is_module_patched('os')


def _forget_all() -> None:
    global _was_forked
    _was_forked = True
    _names.clear()  # the threads that were asking are the parent's


os.register_at_fork(after_in_child=_forget_all)
