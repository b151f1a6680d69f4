"""The recipes of Go, whose keys getc reads, and its software transactions."""

from __future__ import annotations

from typing import Any

import pytest

import getc
from getc.testing import EtcdServer
from tests.support.interop import Go
from tests.support.interop_events import Attempted, GoError


def test_readers_share_a_lock_and_a_writer_excludes_them(go: Go, etcd: getc.Client, wait_until: Any) -> None:
    readers, writer = [go.open_session(), go.open_session()], go.open_session()
    for reader in readers:
        reader.read_lock('/rw').result()
    writing = writer.write_lock('/rw')
    wait_until(lambda: etcd.v3.kv.range(b'/rw/', range_end=b'/rw0', count_only=True).count == 3)
    assert not writing.is_done
    keys = sorted(one.key.rpartition(b'/')[0] for one in go.get(b'/rw/', prefix=True).result().kvs)
    assert keys == [b'/rw/read', b'/rw/read', b'/rw/write']
    for reader in readers:
        reader.read_unlock('/rw').result()
    writing.result()
    reading = readers[0].read_lock('/rw')
    wait_until(lambda: etcd.v3.kv.range(b'/rw/', range_end=b'/rw0', count_only=True).count == 2)
    assert not reading.is_done
    writer.write_unlock('/rw').result()
    reading.result()


def test_waiting_reader_ends_with_its_session(go: Go, wait_until: Any) -> None:
    go.open_session().write_lock('/rw').result()
    session = go.open_session()
    reading = session.read_lock('/rw')
    wait_until(lambda: go.get(b'/rw/', prefix=True).result().count == 2)
    session.drop().result()
    with pytest.raises(GoError):
        reading.result()


def test_queues_return_the_values_in_order(go: Go, etcd: getc.Client, wait_until: Any) -> None:
    waiting = go.dequeue('/queue')
    assert not waiting.is_done
    go.enqueue('/queue', 'first').result()
    assert waiting.result() == 'first'
    for value, priority in (('late', 20), ('early', 3), ('middle', 10)):
        go.enqueue_priority('/jobs', value, priority).result()
    assert len(list(etcd.get('/jobs', recursive=True).node.leaves())) == 3
    assert [go.dequeue_priority('/jobs').result() for _ in range(3)] == ['early', 'middle', 'late']


def test_barrier_is_passed_when_its_key_is_gone(go: Go, etcd: getc.Client) -> None:
    go.hold_barrier('/barrier').result()
    waiting = go.wait_barrier('/barrier')
    with pytest.raises(getc.NodeExist):
        etcd.create('/barrier', '')
    assert not waiting.is_done
    etcd.delete('/barrier')
    waiting.result()
    etcd.create('/barrier', '')
    with pytest.raises(GoError):
        go.hold_barrier('/barrier').result()
    go.release_barrier('/barrier').result()
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/barrier')


def test_double_barrier_admits_when_all_have_entered(go: Go, wait_until: Any) -> None:
    sessions = [go.open_session() for _ in range(3)]
    entering = [session.enter_barrier('/meet', 3) for session in sessions[:2]]
    wait_until(lambda: go.get(b'/meet/waiters', prefix=True).result().count == 2)
    assert not any(call.is_done for call in entering)
    sessions[2].enter_barrier('/meet', 3).result()
    for call in entering:
        call.result()
    with pytest.raises(GoError, match='too many clients'):
        go.open_session().enter_barrier('/meet', 3).result()
    for call in [session.leave_barrier('/meet', 3) for session in sessions]:
        call.result()
    assert go.get(b'/meet', prefix=True).result().count == 0


def test_blocked_recipe_ends_with_the_program(start_go: Any, etcd_server: EtcdServer) -> None:
    go = start_go(etcd_server.url)
    waiting = go.dequeue('/queue')
    go.close()
    with pytest.raises(Exception, match=r'Canceled|the Go program has ended'):
        waiting.result()


# -- software transactions


def test_software_transaction_reads_what_getc_wrote(go: Go, etcd: getc.Client) -> None:
    etcd.set('/gold/ann', '10')
    done = go.stm_add({'/gold/ann': -4, '/gold/bob': 4}).result()
    assert (done.values, done.attempts) == ({'/gold/ann': 6, '/gold/bob': 4}, 1)
    assert {etcd.get(key).modified_index for key in ('/gold/ann', '/gold/bob')} == {done.revision}
    assert (etcd.get('/gold/ann').value, etcd.get('/gold/bob').value) == ('6', '4')


def test_software_transaction_is_repeated_when_getc_writes_meanwhile(go: Go, etcd: getc.Client) -> None:
    etcd.set('/n', '0')
    running = go.stm_add({'/n': 1}, hold=True)
    assert running.wait(Attempted).values == {'/n': 1}
    etcd.set('/n', '100')
    go.proceed(running).result()
    assert running.wait(Attempted, lambda attempt: attempt.attempts == 2).values == {'/n': 101}
    go.proceed(running).result()
    assert (running.result().attempts, etcd.get('/n').value) == (2, '101')
    with pytest.raises(GoError, match='does not wait'):
        go.proceed(running).result()


def test_waiting_software_transaction_writes_nothing_when_it_is_cancelled(go: Go, etcd: getc.Client) -> None:
    running = go.stm_add({'/n': 1}, hold=True)
    running.wait(Attempted)
    running.cancel()
    with pytest.raises(GoError) as caught:
        running.result()
    assert caught.value.code == 'Canceled'
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/n')


def test_software_transaction_that_is_refused_writes_nothing(go: Go, etcd: getc.Client) -> None:
    etcd.set('/gold/ann', '3')
    with pytest.raises(GoError, match=r'FailedPrecondition: .*/gold/ann would be -2'):
        go.stm_add({'/gold/ann': -5, '/gold/bob': 5}, minimum=0).result()
    assert etcd.get('/gold/ann').value == '3'
    with pytest.raises(getc.KeyNotFound):
        etcd.get('/gold/bob')
    with pytest.raises(GoError, match='unknown isolation "none"'):
        go.stm_add({'/n': 1}, isolation='none').result()


@pytest.mark.parametrize('isolation', ['serializable-snapshot', 'serializable', 'repeatable-reads', 'read-committed'])
def test_every_isolation_of_go_commits(go: Go, etcd: getc.Client, isolation: str) -> None:
    assert go.stm_add({'/n': 1}, isolation=isolation).result().values == {'/n': 1}
    assert etcd.get('/n').value == '1'
