"""Keeps the endpoints of a client equal to the members of the cluster (``sync=`` of :func:`getc.etcd`)."""

from __future__ import annotations

import ipaddress
import logging
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, NamedTuple, Protocol

import gevent
from gevent.hub import get_hub

from getc import timing
from getc.errors import ClientClosed, EtcException
from getc.net.affinity import ThreadAffinity, close_watcher
from getc.net.client_log import ClientLog
from getc.net.endpoint import Endpoint, parse_endpoints
from getc.net.selector import EndpointFinder, EndpointSelector
from getc.retry import is_transient
from getc.timing import Deadline

__all__ = ['ClusterMembers', 'ConfiguredEndpoints', 'MemberSource', 'MemberSync']

READ_TIMEOUT: Final = 5.0
"""Seconds for reading the members, over all endpoints, as for an automatic sync of etcd's Go client."""

PROBE_TIMEOUT: Final = 2.5
"""Seconds for one server to answer, before it becomes an endpoint."""

MAX_ENDPOINTS: Final = 32
"""Endpoints in all: far more than a cluster has members."""

MAX_URLS: Final = 256
"""Advertised URLs that are read in one sync, whatever a server sends."""

JITTER: Final = 0.2
"""Part of the interval by which a sync is earlier or later, so that clients that started together spread out."""


@dataclass(frozen=True, slots=True)
class ClusterMembers:
    """The members of a cluster that serve requests: started ones that vote.

    Attributes:
        cluster_id: The ID of the cluster.
        voters: The client URLs of each member, by its ID.
    """

    cluster_id: str
    voters: Mapping[str, tuple[str, ...]]


