"""The benchmark: its statistics, its reports, its worker processes, and a short run."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import getc
from getc.grpc.channel import Channel
from getc.testing import EtcdBinary, EtcdServer
from tests.support.api_support import skip_unless_supported
from tools.bench.__main__ import main
from tools.bench.cases import CASES, QUICK, select
from tools.bench.chart import draw_chart
from tools.bench.clients.h2load import METHODS, message_of
from tools.bench.environments import prepare
from tools.bench.registry import BenchClient, find_clients
from tools.bench.registry import select as select_clients
from tools.bench.report import Report, case_table
from tools.bench.runner import Memory, Results, Runner
from tools.bench.scale import scale_table
from tools.bench.server import PREFIX, BenchServer
from tools.bench.stats import Sample, Spread, compute_figures, compute_spread, ratios
from tools.bench.tables import Table
from tools.bench.worker_process import Unsupported, WorkerFailed, WorkerProcess

NOWHERE = 'http://127.0.0.1:1'

DICTIONARY = """
TITLE = 'a dictionary'
API = 'v3'
ROLE = 'peer'
REQUIRES = ()
MODES = ('threads', 'gevent')


class Client:
    store = {}

    def __init__(self, url):
        print('not an answer')

    def get(self, key):
        return self.store[key]

    def set(self, key, value):
        self.store[key] = value

    def events(self, prefix, index):
        return iter(range(index))

    def start_watch(self, key):
        raise NotImplementedError('it has no watches')

    def close(self):
        pass
"""


# In one mode, which requires nothing: no environment is made for it.
IN_THREADS = DICTIONARY.replace("'threads', 'gevent'", "'threads',")


def one(name: str, role: str = 'peer', api: str = 'v3') -> BenchClient:
    return BenchClient(Path(f'{name}.py'), name, api, role, (), 'threads')


def samples(*rates: float | None) -> list[Sample | None]:
    return [None if rate is None else Sample(rate, 1 / rate, 0.001, 0.009) for rate in rates]


OURS, SLOW, FAST, LIMIT = one('getc', 'ours'), one('slow'), one('fast'), one('h2load', 'limit')
GET, SET, MEMORY = (next(case for case in CASES if case.name == name) for name in ('get-50-64', 'set-50-64', 'memory'))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one client in two modes."""
    (tmp_path / 'dictionary.py').write_text(DICTIONARY)
    return tmp_path


@pytest.fixture
def results() -> Results:
    found = Results()
    found.samples[GET] = {
        OURS: samples(300, 330, 240),
        SLOW: samples(50, None, 50),
        FAST: samples(100, 110, 120),
        LIMIT: [Sample(600), Sample(600), Sample(600)],
    }
    found.memory[OURS] = [Memory(OURS, 30 * 2**20, 2048.0), Memory(OURS, 32 * 2**20, 1024.0)]
    found.left_out[one('lost')] = 'it has *no* |wheel|'
    found.gaps[SET, SLOW] = 'TimeoutError'
    found.versions[OURS] = {'python': '3.11.1', 'packages': {'getc': '1.2', 'gevent': '25.5'}}
    return found


@pytest.fixture
def report(results: Results) -> Report:
    machine = {'processor': 'A & B', 'cores': '2', 'memory': '8 GiB', 'system': 'Linux', 'python': '3.11.1'}
    return Report(results, [GET, SET], '2025-01-31', machine, '3.5.1', rounds=3, seconds=0.5)


