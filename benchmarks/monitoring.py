"""What monitoring costs: a row in a replica, a request with and without counting, the monitor's core and its memory.

Everything in one process and one run. The others, per feature as their users call them: np.histogram with the same 256
edges, and DataSketches' KLL (k = 200) where `.bench/kll` has it (python -m venv .bench/kll; pip install datasketches
numpy). The monitor is asked as its actor asks it, with the message unpickled; what Ray adds is not in it.
"""

import argparse
import asyncio
import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.result import Figure, report  # noqa: E402
from runtime.config.monitoring import MonitoringConfig  # noqa: E402
from runtime.data.accumulate import Accumulator  # noqa: E402
from runtime.data.counts import NUM_BINS, Counts, Float32s, Float64s, Int64s  # noqa: E402
from runtime.data.encoding import Encoded, Encoding  # noqa: E402
from runtime.data.profile import Profile, build_profile  # noqa: E402
from runtime.monitoring.monitor import Monitor  # noqa: E402
from runtime.store.control import ControlStore  # noqa: E402
from runtime.telemetry.latency import count_latencies  # noqa: E402

NUM_FEATURES = 30
BATCHES = (1, 32, 1024)
ROW_TARGETS_US = {1: 1.0, 32: 0.2, 1024: 0.2}
ROWS_TIMED = {1: 20_480, 32: 20_480, 1024: 40_960}
ROUNDS = 7
NUM_REPLICAS = 200
NUM_WIDE_FEATURES = 100
ROWS_A_SECOND = 20
"""Of each replica."""
DAY_S = 86_400
NUM_ENDPOINT_REPLICAS = 4
REPLICA_LIFE_S = 1_000
VERSION_LIFE_S = 20_000
WRITE_S = 5
"""Of the simulated day."""
KLL_PYTHON = ROOT / ".bench" / "kll" / "bin" / "python"
KLL = """
import sys, time, json
import numpy as np
from datasketches import kll_floats_sketch
features, rounds = 30, 3
out = {}
for batch, rows in ((1, 512), (32, 4096), (1024, 20480)):
    values = np.random.default_rng(0).standard_normal((batch, features)).astype(np.float32)
    best = 1e9
    for _ in range(rounds):
        sketches = [kll_floats_sketch(200) for _ in range(features)]
        columns = [np.ascontiguousarray(values[:, f]) for f in range(features)]
        started = time.perf_counter()
        for _ in range(rows // batch):
            for f in range(features):
                sketches[f].update(columns[f])
        best = min(best, (time.perf_counter() - started) / rows * 1e6)
    out[batch] = best
print(json.dumps(out))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests and a shorter day: a look, not a record")
    parser.add_argument("--json", type=Path, help="write the document here")
    arguments = parser.parse_args()
    profile = draw_profile(NUM_FEATURES)
    ours, histogram, kll = measure_rows(profile), measure_histogram(profile), measure_kll()
    ratio, rates = measure_throughput(rounds=20 if arguments.quick else 120, requests=100)
    with tempfile.TemporaryDirectory() as home:
        core, merged = measure_merging(f"sqlite:///{home}/control.db", seconds=10 if arguments.quick else 60)
    growth, memory = measure_memory(DAY_S // 12 if arguments.quick else DAY_S)
    figures = [
        Figure(name=f"us_per_row_batch{batch}", value=ours[batch], unit="us", target=ROW_TARGETS_US[batch], op="<=")
        for batch in BATCHES
    ]
    for name, others in (("np_histogram", histogram), ("kll", kll)):
        figures += [
            Figure(name=f"{name}_us_per_row_batch{batch}", value=value, unit="us", target=None, op="<=")
            for batch, value in others.items()
        ]
    figures += [
        Figure(name="throughput_ratio_on_off", value=ratio, unit="ratio", target=0.95, op=">="),
        Figure(name="monitor_merge_core_fraction", value=core, unit="cores", target=0.1, op="<="),
        Figure(name="memory_growth_mb", value=growth, unit="MB", target=10.0, op="<="),
    ]
    raw = {
        "features": NUM_FEATURES,
        "kll": "measured" if kll else f"skipped: no datasketches at {KLL_PYTHON.relative_to(ROOT)}",
        "throughput": rates,
        "merging": merged,
        "memory": memory,
    }
    return report("monitoring", figures, raw, arguments.json)


# -- a row -------------------------------------------------------------------------------------------------------------


def draw(num_features: int, rows: int, seed: int) -> tuple[Float32s, Int64s, Float64s]:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((rows, num_features), dtype=np.float32)
    return values, np.zeros((rows, 0), dtype=np.int64), generator.random(rows)


def draw_profile(num_features: int) -> Profile:
    values, categorical, scores = draw(num_features, 20_000, 0)
    encoding = Encoding(numeric=tuple(f"x{i}" for i in range(num_features)), categorical=(), vocabularies={})
    return build_profile(Encoded(numeric=values, categorical=categorical), encoding, scores)


def measure_rows(profile: Profile) -> dict[int, float]:
    """Adding and the counting it leads to, amortised; outputs are counted too."""
    found = {}
    for batch in BATCHES:
        accumulator = Accumulator(profile)
        rows = draw(NUM_FEATURES, batch, 1)

        def count(batch: int = batch, accumulator: Accumulator = accumulator, rows: Any = rows) -> None:
            for _ in range(ROWS_TIMED[batch] // batch):
                accumulator.add(*rows)
            accumulator.take()

        found[batch] = best_of(count) / ROWS_TIMED[batch] * 1e6
    return found


def measure_histogram(profile: Profile) -> dict[int, float]:
    edges = [np.linspace(low, high, NUM_BINS + 1) for low, high in zip(profile.low, profile.high, strict=True)]
    found = {}
    for batch in BATCHES:
        values, _, _ = draw(NUM_FEATURES, batch, 1)
        sums = np.zeros((NUM_FEATURES, NUM_BINS), dtype=np.int64)
        calls = max(64 // batch, 4)

        def count(values: Any = values, sums: Any = sums, calls: int = calls) -> None:
            for _ in range(calls):
                for feature in range(NUM_FEATURES):
                    sums[feature] += np.histogram(values[:, feature], edges[feature])[0]

        found[batch] = best_of(count) / calls / batch * 1e6
    return found


def measure_kll() -> dict[int, float]:
    """Empty where the library is not installed."""
    if not KLL_PYTHON.exists():
        return {}
    done = subprocess.run([str(KLL_PYTHON), "-c", KLL], capture_output=True, text=True, check=False, timeout=120)
    return {int(batch): value for batch, value in json.loads(done.stdout).items()} if done.returncode == 0 else {}


def best_of(call: Callable[[], None]) -> float:
    """Seconds of the fastest of some rounds: the others were disturbed."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


