"""The status that the members of a cluster report at one moment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import gevent

from getc.errors import EtcException, Unauthorized
from getc.testing.member import HEALTH_TIMEOUT, Member
from getc.testing.processes import poll_until

__all__ = ['ClusterStatus', 'MemberStatus']

UNNAMED_LEADER: Final = -1
"""The leader of a member that reports only that it has one."""

METRIC: Final = re.compile(r'^etcd_server_(has_leader|is_leader|proposals_applied_total) (\S+)$', re.MULTILINE)
MEMBER_ID: Final = re.compile(r'^etcd_server_id\{server_id="([0-9a-f]+)"\} 1$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """The status of one member.

    Attributes:
        id: Its member id in etcd.
        term: The Raft term; 0 if the member does not report it.
        leader: The member id of its leader; 0 for none, ``UNNAMED_LEADER`` if the member does not report which.
        applied: The index of the last Raft entry that it has applied.
    """

    id: int
    term: int
    leader: int
    applied: int


class ClusterStatus:
    """The status of several members.

    Args:
        answers: The status by member, without members that did not respond.
        requested: The number of members that were sent a request.
    """

    def __init__(self, answers: Mapping[Member, MemberStatus], requested: int) -> None:
        self.answers = answers
        self._requested = requested

    @classmethod
    def of(cls, members: Sequence[Member]) -> ClusterStatus:
        """Request the status of all members in parallel.  A member without a response after a second is left out."""
        requests = {member: gevent.spawn(_status, member) for member in members}
        # In real time: the timeouts of a client follow virtual time.
        poll_until(lambda: all(greenlet.ready() for greenlet in requests.values()), HEALTH_TIMEOUT)
        answers = {member: greenlet.value for member, greenlet in requests.items() if greenlet.ready()}
        gevent.killall(list(requests.values()))
        present = {member: status for member, status in answers.items() if status is not None}
        return cls(_with_leader_ids(present), len(members))

    def leader(self, majority: int) -> Member | None:
        """Return the member that has responded and that at least ``majority`` members name as the leader of one term.

        Returns:
            The member; None if there is none.
        """
        votes = Counter((status.term, status.leader) for status in self.answers.values())
        for member, status in self.answers.items():
            if votes[status.term, status.id] >= majority:
                return member
        return None

    def is_level(self) -> bool:
        """Return True if all members have responded and have applied the same entries."""
        applied = {status.applied for status in self.answers.values()}
        return len(applied) == 1 and len(self.answers) == self._requested


def _with_leader_ids(answers: Mapping[Member, MemberStatus]) -> dict[Member, MemberStatus]:
    """Replace ``UNNAMED_LEADER`` by the id of the one member that reports that it leads."""
    leading = [status.id for status in answers.values() if status.leader == status.id]
    leader = leading[0] if len(leading) == 1 else 0
    return {
        member: replace(status, leader=leader) if status.leader == UNNAMED_LEADER else status
        for member, status in answers.items()
    }


def _status(member: Member) -> MemberStatus | None:
    try:
        with member.client() as client:
            status = client.v3.maintenance.status()
    except Unauthorized:  # etcd 3.5.28, 3.6.9 and newer: with authentication, only root may read the status
        return _status_by_metrics(member)
    except EtcException:
        return None
    return MemberStatus(status.header.member_id, status.raftTerm, status.leader, status.raftAppliedIndex)


def _status_by_metrics(member: Member) -> MemberStatus | None:
    """Read the status from the metrics, which need no authentication.  They contain no term and no leader id."""
    try:
        with member.requests() as requests:
            metrics = requests.request('GET', '/metrics')
    except OSError:
        return None
    numbers = {name: int(float(number)) for name, number in METRIC.findall(metrics)}
    found = MEMBER_ID.search(metrics)
    if found is None or len(numbers) < 3:
        return None
    own = int(found[1], 16)
    leader = own if numbers['is_leader'] else UNNAMED_LEADER if numbers['has_leader'] else 0
    return MemberStatus(own, 0, leader, numbers['proposals_applied_total'])