class MemberSource(Protocol):
    """Reads the members of a cluster over one of its APIs.  IDs are compared only with those of the same source."""

    def members(self, deadline: Deadline) -> ClusterMembers:
        """Return the members.  Blocks until the deadline at most.  Raises EtcException."""

    def member_at(self, endpoint: Endpoint, deadline: Deadline) -> tuple[str, str]:
        """Return the IDs of the cluster and of the member that answers at an address.

        The connection is verified as those of calls are, and closed afterwards.  Blocks until the deadline at most.

        Raises:
            EtcException: No response; or the response of a server that does not serve requests, such as a learner.
        """


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was found at an address: a member of the cluster, or the reason why it cannot be used.

    Attributes:
        member: The ID of the member; None if no voter of the cluster responded.
        reason: Why not.
        is_unreachable: There was no response, so that the address may still be that of a voter.
    """

    member: str | None
    reason: str = ''
    is_unreachable: bool = False


class _Voter(NamedTuple):
    """A member with a vote: its ID and the URLs that it advertises."""

    id: str
    urls: tuple[str, ...]


class MemberSync:
    """Reads the members at an interval, and replaces the endpoints of the selector.

    An address becomes an endpoint after a voter of the same cluster has answered there, over a connection that was
    verified like those of calls: advertised addresses can be unreachable, behind NAT for example, or belong to another
    cluster.  A voter that an endpoint leads to already needs no other one, so configured names stay.

    An endpoint is removed when its member has left the cluster, or when another server or a learner answers there.
    One that does not respond, and whose member is unknown or advertises other addresses now, is removed when all voters
    have other endpoints.  One sync never removes a majority of the endpoints.

    Args:
        endpoints: The endpoints of the client.
        open_source: Returns the source of the members, after the API was detected.  Blocks until the deadline at most.
        interval: Seconds between two syncs.
        log: The log of the client.
    """

    def __init__(
        self,
        endpoints: EndpointSelector,
        open_source: Callable[[Deadline], MemberSource],
        *,
        interval: float,
        log: ClientLog,
    ) -> None:
        self._endpoints = endpoints
        self._open_source = open_source
        self._interval = interval
        self._log = log
        self._known: dict[str, _Voter] = {}  # by URL, for endpoints whose member is known
        self._rejected: set[str] = set()  # URLs that were logged
        self._is_failing = False
        self._is_closed = False
        self._affinity = ThreadAffinity()
        self._greenlet: gevent.Greenlet[..., Any] | None = None
        self._timer = _Timer()
        weakref.finalize(self, self._affinity.call_soon, self._timer.close).atexit = False

    def start(self) -> None:
        """Sync soon, and from then on at the interval, in the hub of this thread.  Does not block.

        Later calls do nothing.
        """
        if not self._timer.is_started and not self._is_closed:
            self._affinity.check()
            self._schedule(0.0)

    def close(self) -> None:
        """Stop.  Does not block."""
        self._is_closed = True
        self._timer.close()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def sync(self) -> None:
        """Sync once.  Blocks for ``READ_TIMEOUT`` and twice ``PROBE_TIMEOUT`` at most.

        Raises:
            EtcException: The members could not be read; the endpoints stay.
        """
        deadline = Deadline(READ_TIMEOUT)
        source = self._open_source(deadline)
        members = source.members(deadline)
        voters = [_Voter(*each) for each in members.voters.items()]
        current = list(self._endpoints)
        urls = {each.url for each in current}
        self._known = {url: voter for url, voter in self._known.items() if url in urls}
        self._known.update((url, voter) for voter in voters for url in voter.urls if url in urls)
        # A voter that advertises other URLs than before may have moved: its endpoints are asked again.
        unknown = [each for each in current if self._known.get(each.url) not in voters]
        answers = self._ask(source, members, unknown)
        reached = {self._known[each.url].id for each in current if each not in answers} | _members_in(answers)
        others = (voter.urls for voter in voters if voter.id not in reached)
        found = self._ask(source, members, self._usable(islice(chain.from_iterable(others), MAX_URLS)))
        is_complete = reached | _members_in(found) >= members.voters.keys()
        gone = [each for each in unknown if self._is_gone(each, answers[each], members, is_complete=is_complete)]
        self._learn({**answers, **found}, members)
        self._apply(current, [each for each, answer in found.items() if answer.member is not None], gone)

    # -- one sync

    def _ask(self, source: MemberSource, members: ClusterMembers, endpoints: list[Endpoint]) -> dict[Endpoint, _Answer]:
        """Ask the servers at these addresses, all at the same time."""
        asking = {each: gevent.spawn(_ask_one, source, members, each) for each in endpoints}
        try:
            gevent.joinall(list(asking.values()))
            return {endpoint: greenlet.get() for endpoint, greenlet in asking.items()}
        finally:
            gevent.killall(list(asking.values()), block=False)

    def _usable(self, urls: Iterable[str]) -> list[Endpoint]:
        """Return further endpoints: those of the URLs that have a scheme of the current ones and name a server."""
        schemes = {endpoint.scheme for endpoint in self._endpoints}
        current = {endpoint.url for endpoint in self._endpoints}
        first = next(iter(self._endpoints))
        usable = []
        for url in urls:
            try:
                parsed = parse_endpoints(url, username=first.username, password=first.password)
            except ValueError as error:
                self._note_rejected(url, str(error))
                continue
            usable += [each for each in parsed if each.scheme in schemes and not _is_wildcard(each.host)]
        further = [each for each in dict.fromkeys(usable) if each.url not in current]
        return further[: max(0, MAX_ENDPOINTS - len(current))]

    def _is_gone(self, endpoint: Endpoint, answer: _Answer, members: ClusterMembers, *, is_complete: bool) -> bool:
        if answer.member is not None:
            return False
        known = self._known.get(endpoint.url)
        has_left = known is not None and known.id not in members.voters
        return has_left or is_complete or not answer.is_unreachable

    def _learn(self, answers: Mapping[Endpoint, _Answer], members: ClusterMembers) -> None:
        current = set(self._endpoints)
        for endpoint, answer in answers.items():
            if answer.member is not None:
                self._known[endpoint.url] = _Voter(answer.member, members.voters[answer.member])
                self._rejected.discard(endpoint.url)
            elif endpoint not in current:
                self._note_rejected(endpoint.url, answer.reason)

    def _apply(self, current: list[Endpoint], added: list[Endpoint], gone: list[Endpoint]) -> None:
        removed = gone[: len(current) // 2]
        if (not added and not removed) or self._is_stopped or set(current) != set(self._endpoints):
            return  # the list was replaced meanwhile: the next sync reads the members again
        endpoints = [*(each for each in current if each not in removed), *added]
        self._endpoints.replace(endpoints)
        for endpoint in removed:
            self._known.pop(endpoint.url, None)
        changes = [f'{word} {_join(urls)}' for word, urls in (('added', added), ('removed', removed)) if urls]
        text = f'the endpoints are {_join(endpoints)}: {" and ".join(changes)}, from the members of the cluster'
        self._log.note(logging.INFO, text)

    def _note_rejected(self, url: str, reason: str) -> None:
        if url not in self._rejected and len(self._rejected) < MAX_ENDPOINTS:
            self._rejected.add(url)
            self._log.note(logging.WARNING, f'a member advertises {url}, which is not used as an endpoint: {reason}')

    # -- in the background

    @property
    def _is_stopped(self) -> bool:
        return self._is_closed or self._affinity.in_forked_child

    def _schedule(self, delay: float) -> None:
        reference = weakref.ref(self)

        def start() -> None:
            sync = reference()
            if sync is not None and not sync._is_stopped:
                sync._greenlet = gevent.spawn(sync._run)
                sync._greenlet.name = 'getc endpoint sync'
                sync._greenlet.rawlink(sync._on_run_over)  # also if it was killed before it ran

        self._timer.start(delay, start)

    def _run(self) -> None:
        try:
            self.sync()
            self._is_failing = False
        except ClientClosed:
            return
        except EtcException as error:
            if not self._is_failing and not self._is_stopped:
                self._is_failing = True
                text = f'the members of the cluster cannot be read, so the endpoints stay as they are: {error}'
                self._log.note(logging.WARNING, text)

    def _on_run_over(self, greenlet: object) -> None:
        self._greenlet = None
        if not self._is_stopped:
            self._schedule(self._interval * timing.uniform(1 - JITTER, 1 + JITTER))


class ConfiguredEndpoints(EndpointFinder):
    """Adds the endpoints of the program's configuration again when no endpoint responds.

    While the client had no connection, all members may have been replaced; the configured names may lead to the new
    ones.

    Args:
        endpoints: The endpoints of the client.
        configured: The endpoints that it was opened with.
    """

    def __init__(self, endpoints: EndpointSelector, configured: Iterable[Endpoint]) -> None:
        self._endpoints = weakref.ref(endpoints)
        self._configured = tuple(configured)

    def wait(self, deadline: Deadline) -> None:
        raise AssertionError('the client was opened with endpoints')

    def on_all_down(self) -> None:
        endpoints = self._endpoints()
        if endpoints is not None and not set(self._configured) <= set(endpoints):
            endpoints.replace([*endpoints, *self._configured])


class _Timer:
    """A timer of the event loop that does not keep the loop running.

    Attributes:
        is_started: It was started, and may have fired.
    """

    def __init__(self) -> None:
        self.is_started = False
        self._watcher: Any = None

    def start(self, delay: float, function: Callable[[], object]) -> None:
        """Call a function once, in the hub."""
        self.close()
        self.is_started = True
        self._watcher = get_hub().loop.timer(delay, ref=False)
        self._watcher.start(function)

    def close(self) -> None:
        """Do not call the function, if it was not called yet."""
        if self._watcher is not None:
            close_watcher(self._watcher)
            self._watcher = None


def _ask_one(source: MemberSource, members: ClusterMembers, endpoint: Endpoint) -> _Answer:
    try:
        cluster, member = source.member_at(endpoint, Deadline(PROBE_TIMEOUT))
    except EtcException as error:
        return _Answer(None, str(error), is_unreachable=error.is_outage or is_transient(error))
    if cluster != members.cluster_id:
        return _Answer(None, 'a server of another cluster answers there')
    if member not in members.voters:
        return _Answer(None, 'a server answers there that is not a voting member of the cluster')
    return _Answer(member)


def _members_in(answers: Mapping[Endpoint, _Answer]) -> set[str]:
    return {answer.member for answer in answers.values() if answer.member is not None}


def _is_wildcard(host: str) -> bool:
    """Return True for 0.0.0.0 and ::, to which a server can listen but not be advertised."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _join(endpoints: Iterable[Endpoint]) -> str:
    return ', '.join(endpoint.url for endpoint in endpoints)
