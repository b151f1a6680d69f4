"""A real etcd cluster with fault injection."""

from __future__ import annotations

import os
from typing import Final

from getc.errors import EtcException, LeaseNotFound, NotSupported
from getc.testing.admin import clear_v2, clear_v3
from getc.testing.binaries import Api, choose_etcd
from getc.testing.certificates import ServerTLS
from getc.testing.cluster_members import ClusterMembers
from getc.testing.member import Member, MemberState
from getc.testing.server import ServerFailed
from getc.testing.tcp_faults import FaultyLink

__all__ = ['EtcdCluster']

MAX_ATTEMPTS: Final = 5
"""Starts that are tried while another program takes a port between its choice and its use."""

TERMINATION_TIMEOUT: Final = 10.0
"""Seconds until a member that is restarted is killed, if it has not ended after SIGTERM."""


class EtcdCluster:
    """A cluster of etcd processes on free loopback ports, with their data in temporary directories.

    The processes and files are removed when this program ends, also when it is killed.  Methods block the calling
    greenlet only, in real time even under :class:`VirtualTime`.  Methods take the index of a member in ``members``.

    The traffic between members passes through this program's hub, with one link for each direction, so that
    :meth:`isolate` can cut it and :meth:`link` gives access to other faults.  While the hub is blocked, members do
    not receive each other's messages, and after a second they start an election.  Clients connect to the members
    directly; put a :class:`FaultProxy` in front of a member to inject faults there.

    Also a context manager, which starts and stops the cluster.

    Args:
        size: The number of members.
        api: The API that the etcd must support, ``'v2'`` or ``'v3'``; None for v3.
        binary: The path of the etcd; None for the newest that :func:`find_etcd` finds and whose members may be killed.
        tls: How members serve clients over TLS, from :class:`Certificates`; None for plain HTTP.  The traffic
            between members is plain HTTP in any case.
        timeout: Seconds for the members to become healthy after a start, and for every other wait.

    Attributes:
        binary: The etcd that is run: path, version, and why it was selected.
        members: The members, each with ``name``, ``url``, ``pid`` and ``state``.
        learners: The non-voting members that :meth:`add_learner` added.

    Raises:
        EtcdNotFound: No etcd that supports the API was found.
        OSError: ``binary`` cannot be run.
        ValueError: ``size`` is less than 1, or ``binary`` does not support the API.

    Example::

        from getc.testing import EtcdCluster

        with EtcdCluster() as cluster, getc.etcd(cluster.urls) as etcd:
            etcd.set('/hello', 'Hello, world')
            lost = cluster.leader()
            cluster.isolate(lost)
            assert cluster.leader() != lost      # the others have elected a new one
            cluster.heal(lost)
            cluster.restart(lost, wipe=True)     # it receives its data from them
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
            raise ValueError(f'size must be at least 1, not {size}')
        self.binary = choose_etcd(api or 'v3', binary, for_kills=True)
        self._group = ClusterMembers(self.binary, tls=tls, timeout=timeout)
        self.members = self._group.voters
        self.learners = self._group.learners
        self._is_started = False
        self._cleared_index = 0
        for _ in range(size):
            self.members.append(self._group.create())

    @property
    def urls(self) -> str:
        """The URLs of all members, as :func:`getc.etcd` takes them.  They change when one is added or removed."""
        return ','.join(member.url for member in self.members)

    @property
    def version(self) -> str:
        """The version of the etcd, as ``'3.5.1'``."""
        return '.'.join(map(str, self.binary.version))

    @property
    def isolated(self) -> set[int]:
        """The indices of the members that are isolated from the others."""
        isolated = self._group.network.isolated
        return {index for index, member in enumerate(self.members) if member.number in isolated}

    # -- the whole cluster

    def start(self) -> EtcdCluster:
        """Start all members, wait until they are healthy and have a leader, and return the cluster.

        After :meth:`stop` the cluster starts empty and at other URLs.

        Raises:
            ServerFailed: A member ended, or they did not become healthy within the timeout.  No process is left.
        """
        if self._is_started:
            raise RuntimeError(f'{self!r} is already started')
        self._is_started = True
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                self._group.assign_ports(*self.members)
                self._group.launch_voters()
                break
            except ServerFailed as error:
                self._group.discard()
                if 'address already in use' not in str(error) or attempt == MAX_ATTEMPTS:
                    self.stop()
                    raise
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """Kill all members and remove their files.  Does nothing if the cluster is not started."""
        self._group.discard()
        self.learners.clear()
        self._group.network.close()
        self._is_started = False
        self._cleared_index = 0

    def wipe(self) -> None:
        """Kill all members and start them again without data, at the same URLs; undo every other fault.

        To clients it is the same cluster, with the same cluster id, which has lost all keys and its history.

        Raises:
            ServerFailed: As :meth:`start`, but processes that run are left running.
        """
        for member in (*self.members, *self.learners):
            member.kill()
            member.wipe()
        self._group.network.heal_all()
        self._cleared_index = 0
        learners = list(self.learners)
        self.learners.clear()
        self._group.launch_voters()
        for learner in learners:
            self._group.add_learner(learner)

    def clear(self) -> None:
        """Delete every key and lease, of both APIs, and wait until every member that is up has applied it.

        Fast; revisions, indices and their history continue.  The cluster is wiped instead if etcd refuses (its
        authentication is enabled), or if there were more than 1000 changes since the last call (v2: the history no
        longer shows which hidden nodes exist).

        Raises:
            ServerFailed: There is no leader, or the cluster did not become healthy after it was wiped.
        """
        leader = self.members[self.leader()]
        try:
            with leader.requests() as requests:
                clear_v3(requests)
                index = clear_v2(requests, self._cleared_index) if self.binary.supports('v2') else 0
            _revoke_leases(leader)
        except (OSError, EtcException):
            index = None
        if index is None:
            self.wipe()
            return
        self._cleared_index = index
        self._group.wait_for(lambda: self._group.status().is_level(), 'the members to have applied the same entries')

    def recover(self) -> None:
        """Undo every fault: start members that are down, resume paused ones, connect all, and wait for health.

        Raises:
            ServerFailed: The members did not become healthy within the timeout.
        """
        self._group.network.heal_all()
        for member in (*self.members, *self.learners):
            member.resume()
            if member.state is MemberState.DOWN:
                self._group.launch(member)
        self._group.wait_until_healthy(self.members)

    def leader(self) -> int:
        """Wait until a majority of the members names the same leader, and return its index.

        A member that is down, paused or isolated does not count, even if the others have not noticed yet.

        Raises:
            ServerFailed: There was no leader within the timeout.
        """
        return self.members.index(self._group.wait_for_leader())

    def move_leader(self, to: int) -> None:
        """Transfer the leadership to another member, and wait until it leads.

        Raises:
            EtcException: The transfer failed: the member is down, or too far behind.
            ServerFailed: There is no leader, or the member did not lead within the timeout.
        """
        while (leader := self.leader()) != to:
            try:
                with self.members[leader].client() as client:
                    client.v3.maintenance.move_leader(self.members[to].id)
                break
            except EtcException:
                if self.leader() == leader:
                    raise
                # An election on a busy machine has replaced the leader before it received the request.
        self._group.wait_for(lambda: self._group.leader() is self.members[to], f'{self.members[to].name} to lead')

    # -- one member

    def kill(self, index: int, *, may_diverge: bool = False) -> None:
        """Kill a member by SIGKILL; its data stay.  Does nothing if it is down.

        Members of etcd 3.5.0 to 3.5.2 that are killed while they write may come back with data that differ from
        those of the others, without any error; what a test finds then is a fault of that etcd.  So these are not
        killed unless the caller says that it does not matter, for example where nothing is written.
        :meth:`restart`, :meth:`pause` and :meth:`isolate` are safe with every version.

        Args:
            index: The member.
            may_diverge: True kills members of these versions as well.

        Raises:
            NotSupported: The etcd is of such a version.
        """
        if self.binary.may_diverge and len(self.members) > 1 and not may_diverge:
            raise NotSupported(
                f'members of etcd {self.version} may diverge after a SIGKILL: install another etcd '
                '(on PATH, or named by GETC_ETCD or GETC_ETCD_KILLABLE), or pass may_diverge=True'
            )
        self.members[index].kill()

    def restart(self, index: int, *, wipe: bool = False) -> None:
        """Restart a member at the same URL, or start it if it is down; a running one is terminated by SIGTERM.

        Returns once the member is healthy, or at once where it cannot become healthy: while it is isolated, or
        there is no majority.

        Args:
            index: The member.
            wipe: Delete its data.  The other members remove it and add it again, since etcd does not allow a member
                to come back with less than it has acknowledged.  This needs a majority without the member.

        Raises:
            ServerFailed: The member did not become healthy within the timeout.
            EtcException: The others could not remove and add it.
        """
        member = self.members[index]
        member.terminate(TERMINATION_TIMEOUT)
        if wipe and len(self.members) > 1:
            with self._group.other_than(member).client() as client:
                for known in client.v3.cluster.member_list().members:
                    if member.advertised_url in known.peerURLs:  # not by id: an earlier attempt may have added it
                        client.v3.cluster.member_remove(known.ID)
                member.id = client.v3.cluster.member_add([member.advertised_url]).member.ID
        if wipe:
            member.wipe()
        self._group.launch(member, joins=wipe and len(self.members) > 1)
        if self._group.has_quorum(member):
            self._group.wait_until_healthy([member])

    def pause(self, index: int) -> None:
        """Suspend the process of a member (SIGSTOP): its connections stay open, and it does not respond."""
        self.members[index].pause()

    def resume(self, index: int) -> None:
        """Resume a paused member."""
        self.members[index].resume()

    def isolate(self, index: int) -> None:
        """Cut a member off from the other members, in both directions, but not from its clients."""
        self._group.network.isolate(self.members[index].number)

    def heal(self, index: int) -> None:
        """Reconnect an isolated member to all members that are not isolated themselves."""
        self._group.network.heal(self.members[index].number)

    def link(self, source: int, destination: int) -> FaultyLink:
        """Return the connections that one member makes to another, to inject faults on them.

        Members send their messages as endless responses, so most data from ``destination`` to ``source`` pass over
        this link.  Consider this when only one direction is to fail.
        """
        return self._group.network.link(self.members[source].number, self.members[destination].number)

    def add(self) -> int:
        """Add a member, wait until it is healthy, and return its index.

        Raises:
            EtcException: The others refused the member.
            ServerFailed: It did not become healthy within the timeout.
        """
        leader = self.members[self.leader()]
        member = self._group.create()
        self.members.append(member)
        try:
            self._group.assign_ports(member)
            with leader.client() as client:
                member.id = client.v3.cluster.member_add([member.advertised_url]).member.ID
        except BaseException:
            self._group.remove(member)
            raise
        self._group.launch(member, joins=True)
        self._group.wait_until_healthy([member])
        return self.members.index(member)

    def add_learner(self) -> Member:
        """Add a non-voting member, which refuses nearly every request of clients, and return it.

        It is in ``learners``, not in ``members``.  Does not wait until it serves.

        Raises:
            EtcException: The others refused the member.
        """
        learner = self._group.create()
        self._group.assign_ports(learner)
        self._group.add_learner(learner)
        return learner

    def remove(self, index: int) -> None:
        """Remove a member for good, and wait until the others have a leader.  The indices behind it move up by one.

        Raises:
            EtcException: The others refused.
            ValueError: It is the only member.
            ServerFailed: They had no leader within the timeout.
        """
        member = self.members[index]
        if len(self.members) == 1:
            raise ValueError('cannot remove the only member of a cluster')
        with self._group.other_than(member).client() as client:
            client.v3.cluster.member_remove(member.id)
        self._group.remove(member)
        self.leader()

    def __enter__(self) -> EtcdCluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        states = ' '.join(f'{member.name}:{member.state.name.lower()}' for member in self.members)
        return f'<EtcdCluster {self.version} {states}>'


def _revoke_leases(member: Member) -> None:
    with member.client() as client:
        for lease in client.v3.lease.leases().leases:
            try:
                client.v3.lease.revoke(lease.ID)
            except LeaseNotFound:
                pass  # it expired meanwhile
