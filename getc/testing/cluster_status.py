"""What the members of a cluster say of themselves, at one moment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import gevent

from getc.errors import EtcException, Unauthorized
from getc.testing.member import PATIENCE, Member
from getc.testing.processes import poll_until

__all__ = ['ClusterStatus', 'MemberStatus']

NAMELESS: Final = -1
"""The leader of a member that says only that it has one."""

METRIC: Final = re.compile(r'^etcd_server_(has_leader|is_leader|proposals_applied_total) (\S+)$', re.MULTILINE)
MEMBER_ID: Final = re.compile(r'^etcd_server_id\{server_id="([0-9a-f]+)"\} 1$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What a member says of itself.

    Attributes:
        id: Its number in etcd.
        term: The election's; 0 where it does not say.
        leader: The number of its leader; 0 for none, ``NAMELESS`` where it does not say which.
        applied: The entry of the log that it applied last.
    """

    id: int
    term: int
    leader: int
    applied: int


class ClusterStatus:
    """The answers of members that were asked for their status.

    Args:
        answers: By member; who did not answer is not in it.
        asked: How many were asked.
    """

    def __init__(self, answers: Mapping[Member, MemberStatus], asked: int) -> None:
        self.answers = answers
        self._asked = asked

    @classmethod
    def of(cls, members: Sequence[Member]) -> ClusterStatus:
        """Ask them all at once.  Who does not answer within a real second is left out."""
        asking = {member: gevent.spawn(_status, member) for member in members}
        # In real time: the timeouts of a client follow virtual time.
        poll_until(lambda: all(greenlet.ready() for greenlet in asking.values()), PATIENCE)
        answers = {member: greenlet.value for member, greenlet in asking.items() if greenlet.ready()}
        gevent.killall(list(asking.values()))
        return cls(_named({member: status for member, status in answers.items() if status is not None}), len(members))

    def leader(self, majority: int) -> Member | None:
        """Whom so many take for the leader, in one term, and who has answered; None if there is no such one."""
        votes = Counter((status.term, status.leader) for status in self.answers.values())
        for member, status in self.answers.items():
            if votes[status.term, status.id] >= majority:
                return member
        return None

    def is_level(self) -> bool:
        """True if all have answered, and have applied the same."""
        applied = {status.applied for status in self.answers.values()}
        return len(applied) == 1 and len(self.answers) == self._asked


def _named(answers: Mapping[Member, MemberStatus]) -> dict[Member, MemberStatus]:
    """The answers, with the leader that members have not named: the one member that says that it leads."""
    leading = [status.id for status in answers.values() if status.leader == status.id]
    leader = leading[0] if len(leading) == 1 else 0
    return {
        member: replace(status, leader=leader) if status.leader == NAMELESS else status
        for member, status in answers.items()
    }


def _status(member: Member) -> MemberStatus | None:
    try:
        with member.client() as client:
            status = client.v3.maintenance.status()
    except Unauthorized:  # authentication is on: from etcd 3.5.28 and 3.6.9 on that is for the user root
        return _status_by_metrics(member)
    except EtcException:
        return None
    return MemberStatus(status.header.member_id, status.raftTerm, status.leader, status.raftAppliedIndex)


def _status_by_metrics(member: Member) -> MemberStatus | None:
    """The same from its metrics, which it gives to everybody.  They name neither the term nor another leader."""
    try:
        with member.requests() as requests:
            metrics = requests.ask('GET', '/metrics')
    except OSError:
        return None
    numbers = {name: int(float(number)) for name, number in METRIC.findall(metrics)}
    found = MEMBER_ID.search(metrics)
    if found is None or len(numbers) < 3:
        return None
    own = int(found[1], 16)
    leader = own if numbers['is_leader'] else NAMELESS if numbers['has_leader'] else 0
    return MemberStatus(own, 0, leader, numbers['proposals_applied_total'])
