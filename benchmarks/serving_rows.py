"""What many rows, half a load and too much load do to serving: p99, rows per second, goodput.

Beside teal (both slots, 90/10, token, contract, log and counts on) stands one bare Serve application on the same Ray.
All take turns within a round; a figure is a median over rounds.

Overload is twice the peak of a model that takes MODEL_DELAY_MS for a request, teal's and the bare application's alike:
twice the peak of the fast one is more than a generator can send that shares the machine, and would measure that.

Many rows: `arrow_rows` compares with the model's own loop from encoded arrays, its preprocessing included;
`arrow_rows_checked` with a loop that also encodes and checks the table, which is what the request asks for;
`arrow_rows_large` is `arrow_rows` of a net of LARGE_HIDDEN, whose own work is more than what stands around it.
MLServer joins where `make bench-peers` has installed it, with one tensor a column: as its documentation has it
(`json_rows_mlserver`), and with what a user may spare it by hand (`json_rows_mlserver_quick`, see
peers/mlserver_app.py; `_encoded`: as tensors that were encoded beforehand). teal's rows are objects of column to
value, but for `json_columns_mlserver_quick`: the very bytes that MLServer gets.
"""

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import orjson  # noqa: E402

from benchmarks.example_models import (  # noqa: E402
    ARROW,
    MODEL_DELAY_MS,
    NUM_ROWS,
    encode_stream,
    example_rows,
    model_rows_per_s,
    save_large_bundle,
    save_slow_bundle,
)
from benchmarks.open_loop import OpenLoad, run_open_loop  # noqa: E402
from benchmarks.peer_serving import STARTS, encode_columns, installed_peers  # noqa: E402
from benchmarks.result import Figure, report  # noqa: E402
from benchmarks.running_teal import RayPeer, RunningTeal, teal_cluster, wait_answer  # noqa: E402
from benchmarks.wrk import Contestant, run_wrk, write_script  # noqa: E402
from runtime.core.errors import TealError  # noqa: E402
from tests.serving_example import example_config, example_model_version  # noqa: E402

