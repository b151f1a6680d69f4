"""The members of a cluster, read over etcd's v2 API, for etcd before 3.4, which has no learners."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

from getc.backends.member_sync import ClusterMembers, MemberSource
from getc.backends.v2.http import Http
from getc.backends.v2.messages import Request, Response
from getc.errors import HTTPError, ProtocolError
from getc.net.endpoint import Endpoint
from getc.net.failover import call_with_failover
from getc.net.selector import EndpointSelector
from getc.retry import Effect
from getc.timing import Deadline

__all__ = ['V2Members']

MEMBERS: Final = Request('GET', '/v2/members')
SELF: Final = Request('GET', '/v2/stats/self')

Parsed = TypeVar('Parsed')


class V2Members(MemberSource):
    """Reads the members from ``/v2/members``, and the ID of a member from ``/v2/stats/self``.

    Args:
        endpoints: The endpoints of the client.
        http: Sends the requests.
    """

    def __init__(self, endpoints: EndpointSelector, http: Http) -> None:
        self._endpoints = endpoints
        self._http = http

    def members(self, deadline: Deadline) -> ClusterMembers:
        return call_with_failover(self._endpoints, self._read, deadline, Effect.NONE)

    def member_at(self, endpoint: Endpoint, deadline: Deadline) -> tuple[str, str]:
        try:
            cluster = self._read(endpoint, deadline).cluster_id
            member = _parse(endpoint, self._http.call(endpoint, SELF, deadline), _id_of)
        finally:
            self._http.retain(self._endpoints)
        return cluster, member

    def _read(self, endpoint: Endpoint, deadline: Deadline) -> ClusterMembers:
        response = self._http.call(endpoint, MEMBERS, deadline)
        voters = _parse(endpoint, response, _voters_of)
        return ClusterMembers(response.headers.get('X-Etcd-Cluster-ID', ''), voters)


def _voters_of(page: Any) -> dict[str, tuple[str, ...]]:
    # A member without a name was added and has not been started.
    return {str(each['id']): tuple(map(str, each['clientURLs'] or ())) for each in page['members'] if each['name']}


def _id_of(page: Any) -> str:
    return str(page['id'])


def _parse(endpoint: Endpoint, response: Response, parse: Callable[[Any], Parsed]) -> Parsed:
    if response.status != 200:
        raise HTTPError(response.status, f'{endpoint.url} refuses to list its members', endpoint=endpoint.url)
    try:
        return parse(json.loads(response.body))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ProtocolError(f'{endpoint.url} lists its members in an unknown format', endpoint=endpoint.url) from None