# -- a request ---------------------------------------------------------------------------------------------------------


class Uncounted:
    """In the accumulator's place when nothing is counted."""

    def __init__(self, shape: tuple[int, tuple[int, ...]]) -> None:
        self._shape = shape

    def add(self, numeric: Float32s, categorical: Int64s, scores: Float64s) -> None:
        pass

    def take(self) -> Counts:
        return Counts.zero(*self._shape)


def measure_throughput(*, rounds: int, requests: int) -> tuple[float, dict[str, float]]:
    """Requests of one row through the ASGI application, with and without counting, in many short turns.

    Compared are the ninth deciles of requests per second of processor time, as other processes come and go. Counting
    has its pushes in it: one a second, taken and pickled.
    """
    from runtime.models.bundle import load_bundle
    from tests.serving_caller import Caller
    from tests.serving_example import example_row, save_example_bundle

    with tempfile.TemporaryDirectory() as home:
        save_example_bundle(Path(home) / "bundle")
        bundle = load_bundle(Path(home) / "bundle")
        callers = {name: Caller(bundle, Path(home) / name) for name in ("on", "off")}
        scorer: Any = callers["off"].service.scorer
        scorer._accumulator = Uncounted(bundle.profile.counts.shape)
        body = json.dumps({"instances": [example_row()]}).encode()
        path = "/v1/models/example:predict"

        async def ask(name: str, number: int) -> float:
            caller = callers[name]
            started = time.process_time()
            pushed_at = time.monotonic()
            for _ in range(number):
                answer = await caller.answer(path, body)
                assert answer.status == 200
                if name == "on" and time.monotonic() - pushed_at > 1:
                    pickle.dumps(caller.service.take().counts)
                    pushed_at = time.monotonic()
            return number / (time.process_time() - started)

        async def run() -> list[dict[str, float]]:
            for name in callers:
                await ask(name, requests)
            found = []
            for turn in range(rounds):
                order = ("on", "off") if turn % 2 else ("off", "on")
                found.append({name: await ask(name, requests) for name in order})
            return found

        rates = asyncio.run(run())
    highest = {name: statistics.quantiles([rate[name] for rate in rates], n=10)[-1] for name in ("on", "off")}
    return highest["on"] / highest["off"], highest


