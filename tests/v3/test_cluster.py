"""``etcd.v3.cluster``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import getc
from getc.errors import FailedPrecondition, NotFound
from getc.testing import EtcdServer
from getc.v3 import schema
from getc.v3.cluster import Cluster

SERVICE = schema.Cluster


@pytest.fixture
def cluster(own_server: EtcdServer) -> Iterator[Cluster]:
    """The service of a server that only this test uses."""
    with getc.etcd(own_server.url) as client:
        yield client.v3.cluster


@pytest.mark.parametrize('linearizable', [True, False])
def test_member_list_returns_the_members(client: getc.Client, server: EtcdServer, linearizable: bool) -> None:
    response = client.v3.cluster.member_list(linearizable=linearizable)
    (member,) = response.members
    assert response.header.member_id == member.ID
    assert (member.name, list(member.clientURLs), member.isLearner) == ('getc', [server.url], False)


def test_learner_is_added_updated_and_removed(cluster: Cluster) -> None:
    """It does not vote, so the only other member keeps its quorum."""
    added = cluster.member_add(['http://127.0.0.1:1'], isLearner=True).member
    assert added.isLearner and list(added.peerURLs) == ['http://127.0.0.1:1']
    cluster.member_update(added.ID, peerURLs=['http://127.0.0.1:2'])
    members = {member.ID: member for member in cluster.member_list().members}
    assert len(members) == 2 and list(members[added.ID].peerURLs) == ['http://127.0.0.1:2']
    with pytest.raises(FailedPrecondition, match='in sync with leader'):
        cluster.member_promote(added.ID)
    assert [member.ID for member in cluster.member_remove(added.ID).members] != [added.ID]
    assert len(cluster.member_list().members) == 1


def test_voting_member_is_not_promoted(cluster: Cluster) -> None:
    with pytest.raises(FailedPrecondition, match='learner'):
        cluster.member_promote(cluster.member_list().members[0].ID)


def test_missing_member_raises_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFound):
        cluster.member_remove(4711)
    with pytest.raises(NotFound):
        cluster.member_update(4711, peerURLs=['http://127.0.0.1:1'])
    with pytest.raises(NotFound):
        cluster.member_promote(4711)


def test_invalid_urls_are_refused(cluster: Cluster) -> None:
    with pytest.raises(getc.EtcdError, match='URL'):
        cluster.member_add(['nowhere'])
    assert len(cluster.member_list().members) == 1
