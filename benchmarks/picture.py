"""Draw the medians of `benchmarks.http` as an SVG, by hand: rates beside the bare application, and the ratio to it.

    python -m benchmarks.http --json FILE.json; python -m benchmarks.picture FILE.json OUT.svg

A row for each kind of request and number of connections. The light bar is the bare application, the dark one the
service; the number behind is their ratio. It has a ground of its own, so it is read on a dark page too, and no date:
the same file gives the same picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import click
import msgspec

from benchmarks.figures import shown
from benchmarks.http import BARE_OF, Report

WIDTH, MARGIN = 760, 24
LABEL, BARS = 150, 470
"""Columns: what it is, and its bars; the ratio stands at the right edge."""
ROW, BAR, TOP, BOTTOM = 44, 14, 84, 56
GROUND, FRAME, INK, FAINT = "#fbfaf7", "#d9d4c7", "#23211c", "#6b665a"
OURS, BARE = "#1f6f78", "#c3b99f"
TITLE = "Requests per second, beside an application that does nothing"


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of one kind at one number of connections: the service's, and the bare application's of the same size."""

    kind: str
    connections: int
    ours: float
    bare: float
    ratio: float | None


def bars_of(report: Report) -> list[Bar]:
    rates = {(row["kind"], row["connections"]): row["requests_per_s"] for row in report.medians}
    return [
        Bar(
            kind=row["kind"],
            connections=row["connections"],
            ours=row["requests_per_s"],
            bare=rates[BARE_OF[row["kind"]], row["connections"]],
            ratio=row["of_bare"],
        )
        for row in report.medians
        if row["kind"] in BARE_OF
    ]


def drawn(report: Report) -> str:
    """The picture, as the text of a file."""
    bars = bars_of(report)
    height = TOP + ROW * len(bars) + BOTTOM
    most = max((max(bar.ours, bar.bare) for bar in bars), default=1.0) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(TITLE)}</title>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="{GROUND}" stroke="{FRAME}"/>',
        _text(MARGIN, 34, TITLE, size=17, weight=600),
        *_legend(),
    ]
    for number, bar in enumerate(bars):
        parts += _row(bar, TOP + ROW * number, most)
    parts.append(_text(MARGIN, height - 22, machine_line(report), size=11, colour=FAINT))
    return "\n".join([*parts, "</svg>", ""])


def machine_line(report: Report) -> str:
    told = report.machine
    plan = report.plan
    python = str(told["python"]).split(" ", 1)[0]
    return f"{told['cpus']} CPUs, {told['platform']}, Python {python}; medians of {plan.rounds} x {plan.seconds:g} s"


def _legend() -> Iterator[str]:
    across = MARGIN
    for colour, name in ((OURS, "the service"), (BARE, "the bare application")):
        yield _box(across, 51, 10, 10, colour)
        yield _text(across + 16, 60, name, size=12, colour=FAINT)
        across += 110
    yield _text(WIDTH - MARGIN, 60, "of bare", size=12, colour=FAINT, anchor="end")


def _row(bar: Bar, y: float, most: float) -> Iterator[str]:
    yield _text(MARGIN, y + 14, bar.kind, weight=600)
    yield _text(MARGIN, y + 29, f"{bar.connections} connections", size=11, colour=FAINT)
    room = BARS - 70  # behind the longest bar there is its number
    for rate, colour, at in ((bar.ours, OURS, y + 2), (bar.bare, BARE, y + 4 + BAR)):
        length = room * rate / most
        yield _box(MARGIN + LABEL, at, max(length, 1), BAR, colour)
        yield _text(MARGIN + LABEL + length + 6, at + BAR - 3, shown(rate), size=11, colour=FAINT)
    yield _text(WIDTH - MARGIN, y + 23, shown(bar.ratio, 2), size=17, weight=600, anchor="end")


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="2" fill="{colour}"/>'


def _text(
    x: float, y: float, text: str, *, size: int = 13, weight: int = 400, colour: str = INK, anchor: str = "start"
) -> str:
    looks = f'font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:g}" {looks}>{escape(text)}</text>'


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def main(file: Path, out: Path) -> None:
    """Draw what `python -m benchmarks.http --json FILE` has measured, to OUT."""
    out.write_text(drawn(msgspec.json.decode(file.read_bytes(), type=Report)))


if __name__ == "__main__":
    main()
