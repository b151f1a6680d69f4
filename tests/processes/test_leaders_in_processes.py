"""Leaders in processes of their own that are stopped by SIGSTOP, or killed: their terms do not overlap in real time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import getc
from getc.testing import EtcdServer, wait_until
from tests.support.programs import Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEY = '/leaders/match'
TTL = 2
ROUNDS = 5

CANDIDATE = """
import sys, time
import gevent, getc

url, api, ttl, path = sys.argv[1:]
output = open(path, 'a', buffering=1)

def lead(term):
    while True:
        before = time.monotonic()  # the token is valid then, or later
        output.write(f'{before} {term.ensure()}\\n')
        gevent.sleep(0.005)

loop = getc.etcd(url, api=api).run_while_leader('/leaders/match', lead, path, ttl=int(ttl), pause=0.05)
loop.join()
"""


class Candidates:
    """Processes that are candidates; each writes to a file when it has led, and with which token."""

    def __init__(self, url: str, api: str, folder: Path) -> None:
        self.url = url
        self.api = api
        self._folder = folder
        self.running: dict[str, Program] = {}

    def start(self) -> None:
        path = str(self._folder / f'candidate-{len(list(self._folder.iterdir()))}')
        Path(path).touch()
        self.running[path] = Program('-c', CANDIDATE, self.url, self.api, str(TTL), path)

    def terms(self) -> list[tuple[int, float, float]]:
        """Return the token, the first and the last time of each term."""
        times: dict[int, list[float]] = {}
        for path in self._folder.iterdir():
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith('\n') and len(line.split()) == 2:
                    time, token = line.split()
                    times.setdefault(int(token), []).append(float(time))
        return [(token, min(each), max(each)) for token, each in sorted(times.items())]


@pytest.fixture(params=['v3', 'v2'])
def candidates(request: pytest.FixtureRequest, etcd_server: EtcdServer, tmp_path: Path) -> Iterator[Candidates]:
    made = Candidates(etcd_server.url, request.param, tmp_path)
    yield made
    for program in made.running.values():
        program.kill()


def strike_leader(client: getc.Client, leader: getc.Leader, candidates: Candidates, fault: str) -> None:
    """Stop or kill the process that leads, wait until another one leads, and let the first one take part again."""
    wait_until(lambda: len(client.lock(KEY).contenders()) == 2, timeout=60)
    struck = leader.wait(lambda leader: leader.value, timeout=60)
    assert struck is not None
    wait_until(lambda: leader.token in [token for token, _, _ in candidates.terms()], timeout=60)
    before = leader.token
    if fault == 'kill':
        candidates.running.pop(struck).kill()
        candidates.start()
    else:
        candidates.running[struck].send(signal.SIGSTOP)
    leader.wait(lambda leader: leader.value and leader.token != before, timeout=60)
    wait_until(lambda: leader.token in [token for token, _, _ in candidates.terms()], timeout=60)
    if fault == 'stop':
        candidates.running[struck].send(signal.SIGCONT)


@pytest.mark.parametrize('fault', ['stop', 'kill'])
def test_terms_of_processes_are_disjoint(candidates: Candidates, fault: str) -> None:
    with getc.etcd(candidates.url, api=candidates.api) as client:
        leader = client.leader(KEY)
        for _ in range(2):
            candidates.start()
        for _ in range(ROUNDS):
            strike_leader(client, leader, candidates, fault)
    terms = candidates.terms()
    assert len(terms) > ROUNDS
    for (_, _, ended), (_, begins, _) in pairwise(terms):
        assert ended < begins
