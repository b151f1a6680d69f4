"""The processes of a cluster's members, and the network between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from getc.testing.binaries import EtcdBinary
from getc.testing.certificates import ServerTLS
from getc.testing.cluster_status import ClusterStatus
from getc.testing.member import Member, MemberState
from getc.testing.peer_proxy import PeerNetwork
from getc.testing.ports import free_ports
from getc.testing.processes import poll_until
from getc.testing.server import ServerFailed

__all__ = ['ClusterMembers']


class ClusterMembers:
    """Starts, watches and removes the members of one cluster.

    Args:
        binary: The etcd to run.
        tls: How members serve clients over TLS; None for plain HTTP.
        timeout: Seconds for whatever is waited for.

    Attributes:
        voters: The members with a vote.
        learners: The members without one.
        network: The connections between the members.
    """

    def __init__(self, binary: EtcdBinary, *, tls: ServerTLS | None, timeout: float) -> None:
        self.voters: list[Member] = []
        self.learners: list[Member] = []
        self.network = PeerNetwork()
        self._binary = binary
        self._tls = tls
        self._timeout = timeout
        self._next_number = itertools.count(1)

    # -- processes

    def create(self) -> Member:
        """Return a new member, which is not in ``voters`` or ``learners`` yet and has no ports."""
        number = next(self._next_number)
        return Member(f'etcd-{number}', self._binary, tls=self._tls, number=number)

    def assign_ports(self, *members: Member) -> None:
        """Assign free ports to members, and connect them to the network.

        Raises:
            OSError: There are not enough free ports.
        """
        ports = iter(free_ports(2 * len(members)))
        for member in members:
            client_port, peer_port = next(ports), next(ports)
            member.listen(client_port, peer_port, advertised_url=self.network.address(member.number))
            self.network.join(member.number, peer_port)

    def launch(self, member: Member, *, joins: bool = False) -> None:
        """Start the process of a member.

        Args:
            member: The member; its ports are assigned.
            joins: True if the cluster has data already and the member is new in it.
        """
        cluster = ','.join(f'{each.name}={each.advertised_url}' for each in (*self.voters, *self.learners))
        member.launch(cluster, joins=joins, env=self.network.environment(member.number))

    def launch_voters(self) -> None:
        """Start all voters, and wait until they are healthy and have a leader.

        Raises:
            ServerFailed: A voter ended, or they did not become healthy in time.
        """
        for member in self.voters:
            self.launch(member)
        self.wait_until_healthy(self.voters)
        self.wait_for_leader()
        for member, status in self.status().answers.items():
            member.id = status.id

    def add_learner(self, learner: Member) -> None:
        """Add a learner without data to the running cluster, and start it.

        Raises:
            EtcException: The cluster refused it.
            ServerFailed: The cluster has no leader.
        """
        with self.wait_for_leader().client() as client:
            client.v3.cluster.member_add([learner.advertised_url], isLearner=True)
        self.learners.append(learner)
        self.launch(learner, joins=True)

    def remove(self, member: Member) -> None:
        """Kill a voter, and remove its files and its connections."""
        member.discard()
        self.network.leave(member.number)
        self.voters.remove(member)

    def discard(self) -> None:
        """Kill all members and remove their files."""
        for member in (*self.voters, *self.learners):
            member.discard()

    # -- state

    def is_reachable(self, member: Member) -> bool:
        """Return True if the member runs and is not isolated from other members."""
        is_isolated = member.number in self.network.isolated and len(self.voters) > 1
        return member.state is MemberState.UP and not is_isolated

    def has_quorum(self, member: Member) -> bool:
        """Return True if the member belongs to a majority of voters that run and reach each other."""
        reachable = [each for each in self.voters if self.is_reachable(each)]
        return member in reachable and len(reachable) > len(self.voters) // 2

    def other_than(self, member: Member) -> Member:
        """Return another voter that can execute a membership change.

        Raises:
            ServerFailed: There is none.
        """
        for other in self.voters:
            if other is not member and self.has_quorum(other):
                return other
        raise ServerFailed(f'cannot change the membership: no member but {member.name} is up and connected')

    def status(self) -> ClusterStatus:
        """Request the status of all reachable voters."""
        return ClusterStatus.of([member for member in self.voters if self.is_reachable(member)])

    def leader(self) -> Member | None:
        """Return the voter that a majority names as the leader; None without a majority for one voter."""
        return self.status().leader(len(self.voters) // 2 + 1)

    # -- waiting

    def wait_for_leader(self) -> Member:
        """Wait until there is a leader, and return it.

        Raises:
            ServerFailed: There was none within the timeout.
        """
        found: list[Member] = []

        def is_found() -> bool:
            member = self.leader()
            if member is not None:
                found.append(member)
            return member is not None

        self.wait_for(is_found, 'a leader')
        return found[0]

    def wait_until_healthy(self, members: list[Member]) -> None:
        """Wait until all of these members are healthy.

        Raises:
            ServerFailed: A member ended, or they did not become healthy within the timeout.
        """
        self.wait_for(lambda: all(member.serves_or_has_ended() for member in members), 'all members to become healthy')
        ended = [member for member in members if member.has_ended()]
        if ended:
            raise ServerFailed(f'{ended[0].name}, a member of {self._binary}, has ended; {self._logs()}')

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the condition is true.

        Raises:
            ServerFailed: It did not become true within the timeout.
        """
        if not poll_until(condition, self._timeout):
            raise ServerFailed(f'{self._binary}: waited {self._timeout:g} s for {what}; {self._logs()}')

    def _logs(self) -> str:
        return '\n'.join(f'the log of {member.name} ends with\n{member.log_tail()}' for member in self.voters)