# -- the monitor -------------------------------------------------------------------------------------------------------


def messages(profile: Profile, num_replicas: int, rows: int) -> list[dict[str, Any]]:
    found = []
    for replica in range(num_replicas):
        accumulator = Accumulator(profile)
        accumulator.add(*draw(len(profile.numeric), rows, replica))
        found.append(
            {
                "endpoint": "wide",
                "slot": "blue",
                "model_version": "wide:1",
                "replica": f"r{replica}",
                "sequence": 0,
                "requests": rows,
                "rows": rows,
                "errors": 0,
                "latency_ms_counts": count_latencies([3.0] * rows),
                "counts": accumulator.take(),
            }
        )
    return found


def open_store(url: str) -> ControlStore:
    store = ControlStore(url)
    store.create_schema()
    return store


def measure_merging(url: str, *, seconds: int) -> tuple[float, dict[str, float]]:
    """Share of a core that 200 deltas of 100 features a second take, writing them down and the ticks included.

    As the actor does it: the deltas of a second are written together. The database's own process, where it has one, is
    not in it; `longest_write_ms` is the most that a transaction kept other writers waiting.
    """
    profile = draw_profile(NUM_WIDE_FEATURES)
    now = [1_700_000_000.0]
    store = open_store(url)
    monitor = Monitor(store, MonitoringConfig(), lambda _: profile, clock=lambda: now[0])
    pickled = [pickle.dumps(message, protocol=5) for message in messages(profile, NUM_REPLICAS, ROWS_A_SECOND)]
    spent = {"ingest": 0.0, "write": 0.0, "tick": 0.0}
    longest = {"write": 0.0, "tick": 0.0}

    def timed(what: str, call: Callable[[], object]) -> None:
        started, began = time.process_time(), time.perf_counter()
        call()
        spent[what] += time.process_time() - started
        if what in longest:
            longest[what] = max(longest[what], time.perf_counter() - began)

    def take_in(second: int) -> None:
        for content in pickled:
            monitor.offer(pickle.loads(content) | {"sequence": second})

    for second in range(1, seconds + 1):
        now[0] += 1
        timed("ingest", lambda second=second: take_in(second))  # type: ignore[misc]
        timed("write", monitor.write)
        if second % 10 == 0 or second == seconds:
            timed("tick", monitor.tick)
    (entry,) = monitor.status()["entries"]
    assert entry["rows"] == seconds * NUM_REPLICAS * ROWS_A_SECOND
    store.close()
    return sum(spent.values()) / seconds, {
        **{f"{name}_cores": value / seconds for name, value in spent.items()},
        **{f"longest_{name}_ms": value * 1000 for name, value in longest.items()},
        "bytes_a_delta": sum(map(len, pickled)) / len(pickled),
    }


def measure_memory(seconds: int) -> tuple[float, dict[str, Any]]:
    """Growth of the process from the end of the second simulated hour on; replicas and versions come and go.

    Each second brings a delta, each five a write, each ten a tick, each hour somebody who asks for the whole
    report and for Prometheus' samples. The first two hours fill what is bounded: ticks, windows, caches.
    """
    profile = draw_profile(NUM_FEATURES)
    sent = messages(profile, NUM_ENDPOINT_REPLICAS, ROWS_A_SECOND)
    now = [1_700_000_000.0]
    with tempfile.TemporaryDirectory() as home:
        store = open_store(f"sqlite:///{home}/control.db")
        monitor = Monitor(store, MonitoringConfig(), lambda _: profile, clock=lambda: now[0])
        sizes = []
        for second in range(1, seconds + 1):
            now[0] += 1
            replica = second % NUM_ENDPOINT_REPLICAS
            monitor.offer(
                sent[replica]
                | {
                    "sequence": second,
                    "replica": f"r{replica}-{second // REPLICA_LIFE_S}",
                    "slot": ("blue", "green")[replica % 2],
                    "model_version": f"wide:{1 + second // VERSION_LIFE_S}",
                }
            )
            if second % WRITE_S == 0:
                monitor.write()
            if second % 10 == 0:
                monitor.tick()
            if second % 3600 == 0:
                monitor.report("wide")
                monitor.samples()
                sizes.append(resident_mb())
        store.close()
        disk = (Path(home) / "control.db").stat().st_size / 1e6
    settled = sizes[min(1, len(sizes) - 1) :]
    return max(settled) - settled[0], {
        "hours": seconds / 3600,
        "mb_after_each_hour": sizes,
        "disk_mb": disk,
    }


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
