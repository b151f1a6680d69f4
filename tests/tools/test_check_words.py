"""Tests of the word check."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_words import WORDS, hits, main


@pytest.mark.parametrize(
    ('text', 'word'),
    [
        ('Whoever waits is woken up.', 'Whoever'),
        ('Calls whomever it may concern.', 'whomever'),
        ('somebody else wrote it', 'somebody'),
        ('# Nobody listens there.', 'Nobody'),
        ('everybody who waits', 'everybody'),
        ('for the client himself', 'himself'),
        ('the stream is opened anew', 'anew'),
        ('It waits for ever.', 'for ever'),
        ('def tell(self) -> None:', 'tell'),
        ('The listener is told.', 'told'),
        ('A lease tells which node it is.', 'tells'),
        ("raise ValueError(f'{url} is no URL')", 'is no URL'),
        ('An answer that is no JSON.', 'is no JSON'),
        ('The rest are no leases.', 'are no leases'),
        ('MOST_BYTES = 10', 'MOST_BYTES'),
        ('if size < _LEAST_SIZE:', '_LEAST_SIZE'),
    ],
)
def test_banned_word_is_found(text: str, word: str) -> None:
    assert [(line, found) for line, found, _ in hits(f'first line\n{text}\n')] == [(2, word)]


@pytest.mark.parametrize(
    'text',
    [
        'There is no leader, and there was no response.',
        'As long as there still is no limit, it waits.',
        'The node is no longer kept, and the index is no older than that.',
        'The second call is no faster than the first.',
        'position = file.tell()',
        'It works forever and ever for every user.',
        'A teller and a storyteller are other words, and so are retell, untold and canewood.',
        'At most 10, at least 5: ALMOST_DONE, MOSTLY, UTMOST_CARE.',
        'etcd runs as the user ``nobody``, and has ``MOST_RECENT``.',
        'its answer: no key',
    ],
)
def test_plain_english_is_accepted(text: str) -> None:
    assert list(hits(text)) == []


def test_word_across_a_line_break_counts_to_its_first_line() -> None:
    assert [(line, found) for line, found, _ in hits('a\nthat is no\nJSON\n')] == [(2, 'is no JSON')]
    assert list(hits('there\nis no\nkey')) == []


def test_each_word_has_a_suggestion() -> None:
    assert all(WORDS.values())


def test_main_prints_each_hit_and_returns_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'a.py').write_text('x = 1\n# nobody\n')
    (tmp_path / 'deep').mkdir()
    (tmp_path / 'deep' / 'b.rst').write_text('told\n')
    (tmp_path / 'c.txt').write_text('nobody\n')
    (tmp_path / '_build').mkdir()
    (tmp_path / '_build' / 'd.rst').write_text('nobody\n')
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(' -> ')[0] for line in lines] == [f'{tmp_path}/a.py:2: nobody', f'{tmp_path}/deep/b.rst:1: told']
    assert all(line.split(' -> ')[1] for line in lines)


def test_main_returns_0_when_nothing_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / 'a.rst'
    file.write_text('There is no limit.\n')
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == ''
