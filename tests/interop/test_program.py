"""The Go program and its driver: commands, events, errors, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

import getc
from getc.testing import EtcdServer
from tests.support.interop import Go
from tests.support.interop_events import Changed, GoError, Watching
from tests.support.interop_process import GoEnded
from tools.interop.build import required_version


def test_program_reports_the_versions_that_go_mod_requires(go: Go) -> None:
    assert go.versions['packages']['go.etcd.io/etcd/client/v3'] == required_version()
    assert go.versions['packages']['Go'].startswith('1.')


def test_unknown_verbs_and_arguments_are_errors(go: Go) -> None:
    with pytest.raises(GoError, match=r'Unimplemented: unknown verb "nap"'):
        go.call('nap').result()
    with pytest.raises(GoError, match=r'InvalidArgument: .*unknown field "colour"'):
        go.call('get', colour=1).result()
    with pytest.raises(GoError, match=r'NotFound: .*session "a" is not open'):
        go.call('lock', session='a', name='/locks/a').result()
    assert go.get(b'/a').result().count == 0  # it continues


def test_command_fails_when_its_time_is_over(go: Go) -> None:
    go.open_session().lock('/locks/a').result()
    with pytest.raises(GoError) as caught:
        go.open_session().lock('/locks/a', timeout=0.2).result()
    assert caught.value.code == 'DeadlineExceeded'
    assert go.get(b'/locks/a/', prefix=True).result().count == 1


def test_cancelled_command_fails_and_a_cancelled_watch_ends(go: Go) -> None:
    go.open_session().lock('/locks/a').result()
    waiting = go.open_session().lock('/locks/a')
    watching = go.watch(b'/a')
    for call in (waiting, watching):
        call.cancel()
        call.cancel()
        assert call.is_done
    with pytest.raises(GoError) as caught:
        waiting.result()
    assert caught.value.code == 'Canceled'
    assert watching.result() is None


def test_wait_raises_when_the_command_ends_without_the_event(go: Go) -> None:
    watching = go.watch(b'/a')
    with pytest.raises(AssertionError, match=r'waited 0\.01 s for an event Changed'):
        watching.wait(Changed, timeout=0.01)
    watching.cancel()
    with pytest.raises(AssertionError, match='ended without an event Changed'):
        watching.wait(Changed)
    assert watching.wait(Watching).revision >= 1  # an earlier event is found again


def test_error_of_a_command_is_raised_by_wait(go: Go, etcd: getc.Client) -> None:
    for number in range(3):
        etcd.set('/a', str(number))
    compacted = go.compact(etcd.get('/a').modified_index).result().revision
    watching = go.watch(b'/a', revision=compacted - 1)
    with pytest.raises(GoError, match=f'OutOfRange: .*required revision has been compacted: {compacted}'):
        watching.wait(Changed)


def test_closed_program_revokes_its_leases_and_ends(
    start_go: Callable[..., Go], etcd_server: EtcdServer, etcd: getc.Client
) -> None:
    go = start_go(etcd_server.url)
    held = go.open_session().lock('/locks/a').result()
    waiting = go.open_session().lock('/locks/a')
    go.close()
    assert not _exists(go.pid)
    assert etcd.v3.kv.range(held.key.encode()).kvs == []
    assert held.lease not in {lease.ID for lease in etcd.v3.lease.leases().leases}
    with pytest.raises((GoError, GoEnded)):
        waiting.result()
    with pytest.raises(GoEnded):
        go.get(b'/a')


def test_killed_program_leaves_its_keys_to_their_ttl(
    start_go: Callable[..., Go], etcd_server: EtcdServer, etcd: getc.Client
) -> None:
    go = start_go(etcd_server.url)
    held = go.open_session(ttl=600).lock('/locks/a').result()
    waiting = go.open_session(ttl=600).lock('/locks/a')
    go.kill()
    go.kill()
    assert not _exists(go.pid)
    with pytest.raises(GoEnded, match='the Go program has ended'):
        waiting.result()
    assert etcd.v3.kv.range(held.key.encode()).kvs[0].lease == held.lease


def test_program_that_cannot_start_fails_with_its_error_output(tmp_path: Path) -> None:
    program = tmp_path / 'interop'
    program.write_text('#!/bin/sh\necho "it has no etcd" >&2; exit 1\n')
    program.chmod(0o755)
    with pytest.raises(GoEnded, match='the Go program has ended: it has no etcd'):
        Go('http://127.0.0.1:1', program)


def test_commands_of_many_greenlets_are_answered(go: Go) -> None:
    def write_and_read(number: int) -> bytes:
        key = b'/many/%d' % number
        go.put(key, b'x' * 5_000 + b'%d' % number).result()
        return go.get(key).result().kvs[0].value

    greenlets = [gevent.spawn(write_and_read, number) for number in range(50)]
    gevent.joinall(greenlets, raise_error=True)
    assert [one.value for one in greenlets] == [b'x' * 5_000 + b'%d' % number for number in range(50)]


def test_session_ends_when_it_is_closed_dropped_or_revoked(go: Go, etcd: getc.Client) -> None:
    closed, dropped, revoked = go.open_session(), go.open_session(), go.open_session(ttl=6)
    closed.close().result()
    dropped.drop().result()
    etcd.v3.lease.revoke(revoked.lease)
    for session in (closed, dropped, revoked):
        assert session.ended.result().lease == session.lease
    assert go.time_to_live(closed.lease).result().ttl == -1
    assert go.time_to_live(dropped.lease).result().ttl > 0
    with pytest.raises(GoError, match='is not open'):
        closed.lock('/locks/a').result()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_result_has_a_deadline(go: Go, wait_until: Any) -> None:
    go.open_session().lock('/locks/a').result()
    waiting = go.open_session().lock('/locks/a')
    wait_until(lambda: go.get(b'/locks/a/', prefix=True).result().count == 2)
    with pytest.raises(AssertionError, match=r'<Call lock, in progress, events=\[\]>: waited 0\.01 s for its end'):
        waiting.result(timeout=0.01)
