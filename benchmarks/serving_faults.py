"""What a caller notices of a fault: a load of 100 requests/s, open loop, and in its midst one part of teal is hit.

A real teal with everything on (token, contract, payload log, counts, both slots). Each load is a process of its own and
goes on until what was hit is back: a new pid, a replica that is registered and gets requests again, a generation that
is acknowledged. Anything but 200 is a failure. Where the edge's own process is killed, nobody listens for a moment:
refused connections are counted apart, and so are requests that were under way while the process died. Their
connections end with it, and nobody but the caller can ask again. What fails in any other way is `broken`.

    python benchmarks/serving_faults.py [--quick] [--only FAULT]... [--json FILE]
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.faults import FAULTS, Fault, Stopwatch
from benchmarks.faulty_site import ONE, PAIR, Site, await_state
from benchmarks.open_loop import REFUSED, open_loop
from benchmarks.result import Figure, report
from benchmarks.running_teal import teal_cluster
from runtime.core.errors import TealError
from tests.serving_example import example_config, example_model_version, example_row

RATE_PER_S = 100.0
REPETITIONS = 5
BUDGET_S = 600.0
"""No repetition begins after it; what is left out then is told by the figure `repetitions`."""
CALM_S = 1.0
"""Of load before a fault, and after what was hit is back."""
SLOW_MS = 500.0
NUM_SHOWN = 10
LONGEST_LOAD_S = 200.0
DRAIN_S = 40.0
"""For the last answers: longer than the edge itself waits for one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Struck:
    """What one fault did to one load."""

    asked: int
    failures: list[tuple[float, int, float]]
    """When each was due, in seconds since the fault; its status; how many ms until it was known."""
    num_cut_off: int
    """Requests that had been sent and were not answered when the edge's process was gone."""
    slow: list[tuple[float, float]]
    """Answers that took longer than `SLOW_MS`: when each was due, in seconds since the fault; its latency in ms."""
    slowest_ms: float
    back_s: float

    @property
    def num_refused(self) -> int:
        return sum(status == REFUSED for _, status, _ in self.failures)

    @property
    def num_broken(self) -> int:
        return len(self.failures) - self.num_refused - self.num_cut_off


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each fault once: for a look, not for a record")
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--only", action="append", choices=names, metavar="FAULT", help=f"of {', '.join(names)}")
    parser.add_argument("--json", type=Path, help="write the document here")
    arguments = parser.parse_args()
    repetitions = 1 if arguments.quick else REPETITIONS
    faults = [fault for fault in FAULTS if arguments.only is None or fault.name in arguments.only]
    try:
        with tempfile.TemporaryDirectory(prefix="tf-") as directory, faulty_site(Path(directory)) as site:
            struck = measure(site, faults, repetitions)
    except TealError as error:
        print(f"benchmarks/serving_faults.py: {error}", file=sys.stderr)
        return error.exit_code
    least = min(len(found) for found in struck.values())
    figures = [Figure(name="repetitions", value=least, unit="of each", target=repetitions, op=">=")]
    for fault in faults:
        figures += figures_of(fault, struck[fault.name])
    raw = {
        "rate_per_s": RATE_PER_S,
        "by_fault": {name: [asdict(one) for one in found] for name, found in struck.items()},
    }
    return report("serving_faults", figures, raw, arguments.json)


def measure(site: Site, faults: Sequence[Fault], repetitions: int) -> dict[str, list[Struck]]:
    """Every fault in turn, round after round."""
    struck: dict[str, list[Struck]] = {fault.name: [] for fault in faults}
    ends_at = time.monotonic() + BUDGET_S
    for number in range(repetitions):
        for fault in faults:
            if time.monotonic() > ends_at:
                return struck
            await_state(site.is_whole, f"all replicas and routes, before {fault.name}")
            found = strike(site, fault)
            struck[fault.name].append(found)
            print(
                f"round {number + 1}/{repetitions} {fault.name:16} {len(found.failures):4} of {found.asked:5} failed, "
                f"{found.num_refused:3} of them refused, {found.num_cut_off:2} cut off; "
                f"slowest answer {found.slowest_ms:7.0f} ms, back after {found.back_s:6.2f} s",
                file=sys.stderr,
            )
            answers = [one for one in found.failures if one[1] != REFUSED]
            for due_s, status, known_ms in answers[:NUM_SHOWN]:
                print(f"    due {due_s:+.3f} s after the fault: {status} after {known_ms:.0f} ms", file=sys.stderr)
    return struck


