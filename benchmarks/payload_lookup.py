"""How long it takes to find one prediction by its id in a payload log of 100 million rows.

The log is written for real by what replicas write it with, a row an answer and two features a row, so that all ids are
different: nine days merged by `teal payload compact`'s own code, and today's in 5,000 small files as replicas leave
them. Every look-up is a process of its own that finds the log's pages out of memory, as far as the kernel lets go
of them; `trace_*` is the whole command `teal trace`, whose start takes most of it. Not part of run_all: it takes about
twenty minutes, 12 GB of disk and 5 GB of memory, all given back at the end.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from deltalake import DeltaTable  # noqa: E402

from benchmarks.result import Figure, report  # noqa: E402
from runtime.config.compose import save_config  # noqa: E402
from runtime.config.schema import ColumnConfig, Config  # noqa: E402
from runtime.core.clock import utc_now  # noqa: E402
from runtime.core.errors import NotFoundError  # noqa: E402
from runtime.core.ids import format_uuid7  # noqa: E402
from runtime.serving.compaction import compact  # noqa: E402
from runtime.serving.delta_log import Appender  # noqa: E402
from runtime.serving.payload import DAY_US, PayloadTable, find_prediction, payload_uri  # noqa: E402
from runtime.store.control import ControlStore  # noqa: E402
from runtime.store.records import DataVersion, ModelVersion  # noqa: E402
from tests.serving_example import example_config  # noqa: E402

ENDPOINT = "thin"
COLUMNS = {
    "distance": ColumnConfig(type="number"),
    "hour": ColumnConfig(type="integer"),
    "late": ColumnConfig(type="binary", role="label"),
}
PAST_DAYS = 9
FILES_A_PAST_DAY = 50
SEED = 20_261_124
TARGET_S = 1.0
LIMIT_S = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    uri: str
    past_ids: list[str]
    today_ids: list[str]
    num_bytes: int
    num_files: int
    num_commits: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 million rows: for a look, not for a record")
    parser.add_argument("--json", type=Path, help="write the document here")
    parser.add_argument("--directory", type=Path, help="where there is room; by default the temporary directory")
    parser.add_argument("--look-up", nargs=2, metavar=("URI", "ID"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look_up:
        return look_up(*arguments.look_up)
    num_rows, num_commits, num_asked = (5_000_000, 200, 6) if arguments.quick else (100_000_000, 5_000, 30)
    home = Path(tempfile.mkdtemp(prefix="lookup-", dir=arguments.directory))
    try:
        config = example_config(home, endpoint=ENDPOINT)
        written = write_log(config, num_rows, num_commits)
        random = np.random.default_rng(SEED)
        asked = {
            "past": random.choice(written.past_ids, num_asked, replace=False).tolist(),
            "today": random.choice(written.today_ids, num_asked, replace=False).tolist(),
            "missing": [format_uuid7(_ms_of(an_id), random.bytes(10)) for an_id in written.past_ids[:3]],
        }
        found = {kind: [ask(written.uri, an_id) for an_id in ids] for kind, ids in asked.items()}
        traced = [trace(config, an_id) for an_id in (*asked["past"][:3], *asked["today"][:3])]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for kind, times in found.items():
        if [each["rows"] for each in times] != [0 if kind == "missing" else 1] * len(times):
            raise RuntimeError(f"{kind} ids were answered with {[each['rows'] for each in times]} rows")
    every = [each for times in found.values() for each in times]
    figures = [
        figure("rows", num_rows / 1e6, "million", None if arguments.quick else 100.0, op=">="),
        figure("lookup_cold_max", max(each["look_up_s"] for each in every), "s", TARGET_S),
        *(
            figure(f"lookup_{kind}_median", statistics.median(each["look_up_s"] for each in times), "s")
            for kind, times in found.items()
        ),
        figure("lookup_cpu_max", max(each["cpu_s"] for each in every), "s"),
        figure("lookup_warm_max", max(each["again_s"] for each in every), "s"),
        figure("trace_median", statistics.median(traced), "s"),
        figure("trace_max", max(traced), "s"),
        figure("bytes_a_row", written.num_bytes / num_rows, "bytes"),
        figure("files", written.num_files, "files"),
        figure("commits", written.num_commits, "commits"),
    ]
    return report("payload_lookup", figures, {"lookups": found, "trace_s": traced}, arguments.json)


def figure(name: str, value: float, unit: str, target: float | None = None, *, op: str = "<=") -> Figure:
    return Figure(name=name, value=float(value), unit=unit, target=target, op=">=" if op == ">=" else "<=")


def write_log(config: Config, num_rows: int, num_commits: int) -> Written:
    """Past days first, each merged before the next is written, so that the disk never holds more than two unmerged."""
    Path(config.paths.run).mkdir(parents=True)
    save_config(config, Path(config.paths.run) / "config.json")
    store = ControlStore.of(config.paths)
    store.create_schema()
    model = ModelVersion(
        name="m", version=1, run_id="r", bundle_uri="", bundle_sha256="0", lineage={}, created_at=utc_now()
    )
    data = DataVersion(
        table="d", version=0, uri="", num_rows=1, fingerprint="0", lineage={"contract": {}}, created_at=utc_now()
    )
    store.record_data_version(data)
    store.record_model_version(model)
    store.assign_slot(ENDPOINT, None, model, actor="benchmark")
    uri = payload_uri(config.paths.payload, ENDPOINT)
    table = PayloadTable(COLUMNS, slot="blue", model_name="m", model_version=1, data_version="d@0")
    random = np.random.default_rng(SEED)
    appender = Appender(uri)
    today = datetime.now(UTC).date()
    first_day = int(datetime(today.year, today.month, today.day, tzinfo=UTC).timestamp()) // 86_400 - PAST_DAYS
    rows_a_day = num_rows // (PAST_DAYS + 1)
    past_ids: list[str] = []
    for day in range(PAST_DAYS):
        started = time.perf_counter()
        past_ids += write_day(appender, table, random, first_day + day, rows_a_day, FILES_A_PAST_DAY)
        wrote_s = time.perf_counter() - started
        compact(uri, kept_hours=0)
        compact_s = time.perf_counter() - started - wrote_s
        print(f"day {day + 1} of {PAST_DAYS}: written in {wrote_s:.0f} s, merged in {compact_s:.0f} s", file=sys.stderr)
    started = time.perf_counter()
    today_ids = write_day(appender, table, random, first_day + PAST_DAYS, rows_a_day, num_commits)
    print(f"today: {num_commits} commits in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    files = [path.stat().st_size for path in Path(uri).rglob("*.parquet") if "_delta_log" not in path.parts]
    opened = DeltaTable(uri)
    os.sync()
    return Written(
        uri=uri,
        past_ids=past_ids,
        today_ids=today_ids,
        num_bytes=sum(files),
        num_files=len(files),
        num_commits=opened.version() + 1,
    )


def write_day(
    appender: Appender,
    table: PayloadTable,
    random: np.random.Generator,
    day: int,
    num_rows: int,
    num_files: int,
) -> list[str]:
    """One day's rows in `num_files` commits; returns some of their ids, of each file some."""
    edges = np.linspace(0, num_rows, num_files + 1).astype(np.int64)
    kept = max(1, 100 // num_files)
    ids: list[str] = []
    for low, high in itertools.pairwise(edges):
        # Two replicas' worth of disorder: a commit's ids are of its moment, and in no order.
        at_us = day * DAY_US + random.integers(low * DAY_US // num_rows, high * DAY_US // num_rows, high - low)
        rows = log_rows(table, random, at_us, day)
        ids += [rows["prediction_id"][int(place)].as_py() for place in random.integers(0, high - low, kept)]
        appender.append(rows)
    return ids


def log_rows(table: PayloadTable, random: np.random.Generator, at_us: np.ndarray, day: int) -> pa.Table:
    """What `PayloadTable.build` makes of as many answers of one row each, without the Python objects."""
    num_rows = len(at_us)
    moments = pa.array(at_us, table.schema.field("at").type)
    same = pa.array(np.zeros(num_rows, dtype=np.int32))
    columns: dict[str, pa.Array] = {
        "prediction_id": as_uuids(at_us // 1000, random),
        "row": pa.array(np.zeros(num_rows, dtype=np.int32)),
        "at": moments,
        "started_at": pa.array(at_us + random.integers(20, 200, num_rows), moments.type),
        "slot": pa.DictionaryArray.from_arrays(same, pa.array(["blue"])),
        "generation": pa.DictionaryArray.from_arrays(same, pa.array([1])),
        "model_name": pa.DictionaryArray.from_arrays(same, pa.array(["m"])),
        "model_version": pa.DictionaryArray.from_arrays(same, pa.array([1])),
        "data_version": pa.DictionaryArray.from_arrays(same, pa.array(["d@0"])),
        "request_id": as_uuids(random.integers(0, 1 << 48, num_rows), random),
        "at_day": pa.array(np.full(num_rows, day, dtype=np.int32), pa.date32()),
        "distance": pa.array(random.uniform(50, 3000, num_rows)),
        "hour": pa.array(random.integers(0, 24, num_rows)),
        "score": pa.array(random.random(num_rows)),
        "latency_ms": pa.array(random.gamma(2.0, 0.1, num_rows).astype(np.float32)),
    }
    return pa.table({field.name: columns[field.name] for field in table.schema})


def as_uuids(timestamps_ms: np.ndarray, random: np.random.Generator) -> pa.Array:
    """Texts of uuid7s of these moments, as `runtime.core.ids` writes them."""
    num_rows = len(timestamps_ms)
    content = np.empty((num_rows, 16), dtype=np.uint8)
    content[:, :6] = timestamps_ms.astype(">u8").view(np.uint8).reshape(num_rows, 8)[:, 2:]
    content[:, 6:] = random.integers(0, 256, (num_rows, 10), dtype=np.uint8)
    content[:, 6] = content[:, 6] & 0x0F | 0x70
    content[:, 8] = content[:, 8] & 0x3F | 0x80
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    nibbles = np.empty((num_rows, 32), dtype=np.uint8)
    nibbles[:, 0::2], nibbles[:, 1::2] = digits[content >> 4], digits[content & 0x0F]
    texts = np.full((num_rows, 36), ord("-"), dtype=np.uint8)
    at = 0
    for start, length in ((0, 8), (9, 4), (14, 4), (19, 4), (24, 12)):
        texts[:, start : start + length] = nibbles[:, at : at + length]
        at += length
    offsets = np.arange(num_rows + 1, dtype=np.int32) * 36
    return pa.StringArray.from_buffers(num_rows, pa.py_buffer(offsets), pa.py_buffer(texts))


def look_up(uri: str, prediction_id: str) -> int:
    """In a process of its own: prints how long the look-up and a second one took."""
    times = [time.perf_counter()]
    before_s = time.process_time()
    cpu_s, rows = 0.0, 0
    for _ in range(2):
        try:
            rows = find_prediction(uri, prediction_id).num_rows
        except NotFoundError:
            rows = 0
        times.append(time.perf_counter())
        cpu_s = cpu_s or time.process_time() - before_s
    print(json.dumps({"look_up_s": times[1] - times[0], "again_s": times[2] - times[1], "cpu_s": cpu_s, "rows": rows}))
    return 0


def ask(uri: str, prediction_id: str) -> dict[str, float]:
    forget_pages(Path(uri))
    return run_json([sys.executable, str(Path(__file__).resolve()), "--look-up", uri, prediction_id], os.environ)


def trace(config: Config, prediction_id: str) -> float:
    """Seconds of a whole `teal trace`."""
    forget_pages(Path(payload_uri(config.paths.payload, ENDPOINT)))
    started = time.perf_counter()
    command = [sys.executable, "-m", "runtime.cli", "trace", prediction_id, "--json"]
    answer = run_json(command, os.environ | {"TEAL_HOME": config.paths.home})
    if str(answer["prediction_id"]) != prediction_id:
        raise RuntimeError(f"teal trace {prediction_id} answered {answer}")
    return time.perf_counter() - started


def run_json(command: Sequence[str], environment: "os._Environ[str] | dict[str, str]") -> dict[str, float]:
    done = subprocess.run(
        command, env=dict(environment), cwd=ROOT, capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def forget_pages(directory: Path) -> None:
    """Ask the kernel to drop what it has cached of the log: it does of what is on the disk already."""
    for path in directory.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def _ms_of(uuid7: str) -> int:
    return int(uuid7.replace("-", "")[:12], 16)


if __name__ == "__main__":
    sys.exit(main())
