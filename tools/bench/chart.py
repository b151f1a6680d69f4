"""An SVG chart with a bar for the calls per second of each client."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tools.bench.cases import Case
from tools.bench.runner import Results
from tools.bench.stats import Figure

__all__ = ['draw_chart']

SHOWN = (
    *(f'{work}-{in_flight}-64' for in_flight in (1, 50, 200) for work in ('get', 'set')),
    *(f'tree-{work}-{in_flight}-64' for in_flight in (1, 50, 200) for work in ('get', 'set')),
    'replay',
    'live',
)
APIS = {'v3': 'etcd v3', 'v2': 'etcd v2'}
FILLS = {'ours': '#1f6feb', 'peer': '#9aa8b8', 'limit': '#e3e8ee'}

PANEL = 460
LABEL = 150
NUMBER = 56
GAP = 40
MARGIN = 28
BAR = 16
STEP = 22
TITLE = 30
CHAPTER = 46


def draw_chart(results: Results, cases: Sequence[Case]) -> str:
    """Return the chart of a run as SVG: a panel for each of the most important cases, two in a row."""
    shown = sorted((case for case in cases if case.name in SHOWN), key=lambda case: SHOWN.index(case.name))
    parts: list[str] = []
    top = MARGIN
    for api, heading in APIS.items():
        panels = [(case.title, figures) for case in shown if (figures := results.figures(case, api))]
        if not panels:
            continue
        parts.append(_text(MARGIN, top + 18, f'{heading}: calls or events per second', 18, weight=600))
        top += CHAPTER
        for first in range(0, len(panels), 2):
            row = panels[first : first + 2]
            for column, (title, figures) in enumerate(row):
                parts += _panel(MARGIN + column * (PANEL + GAP), top, title, figures)
            top += TITLE + STEP * max(len(figures) for _, figures in row) + 18
        top += 12
    width, height = 2 * MARGIN + 2 * PANEL + GAP, top + MARGIN
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *parts,
            '</svg>\n',
        ]
    )


def _panel(left: int, top: int, title: str, figures: Sequence[Figure]) -> list[str]:
    """Return the elements of one case: a bar for each client, on a scale of its own."""
    longest = max(figure.rate.median for figure in figures)
    parts = [_text(left, top + 14, title, 14, weight=600)]
    for number, figure in enumerate(figures):
        role, y = figure.client.role, top + TITLE + STEP * number
        length = (PANEL - LABEL - NUMBER) * figure.rate.median / longest
        weight = 600 if role == 'ours' else 400
        parts += [
            _text(left + LABEL - 8, y + 12, figure.client.label, 12, anchor='end', weight=weight),
            f'<rect x="{left + LABEL}" y="{y}" width="{max(length, 1):.1f}" height="{BAR}" rx="2" '
            f'fill="{FILLS[role]}"/>',
            _text(left + LABEL + length + 6, y + 12, f'{figure.rate.median:,.0f}', 12, weight=weight),
        ]
    return parts


def _text(x: float, y: float, text: str, size: int, *, anchor: str = 'start', weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="#1c2733">{escape(text)}</text>'
    )