def strike(site: Site, fault: Fault) -> Struck:
    watch = Stopwatch()
    with open_loop(
        site.teal.url(fault.endpoint),
        site.body,
        site.teal.headers,
        rate_per_s=RATE_PER_S,
        duration_s=LONGEST_LOAD_S,
        drain_s=DRAIN_S,
    ) as running:
        time.sleep(CALM_S)
        fault.strike(site, watch)
        time.sleep(CALM_S)
        running.end()
        load = running.result()
    struck_at, ended_at = watch.struck - running.started, watch.ended - running.started
    return Struck(
        asked=len(load.asked),
        failures=[(one.due_s - struck_at, one.status, one.latency_ms) for one in load.asked if one.status != 200],
        num_cut_off=sum(one.status == 0 and one.due_s + one.lag_ms / 1000 <= ended_at for one in load.asked),
        slow=[
            (one.due_s - struck_at, one.latency_ms)
            for one in load.asked
            if one.status == 200 and one.latency_ms > SLOW_MS
        ],
        slowest_ms=load.percentile_ms(1.0),
        back_s=watch.back_s,
    )


def figures_of(fault: Fault, struck: Sequence[Struck]) -> list[Figure]:
    """Sums and worst cases over the repetitions."""

    def figure(name: str, value: float, unit: str, target: float | None = None) -> Figure:
        return Figure(name=f"{fault.name}_{name}", value=value, unit=unit, target=target, op="<=")

    figures = [figure("asked", sum(one.asked for one in struck), "requests")]
    if fault.is_of_edge:
        figures += [
            figure("refused", sum(one.num_refused for one in struck), "requests"),
            figure("cut_off", sum(one.num_cut_off for one in struck), "requests"),
            figure("broken", sum(one.num_broken for one in struck), "requests", 0),
        ]
    else:
        figures.append(figure("failed", sum(len(one.failures) for one in struck), "requests", 0))
    figures.append(figure("slowest", max((one.slowest_ms for one in struck), default=0.0), "ms"))
    back_s = max((one.back_s for one in struck), default=0.0)
    figures.append(figure("back", back_s, "s", 1.0 if fault.is_of_edge else None))
    return figures


@contextlib.contextmanager
def faulty_site(directory: Path) -> Iterator[Site]:
    """teal with both endpoints up and warm, and models for the idle slot at hand."""
    from runtime.cluster.token import read_token
    from runtime.serving.reconcile import reconcile
    from runtime.store.rollouts import RolloutStore

    config = example_config(directory / "home", endpoint=ONE)
    models = [example_model_version(directory / f"v{version}", version=version) for version in (1, 2, 3)]
    with teal_cluster(config, {ONE: models[0]}, []) as teal:
        store = RolloutStore.of(teal.config.paths)
        for model in models[1:]:
            store.record_model_version(model)
        store.assign_slot(PAIR, None, models[0], actor="benchmark")
        pair = replace(teal.config.serving, endpoint=PAIR, min_replicas=2, max_replicas=2)
        reconcile(store, replace(teal.config, serving=pair), token=read_token(teal.config.paths.run))
        body = json.dumps({"instances": [example_row()]}).encode()
        try:
            yield Site(teal=teal, store=store, models=tuple(models[1:]), body=body)
        finally:
            store.close()


if __name__ == "__main__":
    sys.exit(main())
