"""Creating watches on one stream of a fake etcd: opening, reopening, stale tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import gevent
import pytest

from getc.errors import ClientClosed, ConnectionError, ConnectionRefused, EtcException, PermissionDenied, Unauthorized
from getc.testing import VirtualTime
from getc.v3.schema.watch import WatchCreateRequest, WatchResponse
from getc.v3.substream import Substream
from getc.v3.watch_multiplexer import WatchMultiplexer
from getc.v3.watch_stream import WatchStream
from tests.support.fake_etcd import FakeEtcd
from tests.support.fake_faults import delay
from tests.support.fake_rpc import FakeRpc
from tests.support.killing import killing_next_greenlet
from tests.support.leftovers import check_greenlets, greenlets_of_getc


class Handler:
    """Records its calls."""

    def __init__(self) -> None:
        self.created = 0
        self.revisions: list[int] = []
        self.errors: list[EtcException] = []

    def on_created(self, response: WatchResponse) -> None:
        self.created += 1

    def on_response(self, response: WatchResponse) -> None:
        self.revisions += [event.kv.mod_revision for event in response.events]

    def on_ended(self, error: EtcException) -> None:
        self.errors.append(error)


class Environment:
    """A multiplexer on a fake etcd."""

    def __init__(self, clock: VirtualTime) -> None:
        self.server = FakeEtcd()
        self.rpc: Any = FakeRpc(self.server)
        self.opened: list[WatchStream] = []
        self.watches = WatchMultiplexer(self.rpc, self.opened.append)
        self._clock = clock

    def add(self, key: bytes = b'/a') -> tuple[Handler, Substream]:
        """Add a watch that starts from now."""
        handler = Handler()
        substream = Substream(WatchCreateRequest(key=key), handler)
        self.watches.add(substream)
        return handler, substream

    def settle(self, seconds: float = 0.0) -> None:
        self._clock.advance(seconds)


@pytest.fixture
def env(request: pytest.FixtureRequest, etcd_clock: VirtualTime) -> Iterator[Environment]:
    """The environment; at its end, no greenlet may be left."""
    env = Environment(etcd_clock)
    yield env
    env.watches.close(ClientClosed('the end'))
    env.rpc.close()
    etcd_clock.advance(0)
    check_greenlets(request)


def test_watches_added_at_once_share_one_stream(env: Environment) -> None:
    added = [env.add() for _ in range(100)]
    env.settle()
    assert [handler.created for handler, _ in added] == [1] * 100
    assert len(env.opened) == 1
    assert {substream.stream for _, substream in added} == {env.opened[0]}


def test_handlers_receive_the_error_when_no_stream_can_be_opened(env: Environment) -> None:
    env.server.refuses_streams = True
    (one, _), (two, _) = env.add(), env.add()
    env.settle()
    assert [type(error) for error in (*one.errors, *two.errors)] == [ConnectionRefused, ConnectionRefused]
    env.server.refuses_streams = False
    again, _ = env.add()
    env.settle()
    assert again.created == 1


def test_lost_stream_ends_its_watches_and_the_next_one_opens_another(env: Environment) -> None:
    lost, _ = env.add()
    env.settle()
    env.server.break_streams()
    env.settle()
    assert [type(error) for error in lost.errors] == [ConnectionError]
    again, _ = env.add()
    env.settle()
    assert (again.created, len(env.opened)) == (1, 2)


def test_watch_cancelled_while_the_stream_is_opened_is_not_requested(env: Environment) -> None:
    env.server.fault = delay(1)
    handler, substream = env.add()
    env.settle(0.5)
    substream.cancel()
    env.settle(1)
    assert (handler.created, handler.errors) == (0, [])
    assert env.server.times('WatchCreate') == []


def test_retired_stream_serves_its_watches_and_no_others(env: Environment) -> None:
    old, substream = env.add()
    env.settle()
    env.watches.retire(env.opened[0])
    new, _ = env.add()
    env.settle()
    assert len(env.opened) == 2
    env.server.put('/a', '1')
    env.settle()
    assert old.revisions == new.revisions == [env.server.revision]
    substream.cancel()
    env.settle()
    assert (env.opened[0].is_over, env.opened[1].is_over) == (True, False)


def test_watch_refused_for_a_stale_token_is_created_on_another_stream(env: Environment) -> None:
    env.add()
    env.settle()
    env.server.invalidate_tokens()
    handler, substream = env.add()
    env.settle()
    assert (handler.created, handler.errors) == (1, [])
    assert substream.stream is env.opened[1]


def test_watch_that_is_refused_again_ends(env: Environment) -> None:
    env.server.invalidate_tokens(permanently=True)
    handler, _ = env.add()
    env.settle()
    assert isinstance(handler.errors[0], Unauthorized)
    assert len(env.server.times('WatchCreate')) == 2


def test_watch_ends_with_permission_denied_when_a_read_of_its_range_is_denied(env: Environment) -> None:
    env.server.forbidden.add((b'/a', b''))
    handler, _ = env.add()
    env.settle()
    assert [type(error) for error in handler.errors] == [PermissionDenied]
    assert len(env.server.times('WatchCreate')) == 1


def test_watch_cancelled_during_the_permission_check_is_not_created(env: Environment) -> None:
    env.add()
    env.settle()
    env.server.invalidate_tokens()
    env.server.next('Range', delay(1))
    handler, substream = env.add()
    env.settle(0.5)
    substream.cancel()
    env.settle(1)
    assert (handler.created, handler.errors) == (0, [])
    assert len(env.server.times('WatchCreate')) == 2


def test_close_ends_all_watches_with_the_error(env: Environment) -> None:
    handler, _ = env.add()
    env.settle()
    env.watches.close(ClientClosed('the client was closed'))
    env.settle()
    assert [type(error) for error in handler.errors] == [ClientClosed]


def test_close_ends_watches_that_wait_for_a_stream(env: Environment) -> None:
    """Also a watch that is added later."""
    env.server.fault = delay(1)
    waiting, _ = env.add()
    cancelled, substream = env.add()
    substream.cancel()
    env.settle(0.5)
    env.watches.close(ClientClosed('the client was closed'))
    late, _ = env.add()
    env.settle(2)
    assert [type(error) for error in waiting.errors + late.errors] == [ClientClosed] * 2
    assert cancelled.errors == []
    assert env.server.times('WatchCreate') == []


@pytest.mark.parametrize('seconds', [0.0, 0.5])
def test_watches_end_when_the_greenlet_that_opens_their_stream_is_killed(env: Environment, seconds: float) -> None:
    """Before it has run, or in the middle.  They would wait forever otherwise."""
    env.server.fault = delay(1)
    with killing_next_greenlet() if not seconds else nullcontext():
        added = [env.add() for _ in range(3)]
        env.settle(seconds)
    if seconds:
        gevent.killall([each for each in greenlets_of_getc() if each.name == 'getc watch stream, opening'], block=False)
        env.settle()
    assert [[type(error) for error in handler.errors] for handler, _ in added] == [[ConnectionError]] * 3
    again, _ = env.add()
    env.settle(10)
    assert again.created == 1
