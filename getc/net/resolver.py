"""Name resolution: caches the addresses of hosts, so that a resolver that hangs delays as few calls as possible.

gevent runs ``getaddrinfo`` in ten threads, which the whole program shares: a few hosts whose name server does not
respond would block all of them.  So there is one lookup of a host at a time, which all callers share, and few lookups
at a time in all.  If a new lookup is late or fails, the cached addresses are used.
"""

from __future__ import annotations

import ipaddress
import math
import socket
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import gevent
import gevent.monkey
import gevent.socket
from gevent.event import AsyncResult
from gevent.hub import get_hub
from gevent.lock import BoundedSemaphore

from getc import timing
from getc.runtime import after_fork

__all__ = ['Address', 'Resolve', 'Resolver', 'get_resolver', 'is_forked_without_threads']

MAX_LOOKUPS: Final = 4
"""Concurrent lookups: less than half of the threads of gevent's pool."""

CACHE_SECONDS: Final = 5.0
"""Seconds for which addresses are used without another lookup, unless none of them accepts a connection."""

MAX_FAILED_ADDRESSES: Final = 1000
"""Addresses that are remembered as failed."""

LOOKUP_GRACE: Final = 1.0
"""Seconds to wait for a lookup if there are cached addresses."""


class Address(NamedTuple):
    """The address of a socket.

    Attributes:
        family: The address family, for example ``socket.AF_INET``.
        sockaddr: The argument of ``connect`` for a socket of this family.
    """

    family: int
    sockaddr: Any


Resolve = Callable[[str, int], Sequence[Address]]
"""Looks up a host and port; blocks the greenlet; raises OSError."""

Result = TypeVar('Result')

Lookup: TypeAlias = 'AsyncResult[None]'  # AsyncResult cannot be subscripted at run time


class _Cached(NamedTuple):
    addresses: list[Address]
    fresh_until: float


