"""The comparison of a mirror with what a read has returned before."""

from __future__ import annotations

import getc
from tests.faults.followers import late_values


def test_late_values_are_those_that_a_read_has_returned_and_the_mirror_lacks() -> None:
    with getc.etcd('memory://') as client:
        for key in ('/a/1', '/a/2', '/a/3'):
            client.set(key, 'old')
        mirror = client.mirror('/a')
        client.set('/a/1', 'new')
        client.delete('/a/2')
        found = client.get('/a', recursive=True)
        late = late_values(found, mirror, found.etcd_index - 1)
        assert len(late) == 2
        assert 'was synced up to' in late[0]
        assert "shows <getc.Value /a/1='old'" in late[1]
        assert late_values(found, mirror, mirror.sync()) == []
        client.set('/a/3', 'later')
        assert late_values(found, mirror, mirror.sync()) == []
