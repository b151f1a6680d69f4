"""Selection of the endpoint for a call, and cool-downs."""

from __future__ import annotations

import random

import gevent
import pytest

from getc.errors import HTTPError, TimedOut
from getc.net.endpoint import Endpoint, parse_endpoints
from getc.net.selector import ConnectionState, EndpointFinder, EndpointSelector
from getc.testing import VirtualTime
from getc.timing import Deadline

A, B, C = (Endpoint('http', name, 1) for name in 'abc')


class LongestCooldown(random.Random):
    """Draws the upper bound, so that each cool-down has its maximal length."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_current_endpoint_stays_until_it_fails() -> None:
    """After the failure of another endpoint only the order of the others changes."""
    endpoints = EndpointSelector([A, B, C])
    assert endpoints.candidates() == [A, B, C]
    endpoints.mark_down(B)
    assert (endpoints.current, endpoints.candidates()) == (A, [A, C, B])
    endpoints.mark_down(A)
    assert endpoints.current == C


def test_endpoint_that_responded_last_stays_current() -> None:
    """Also after the cool-down of the first one: its connections are open."""
    endpoints = EndpointSelector([A, B, C])
    endpoints.mark_down(A)
    endpoints.mark_up(B)
    endpoints.mark_up(A)
    endpoints.mark_up(B)
    assert endpoints.candidates() == [B, C, A]


def test_candidates_are_ordered_by_the_end_of_their_cooldowns_when_all_have_failed(etcd_clock: VirtualTime) -> None:
    endpoints = EndpointSelector([A, B, C], rng=LongestCooldown())
    for endpoint, seconds in ((A, 0.5), (A, 1.0), (A, 0.0), (C, 0.5), (C, 0.0), (B, 0.0)):
        endpoints.mark_down(endpoint)
        etcd_clock.advance(seconds)
    assert endpoints.candidates() == [B, C, A]
    assert EndpointSelector([A]).candidates() == [A]


def test_recovered_server_is_called_third_when_the_others_hang(etcd_clock: VirtualTime) -> None:
    """For any number of earlier failures, because the cool-down is bounded."""
    endpoints = EndpointSelector([A, B, C], rng=LongestCooldown())
    endpoints.mark_up(A)
    for _ in range(10):
        endpoints.mark_down(C)
        etcd_clock.advance(2)
    called = []
    for _ in range(3):
        called.append(endpoints.candidates()[0])
        etcd_clock.advance(0.67)
        endpoints.mark_down(called[-1])
    assert called == [A, B, C]


def test_cooldown_doubles_with_each_failure_and_is_reset_by_a_response(etcd_clock: VirtualTime) -> None:
    endpoints = EndpointSelector([A, B, C], rng=LongestCooldown())
    endpoints.mark_up(C)
    cooldowns = []
    for _ in range(5):
        endpoints.mark_down(A)
        start = etcd_clock.elapsed
        while endpoints.candidates() == [C, B, A]:
            etcd_clock.advance(0.25)
        cooldowns.append(etcd_clock.elapsed - start)
    assert cooldowns == [0.5, 1, 2, 2, 2]
    endpoints.mark_up(A)
    endpoints.mark_up(C)
    endpoints.mark_down(A)
    etcd_clock.advance(0.5)
    assert endpoints.candidates() == [C, A, B]


def test_failures_during_a_cooldown_do_not_extend_it(etcd_clock: VirtualTime) -> None:
    """A connection that breaks under a thousand calls is one failure."""
    endpoints = EndpointSelector([A, B], rng=LongestCooldown())
    for _ in range(1000):
        endpoints.mark_down(A)
    endpoints.mark_up(B)
    etcd_clock.advance(0.5)
    assert endpoints.candidates() == [B, A]
    endpoints.mark_down(B)
    assert endpoints.candidates() == [A, B]


def test_on_state_is_called_when_the_state_changes() -> None:
    """CONNECTED with the first response, SUSPENDED when every endpoint has failed."""
    states: list[ConnectionState] = []
    endpoints = EndpointSelector([A, B], on_state=states.append)
    assert endpoints.state is None
    endpoints.mark_up(A)
    endpoints.mark_up(A)
    endpoints.mark_down(A)
    assert states == [ConnectionState.CONNECTED]
    endpoints.mark_down(B)
    endpoints.mark_down(A)
    assert states == [ConnectionState.CONNECTED, ConnectionState.SUSPENDED]
    endpoints.mark_up(B)
    assert states[2:] == [ConnectionState.CONNECTED] == [endpoints.state]


def test_switches_and_states_are_logged_without_credentials(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level('INFO', 'getc')
    secret = Endpoint('http', 'a', 1, 'root', 'secret')
    endpoints = EndpointSelector([secret, B])
    endpoints.mark_up(secret)
    endpoints.mark_down(secret)
    endpoints.mark_down(B)
    gevent.sleep(0)
    assert 'http://a:1: no response; switching to http://b:1' in caplog.text
    assert 'SUSPENDED: no server answers: http://a:1: no response; http://b:1: no response' in caplog.text
    assert 'secret' not in caplog.text


def test_switch_selects_the_next_endpoint_that_is_not_in_cooldown(etcd_clock: VirtualTime) -> None:
    """The endpoint that was current has no cool-down, so a further switch can select it."""
    first, second, third = parse_endpoints('http://a,http://b,http://c')
    endpoints = EndpointSelector([first, second, third])
    endpoints.mark_up(first)
    endpoints.mark_down(second)
    endpoints.switch()
    assert endpoints.current == third
    endpoints.switch()
    assert endpoints.current == first
    alone = EndpointSelector([first])
    alone.switch()
    assert alone.current == first


def test_record_error_switches_also_when_all_endpoints_are_in_cooldown(etcd_clock: VirtualTime) -> None:
    endpoints = EndpointSelector([A, B], rng=LongestCooldown())
    endpoints.mark_down(B)
    etcd_clock.advance(0.1)
    endpoints.mark_down(A)
    assert endpoints.current == B
    endpoints.record_error(B, HTTPError(404, 'not etcd'))
    assert endpoints.current == A
    endpoints.record_error(A, HTTPError(404, 'not etcd'))
    assert endpoints.current == B


# -- a list that changes


D = Endpoint('http', 'd', 1)


class Finder(EndpointFinder):
    """Finds an endpoint when a call waits, and counts the outages."""

    def __init__(self, endpoints: EndpointSelector) -> None:
        self.endpoints = endpoints
        self.outages = 0

    def wait(self, deadline: Deadline) -> None:
        if deadline.has_passed():
            raise TimedOut('nothing was found')
        self.endpoints.replace([A])

    def on_all_down(self) -> None:
        self.outages += 1


def test_replace_keeps_the_objects_and_cooldowns_of_endpoints_that_stay(etcd_clock: VirtualTime) -> None:
    """Connections belong to the objects."""
    endpoints = EndpointSelector([A, B, C], rng=LongestCooldown())
    endpoints.mark_down(B)
    endpoints.replace([D, Endpoint('http', 'b', 1), Endpoint('http', 'a', 1)])
    assert list(endpoints) == [D, B, A] and len(endpoints) == 3
    assert [each is known for each, known in zip(endpoints, (D, B, A), strict=True)] == [True, True, True]
    assert (endpoints.current, endpoints.candidates()) == (A, [A, D, B])


def test_replace_selects_a_healthy_endpoint_when_the_current_one_is_removed() -> None:
    endpoints = EndpointSelector([A, B, C])
    endpoints.mark_down(B)
    endpoints.replace([B, C, D])
    assert (endpoints.current, endpoints.candidates()) == (C, [C, D, B])
    with pytest.raises(ValueError, match='no endpoint'):
        endpoints.replace([])


def test_reports_about_removed_endpoints_have_no_effect() -> None:
    """A call in flight may end after its endpoint was removed."""
    states: list[ConnectionState] = []
    endpoints = EndpointSelector([A, B, C], on_state=states.append)
    endpoints.replace([B, C])
    endpoints.mark_up(A)
    endpoints.mark_down(A)
    endpoints.mark_down(B)
    endpoints.record_error(A, TimedOut('late'))
    assert (endpoints.current, states, endpoints.state) == (C, [], None)
    endpoints.mark_down(C)
    endpoints.mark_up(A)
    assert states == [ConnectionState.SUSPENDED]


def test_subscriber_is_called_after_each_change_as_long_as_its_object_exists() -> None:
    class Subscriber:
        def __init__(self) -> None:
            self.lists: list[list[Endpoint]] = []

        def on_change(self) -> None:
            self.lists.append(list(endpoints))

    endpoints = EndpointSelector([A])
    kept, dropped = Subscriber(), Subscriber()
    lists = dropped.lists
    endpoints.subscribe(kept.on_change)
    endpoints.subscribe(dropped.on_change)
    endpoints.replace([A, B])
    del dropped
    endpoints.replace([B])
    assert (kept.lists, lists) == ([[A, B], [B]], [[A, B]])


def test_wait_returns_the_endpoints_that_the_finder_has_found() -> None:
    endpoints = EndpointSelector()
    assert (endpoints.candidates(), endpoints.current, len(endpoints)) == ([], None, 0)
    endpoints.switch()
    with pytest.raises(ValueError, match='no endpoint'):
        endpoints.wait(Deadline(None))
    endpoints.finder = Finder(endpoints)
    with pytest.raises(TimedOut):
        endpoints.wait(Deadline(0))
    assert (endpoints.wait(Deadline(None)), endpoints.current) == ([A], A)


def test_finder_is_called_with_each_failure_while_no_endpoint_responds() -> None:
    """One change of the state is not enough: servers may be found late in an outage."""
    endpoints = EndpointSelector([A, B])
    endpoints.finder = finder = Finder(endpoints)
    for endpoint, outages in ((A, 0), (B, 1), (A, 2)):
        endpoints.mark_down(endpoint)
        assert finder.outages == outages
    endpoints.mark_up(A)
    endpoints.mark_down(B)
    assert finder.outages == 2
