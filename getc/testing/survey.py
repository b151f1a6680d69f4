"""What the members of a cluster say of themselves, at one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import gevent

from getc.errors import EtcException
from getc.testing.member import PATIENCE, Member
from getc.testing.processes import wait_until
from getc.wire.schema.maintenance import StatusResponse

__all__ = ['Survey']


class Survey:
    """The answers of members that were asked for their status.

    Args:
        answers: By member; who did not answer is not in it.
        asked: How many were asked.
    """

    def __init__(self, answers: Mapping[Member, StatusResponse], asked: int) -> None:
        self.answers = answers
        self._asked = asked

    @classmethod
    def of(cls, members: Sequence[Member]) -> Survey:
        """Ask them all at once.  Who does not answer within a real second is left out."""
        asking = {member: gevent.spawn(_status, member) for member in members}
        # In real time: the timeouts of a client follow virtual time.
        wait_until(lambda: all(greenlet.ready() for greenlet in asking.values()), PATIENCE)
        answers = {member: greenlet.value for member, greenlet in asking.items() if greenlet.ready()}
        gevent.killall(list(asking.values()))
        return cls({member: status for member, status in answers.items() if status is not None}, len(members))

    def leader(self, majority: int) -> Member | None:
        """Whom so many take for the leader, in one term, and who has answered; None if there is no such one."""
        votes = Counter((status.raftTerm, status.leader) for status in self.answers.values())
        for member, status in self.answers.items():
            if votes[status.raftTerm, status.header.member_id] >= majority:
                return member
        return None

    def is_level(self) -> bool:
        """True if all have answered, and have applied the same."""
        applied = {status.raftAppliedIndex for status in self.answers.values()}
        return len(applied) == 1 and len(self.answers) == self._asked


def _status(member: Member) -> StatusResponse | None:
    try:
        with member.client() as client:
            return client.v3.maintenance.status()
    except EtcException:
        return None
