"""Whether anything grows: half an hour of a real teal under mixed load, with the memory of each of its processes.

`teal up`'s own parts, all of them, with everything on: token, contract, payload log, hashes of personal columns,
monitoring, alerts, shadow, both slots with traffic. Requests of every kind start by the clock (`mixed_load`), some of
them to be refused; the canary's share changes now and then. Each few seconds RSS, PSS, dirty pages, descriptors and
threads of every process of teal and of Ray are read from /proc.

The first third is warm-up. Of the rest each process's slope is Theil-Sen's: the median of the slopes of all pairs of
points, in percent of its median per 10 minutes. Processes that did not live all that time are listed apart. At the end
every prediction that was answered is looked for in the payload log.

    python benchmarks/soak.py [--quick] [--minutes 30] [--rate 100] [--json FILE] [--plot FILE.html]
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.live import Live  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.mixed_load import MixedLoad, Tally  # noqa: E402
from benchmarks.process_memory import Memory, growth_percent, platform_processes, read_memory  # noqa: E402
from benchmarks.result import Figure, report  # noqa: E402
from benchmarks.soak_page import render_page  # noqa: E402
from runtime.config.monitoring import MonitoringConfig  # noqa: E402
from runtime.config.schema import Config  # noqa: E402
from runtime.config.serving import EdgeConfig, ServingConfig  # noqa: E402
from runtime.core.errors import TealError  # noqa: E402
from runtime.core.files import write_atomic  # noqa: E402
from tests.serving_example import example_config, example_model_version  # noqa: E402

ENDPOINT = "example"
SHARES = (1000, 5000, 2500, 0)
MAX_GROWTH_PERCENT = 1.0
"""In 10 minutes."""
MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One process from its first look to its last. `memory` and `times_s`, since the load began, are of one length."""

    name: str
    pid: int
    start_ticks: int
    times_s: list[float] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)

    def growth(self, quantity: str, since_s: float) -> float | None:
        """Percent in 10 minutes; None if it is too young to tell."""
        found = [(at, getattr(of, quantity)) for at, of in zip(self.times_s, self.memory, strict=True) if at >= since_s]
        if len(found) < 3:
            return None
        return growth_percent([at for at, _ in found], [value for _, value in found])