class TestFigures:
    def test_spread_is_the_median_and_the_quartiles(self) -> None:
        assert compute_spread([5, 1, None, 3, 2, 4]) == Spread(3, 2, 4)
        assert compute_spread([7]) == Spread(7, 7, 7)
        assert compute_spread([None]) is None

    def test_noise_is_half_the_relative_interquartile_range(self) -> None:
        assert Spread(100, 90, 120).noise == pytest.approx(0.15)
        assert Spread(0, 0, 0).noise == 0

    def test_ratios_are_computed_within_a_round(self) -> None:
        """A round in which the machine is slow affects both clients."""
        assert ratios([300, 30, None, 5], [100, 10, 1, None]) == [3, 3, None, None]

    def test_clients_are_compared_with_the_fastest_peer_and_the_limit(self, results: Results) -> None:
        figures = {figure.client: figure for figure in results.figures(GET, 'v3')}
        assert figures[OURS].to_peer == Spread(3, 2.5, 3)
        assert figures[OURS].to_limit == Spread(0.5, 0.45, 0.525)
        assert figures[FAST].to_peer == Spread(1, 1, 1)
        assert figures[SLOW].to_peer == compute_spread([50 / 100, 50 / 120])
        assert figures[LIMIT].to_peer is None and figures[LIMIT].to_limit is None
        assert figures[OURS].cpu == compute_spread([1 / 300, 1 / 330, 1 / 240]) and figures[LIMIT].cpu is None

    def test_the_fastest_comes_first_and_other_apis_do_not_come(self, results: Results) -> None:
        assert [figure.client for figure in results.figures(GET, 'v3')] == [LIMIT, OURS, FAST, SLOW]
        assert results.figures(GET, 'v2') == []

    def test_there_is_no_ratio_without_a_peer(self) -> None:
        (figure,) = compute_figures({OURS: samples(1, 2, 3)})
        assert figure.rate == Spread(2, 1.5, 2.5) and figure.to_peer is None and figure.to_limit is None

    def test_who_never_succeeded_has_no_figure(self) -> None:
        assert [figure.client for figure in compute_figures({OURS: samples(1), SLOW: [None]})] == [OURS]


class TestTelling:
    def test_a_table_is_aligned_in_a_terminal(self) -> None:
        table = Table(('client', 'per second'), [('a', '1,000'), ('long', '5')])
        assert table.as_text('> ') == ['> a     1,000', '> long      5']

    def test_a_table_is_written_in_markdown_and_in_rst(self) -> None:
        table = Table(('client', 'per second'), [('a', '1')])
        assert table.as_markdown() == ['| client | per second |', '| --- | ---: |', '| a | 1 |']
        assert table.as_rst()[3:] == ['   * - client', '     - per second', '   * - a', '     - 1']

    def test_a_row_has_rate_noise_and_ratios(self, results: Results) -> None:
        rows = [tuple(row) for row in case_table(results.figures(GET, 'v3')).rows]
        assert ('getc', '300', '± 8%', '3.33 ms', '1 ms', '9 ms', '3.00 (2.50-3.00)', '50%') in rows
        assert ('h2load', '600', '± 0%', '', '', '', '', '') in rows

    def test_the_page_has_the_machine_the_tables_and_what_is_missing(self, report: Report) -> None:
        page = report.as_markdown('results.svg')
        assert 'Measured on 2025-01-31 with etcd 3.5.1' in page and 'A & B, 2 cores, 8 GiB' in page
        assert '## v3: get, 50 in flight, 64 B' in page
        assert '| fast | 110 | ± 5% | 9.09 ms | 1 ms | 9 ms | 1.00 (1.00-1.00) | 18% |' in page
        assert '| getc | v3 | 31 MiB | 1.5 KiB |' in page
        assert '- lost was not measured: it has *no* |wheel|' in page
        assert '- slow, set, 50 in flight, 64 B: TimeoutError' in page
        assert '- getc: getc 1.2, gevent 25.5' in page
        assert '![Calls per second of each client](results.svg)' in page

    def test_the_page_in_rst_is_one_that_docutils_takes(self, report: Report) -> None:
        core = pytest.importorskip('docutils.core')
        text = report.as_rst('results.svg')
        html = core.publish_string(text, writer='html5', settings_overrides={'halt_level': 2}).decode()
        assert 'it has *no* |wheel|' in html and '2.50-3.00' in html

    def test_json_has_the_rate_of_every_round(self, report: Report) -> None:
        document = json.loads(report.as_json())
        case = document['cases']['get-50-64']
        assert case['getc']['rates'] == [300, 330, 240] and case['slow']['rates'] == [50, None, 50]
        assert case['getc']['to_peer']['median'] == 3
        assert document['machine']['cores'] == '2' and document['etcd'] == '3.5.1'
        assert document['left_out'] == {'lost': 'it has *no* |wheel|'}

    def test_chart_has_bars_proportional_to_the_rates(self, results: Results) -> None:
        root = ElementTree.fromstring(draw_chart(results, [GET, MEMORY]))
        shape = '{http://www.w3.org/2000/svg}'
        bars = [float(bar.attrib['width']) for bar in root.findall(f'{shape}rect')][1:]  # the first is the paper
        assert bars == pytest.approx([bars[0], bars[0] / 2, bars[0] * 110 / 600, bars[0] / 12], rel=0.01)
        assert {'getc', '300'} <= {text.text for text in root.findall(f'{shape}text')}


