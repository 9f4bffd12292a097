"""What many rows, half a load and too much load do to serving: p99, rows per second, goodput.

Beside teal (both slots, 90/10, token, contract, log and counts on) stands one bare Serve application on the same Ray,
and MLServer where `make bench-peers` has installed it: with one tensor a column, and as tensors that were encoded
beforehand. teal's rows are objects of column to value (`json_rows_mlserver`), and the very bytes that MLServer gets
(`json_columns_mlserver`). All take turns within a round; a figure is a median over rounds.

`arrow_rows` compares with the model's own loop from encoded arrays, its preprocessing included; `arrow_rows_checked`
with a loop that also encodes and checks the table, which is what the request asks for. Overload is twice the peak of a
model that takes MODEL_DELAY_MS for a request, teal's and the bare application's alike: twice the peak of the fast one
is more than a generator can send that shares the machine, and would measure the generator.
"""

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import orjson  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402

from benchmarks.open_loop import OpenLoad, run_open_loop  # noqa: E402
from benchmarks.peer_serving import STARTS, installed_peers  # noqa: E402
from benchmarks.result import Figure, report  # noqa: E402
from benchmarks.running_teal import RayPeer, RunningTeal, teal_cluster, wait_answer  # noqa: E402
from benchmarks.wrk import Contestant, run_wrk, write_script  # noqa: E402
from runtime.config.schema import ModelConfig  # noqa: E402
from runtime.core.errors import TealError  # noqa: E402
from runtime.data.encoding import Encoded  # noqa: E402
from runtime.models.bundle import load_bundle, save_bundle  # noqa: E402
from runtime.models.tabular import build_model  # noqa: E402
from tests.serving_example import example_config, example_model_version, example_row  # noqa: E402

