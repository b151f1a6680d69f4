"""Which servers there are, and which of them is asked next."""

from __future__ import annotations

import base64
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from getc import timing
from getc.errors import EtcdError, EtcException, ResponseTooLarge
from getc.net.client_log import ClientLog
from getc.retry import Outcome, is_overdue, outcome_of

__all__ = ['DEFAULT_PORT', 'ConnectionState', 'Endpoint', 'EndpointSelector', 'parse_endpoints']

DEFAULT_PORT: Final = 2379
SCHEMES: Final = ('http', 'https')

COOLDOWN: Final = 0.5
"""Seconds of rest after the first failure."""

MAX_COOLDOWN: Final = 2.0
"""Seconds of rest at most.  Who rests is asked last: where the others fall silent, a longer rest would keep a renewal
from the only server that is back, until the TTL is over."""

MAX_QUEUED_STATES: Final = 6
"""Changes of the state that are written to the log in a minute; more are counted, and the last one is written."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server.

    Attributes:
        scheme: ``'http'`` or ``'https'``.
        host: A name or an address, in ASCII; an IPv6 address without brackets.
        port: The TCP port.
        username: From the URL, or None.
        password: From the URL, or None; never shown.
    """

    scheme: str
    host: str
    port: int
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """``scheme://host:port``, without credentials."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{self.scheme}://{host}:{self.port}'

    @property
    def authorization(self) -> str | None:
        """The value of the HTTP header, or None without credentials."""
        if self.username is None:
            return None
        credentials = f'{self.username}:{self.password or ""}'.encode()
        return 'Basic ' + base64.b64encode(credentials).decode('ascii')

    @property
    def secrets(self) -> tuple[str, ...]:
        """What it is told and may not repeat."""
        if self.password is None:
            return ()
        return self.password, (self.authorization or '').removeprefix('Basic ')

    @property
    def is_secure(self) -> bool:
        """True if it speaks TLS."""
        return self.scheme == 'https'

    def __str__(self) -> str:
        return self.url


def parse_endpoints(
    url: str | Sequence[str], *, username: str | None = None, password: str | None = None
) -> tuple[Endpoint, ...]:
    """The servers of one URL, of several separated by commas, or of a list of them.

    Args:
        url: What names them.
        username: For those whose URL has no credentials, or None.
        password: That user's, or None.

    Raises:
        TypeError: It is no text and no list of texts.
        ValueError: A URL has no known scheme or no host, a bad port, or a path, a query or a fragment;
            or there is none.  The message never shows credentials.
    """
    urls: list[str] = []
    for text in [url] if isinstance(url, str) else url:
        if not isinstance(text, str):
            raise TypeError(f'a URL is text (str), not {type(text).__name__}')
        urls.extend(part.strip() for part in text.split(',') if part.strip())
    if not urls:
        raise ValueError('no URL is given')
    endpoints = tuple(dict.fromkeys(_parse(text) for text in urls))
    if username is None:
        return endpoints
    return tuple(
        replace(endpoint, username=username, password=password) if endpoint.username is None else endpoint
        for endpoint in endpoints
    )


def _parse(text: str) -> Endpoint:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f'invalid host or port in {_shown(text)}') from None
    if '://' not in text:
        raise ValueError(
            f'{_shown(text)} has no scheme: write {_shown("http://" + text.lstrip("/"))}, or https:// for TLS'
        )
    if parts.scheme not in SCHEMES:
        raise ValueError(f'{_shown(text)} has an unknown scheme: write http://, https:// or memory://')
    if not parts.hostname or any(char.isspace() or not char.isprintable() for char in parts.hostname):
        raise ValueError(f'{_shown(text)} has no host')
    host = _ascii(parts.hostname)
    if host is None:
        raise ValueError(f'invalid host in {_shown(text)}')
    if parts.path not in ('', '/') or parts.query or parts.fragment:
        raise ValueError(f'{_shown(text)} has more than a host and a port: getc knows the paths of etcd by itself')
    return Endpoint(parts.scheme, host, DEFAULT_PORT if port is None else port, *_credentials(parts))


def _ascii(host: str) -> str | None:
    """The host as the network knows it; None if there can be no such."""
    try:
        return (host.encode('ascii') if ':' in host else host.encode('idna')).decode('ascii')
    except UnicodeError:  # a name without letters, too long, or of letters that have no place in one
        return None


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    username = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return username, password


def _shown(text: str) -> str:
    """The URL for a message: whatever may be a password is cut out."""
    if '@' not in text:
        return repr(text)
    scheme, separator, _ = text.partition('://')
    return repr(f'{scheme}{separator}...@{text.rpartition("@")[2]}' if separator else f'...@{text.rpartition("@")[2]}')


class ConnectionState(Enum):
    """How it stands between a client and its servers."""

    CONNECTED = 'the last call was answered'
    SUSPENDED = 'no server answers'


class _Cooldown:
    """How one server has done lately."""

    __slots__ = ('failures', 'reason', 'until')

    def __init__(self) -> None:
        self.failures = 0
        self.reason = ''  # of the last failure, for the log
        self.until = 0.0  # it is asked after the others, till then


class EndpointSelector:
    """The servers of one client.  One is asked until it fails; then another is, and it rests for a while.

    The rest grows with each failure in a row, and ends with the first answer.  No server is ever banned: where all
    of them rest, the one whose rest ends first is asked.

    Args:
        endpoints: At least one.
        on_state: Told of each change of the state; it must not block or raise.
        log: The log of the client.
        rng: The source of chance.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        on_state: Callable[[ConnectionState], object] | None = None,
        log: ClientLog | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError('no endpoint is given')
        self._endpoints = tuple(endpoints)
        self._current = self._endpoints[0]
        self._resting: dict[Endpoint, _Cooldown] = {}
        self._on_state = on_state
        self._state: ConnectionState | None = None
        self._log = log if log is not None else ClientLog()
        self._suspended_at = 0.0
        self._rng = rng if rng is not None else random.Random()

    @property
    def first(self) -> Endpoint:
        """The first one given."""
        return self._endpoints[0]

    @property
    def current(self) -> Endpoint:
        """The one that is asked first."""
        return self._current

    @property
    def state(self) -> ConnectionState | None:
        """How it stands; None before the first call."""
        return self._state

    def candidates(self) -> list[Endpoint]:
        """Each of them once, for one call: the current one first, those that rest last, in the order of their ends."""
        if len(self._endpoints) == 1:
            return [self._current]
        at = self._endpoints.index(self._current)
        ring = self._endpoints[at:] + self._endpoints[:at]
        if not self._resting:
            return list(ring)
        now = timing.now()
        return sorted(ring, key=lambda endpoint: self._rests_until(endpoint, now))

    def failed(self, endpoint: Endpoint, reason: object = None) -> None:
        """It did not answer: it rests, and if it was the current one, another is from now on.

        Args:
            endpoint: The server.
            reason: What was met, for the log: the error, or None.
        """
        standing = self._resting.setdefault(endpoint, _Cooldown())
        standing.reason = 'no answer' if reason is None else str(reason)
        now = timing.now()
        if standing.until <= now:  # else it is the same failure, which all calls meet that were under way
            rest = min(MAX_COOLDOWN, COOLDOWN * 2.0 ** min(standing.failures, 30))
            standing.failures += 1
            standing.until = now + rest * self._rng.uniform(0.5, 1.0)
        if self._current == endpoint:
            self._current = self.candidates()[0]
            if self._current != endpoint and len(self._resting) < len(self._endpoints):
                text = f'{_told(endpoint, standing)}; {self._current.url} is asked from now on'
                self._log.note(logging.WARNING, text, key=('switch', endpoint.url))
        if len(self._resting) == len(self._endpoints):
            self._set_state(ConnectionState.SUSPENDED)

    def judge(self, endpoint: Endpoint, error: EtcException) -> None:
        """Record what the error of an attempt says about the server.

        Only an outage starts a cool-down and counts for SUSPENDED.  A server that answers, but cannot do what was asked
        of it, is only passed over: another one is asked from now on.
        """
        if error.is_outage:
            self.failed(endpoint, error)
            return
        if isinstance(error, (EtcdError, ResponseTooLarge)):
            self.served(endpoint)
        if outcome_of(error) in (Outcome.NOT_APPLIED, Outcome.UNKNOWN) and not is_overdue(error):
            self._pass_over(endpoint)

    def served(self, endpoint: Endpoint) -> None:
        """It answered: it is the current one now."""
        if self._resting:
            self._resting.pop(endpoint, None)
        self._current = endpoint
        if self._state is not ConnectionState.CONNECTED:
            self._set_state(ConnectionState.CONNECTED)

    def turn(self) -> None:
        """Ask another server from now on: the current one answers, but cannot be right."""
        self._pass_over(self._current)

    def _pass_over(self, endpoint: Endpoint) -> None:
        if self._current == endpoint and len(self._endpoints) > 1:
            self._current = next(each for each in self.candidates() if each != endpoint)

    def _rests_until(self, endpoint: Endpoint, now: float) -> float:
        standing = self._resting.get(endpoint)
        return 0.0 if standing is None or standing.until <= now else standing.until

    def _set_state(self, state: ConnectionState) -> None:
        if state is self._state:
            return
        if state is ConnectionState.SUSPENDED:
            self._suspended_at = timing.now()
            reasons = '; '.join(_told(endpoint, self._resting[endpoint]) for endpoint in self._endpoints)
            self._log.note(
                logging.WARNING, f'SUSPENDED: {state.value}: {reasons}', key='state', limit=MAX_QUEUED_STATES
            )
        else:
            was_suspended = self._state is ConnectionState.SUSPENDED
            after = f' after {timing.now() - self._suspended_at:.1f} s' if was_suspended else ''
            level = logging.WARNING if was_suspended else logging.INFO
            self._log.note(
                level, f'CONNECTED: {self._current.url} answers{after}', key='state', limit=MAX_QUEUED_STATES
            )
        self._state = state
        if self._on_state is not None:
            self._on_state(state)

    def __len__(self) -> int:
        return len(self._endpoints)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)


def _told(endpoint: Endpoint, standing: _Cooldown) -> str:
    """Why a server counts as failed; the text of most errors names it already."""
    return standing.reason if endpoint.url in standing.reason else f'{endpoint.url}: {standing.reason}'
