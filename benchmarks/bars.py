"""A bar chart as SVG, for documents that a command regenerates."""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape

_ROW, _LABEL, _BAR, _VALUE = 24, 360, 420, 80  # pixels


def bars(title: str, values: Mapping[str, float]) -> str:
    """One horizontal bar a value, longest at full width."""
    longest = max(values.values(), default=1.0) or 1.0
    height = (len(values) + 2) * _ROW
    width = _LABEL + _BAR + _VALUE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="{_ROW - 7}" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values.items(), 1):
        top = number * _ROW
        length = value / longest * _BAR
        lines += [
            f'<text x="{_LABEL - 8}" y="{top + 16}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABEL}" y="{top + 4}" width="{length:.1f}" height="{_ROW - 8}" '
            'fill="#4878a8"/>',
            f'<text x="{_LABEL + length + 6:.1f}" y="{top + 16}">{value:.2f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