class Watch:
    """The series of all processes that were ever seen."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.series: dict[tuple[int, int], Series] = {}
        self.num_looks = 0

    def look(self, at_s: float) -> None:
        for name, process in platform_processes(self._config).items():
            memory = read_memory(process.pid)
            if memory is None:
                continue
            key = process.pid, process.start_ticks
            # The title that Ray gives an actor's process comes after its start.
            known = self.series.get(key)
            if known is None or (known.name != name and known.name.startswith("ray worker")):
                earlier = known or Series(name=name, pid=process.pid, start_ticks=process.start_ticks)
                self.series[key] = known = replace(earlier, name=name)
            known.times_s.append(at_s)
            known.memory.append(memory)
        self.num_looks += 1

    def lasting(self, since_s: float, until_s: float) -> tuple[list[Series], list[Series]]:
        """Those that lived from one time to the other, and those that did not. Largest first."""
        ordered = sorted(self.series.values(), key=lambda one: -one.memory[-1].rss)
        whole = [one for one in ordered if one.times_s[0] <= since_s and one.times_s[-1] >= until_s]
        return whole, [one for one in ordered if one not in whole]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="three minutes: for a look, not for a record")
    parser.add_argument("--minutes", type=float, help="how long the load lasts; by default 30")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--json", type=Path, help="write the document here")
    parser.add_argument("--plot", type=Path, help="write an HTML page with a plot of each process here")
    arguments = parser.parse_args()
    minutes = arguments.minutes or (3.0 if arguments.quick else 30.0)
    try:
        with tempfile.TemporaryDirectory(prefix="tealsoak-") as directory:
            config = soak_config(Path(directory))
            with running(config) as token:
                watch, tally, warm_s = soak(config, token, duration_s=60 * minutes, rate_per_s=arguments.rate)
            lost = lost_rows(config, tally)
    except TealError as error:
        print(f"benchmarks/soak.py: {error}", file=sys.stderr)
        return error.exit_code
    whole, brief = watch.lasting(warm_s, max(one.times_s[-1] for one in watch.series.values()))
    if arguments.plot is not None:
        write_atomic(arguments.plot, render_page(whole, brief, warm_s=warm_s, minutes=minutes, rate=arguments.rate))
    raw = describe(whole, brief, tally, minutes=minutes, rate_per_s=arguments.rate, warm_s=warm_s)
    return report("soak", build_figures(whole, tally, lost, warm_s), raw, arguments.json)


def soak_config(home: Path) -> Config:
    """As `teal up` has it by default, but for what is off by default."""
    config = example_config(home, endpoint=ENDPOINT)
    return replace(
        config,
        serving=ServingConfig(endpoint=ENDPOINT, hash_pii=True, shadow_fraction=0.1, ready_timeout_s=180.0),
        monitoring=MonitoringConfig(),
        edge=EdgeConfig(require_token=True),
    )


@contextlib.contextmanager
def running(config: Config) -> Iterator[str]:
    """All that `teal up` starts, with both slots filled; gives the token of somebody who may ask."""
    from runtime.governance.principals import issue_token
    from runtime.pipeline.platform import start_platform, stop_platform
    from runtime.pipeline.progress import Silent
    from runtime.store.rollouts import RolloutStore

    store = RolloutStore.of(config.paths)
    store.create_schema()
    token = issue_token(store, "caller", actor="benchmark", roles=["predict", "feedback"]).secret
    for version in (1, 2):
        model = example_model_version(Path(config.paths.artifacts) / f"v{version}", version=version)
        store.record_model_version(model)
        store.assign_slot(ENDPOINT, None, model, actor="benchmark")
    store.set_share(ENDPOINT, SHARES[0], actor="benchmark")
    store.close()
    try:
        start_platform(config, Silent())
        yield token
    finally:
        stop_platform(config)


def soak(config: Config, token: str, *, duration_s: float, rate_per_s: float) -> tuple[Watch, Tally, float]:
    """What was seen, what became of the load, and after how many seconds the warm-up was over."""
    warm_s, look_s, shift_s = duration_s / 3, min(10.0, duration_s / 60), max(10.0, duration_s / 30)
    host, ports = config.cluster.host, config.cluster.ports
    watch = Watch(config)
    load = MixedLoad(
        http=f"http://{host}:{ports.edge}",
        grpc_address=f"{host}:{ports.edge_grpc}",
        endpoint=ENDPOINT,
        headers={"authorization": f"Bearer {token}"},
        rate_per_s=rate_per_s,
    )
    started = time.monotonic()
    next_look, next_shift, num_shifts = 0.0, shift_s, 0
    console = Console(stderr=True)
    is_stopped = False

    def stop(*_: Any) -> None:
        nonlocal is_stopped
        is_stopped = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while (now := time.monotonic() - started) < duration_s and not is_stopped:
                if now >= next_look:
                    watch.look(now)
                    next_look += look_s
                    if console.is_terminal:
                        live.update(table_of(watch, load.tally, warm_s, duration_s), refresh=True)
                    elif watch.num_looks % 6 == 1:
                        asked, failed = load.tally.asked.total(), load.tally.num_failed
                        worst = worst_growth(watch, warm_s)
                        print(f"{now:6.0f} s: {asked} asked, {failed} failed{worst}", file=sys.stderr, flush=True)
                if now >= next_shift:
                    num_shifts += 1
                    shift(config, SHARES[num_shifts % len(SHARES)])
                    next_shift += shift_s
                due = min(next_look, next_shift, duration_s)
                time.sleep(max(0.0, min(0.5, started + due - time.monotonic())))
            watch.look(time.monotonic() - started)
    finally:
        tally = load.stop()
        signal.signal(signal.SIGINT, before)
    return watch, tally, warm_s


def shift(config: Config, share: int) -> None:
    """As `teal shift` does, and waited for."""
    from runtime.rollout import traffic
    from runtime.serving.edge_files import touch_hint
    from runtime.store.rollouts import RolloutStore

    store = RolloutStore.of(config.paths)
    try:
        state, _ = traffic.shift(store, ENDPOINT, share, actor="benchmark")
        touch_hint(config.paths)
        traffic.wait_acknowledged(store, state, timeout_s=30)
    finally:
        store.close()


def lost_rows(config: Config, tally: Tally) -> int:
    """Rows of answered predictions that the payload log does not have."""
    from runtime.data.delta import read_table
    from runtime.serving.payload import payload_uri

    ids = read_table(payload_uri(config.paths.payload, ENDPOINT), None, ["prediction_id"])["prediction_id"]
    logged = {entry["values"]: entry["counts"] for entry in ids.value_counts().to_pylist()}
    return sum(max(0, rows - logged.get(prediction_id, 0)) for prediction_id, rows in tally.answered.items())


def table_of(watch: Watch, tally: Tally, warm_s: float, duration_s: float) -> Table:
    since = max(one.times_s[-1] for one in watch.series.values())
    phase = "warming up" if since < warm_s else "measuring"
    title = f"{since / 60:.1f} of {duration_s / 60:.0f} min, {phase}; {tally.asked.total()} asked"
    table = Table(
        "process", "pid", "RSS MiB", "PSS MiB", "dirty MiB", "fds", "threads", "% / 10 min", title=title, box=None
    )
    table.title = f"{title}, {tally.num_failed} failed"
    for one in sorted(watch.series.values(), key=lambda one: -one.memory[-1].rss):
        if one.times_s[-1] < since:
            continue
        last, growth = one.memory[-1], one.growth("rss", warm_s)
        sizes = (f"{value / MIB:.1f}" for value in (last.rss, last.pss, last.private_dirty))
        style = "red" if growth is not None and growth > MAX_GROWTH_PERCENT else ""
        shown = "" if growth is None else f"{growth:+.2f}"
        table.add_row(one.name, str(one.pid), *sizes, str(last.num_fds), str(last.num_threads), shown, style=style)
    return table


def worst_growth(watch: Watch, warm_s: float) -> str:
    found = [(growth, one.name) for one in watch.series.values() if (growth := one.growth("rss", warm_s)) is not None]
    if not found:
        return ""
    told = ", ".join(f"{name} {growth:+.2f}" for growth, name in sorted(found, reverse=True)[:4])
    return f"; most growth in % per 10 min: {told}"


def build_figures(whole: list[Series], tally: Tally, lost: int, warm_s: float) -> list[Figure]:
    growths = {one.name: one.growth("rss", warm_s) or 0.0 for one in whole}
    num_over = sum(growth > MAX_GROWTH_PERCENT for growth in growths.values())

    def figure(name: str, value: float, unit: str, target: float | None) -> Figure:
        return Figure(name=name, value=value, unit=unit, target=target, op="<=")

    figures = [
        figure("failed_answers", tally.num_failed, "answers", 0),
        figure("log_rows_lost", lost, "rows", 0),
        figure("processes_that_grow", num_over, "processes", 0),
        figure("largest_growth", max(growths.values()), "%/10 min", MAX_GROWTH_PERCENT),
    ]
    for name, growth in sorted(growths.items(), key=lambda item: -item[1]):
        figures.append(figure(f"growth {name}", growth, "%/10 min", MAX_GROWTH_PERCENT))
    return figures


def describe(
    whole: list[Series], brief: list[Series], tally: Tally, *, minutes: float, rate_per_s: float, warm_s: float
) -> dict[str, Any]:
    ordered = sorted(tally.latencies_ms)
    return {
        "minutes": minutes,
        "rate_per_s": rate_per_s,
        "warm_up_s": warm_s,
        "load_average": os.getloadavg(),
        "asked": dict(tally.asked),
        "failed": dict(tally.failed),
        "failures": tally.failures,
        "answered_rows": sum(tally.answered.values()),
        "labels": tally.num_labels,
        "sent_late_s": tally.late_s,
        "last_latencies_ms": {str(q): ordered[int(q * (len(ordered) - 1))] for q in (0.5, 0.99)},
        "processes": [
            {
                "name": one.name,
                "is_brief": one in brief,
                **{
                    f"{quantity}_growth_percent": one.growth(quantity, warm_s)
                    for quantity in ("rss", "pss", "private_dirty")
                },
                "times_s": [round(at, 1) for at in one.times_s],
                **{quantity: [getattr(of, quantity) for of in one.memory] for quantity in Memory._fields},
            }
            for one in (*whole, *brief)
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
