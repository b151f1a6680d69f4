"""DNS SRV records: the endpoints of the etcd of a domain, for ``etcd+srv://`` URLs.

Sources: RFC 2782 (SRV records); etcd 3.7, ``client/pkg/srv`` (the names of the services).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from getc import timing
from getc.net.endpoint import Endpoint
from getc.net.resolver import get_resolver

__all__ = ['SRV_SCHEME', 'Query', 'SrvName', 'SrvRecord', 'dns_query', 'load_dns', 'look_up', 'parse_srv_url']

SRV_SCHEME: Final = 'etcd+srv://'

QUERY_TIMEOUT: Final = 5.0
"""Seconds for one query, over all name servers and retries.  The thread that performs it is in use as long."""

HOST: Final = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]*')
"""The name of a host, or a domain.  DNS names may contain any byte, and a host with a slash would be a unix socket."""

MAX_RECORDS: Final = 32
"""Records that are used: far more than a cluster has members."""


@dataclass(frozen=True, slots=True)
class SrvName:
    """The domain of an ``etcd+srv://`` URL, with the credentials for the servers.

    Attributes:
        domain: The domain, in ASCII.
        name: The suffix of the service names, as for etcd's ``--discovery-srv-name``; ``''`` for none.
        username: From the URL or the options, or None.
        password: The password, or None; never part of the ``repr``.
    """

    domain: str
    name: str = ''
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The URL, without credentials."""
        return f'{SRV_SCHEME}{self.domain}{f"?name={quote(self.name)}" if self.name else ""}'

    def service(self, *, is_secure: bool) -> str:
        """Return the name of the SRV records of the servers with TLS, or of those without."""
        suffix = f'-{self.name}' if self.name else ''
        return f'_etcd-client{"-ssl" if is_secure else ""}{suffix}._tcp.{self.domain}'

    def contains(self, host: str) -> bool:
        """Return True if a host is the domain or a name below it."""
        return f'.{host.lower()}'.endswith(f'.{self.domain.lower()}')


class SrvRecord(NamedTuple):
    """An SRV record.

    Attributes:
        priority: Servers of a lower priority are preferred.
        weight: The part of the clients that the server gets, relative to others of its priority.
        target: The host, without the final dot; ``''`` if the service is not offered.
        port: The TCP port.
    """

    priority: int
    weight: int
    target: str
    port: int


Query = Callable[[str], Sequence[SrvRecord]]
"""Returns the SRV records of a name, none if it has none; blocks the greenlet; raises OSError."""


def parse_srv_url(url: str, *, username: str | None = None, password: str | None = None) -> SrvName:
    """Return the name of an ``etcd+srv://`` URL.

    Args:
        url: The URL: ``etcd+srv://[USER:PASSWORD@]DOMAIN[?name=NAME]``.
        username: The user if the URL has no credentials, or None.
        password: The password of that user, or None.

    Raises:
        ValueError: The URL is invalid.  The message does not contain credentials.
    """
    shown = f"'{SRV_SCHEME}{url[len(SRV_SCHEME) :].rpartition('@')[2]}'"
    what = f'{shown} is invalid: write {SRV_SCHEME}DOMAIN or {SRV_SCHEME}DOMAIN?name=NAME, alone and without a port'
    try:
        parts = urlsplit(url)
        domain = (parts.hostname or '').rstrip('.').encode('idna').decode('ascii')
        has_port = parts.port is not None
        fields = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except (ValueError, UnicodeError):
        raise ValueError(what) from None
    names = [value for name, value in fields if name == 'name']
    if not HOST.fullmatch(domain) or len(domain) > 200:
        raise ValueError(what)
    if has_port or parts.path not in ('', '/') or parts.fragment or len(names) != len(fields) or len(names) > 1:
        raise ValueError(what)
    suffix = names[0] if names else ''
    if names and not _is_label(suffix):
        raise ValueError(f'{shown} has an invalid name: write letters, digits and hyphens after ?name=')
    if parts.username is not None:
        username = unquote(parts.username)
        password = None if parts.password is None else unquote(parts.password)
    return SrvName(domain, suffix, username, password)


def look_up(
    name: SrvName, *, query: Query, is_tls_required: bool = False, accepts_any_host: bool = False
) -> list[Endpoint]:
    """Look up the endpoints of a domain, in the order in which to try them.  Blocks the greenlet.

    Servers with TLS come first: those without are used only if DNS denies that there are records with TLS, not if that
    query fails: otherwise an attacker who suppresses an answer could read the requests.

    Args:
        name: The domain.
        query: Queries DNS.
        is_tls_required: Do not use servers without TLS.
        accepts_any_host: Accept hosts outside of the domain as servers with TLS.  A certificate proves the name of a
            host, and the name comes from DNS: if public authorities are trusted, an attacker who forges the records
            could name a host of their own, with a valid certificate.

    Raises:
        OSError: A query failed, or there are no usable records.
    """
    secure = name.service(is_secure=True)
    endpoints = _endpoints(name, query(secure), 'https')
    if endpoints:
        accepted = [each for each in endpoints if accepts_any_host or name.contains(each.host)]
        if not accepted:
            raise OSError(
                f'{endpoints[0].host} in the records of {secure} is not below {name.domain}: pass ca= with the '
                'authority of the servers to accept hosts of other domains'
            )
        return accepted
    if is_tls_required:
        raise OSError(f'{secure} has no SRV records; servers without TLS are not used with ca=, cert= or key=')
    plain = name.service(is_secure=False)
    endpoints = _endpoints(name, query(plain), 'http')
    if not endpoints:
        raise OSError(f'neither {secure} nor {plain} has SRV records')
    return endpoints


def load_dns() -> None:
    """Import dnspython.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import dns.resolver  # noqa: F401
    except ImportError:
        raise ImportError(f"{SRV_SCHEME} URLs need dnspython: pip install 'getc[srv]'") from None


def dns_query(name: str) -> list[SrvRecord]:
    """Query DNS with dnspython, in a thread of gevent's pool.  Blocks the greenlet for ``QUERY_TIMEOUT`` at most.

    The name servers are those of ``dns.resolver.default_resolver``, if the program has set one, or of the system.

    Raises:
        OSError: No response, or one that reports a failure.
    """
    return get_resolver().run_in_thread(_query_in_thread, name)


def _query_in_thread(name: str) -> list[SrvRecord]:
    import dns.exception
    import dns.name
    import dns.resolver

    try:
        resolver = dns.resolver.default_resolver or dns.resolver.Resolver()
        answer: Any = resolver.resolve(dns.name.from_text(name), 'SRV', lifetime=QUERY_TIMEOUT)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except dns.exception.DNSException as error:
        raise OSError(f'the query for {name} failed: {error}') from None
    return [SrvRecord(each.priority, each.weight, str(each.target).rstrip('.'), each.port) for each in answer]


def _endpoints(name: SrvName, records: Sequence[SrvRecord], scheme: str) -> list[Endpoint]:
    """Return the endpoints in the order of RFC 2782: by priority, at random by weight."""
    chosen = sorted(
        (record for record in records if HOST.fullmatch(record.target) and record.port),
        key=lambda record: (record.priority, -(timing.uniform(0.0, 1.0) ** (1.0 / (record.weight + 0.01)))),
    )
    found = [Endpoint(scheme, each.target, each.port, name.username, name.password) for each in chosen[:MAX_RECORDS]]
    return list(dict.fromkeys(found))


def _is_label(text: str) -> bool:
    return text.isascii() and text.replace('-', '').replace('_', '').isalnum() and len(text) <= 40