class TestSelection:
    def test_cases_are_selected_by_patterns_in_their_own_order(self) -> None:
        assert [case.name for case in select(['set-1-*', 'get-1-64'])] == ['get-1-64', 'set-1-64', 'set-1-4096']
        assert select(['*']) == CASES
        assert len(select(QUICK)) == len(QUICK)

    def test_unknown_case_is_rejected(self) -> None:
        with pytest.raises(ValueError, match="no case matches 'put'"):
            select(['get-1-64', 'put'])

    def test_client_is_read_without_being_imported(self, folder: Path) -> None:
        (folder / 'far.py').write_text('import nowhere\n' + IN_THREADS)
        threads, gevent, far = find_clients(folder)
        assert (threads.name, threads.label) == ('dictionary/threads', 'a dictionary, threads')
        assert gevent.requires == ('gevent',)  # the mode needs it
        assert (far.name, far.label, far.requires) == ('far', 'a dictionary', ())

    def test_file_without_a_header_is_rejected(self, folder: Path) -> None:
        (folder / 'stray.py').write_text("TITLE = 'stray'\n")
        with pytest.raises(ValueError, match=r'stray\.py is not a client of the benchmark: API, ROLE, REQUIRES, MODES'):
            find_clients(folder)

    def test_clients_are_selected_by_file_or_mode(self, folder: Path) -> None:
        known = find_clients(folder)
        assert select_clients(['dictionary'], known) == known
        assert [one.mode for one in select_clients(['dictionary/gevent'], known)] == ['gevent']
        with pytest.raises(ValueError, match="unknown client 'etcd'; the clients are dictionary"):
            select_clients(['etcd'], known)

    def test_getc_and_every_documented_peer_exist(self) -> None:
        there = {(one.file_name, one.role) for one in find_clients()}
        peers = {'aetcd', 'etcd3gw', 'etcd_client_py', 'etcd_sdk_python', 'go_clientv3', 'python_etcd'}
        assert {(name, 'peer') for name in peers} <= there
        assert {('getc_v2', 'ours'), ('getc_v3', 'ours'), ('h2load', 'limit')} <= there

    def test_client_without_requirements_runs_in_the_current_environment(self) -> None:
        assert prepare(OURS).command[0] == sys.executable

    def test_list_shows_all_cases_and_clients(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(['--list']) == 0
        shown = capsys.readouterr().out
        assert all(case.name in shown for case in CASES)
        assert all(one.name in shown for one in find_clients())

    def test_status_is_2_when_a_client_is_unknown(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(['--clients', 'unknown']) == 2
        assert "unknown client 'unknown'" in capsys.readouterr().err


class TestFairness:
    def test_limit_sends_the_same_bytes_as_getc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: dict[str, bytes] = {}
        monkeypatch.setattr(Channel, 'unary', lambda _, path, message, *_args, **_options: sent.update({path: message}))
        with getc.etcd(NOWHERE, api='v3') as client:
            for call in (
                lambda: client.get('/bench/4/0'),
                lambda: client.set('/bench/4/0', 'xxxx'),
                lambda: client.v3.kv.range(b'/bench/4/0'),
                lambda: client.v3.kv.put(b'/bench/4/0', b'xxxx'),
            ):
                with pytest.raises(TypeError):  # nothing was answered
                    call()
                for path, message in sent.items():
                    works = [work for work, method in METHODS.items() if path.endswith(method)]
                    assert works and all(message_of(work, '/bench/4/0', 'xxxx') == message for work in works)
                sent.clear()

    def test_limit_is_measured_where_a_call_is_one_request(self) -> None:
        locks = select(['lock-*'])
        assert [case.in_flight for case in locks] == [1, 50]
        assert all(case.is_call and case.is_write and not case.has_limit for case in locks)
        assert all(case.has_limit for case in CASES if case.work in METHODS)

    def test_tree_cases_have_distinct_names_and_are_calls(self) -> None:
        cases = select(['tree-*'])
        assert [case.in_flight for case in cases] == [1, 1, 50, 50, 200, 200]
        assert all(case.is_call and case.apis == ('v3',) for case in cases)
        assert {case.work for case in cases if case.is_write} == {'tree-set'}


class TestWorkerProcess:
    @pytest.mark.parametrize('mode', [0, 1])
    def test_process_answers_when_the_client_prints_to_stdout(self, folder: Path, mode: int) -> None:
        with WorkerProcess(prepare(find_clients(folder)[mode]), NOWHERE) as process:
            for work in ('get', 'set', 'tree-get', 'tree-set'):
                request = {'work': work, 'in_flight': 3, 'size': 8, 'seconds': 0.05}
                answer = process.run(request, timeout=60)
                assert answer['operations'] >= 3 and answer['seconds'] >= 0.05 and answer['cpu'] > 0
                assert 0 < answer['p50'] <= answer['p99'] <= answer['seconds']

    def test_events_are_counted(self, folder: Path) -> None:
        with WorkerProcess(prepare(find_clients(folder)[0]), NOWHERE) as process:
            request = {'work': 'replay', 'prefix': '/', 'index': 10, 'count': 7, 'times': 3}
            assert process.run(request, timeout=60)['operations'] == 21
            with pytest.raises(WorkerFailed, match='the watch ended after 4 of 7 events'):
                process.run(request | {'index': 4, 'times': 1}, timeout=60)

    def test_tree_methods_are_used_when_the_client_has_them(self, folder: Path) -> None:
        """Other clients run their plain methods."""
        text = DICTIONARY + "\n    def tree_get(self, key):\n        return 'its own'\n"
        (folder / 'dictionary.py').write_text(text)
        with WorkerProcess(prepare(find_clients(folder)[0]), NOWHERE) as process:
            with pytest.raises(WorkerFailed, match="got 'its own'"):
                process.run({'work': 'tree-get', 'in_flight': 1, 'size': 64, 'seconds': 0.01}, timeout=60)

    def test_locks_are_counted_when_the_client_has_them(self, folder: Path) -> None:
        request = {'work': 'lock', 'in_flight': 3, 'seconds': 0.01}
        with WorkerProcess(prepare(find_clients(folder)[0]), NOWHERE) as process:
            with pytest.raises(Unsupported, match='it has no locks'):
                process.run(request, timeout=60)
        text = (
            DICTIONARY + "\n    def lock(self, name):\n        assert name in [f'/bench/lock/{n}' for n in range(3)]\n"
        )
        (folder / 'dictionary.py').write_text(text)
        with WorkerProcess(prepare(find_clients(folder)[0]), NOWHERE) as process:
            assert process.run(request, timeout=60)['operations'] >= 3

    def test_unsupported_work_is_distinguished_from_failed_work(self, folder: Path) -> None:
        with WorkerProcess(prepare(find_clients(folder)[0]), NOWHERE) as process:
            with pytest.raises(Unsupported, match='it has no watches'):
                process.run({'work': 'memory', 'count': 1}, timeout=60)
            with pytest.raises(WorkerFailed, match="KeyError: 'nap'"):
                process.run({'work': 'nap'}, timeout=60)

    def test_work_fails_when_the_client_returns_a_wrong_value(self, folder: Path) -> None:
        text = DICTIONARY.replace('return self.store[key]', "return 'short'")
        (folder / 'dictionary.py').write_text(text)
        with WorkerProcess(prepare(find_clients(folder)[0]), NOWHERE) as process:
            with pytest.raises(WorkerFailed, match="ValueError: got 'short' where a value of size 64 was set"):
                process.run({'work': 'get', 'in_flight': 1, 'size': 64, 'seconds': 0.01}, timeout=60)

    def test_start_fails_with_the_error_of_the_client(self, folder: Path) -> None:
        (folder / 'dictionary.py').write_text('import nowhere_to_be_found\n' + DICTIONARY)
        with pytest.raises(WorkerFailed, match="No module named 'nowhere_to_be_found'"):
            WorkerProcess(prepare(find_clients(folder)[0]), NOWHERE)

    def test_request_fails_when_there_is_no_answer_in_time(self, folder: Path) -> None:
        text = DICTIONARY.replace('return iter(range(index))', 'import time; time.sleep(600)')
        (folder / 'dictionary.py').write_text(text)
        with WorkerProcess(prepare(find_clients(folder)[0]), NOWHERE) as process:
            with pytest.raises(WorkerFailed, match=r'no answer within 0\.2 s'):
                process.run({'work': 'live', 'prefix': '/', 'index': 1, 'count': 1, 'times': 1}, timeout=0.2)

    def test_close_ends_the_process(self, folder: Path) -> None:
        with WorkerProcess(prepare(find_clients(folder)[0]), NOWHERE) as process:
            pid = process._process.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.fixture(scope='module')
def etcd(etcd_binary: EtcdBinary) -> Iterator[EtcdServer]:
    with EtcdServer(binary=etcd_binary.path) as server:
        yield server


class TestWithEtcd:
    @pytest.mark.parametrize('api', ['v2', 'v3'])
    def test_history_starts_at_the_next_index(self, etcd: EtcdServer, api: str) -> None:
        skip_unless_supported(api, etcd.binary)
        server = BenchServer(etcd.url)
        first = server.next_index(api)
        server.write(api, 8)
        assert server.next_index(api) == first + 8

    def test_v3_history_has_many_events_in_a_revision(self, etcd: EtcdServer) -> None:
        server = BenchServer(etcd.url)
        first = server.next_index('v3')
        server.write_history('v3', 400)
        assert server.next_index('v3') == first + 4

    def test_compact_may_be_repeated(self, etcd: EtcdServer) -> None:
        server = BenchServer(etcd.url)
        server.write('v3', 4)
        for _ in range(2):  # when there is nothing to forget, too
            server.compact()
        assert server.next_index('v3') > 4

    def test_failed_client_is_excluded_from_the_case_and_the_others_continue(
        self, etcd: EtcdServer, folder: Path
    ) -> None:
        (folder / 'dictionary.py').write_text(IN_THREADS)
        (folder / 'other.py').write_text(IN_THREADS)
        (folder / 'broken.py').write_text(IN_THREADS.replace('self.store[key] = value', "raise OSError('broken')"))
        broken, *others = find_clients(folder)
        assert broken.file_name == 'broken' and len(others) == 2
        progress: list[str] = []
        with Runner(
            etcd.url, [broken, *others], rounds=2, seconds=0.02, rng=random.Random(1), show_progress=progress.append
        ) as runner:
            runner.measure(SET)
        assert runner.results.gaps == {(SET, broken): 'OSError: broken'}
        assert {figure.client for figure in runner.results.figures(SET, 'v3')} == set(others)
        assert any('round 2 of 2' in line for line in progress)

    def test_client_is_left_out_when_it_does_not_start(self, etcd: EtcdServer, folder: Path) -> None:
        (folder / 'dictionary.py').write_text(IN_THREADS)
        (folder / 'absent.py').write_text('import absent_library\n' + IN_THREADS)
        with Runner(
            etcd.url,
            find_clients(folder),
            rounds=1,
            seconds=0.01,
            rng=random.Random(1),
            show_progress=lambda text: None,
        ) as runner:
            left_out = {one.name: reason for one, reason in runner.results.left_out.items()}
        assert set(left_out) == {'absent'}
        assert "No module named 'absent_library'" in left_out['absent']

    def test_watch_of_getc_replays_events(self, etcd: EtcdServer) -> None:
        skip_unless_supported('v2', etcd.binary)
        (getc,) = select_clients(['getc_v2'], find_clients())
        server = BenchServer(etcd.url)
        index = server.next_index('v2')
        server.write_history('v2', 20)
        with WorkerProcess(prepare(getc), etcd.url) as process:
            request = {'work': 'replay', 'prefix': PREFIX, 'index': index, 'count': 20, 'times': 2}
            assert process.run(request, timeout=60)['operations'] == 40


class TestScale:
    """Cases of scale, with few daemons."""

    @pytest.mark.slow
    @pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='memory is measured on Linux')
    @pytest.mark.parametrize('work', ['keepers', 'watchers', 'directory'])
    def test_getc_returns_all_figures_of_the_table(self, etcd: EtcdServer, work: str) -> None:
        (getc,) = select_clients(['getc_v3'], find_clients())
        with WorkerProcess(prepare(getc), etcd.url) as process:
            request = {'work': work, 'count': 30, 'seconds': 0.1, 'calls': 100}
            answer = process.run(request, timeout=60)
        (case,) = select([work])
        table = scale_table(case, {getc: {30: answer, 3000: answer}})
        assert [row[:2] for row in table.rows] == [(getc.label, '30'), (getc.label, '3,000')]
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert all(table.rows[1])
        if work == 'keepers':
            assert answer['requests'] < 100

    def test_rows_are_sorted_by_count_and_have_the_client(self) -> None:
        (case,) = select(['keepers'])
        figures = dict.fromkeys(('register', 'each', 'requests', 'cpu_share', 'greenlets', 'close'), 1.0)
        table = scale_table(case, {OURS: {100: figures, 1_000: figures}, FAST: {100: figures}})
        assert [row[:2] for row in table.rows] == [('getc', '100'), ('fast', '100'), ('getc', '1,000')]
        assert table.columns[:2] == ('client', 'count')

    def test_other_clients_are_not_measured(self, folder: Path) -> None:
        (case,) = select(['keepers'])
        assert list(case.requests()) == [100, 1_000, 10_000]
        (folder / 'dictionary.py').write_text(IN_THREADS)  # it needs no environment of its own
        clients = find_clients(folder)
        rng = random.Random()
        with Runner(NOWHERE, clients, rounds=1, seconds=0.1, rng=rng, show_progress=lambda _: None) as runner:
            runner.measure(case)
        assert (runner.results.scale, runner.results.gaps) == ({}, {})


@pytest.mark.slow
def test_short_run_prints_results_and_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    has_memory = Path('/proc/self/statm').exists()  # Linux
    cases = 'get-1-64,set-50-64,connect' + ',memory' * has_memory
    command = ['--clients', 'getc_v2', '--cases', cases, '--rounds', '2']
    assert main([*command, '--seconds', '0.1', '--output', str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert 'get, 1 in flight, 64 B' in shown and 'getc (v2)' in shown
    document = json.loads((tmp_path / 'results.json').read_text('utf-8'))
    for name in ('get-1-64', 'set-50-64', 'connect'):
        rates = document['cases'][name]['getc_v2']['rates']
        assert len(rates) == 2 and min(rates) > 0
    weighed = document['memory'].get('getc_v2', [])
    assert len(weighed) == 2 * has_memory
    assert all(one['base'] > 2**20 and one['each'] > 0 for one in weighed)
    assert document['clients']['getc_v2']['packages']['getc']
    assert document['gaps'] == [] and document['left_out'] == {}
    assert {path.name for path in tmp_path.iterdir()} == {'results.json', 'results.md', 'results.rst', 'results.svg'}
