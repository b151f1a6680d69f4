"""The number of Python calls and of switches of single operations stays within its bounds."""

from __future__ import annotations

import sys

import pytest

import getc
from getc.testing import EtcdServer
from tests.support.api_support import skip_unless_supported
from tools.bench.frames import count, measure

MAX_CALLS = {'set': 70, 'get': 65, 'on_change': 250}
MAX_MODULES = 8
MAX_SWITCHES = 3


def test_count_returns_the_calls_and_the_modules_of_the_deepest_stack() -> None:
    with getc.etcd('memory://') as etcd:
        etcd.set('/a', '1')
        frames = count(lambda: etcd.set('/a', '2'))
    assert frames.functions[0] == 'client:Client.set'
    assert frames.calls == len(frames.functions) > 5
    assert frames.modules[0] == 'getc.client'
    assert sys.getprofile() is None


def test_calls_and_switches_stay_within_their_bounds(etcd_server: EtcdServer) -> None:
    skip_unless_supported('v3', etcd_server.binary)
    if etcd_server.binary.version < (3, 5):
        pytest.skip('etcd 3.4 sends a response in more pieces, each of which is received by more calls')
    frames, switches = measure(etcd_server.url)
    assert {name: each.calls for name, each in frames.items() if each.calls > MAX_CALLS[name]} == {}
    assert max(len(frames[name].modules) for name in ('set', 'get')) <= MAX_MODULES
    assert switches <= MAX_SWITCHES
