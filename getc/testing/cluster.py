"""A real cluster of etcds that misbehaves on command."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from types import TracebackType
from typing import Final

from getc.errors import EtcException, LeaseNotFound, NotSupported
from getc.testing.admin import clear_v2, clear_v3
from getc.testing.binaries import Api, chosen_etcd
from getc.testing.certificates import ServerTLS
from getc.testing.cluster_status import ClusterStatus
from getc.testing.member import Member, MemberState
from getc.testing.peer_proxy import PeerNetwork
from getc.testing.ports import free_ports
from getc.testing.processes import poll_until
from getc.testing.server import ServerFailed
from getc.testing.tcp_faults import FaultyLink

__all__ = ['EtcdCluster']

ATTEMPTS: Final = 5

KINDNESS: Final = 10.0
"""Seconds that a member has to end by itself when it is restarted."""


class EtcdCluster:
    """Several etcds that are one store, on free loopback ports, with their data in temporary directories.

    They do not outlive this program, however that ends, and leave no files.  Methods block the calling greenlet
    only, in real time even where time is virtual.  Members are called by their index in ``members``.

    What members say to each other goes through this program's hub, on a line for each direction, so that
    :meth:`isolate` can cut it and :meth:`line` can do worse.  While the hub is blocked they do not hear each other,
    and after a second of that they look for another leader.  Clients reach them directly; put a
    :class:`FaultProxy` in front of a member to break that.

    Also a context manager, which starts and stops it.

    Args:
        size: How many members.
        api: ``'v2'`` or ``'v3'``: the API that it must speak; None for v3.
        binary: The path of the etcd; None to look for one as :func:`find_etcd` does, and rather one whose members may
            be killed.
        tls: How members serve clients over TLS, from :class:`Certificates`; None for plain HTTP.  Among
            themselves they speak plain HTTP in any case.
        timeout: Seconds for the members to get well after a start, and for whatever else is waited for.

    Attributes:
        binary: The etcd that is run: its path, version, and why it is this one.
        members: Each with ``name``, ``url``, ``pid`` and ``state``.
        learners: The same of those that :meth:`add_learner` added: they follow and have no vote.

    Raises:
        EtcdNotFound: There is no etcd that speaks the API.
        OSError: ``binary`` cannot be run.
        ValueError: ``size`` is less than 1, or ``binary`` does not speak the API.

    Example::

        from getc.testing import EtcdCluster

        with EtcdCluster() as cluster, getc.etcd(cluster.urls) as etcd:
            etcd.set('/hello', 'Hello, world')
            lost = cluster.leader()
            cluster.isolate(lost)
            assert cluster.leader() != lost      # the others have another one
            cluster.heal(lost)
            cluster.restart(lost, wipe=True)     # it gets its data from them
            assert etcd.get('/hello').value == 'Hello, world'
    """

    def __init__(
        self,
        size: int = 3,
        *,
        api: Api | None = None,
        binary: str | os.PathLike[str] | None = None,
        tls: ServerTLS | None = None,
        timeout: float = 60.0,
    ) -> None:
        if size < 1:
            raise ValueError(f'a cluster has at least one member, not {size}')
        self.binary = chosen_etcd(api or 'v3', binary, for_kills=True)
        self.members: list[Member] = []
        self.learners: list[Member] = []
        self._tls = tls
        self._timeout = timeout
        self._network = PeerNetwork()
        self._next_number = itertools.count(1)
        self._is_started = False
        self._clean_at = 0
        for _ in range(size):
            self._new_member()

    @property
    def urls(self) -> str:
        """Where clients reach the members, as :func:`getc.etcd` takes it.  The same until one is added or removed."""
        return ','.join(member.url for member in self.members)

    @property
    def version(self) -> str:
        """The version of the etcd, as ``'3.5.1'``."""
        return '.'.join(map(str, self.binary.version))

    @property
    def isolated(self) -> set[int]:
        """The members that are cut off from the others."""
        return {index for index, member in enumerate(self.members) if member.number in self._network.isolated}

    # -- as a whole

    def start(self) -> EtcdCluster:
        """Start all members, and return it once each is well and they have a leader.

        After :meth:`stop` it is empty, and its URLs are others.

        Raises:
            ServerFailed: One ended, or they did not get well within the timeout.  Nothing is left running.
        """
        if self._is_started:
            raise RuntimeError(f'{self!r} is started')
        self._is_started = True
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._place_all()
                self._launch_all()
                break
            except ServerFailed as error:
                self._discard_all()
                if 'address already in use' not in str(error) or attempt == ATTEMPTS:
                    self.stop()
                    raise
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """End all members and remove their files.  Does nothing if it is not started."""
        self._discard_all()
        self.learners.clear()
        self._network.close()
        self._is_started = False
        self._clean_at = 0

    def wipe(self) -> None:
        """Kill all members and start them again without data, at the same URLs, and undo every other fault.

        To clients it is the same cluster, down to its id, and all it knew is gone.

        Raises:
            ServerFailed: As :meth:`start`, but what runs is left.
        """
        for member in (*self.members, *self.learners):
            member.kill()
            member.wipe()
        self._network.heal_all()
        self._clean_at = 0
        learners, self.learners = self.learners, []
        self._launch_all()
        for learner in learners:
            self._let_learn(learner)

    def clear(self) -> None:
        """Delete every key and lease, of both APIs, on every member that is up.

        It is quick; revisions, indices and their history go on.  Unless etcd does not allow it (its authentication
        is on), or there were more than 1000 changes since the last call (v2, whose hidden nodes nothing tells then):
        in these cases the cluster is wiped.

        Raises:
            ServerFailed: It has no leader, or did not get well after it was wiped.
        """
        leader = self.members[self.leader()]
        try:
            with leader.requests() as requests:
                clear_v3(requests)
                index = clear_v2(requests, self._clean_at) if self.binary.supports('v2') else 0
            _revoke_leases(leader)
        except (OSError, EtcException):
            index = None
        if index is None:
            self.wipe()
            return
        self._clean_at = index
        self._wait_for(lambda: self._survey().is_level(), 'the members to agree')

    def mend(self) -> None:
        """Undo every fault: start who is down, resume who is paused, connect all, and wait until all are well.

        Raises:
            ServerFailed: They did not get well within the timeout.
        """
        self._network.heal_all()
        for member in (*self.members, *self.learners):
            member.resume()
            if member.state is MemberState.DOWN:
                self._launch(member)
        self._wait_until_well(self.members)

    def leader(self) -> int:
        """The index of the leader: of the member that a majority takes for it.  Waits until there is one.

        One that is down, paused or isolated does not count, even while it or the others do not know yet.

        Raises:
            ServerFailed: There was none within the timeout.
        """
        found: list[Member] = []

        def is_found() -> bool:
            member = self._leader_now()
            if member is not None:
                found.append(member)
            return member is not None

        self._wait_for(is_found, 'a leader')
        return self.members.index(found[0])

    def move_leader(self, to: int) -> None:
        """Have the leader hand over to another member, and wait until it has.

        Raises:
            EtcException: It did not: the other is down, or too far behind.
            ServerFailed: There is no leader, or it was not this one within the timeout.
        """
        leader = self.leader()
        if leader == to:
            return
        with self.members[leader].client() as client:
            client.v3.maintenance.move_leader(self.members[to].id)
        self._wait_for(lambda: self._leader_now() is self.members[to], f'{self.members[to].name} to lead')

    # -- one member

    def kill(self, index: int, *, may_diverge: bool = False) -> None:
        """End it by SIGKILL, as a crash would; its data stay.  Does nothing if it is down.

        Members of etcd 3.5.0 to 3.5.2 that are killed while they write may come back with other data than the rest
        have, without any error; whatever a test finds then is a fault of that etcd.  So these are not killed unless
        the caller says that it does not matter, as where nothing is written or nobody compares.  :meth:`restart`,
        :meth:`pause` and :meth:`isolate` are safe with all.

        Args:
            index: Which.
            may_diverge: Kill these etcds too.

        Raises:
            NotSupported: It is such an etcd.
        """
        if self.binary.may_diverge and len(self.members) > 1 and not may_diverge:
            raise NotSupported(
                f'members of etcd {self.version} may go on with different data after a SIGKILL: install another etcd '
                '(on PATH, or named by GETC_ETCD), or say kill(index, may_diverge=True)'
            )
        self.members[index].kill()

    def restart(self, index: int, *, wipe: bool = False) -> None:
        """Start it at the same URL; if it runs, end it first, in the orderly way.

        Returns once it is well, or at once where it cannot be: while it is isolated, or there is no majority.

        Args:
            index: Which.
            wipe: Throw its data away.  The others remove it and add it anew, as etcd wants it: it must
                not come back with less than it has promised.  That needs the others to be a majority.

        Raises:
            ServerFailed: It did not get well within the timeout.
            EtcException: The others could not take it in anew.
        """
        member = self.members[index]
        member.end(KINDNESS)
        if wipe and len(self.members) > 1:
            with self._other_than(member).client() as client:
                for known in client.v3.cluster.member_list().members:
                    if member.advertised_url in known.peerURLs:  # not by id: an attempt before may have added it
                        client.v3.cluster.member_remove(known.ID)
                member.id = client.v3.cluster.member_add([member.advertised_url]).member.ID
        if wipe:
            member.wipe()
        self._launch(member, joins=wipe and len(self.members) > 1)
        if self._is_connected(member):
            self._wait_until_well([member])

    def pause(self, index: int) -> None:
        """Stop it from running (SIGSTOP): connections stay, nothing is answered."""
        self.members[index].pause()

    def resume(self, index: int) -> None:
        """Let it run on."""
        self.members[index].resume()

    def isolate(self, index: int) -> None:
        """Cut it off from the other members, in both directions, but not from its clients."""
        self._network.isolate(self.members[index].number)

    def heal(self, index: int) -> None:
        """Let it reach the others again, but for those that are isolated themselves."""
        self._network.heal(self.members[index].number)

    def line(self, source: int, destination: int) -> FaultyLink:
        """What one member asks of another, and the answers: with all the faults of a :class:`FaultyLink`.

        Members stream what they say as endless answers, so most of what ``destination`` says to ``source`` goes over
        this line; to break one direction only, mind that.
        """
        return self._network.line(self.members[source].number, self.members[destination].number)

    def add(self) -> int:
        """Add a member, wait until it is well, and return its index.

        Raises:
            EtcException: The others did not take it.
            ServerFailed: It did not get well within the timeout.
        """
        leader = self.members[self.leader()]
        member = self._new_member()
        try:
            self._place(member, *free_ports(2))
            with leader.client() as client:
                member.id = client.v3.cluster.member_add([member.advertised_url]).member.ID
        except BaseException:
            self._forget(member)
            raise
        self._launch(member, joins=True)
        self._wait_until_well([member])
        return self.members.index(member)

    def add_learner(self) -> Member:
        """Add a member without a vote, which refuses nearly every call of a client, and return it.

        It is one of ``learners``, and not of ``members``.  Does not wait until it serves.

        Raises:
            EtcException: The others did not take it.
        """
        learner = self._new_member()
        self.members.remove(learner)
        self._place(learner, *free_ports(2))
        self._let_learn(learner)
        return learner

    def remove(self, index: int) -> None:
        """Remove a member for good; those behind it move up by one.  Waits until the others have a leader.

        Raises:
            EtcException: The others did not agree.
            ValueError: It is the only one.
            ServerFailed: They had no leader within the timeout.
        """
        member = self.members[index]
        if len(self.members) == 1:
            raise ValueError('the only member cannot be removed')
        with self._other_than(member).client() as client:
            client.v3.cluster.member_remove(member.id)
        self._forget(member)
        self.leader()

    def __enter__(self) -> EtcdCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        states = ' '.join(f'{member.name}:{member.state.name.lower()}' for member in self.members)
        return f'<EtcdCluster {self.version} {states}>'

    # -- members

    def _new_member(self) -> Member:
        number = next(self._next_number)
        member = Member(f'etcd-{number}', self.binary, tls=self._tls, number=number)
        self.members.append(member)
        return member

    def _let_learn(self, learner: Member) -> None:
        """Have the others take in a learner without data, and start it."""
        with self.members[self.leader()].client() as client:
            client.v3.cluster.member_add([learner.advertised_url], isLearner=True)
        self.learners.append(learner)
        self._launch(learner, joins=True)

    def _place_all(self) -> None:
        ports = iter(free_ports(2 * len(self.members)))
        for member in self.members:
            self._place(member, next(ports), next(ports))

    def _place(self, member: Member, client_port: int, peer_port: int) -> None:
        member.listen(client_port, peer_port, advertised_url=self._network.address(member.number))
        self._network.join(member.number, peer_port)

    def _forget(self, member: Member) -> None:
        member.discard()
        self._network.leave(member.number)
        self.members.remove(member)

    def _launch(self, member: Member, *, joins: bool = False) -> None:
        cluster = ','.join(f'{each.name}={each.advertised_url}' for each in (*self.members, *self.learners))
        member.launch(cluster, joins=joins, env=self._network.environment(member.number))

    def _launch_all(self) -> None:
        for member in self.members:
            self._launch(member)
        self._wait_until_well(self.members)
        self.leader()
        for member, status in self._survey().answers.items():
            member.id = status.id

    def _discard_all(self) -> None:
        for member in (*self.members, *self.learners):
            member.discard()

    def _other_than(self, member: Member) -> Member:
        """One that can be asked to change the membership."""
        for other in self.members:
            if other is not member and self._is_connected(other):
                return other
        raise ServerFailed(f'no member but {member.name} is up and connected')

    def _is_connected(self, member: Member) -> bool:
        """True if it can be well: it belongs to a majority of members that run and reach each other."""
        reachable = [each for each in self.members if self._is_reachable(each)]
        return member in reachable and len(reachable) > len(self.members) // 2

    def _is_reachable(self, member: Member) -> bool:
        """True if it runs and is not cut off from others."""
        is_isolated = member.number in self._network.isolated and len(self.members) > 1
        return member.state is MemberState.UP and not is_isolated

    # -- waiting

    def _wait_until_well(self, members: list[Member]) -> None:
        self._wait_for(lambda: all(member.serves_or_has_ended() for member in members), 'all members to serve')
        ended = [member for member in members if member.has_ended()]
        if ended:
            raise ServerFailed(f'{ended[0].name} has ended, a member of {self.binary}; {self._logs()}')

    def _wait_for(self, condition: Callable[[], object], what: str) -> None:
        if not poll_until(condition, self._timeout):
            raise ServerFailed(f'{self.binary}: waited {self._timeout:g} s for {what}; {self._logs()}')

    def _logs(self) -> str:
        return '\n'.join(f'the log of {member.name} ends with\n{member.log_tail()}' for member in self.members)

    def _survey(self) -> ClusterStatus:
        return ClusterStatus.of([member for member in self.members if self._is_reachable(member)])

    def _leader_now(self) -> Member | None:
        return self._survey().leader(len(self.members) // 2 + 1)


def _revoke_leases(member: Member) -> None:
    with member.client() as client:
        for lease in client.v3.lease.leases().leases:
            try:
                client.v3.lease.revoke(lease.ID)
            except LeaseNotFound:
                pass  # it ran out
