"""The soak's page: a plot of each process's memory, as one HTML file with its SVG inside."""

from collections.abc import Sequence
from html import escape
from typing import Protocol

from benchmarks.process_memory import Memory

WIDTH, HEIGHT = 420, 60
MIB = 1024 * 1024
MIN_SPAN = 0.02
"""Of its median, which a plot spans at least: less is no growth and should not look like it."""

STYLE = """
body { font: 14px system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; color: #1b1f24; background: #fff }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: middle }
td.number { text-align: right; font-variant-numeric: tabular-nums } .over { color: #b3261e; font-weight: 600 }
path { fill: none; stroke-width: 1.5 } .rss { stroke: #1f6feb } .pss { stroke: #8b949e } rect { fill: #f0f2f4 }
@media (prefers-color-scheme: dark) {
  body { background: #14171a; color: #e6e8ea } rect { fill: #22272c } .over { color: #ff8a80 }
}
"""


class Process(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    @property
    def times_s(self) -> list[float]: ...

    @property
    def memory(self) -> list[Memory]: ...

    def growth(self, quantity: str, since_s: float) -> float | None: ...


def render_page(
    whole: Sequence[Process], brief: Sequence[Process], *, warm_s: float, minutes: float, rate: float
) -> str:
    """`brief`: those that did not live all the time; they have no slope."""
    end_s = max(one.times_s[-1] for one in (*whole, *brief))
    rows = "\n".join(_row(one, warm_s, end_s, has_slope=one in whole) for one in (*whole, *brief))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>teal: soak</title><style>{STYLE}</style>
<h1>Memory of each process</h1>
<p>{minutes:g} minutes at {rate:g} requests/s. Blue: RSS; grey: PSS, each over its own range, which spans at least
{MIN_SPAN:.0%} of the median. Shaded: warm-up. Slope: Theil–Sen of RSS after it, in % of the median per 10 minutes.</p>
<table><tr><th>process</th><th>MiB, first to last</th><th>slope</th><th></th></tr>
{rows}
</table></html>
"""


def _row(one: Process, warm_s: float, end_s: float, *, has_slope: bool) -> str:
    growth = one.growth("rss", warm_s) if has_slope else None
    told = "not all the time" if growth is None else f"{growth:+.2f}"
    style = "number over" if growth is not None and growth > 1 else "number"
    first, last = (one.memory[index].rss / MIB for index in (0, -1))
    plot = _plot(one, warm_s, end_s)
    return (
        f'<tr><td>{escape(one.name)}</td><td class="number">{first:.1f} → {last:.1f}</td>'
        f'<td class="{style}">{told}</td><td>{plot}</td></tr>'
    )


def _plot(one: Process, warm_s: float, end_s: float) -> str:
    lines = "".join(
        f'<path class="{quantity}" d="{_path(one.times_s, [getattr(of, quantity) for of in one.memory], end_s)}"/>'
        for quantity in ("pss", "rss")
    )
    shade = f'<rect width="{WIDTH * warm_s / end_s:.1f}" height="{HEIGHT}"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="memory of {escape(one.name)}">{shade}{lines}</svg>'
    )


def _path(times_s: Sequence[float], values: Sequence[int], end_s: float) -> str:
    middle = sorted(values)[len(values) // 2]
    low, high = min(values), max(values)
    missing = max(0.0, MIN_SPAN * middle - (high - low)) / 2
    low_shown, span = low - missing, max(high - low + 2 * missing, 1.0)
    points = (
        f"{WIDTH * at / end_s:.1f},{(HEIGHT - 4) * (1 - (value - low_shown) / span) + 2:.1f}"
        for at, value in zip(times_s, values, strict=True)
    )
    return "M" + " L".join(points)