CONNECTIONS = (32, 64, 128)
"""Callers of one row at once. The peak is the best rate of them: a server that batches gains by more callers."""
ROWS_CONNECTIONS = (4, 8)
"""Callers of many rows at once: one waits while another is computed, and more would only queue."""
MLSERVERS = ("mlserver_documented", "mlserver_columns", "mlserver")
GOOD_WITHIN_MS = 1000.0
"""An answer that took longer is no good to whoever asked."""
SETTLE_S = 3.0
"""Of an overload, until the queues are full: what is sent before is not counted."""
LATE_MS = 50.0
"""A request sent later than this was not sent at the rate that is measured."""
MAX_LATE_SHARE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    teal: RunningTeal
    fast: Sequence[Contestant]
    """One row each, of the example's model: teal and bare."""
    slow: Sequence[Contestant]
    """The same of the model that takes its time."""
    many: Sequence[Contestant]
    """NUM_ROWS each, of the example's model, and of the large one."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few short rounds: for a look, not for a record")
    parser.add_argument("--many-only", action="store_true", help="leave out half load and overload")
    parser.add_argument("--json", type=Path, help="write the document here")
    arguments = parser.parse_args()
    num_rounds, duration_s = (2, 2) if arguments.quick else (5, 3)
    if shutil.which("wrk") is None:
        print("wrk is not installed; on Debian `apt-get install wrk`", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="tr-") as temporary, running(directory := Path(temporary)) as up:
            turns = [-1 if number % 2 else 1 for number in range(num_rounds)]
            rounds: list[dict[str, float]] = [{} for _ in turns]
            if not arguments.many_only:
                for found, turn in zip(rounds, turns, strict=True):
                    found |= shown(measure_loads(up, directory, duration_s, turn=turn))
            # Only now: servers that wait for their turn still take CPU, which tells in a p99.
            with mlservers(directory) as others:
                for found, turn in zip(rounds, turns, strict=True):
                    found |= shown(measure_many(up, others, directory, duration_s, turn=turn))
    except TealError as error:
        print(f"benchmarks/serving_rows.py: {error}", file=sys.stderr)
        return error.exit_code
    raw = {"round_s": duration_s, "model_delay_ms": MODEL_DELAY_MS, "rounds": rounds}
    return report("serving_rows", build_figures(rounds), raw, arguments.json)


def measure_many(
    up: Running, others: Sequence[Contestant], directory: Path, duration_s: int, *, turn: int
) -> dict[str, float]:
    """Many rows a request: every contestant's part of a round, and the model's own rate. `turn`: -1 turns the order."""
    found: dict[str, float] = {}
    before = up.teal.logged("example")
    for one in (*others, *up.many)[::turn]:
        found[f"{one.name}_per_s"] = peak_per_s(one, directory, duration_s)
    after = up.teal.logged("example")
    dropped = after["dropped_rows"] - before["dropped_rows"]
    found["many_logged_share"] = 1 - dropped / (sum(after.values()) - sum(before.values()))
    for name, (as_it_is, of_table) in model_rows_per_s(directory, duration_s).items():
        found |= {f"{name}_rows_per_s": as_it_is, f"{name}_table_rows_per_s": of_table}
    return found


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


def shown(found: dict[str, float]) -> dict[str, float]:
    print(" ".join(f"{name}={value:.4g}" for name, value in found.items()), file=sys.stderr)
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
        figure("arrow_rows", ratio("teal_arrow_per_s", "bundle_rows_per_s"), 0.8),
        figure("arrow_rows_checked", ratio("teal_arrow_per_s", "bundle_table_rows_per_s"), None),
        figure("arrow_rows_large", ratio("teal_arrow_large_per_s", "large_rows_per_s"), 0.8),
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
        figures += [
            figure("json_rows_mlserver", ratio("teal_json_per_s", "mlserver_documented_per_s"), 3.0),
            figure("json_rows_mlserver_quick", ratio("teal_json_per_s", "mlserver_columns_per_s"), None),
            figure("json_columns_mlserver_quick", ratio("teal_columns_per_s", "mlserver_columns_per_s"), None),
            figure("json_rows_mlserver_encoded", ratio("teal_json_per_s", "mlserver_per_s"), None),
        ]
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


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Running]:
    """Everything of teal's and Ray's up and warm."""
    config = example_config(directory / "home")
    bundle_dir, slow_dir, large_dir = (directory / name for name in ("bundle", "slow", "large"))
    models = {"example": example_model_version(bundle_dir)}
    save_slow_bundle(bundle_dir, slow_dir)
    save_large_bundle(bundle_dir, large_dir)
    models["slow"] = example_model_version(slow_dir, version=2)
    models["large"] = example_model_version(large_dir, version=3)
    rows = example_rows()
    one, many, arrow = (*(orjson.dumps({"instances": part}) for part in (rows[:1], rows)), encode_stream(rows))
    on_ray = [
        RayPeer(app=app, builder="bare", bundle_dir=path) for app, path in (("bare", bundle_dir), ("slow", slow_dir))
    ]
    with teal_cluster(config, models, on_ray) as teal:
        url, headers = teal.url("example"), teal.headers
        fast = [
            Contestant(name="teal", url=url, headers=headers, body=one),
            Contestant(name="bare", url=teal.ray_url("bare"), body=one),
        ]
        slow = [
            Contestant(name="teal_slow", url=teal.url("slow"), headers=headers, body=one),
            Contestant(name="bare_slow", url=teal.ray_url("slow"), body=one),
        ]
        sent = {
            "teal_columns": (teal.infer_url("example"), headers, encode_columns(rows)),
            "teal_json": (url, headers, many),
            "teal_arrow": (url, {**headers, **ARROW}, arrow),
            "teal_arrow_large": (teal.url("large"), {**headers, **ARROW}, arrow),
        }
        bulk = [
            Contestant(name=name, url=to, headers=given, body=body, rows=NUM_ROWS)
            for name, (to, given, body) in sent.items()
        ]
        wait_answer(Contestant(name="teal_large", url=teal.url("large"), headers=headers, body=one))
        for single in (*fast, *slow):
            wait_answer(single)
        for contestant in (*fast, *slow, *bulk):
            peak_per_s(contestant, directory, 1)
        yield Running(teal=teal, fast=fast, slow=slow, many=bulk)


@contextlib.contextmanager
def mlservers(directory: Path) -> Iterator[list[Contestant]]:
    """Those that are installed, up and warm."""
    rows = example_rows()
    contestants = []
    with contextlib.ExitStack() as stack:
        for name in (name for name in installed_peers() if name in MLSERVERS):
            peer = stack.enter_context(STARTS[name](directory / "bundle", directory, rows))
            contestants.append(Contestant(name=name, url=peer.url, body=peer.body(rows), rows=NUM_ROWS))
            peak_per_s(contestants[-1], directory, 1)
        yield contestants


if __name__ == "__main__":
    sys.exit(main())