NUM_ROWS = 1024
CONNECTIONS = (32, 64, 128)
"""Callers of one row at once. The peak is the best rate of them: a server that batches gains by more callers."""
ROWS_CONNECTIONS = (4, 8)
"""Callers of many rows at once: one waits while another is computed, and more would only queue."""
MODEL_DELAY_MS = 2.0
GOOD_WITHIN_MS = 1000.0
"""An answer that took longer is no good to whoever asked."""
SETTLE_S = 3.0
"""Of an overload, until the queues are full: what is sent before is not counted."""
LATE_MS = 50.0
"""A request sent later than this was not sent at the rate that is measured."""
MAX_LATE_SHARE = 0.05
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    teal: RunningTeal
    fast: Sequence[Contestant]
    """One row each, of the example's model: teal and bare."""
    slow: Sequence[Contestant]
    """The same of the model that takes its time."""
    many: Sequence[Contestant]
    """Many rows each."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few short rounds: for a look, not for a record")
    parser.add_argument("--many-only", action="store_true", help="leave out half load and overload")
    parser.add_argument("--json", type=Path, help="write the document here")
    arguments = parser.parse_args()
    num_rounds, duration_s = (2, 2) if arguments.quick else (7, 4)
    if shutil.which("wrk") is None:
        print("wrk is not installed; on Debian `apt-get install wrk`", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="tr-") as temporary, running(directory := Path(temporary)) as up:
            rounds = [
                measure(up, directory, duration_s, turn=-1 if number % 2 else 1, is_many_only=arguments.many_only)
                for number in range(num_rounds)
            ]
    except TealError as error:
        print(f"benchmarks/serving_rows.py: {error}", file=sys.stderr)
        return error.exit_code
    raw = {"round_s": duration_s, "model_delay_ms": MODEL_DELAY_MS, "rounds": rounds}
    return report("serving_rows", build_figures(rounds), raw, arguments.json)


def measure(
    up: Running, directory: Path, duration_s: int, *, turn: int, is_many_only: bool = False
) -> dict[str, float]:
    """One round: every contestant's part of it, and the model's own rate. `turn`: -1 for the reverse order."""
    found = measure_many(up, directory, duration_s, turn=turn)
    if not is_many_only:
        found |= measure_loads(up, directory, duration_s, turn=turn)
    print(" ".join(f"{name}={value:.4g}" for name, value in found.items()), file=sys.stderr)
    return found


def measure_many(up: Running, directory: Path, duration_s: int, *, turn: int) -> dict[str, float]:
    """Many rows a request."""
    found: dict[str, float] = {}
    before = up.teal.logged("example")
    for one in up.many[::turn]:
        found[f"{one.name}_per_s"] = peak_per_s(one, directory, duration_s)
    after = up.teal.logged("example")
    dropped = after["dropped_rows"] - before["dropped_rows"]
    found["many_logged_share"] = 1 - dropped / (sum(after.values()) - sum(before.values()))
    return found | model_rows_per_s(directory / "bundle", duration_s)


def measure_loads(up: Running, directory: Path, duration_s: int, *, turn: int) -> dict[str, float]:
    """One row a request, at half the peak and at twice the peak."""
    found: dict[str, float] = {}
    for one in (*up.fast, *up.slow)[::turn]:
        found[f"{one.name}_per_s"] = peak_per_s(one, directory, duration_s)
    half = min(found[f"{one.name}_per_s"] for one in up.fast) / 2
    for one in up.fast[::turn]:
        load = offer(one, rate_per_s=half, duration_s=duration_s)
        if load.statuses.keys() != {200}:
            raise TealError(f"{one.name} lost requests at half load: {load.statuses}")
        found[f"{one.name}_half_load_p99_ms"] = load.percentile_ms(0.99)
        found[f"{one.name}_half_load_lag_p99_ms"] = load.lag_percentile_ms(0.99)
    for one in up.slow[::turn]:
        load = offer(one, rate_per_s=2 * found[f"{one.name}_per_s"], duration_s=SETTLE_S + duration_s)
        found |= {f"{one.name}_overload_{name}": value for name, value in describe_overload(load).items()}
    return found


def describe_overload(load: OpenLoad) -> dict[str, float]:
    settled = load.settled(SETTLE_S)
    return {
        "good_per_s": settled.goodput_per_s(GOOD_WITHIN_MS),
        "p99_ms": settled.percentile_ms(0.99),
        "429_share": settled.share(429),
        "429_p99_ms": settled.percentile_ms(0.99, 429),
        "failed_share": 1 - settled.share(200, 429),
        "late_share": load.late_share(LATE_MS),
        "lag_p99_ms": load.lag_percentile_ms(0.99),
    }


def build_figures(rounds: list[dict[str, float]]) -> list[Figure]:
    def ratio(upper: str, lower: str) -> float:
        return statistics.median(of_round[upper] / of_round[lower] for of_round in rounds)

    def median(name: str) -> float:
        return statistics.median(of_round[name] for of_round in rounds)

    def figure(name: str, value: float, target: float | None, op: Any = ">=", unit: str = "ratio") -> Figure:
        return Figure(name=name, value=value, unit=unit, target=target, op=op)

    figures = [
        figure("arrow_rows", ratio("teal_arrow_per_s", "model_rows_per_s"), 0.8),
        figure("arrow_rows_checked", ratio("teal_arrow_per_s", "model_table_rows_per_s"), None),
        figure("arrow_rows_per_s", median("teal_arrow_per_s"), None, unit="rows/s"),
        figure("json_rows_per_s", median("teal_json_per_s"), None, unit="rows/s"),
        figure("many_rows_logged", median("many_logged_share"), None, unit="share"),
    ]
    if "teal_slow_per_s" in rounds[0]:
        worst_late = max(of_round["teal_slow_overload_late_share"] for of_round in rounds)
        figures += [
            figure("serve_p99_half_load", ratio("teal_half_load_p99_ms", "bare_half_load_p99_ms"), 1.5, "<="),
            figure("half_load_lag_p99", median("teal_half_load_lag_p99_ms"), None, "<=", "ms"),
            figure("half_load_lag_p99_bare", median("bare_half_load_lag_p99_ms"), None, "<=", "ms"),
            figure("goodput_overload", ratio("teal_slow_overload_good_per_s", "teal_slow_per_s"), 0.8),
            figure("goodput_overload_bare", ratio("bare_slow_overload_good_per_s", "bare_slow_per_s"), None),
            # Without it the figure above says nothing: the load was not what it is said to be.
            figure("overload_sent_late", worst_late, MAX_LATE_SHARE, "<=", "share"),
            figure("overload_429", median("teal_slow_overload_429_share"), None, ">=", "share"),
            figure("overload_429_p99", median("teal_slow_overload_429_p99_ms"), None, "<=", "ms"),
            figure("overload_failed", median("teal_slow_overload_failed_share"), None, "<=", "share"),
        ]
    if "mlserver_columns_per_s" in rounds[0]:
        figures.append(figure("json_rows_mlserver", ratio("teal_json_per_s", "mlserver_columns_per_s"), 3.0))
        figures.append(figure("json_columns_mlserver", ratio("teal_columns_per_s", "mlserver_columns_per_s"), None))
        figures.append(figure("json_rows_mlserver_encoded", ratio("teal_json_per_s", "mlserver_per_s"), None))
    return figures


def peak_per_s(contestant: Contestant, directory: Path, duration_s: int) -> float:
    """Rows per second with as many callers as it takes, each asking again when it was answered."""
    script = write_script(contestant, directory)
    best = max(
        run_wrk(contestant.name, contestant.url, script, connections=connections, duration_s=duration_s).requests_per_s
        for connections in (CONNECTIONS if contestant.rows == 1 else ROWS_CONNECTIONS)
    )
    return best * contestant.rows


def offer(contestant: Contestant, *, rate_per_s: float, duration_s: float) -> OpenLoad:
    return run_open_loop(
        contestant.url, contestant.body, contestant.headers, rate_per_s=rate_per_s, duration_s=duration_s
    )


def model_rows_per_s(bundle_dir: Path, duration_s: float) -> dict[str, float]:
    """The bare model in a loop, no server and no log: on rows encoded already, and on a table as requests bring it."""
    torch.set_num_threads(1)
    bundle = load_bundle(bundle_dir)
    table = pa.Table.from_pylist(example_rows())
    encoded = bundle.encoding.encode_rows(example_rows(), bundle.columns)

    def as_it_is() -> Encoded:
        return encoded

    def of_table() -> Encoded:
        return bundle.encoding.encode_request_table(table, bundle.columns)

    found = {}
    for name, encode in (("model_rows_per_s", as_it_is), ("model_table_rows_per_s", of_table)):
        num_calls, started = 0, time.perf_counter()
        while time.perf_counter() < started + duration_s / 2:
            given = encode()
            bundle.model.predict(given.numeric, given.categorical)
            num_calls += 1
        found[name] = num_calls * NUM_ROWS / (time.perf_counter() - started)
    return found


def example_rows() -> list[dict[str, Any]]:
    return [example_row(seed) for seed in range(NUM_ROWS)]


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Running]:
    """Everything up and warm."""
    config = example_config(directory / "home")
    bundle_dir, slow_dir = directory / "bundle", directory / "slow"
    models = {"example": example_model_version(bundle_dir)}
    save_slow_bundle(bundle_dir, slow_dir)
    models["slow"] = example_model_version(slow_dir, version=2)
    rows = example_rows()
    one, many = (orjson.dumps({"instances": part}) for part in (rows[:1], rows))
    on_ray = [
        RayPeer(app=app, builder="bare", bundle_dir=path) for app, path in (("bare", bundle_dir), ("slow", slow_dir))
    ]
    with contextlib.ExitStack() as stack:
        contestants = []
        for name in installed_peers():
            if name in ("mlserver_columns", "mlserver"):
                peer = stack.enter_context(STARTS[name](bundle_dir, directory, rows))
                contestants.append(Contestant(name=name, url=peer.url, body=peer.body(rows), rows=NUM_ROWS))
        teal = stack.enter_context(teal_cluster(config, models, on_ray))
        url, arrow = teal.url("example"), {**teal.headers, **ARROW}
        contestants += [
            # The same bytes that MLServer gets, by the same protocol.
            Contestant(
                name="teal_columns",
                url=teal.infer_url("example"),
                headers=teal.headers,
                body=of_peer.body,
                rows=NUM_ROWS,
            )
            for of_peer in contestants
            if of_peer.name == "mlserver_columns"
        ]
        contestants += [
            Contestant(name="teal_json", url=url, headers=teal.headers, body=many, rows=NUM_ROWS),
            Contestant(name="teal_arrow", url=url, headers=arrow, body=encode_stream(rows), rows=NUM_ROWS),
        ]
        fast = [
            Contestant(name="teal", url=url, headers=teal.headers, body=one),
            Contestant(name="bare", url=teal.ray_url("bare"), body=one),
        ]
        slow = [
            Contestant(name="teal_slow", url=teal.url("slow"), headers=teal.headers, body=one),
            Contestant(name="bare_slow", url=teal.ray_url("slow"), body=one),
        ]
        for single in (*fast, *slow):
            wait_answer(single)
        for contestant in (*fast, *slow, *contestants):
            peak_per_s(contestant, directory, 1)
        yield Running(teal=teal, fast=fast, slow=slow, many=contestants)


def save_slow_bundle(bundle_dir: Path, slow_dir: Path) -> None:
    """The same weights, in a net that holds every call back."""
    bundle = load_bundle(bundle_dir)
    config = ModelConfig(
        name="slow",
        class_path="runtime.pipeline.slow_model:SlowMLP",
        arguments={"delay_ms": MODEL_DELAY_MS},
        allowed_modules=["runtime.models", "runtime.pipeline.slow_model"],
    )
    model = build_model(config, bundle.columns, bundle.encoding)
    model.load_state_dict(bundle.model.state_dict())
    save_bundle(
        slow_dir,
        model=model,
        model_config=config,
        columns=bundle.columns,
        encoding=bundle.encoding,
        profile=bundle.profile,
        lineage={"data_version": "example@0"},
    )


def encode_stream(rows: list[dict[str, Any]]) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


if __name__ == "__main__":
    sys.exit(main())