class Resolver:
    """Looks up and caches the addresses of hosts for one thread.

    Args:
        resolve: Performs a lookup; None for the resolver of the system.
    """

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or _system_resolve
        self._cache: dict[tuple[str, int], _Cached] = {}
        self._failed_at: dict[Address, float] = {}
        self._good: dict[tuple[str, int], Address] = {}  # the latest address with a server that responded
        self._lookups: dict[tuple[str, int], Lookup] = {}
        self._slots = BoundedSemaphore(MAX_LOOKUPS)

    def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, at least one, the most promising first.

        Blocks without a limit for a host that is not cached, so the caller sets a timeout; for a cached host at most
        ``LOOKUP_GRACE``.  An IP address, or the path of a unix socket, is returned as it is.

        Raises:
            OSError: The lookup failed, and no addresses are cached.
        """
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        cached = self._cache.get((host, port))
        if cached is not None and timing.now() < cached.fresh_until:
            return self._ranked(host, port)
        lookup = self._lookups.get((host, port))
        if lookup is None or lookup.ready():
            lookup = self._start_lookup(host, port)
        lookup.wait(None if cached is None else LOOKUP_GRACE)
        if lookup.successful():
            return self._ranked(host, port)
        if cached is not None:
            # The next lookup is early enough in CACHE_SECONDS.
            self._cache[host, port] = cached._replace(fresh_until=timing.now() + CACHE_SECONDS)
            return self._ranked(host, port)
        assert lookup.exception is not None
        raise copy(lookup.exception)  # other greenlets that waited raise the same error

    def run_in_thread(self, function: Callable[[str], Result], name: str) -> Result:
        """Perform another look-up in a thread of gevent's pool, within the same bound.  Blocks the greenlet."""
        with self._slots:
            return get_hub().threadpool.apply(function, (name,))

    def cached_addresses(self, host: str, port: int) -> list[Address]:
        """Return the cached addresses of a host without a lookup; empty if there are none.  Does not block."""
        literal = _literal(host, port)
        return self._ranked(host, port) if literal is None else [literal]

    def is_looking_up(self, host: str, port: int) -> bool:
        """Return True while a lookup of the host is running."""
        lookup = self._lookups.get((host, port))
        return lookup is not None and not lookup.ready()

    def mark_good(self, host: str, port: int, address: Address) -> None:
        """Rank an address first, because its server has responded."""
        self._failed_at.pop(address, None)
        if (host, port) in self._cache:
            self._good[host, port] = address

    def mark_bad(self, host: str, port: int, address: Address) -> None:
        """Rank an address last, because its server accepts no connection or does not respond."""
        if (host, port) in self._cache:
            if len(self._failed_at) >= MAX_FAILED_ADDRESSES:
                self._failed_at.clear()
            self._failed_at[address] = timing.now()

    def expire(self, host: str, port: int) -> None:
        """Look up the host again next time, because none of its addresses accepted a connection."""
        cached = self._cache.get((host, port))
        if cached is not None:
            self._cache[host, port] = cached._replace(fresh_until=0.0)

    def _ranked(self, host: str, port: int) -> list[Address]:
        """Return the cached addresses: the good one, those that have not failed, then by time of failure."""
        cached = self._cache.get((host, port))
        if cached is None:
            return []
        good = self._good.get((host, port))
        return sorted(cached.addresses, key=lambda each: (self._failed_at.get(each, -math.inf), each != good))

    def _start_lookup(self, host: str, port: int) -> Lookup:
        lookup: Lookup = AsyncResult()
        self._lookups[host, port] = lookup
        greenlet = gevent.spawn(self._look_up, host, port, lookup)
        greenlet.name = f'getc lookup of {host}'
        greenlet.link(lambda _: self._end_lookup(host, port, lookup))  # also if it is killed before it has started
        return lookup

    def _look_up(self, host: str, port: int, lookup: Lookup) -> None:
        """Perform a lookup.  It has no timeout: the thread that runs ``getaddrinfo`` cannot be interrupted."""
        try:
            with self._slots:
                found = list(dict.fromkeys(self._resolve(host, port)))
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, 'the lookup returned no address')
            self._cache[host, port] = _Cached(found, timing.now() + CACHE_SECONDS)
            lookup.set(None)
        except OSError as error:
            lookup.set_exception(error)
        except Exception as error:  # for example a name that cannot be encoded
            lookup.set_exception(socket.gaierror(socket.EAI_NONAME, f'invalid name: {error}'))

    def _end_lookup(self, host: str, port: int, lookup: Lookup) -> None:
        if self._lookups.get((host, port)) is lookup:
            del self._lookups[host, port]
        if not lookup.ready():  # wake the greenlets that wait for it
            lookup.set_exception(socket.gaierror(socket.EAI_AGAIN, 'the lookup was killed'))


def _literal(host: str, port: int) -> Address | None:
    """Return the address if the host is an IP address or the path of a unix socket; None if it is a name."""
    if host.startswith('/'):
        return Address(socket.AF_UNIX, host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return Address(socket.AF_INET, (host, port))
    scope = address.scope_id
    number = 0 if scope is None else int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
    return Address(socket.AF_INET6, (host.partition('%')[0], port, 0, number))


def _system_resolve(host: str, port: int) -> Sequence[Address]:
    found = gevent.socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


_resolvers: WeakKeyDictionary[Any, Resolver] = WeakKeyDictionary()


def get_resolver() -> Resolver:
    """Return the resolver of this thread, which all clients in the thread share."""
    hub = get_hub()
    found = _resolvers.get(hub)
    if found is None:
        found = _resolvers[hub] = Resolver()
    return found


_was_forked = False


def is_forked_without_threads() -> bool:
    """Return True in a forked child where lookups may hang: gevent's threads do not exist before ``gevent.reinit()``.

    If ``os`` is patched by gevent, ``os.fork`` calls ``gevent.reinit()``.
    """
    return _was_forked and not gevent.monkey.is_module_patched('os')


def _reset_in_child() -> None:
    global _was_forked
    _was_forked = True
    _resolvers.clear()  # the threads of running lookups exist in the parent only


after_fork(_reset_in_child)
