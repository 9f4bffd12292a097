"""Preparing data for real: Ray reads and writes, Delta commits, processes are killed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import TypeAdapter

from runtime.cluster.ray_process import disconnect
from runtime.config.schema import ColumnConfig, DataConfig, PathsConfig
from runtime.core.errors import ConfigError, ContractError, NotFoundError, TealError
from runtime.core.git import CodeVersion
from runtime.data import delta
from runtime.data.contract import contract_from_json
from runtime.data.current import current_version
from runtime.data.encoding import Encoding
from runtime.data.fingerprint import fingerprint_table
from runtime.data.prepare import Prepared, prepare
from runtime.data.profile import Profile
from runtime.store.control import ControlStore

CODE = CodeVersion(commit="c0ffee", diff_sha256="")
FLIGHTS = Path(__file__).parents[2] / "configs" / "data" / "flights.yaml"
COLUMNS = {
    "id": ColumnConfig(type="string", role="key"),
    "at": ColumnConfig(type="timestamp", role="time"),
    "x": ColumnConfig(type="number", minimum=0, nullable=True),
    "kind": ColumnConfig(type="category"),
    "y": ColumnConfig(type="binary", role="label"),
}
ROWS = ["id,at,x,kind,y,extra"] + [
    f"r{n},2020-01-0{1 + n // 10}T00:00:00Z,{n if n != 7 else ''},{'ab'[n % 2]},{n % 2 if n != 3 else ''},z"
    for n in range(40)
]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    disconnect()  # from the cluster of other tests
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    yield
    ray.shutdown()


class Bench:
    """A home with one CSV, and prepare on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.source = home / "rows.csv"
        self.source.write_text("\n".join(ROWS) + "\n")
        self.paths = PathsConfig(
            home=str(home),
            control=f"sqlite:///{home}/control.db",
            mlflow="",
            warehouse=str(home / "warehouse"),
            artifacts="",
            payload="",
            run="",
        )
        self.store = ControlStore(self.paths.control)
        self.store.create_schema()
        self.config = DataConfig(
            name="rows",
            builder="runtime.data.tabular:build",
            sources={"rows": str(self.source)},
            columns=COLUMNS,
        )

    def prepare(self, **changes: Any) -> Prepared:
        return prepare(replace(self.config, **changes), paths=self.paths, store=self.store, code=CODE)

    def change_source(self, row: int, text: str) -> None:
        self.source.write_text("\n".join([*ROWS[: row + 1], text, *ROWS[row + 2 :]]) + "\n")

    def table_files(self) -> list[str]:
        root = self.home / "warehouse" / "rows"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def bench(local_ray: None, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.store.close()


def test_a_version_holds_the_rows_the_lineage_and_the_reference(bench: Bench) -> None:
    prepared = bench.prepare()
    version = prepared.version
    assert prepared.is_new
    assert (version.label, version.num_rows) == ("rows@0", 39)
    table = delta.read_table(version.uri, version.version)
    assert table["id"].to_pylist() == [f"r{n}" for n in range(40) if n != 3]
    assert table.schema.field("y").type == pa.int8()
    assert fingerprint_table(table).text == version.fingerprint
    lineage = version.lineage
    assert lineage["counts"] == {"built": 40, "outside_window": 0, "unlabelled": 1, "rejected": 0, "written": 39}
    assert lineage["dropped_columns"] == ["extra"]
    assert lineage["code"]["commit"] == "c0ffee"
    assert contract_from_json(lineage["contract"]) == COLUMNS
    assert lineage["sources"]["rows"]["uri"] == str(bench.source)
    reference = (Path(version.uri) / lineage["profile"]["path"]).read_bytes()
    assert lineage["profile"]["sha256"] == hashlib.sha256(reference).hexdigest()
    assert Encoding.from_json(json.loads(reference)["encoding"]).vocabularies == {"kind": ("a", "b")}
    assert Profile.from_json(json.loads(reference)["profile"]).counts.rows == 39
    assert bench.store.data_version("rows") == version


def test_unchanged_inputs_write_nothing_and_changed_ones_a_version(bench: Bench) -> None:
    first = bench.prepare()
    before = bench.table_files()
    again = bench.prepare()
    assert (again.is_new, again.version) == (False, first.version)
    assert bench.table_files() == before
    window = bench.prepare(since="2020-01-02", until="2020-01-03")
    assert window.is_new
    assert (window.version.version, window.version.num_rows) == (1, 10)
    assert window.version.lineage["counts"]["outside_window"] == 30
    # Back to the first window: nothing is written, and the table's current version is the one that was asked for.
    assert current_version(bench.store, "rows") == window.version
    assert bench.prepare().version == current_version(bench.store, "rows") == first.version
    bench.change_source(0, "r0,2020-01-01T00:00:00Z,5,a,1,z")
    assert bench.prepare().version.version == 2
    # Older versions stay as they were.
    assert delta.read_table(first.version.uri, 0).num_rows == 39
    assert bench.prepare(since="2020-01-02", until="2020-01-03").version.version == 3


def test_bytes_follow_the_rows_alone(bench: Bench, tmp_path: Path, local_ray: None) -> None:
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other")
    one, two = bench.prepare().version, other.prepare().version
    other.store.close()
    assert one.fingerprint == two.fingerprint
    assert [file["sha256"] for file in one.lineage["files"]] == [file["sha256"] for file in two.lineage["files"]]
    assert one.lineage["profile"]["sha256"] == two.lineage["profile"]["sha256"]


def test_a_changed_contract_changes_the_schema_in_one_commit(bench: Bench) -> None:
    bench.prepare()
    columns = {**COLUMNS, "extra": ColumnConfig(type="category")}
    del columns["x"]
    version = bench.prepare(columns=columns).version
    assert delta.read_table(version.uri, 1).column_names == ["id", "at", "kind", "y", "extra"]
    assert delta.read_table(version.uri, 0).column_names == ["id", "at", "x", "kind", "y"]


def test_broken_rows_are_set_aside_up_to_the_limit(bench: Bench) -> None:
    bench.change_source(5, "r5,2020-01-01T00:00:00Z,-4,b,1,z")
    with pytest.raises(ContractError, match=r"1 of 39 rows.*max_invalid_fraction 0 .*'x' must be at least 0.*-4\.0"):
        bench.prepare()
    assert not (bench.home / "warehouse" / "rows").exists()
    assert bench.store.data_versions() == []
    version = bench.prepare(max_invalid_fraction=0.05).version
    assert version.num_rows == 38
    assert version.lineage["violations"][0]["count"] == 1
    rejected = pq.read_table(Path(version.uri) / version.lineage["rejected_files"][0])
    assert rejected.select(["id", "_reason"]).to_pylist() == [{"id": "r5", "_reason": "x must be at least 0"}]
    assert delta.read_table(version.uri, 0).num_rows == 38


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ("r0,soon,1,a,1,z", {}, "column 'at' must be timestamp, but 'soon' is not one"),
        ("r0,2020-01-01T00:00:00Z,many,a,1,z", {}, "column 'x' must be number, but 'many' is not one"),
        ("r1,2020-01-01T00:00:00Z,1,a,1,z", {}, "key column 'id' must be unique: 1 rows repeat a key.* 'r1'"),
        (None, {"since": "2021-01-01"}, "would have no rows: of 40 in the source 40 are outside"),
        (None, {"columns": COLUMNS | {"w": ColumnConfig(type="number")}}, "column 'w' is missing"),
    ],
)
def test_a_bad_source_names_the_fault_and_leaves_the_old_version(
    bench: Bench, row: str | None, changes: dict[str, Any], message: str
) -> None:
    bench.prepare()
    before = bench.table_files()
    if row is not None:
        bench.change_source(0, row)
    with pytest.raises(ContractError, match=message):
        bench.prepare(**changes)
    assert bench.table_files() == before
    assert len(bench.store.data_versions()) == 1


def test_bad_configuration_is_named_before_anything_is_read(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"data\.since 2021-01-01 must be before"):
        bench.prepare(since="2021-01-01", until="2020-01-01")
    with pytest.raises(NotFoundError, match="source 'rows': no file"):
        bench.prepare(sources={"rows": "/nowhere.csv"})
    with pytest.raises(ConfigError, match="outside the allowed modules"):
        bench.prepare(builder="os:system")


def test_parquet_sources_work_and_a_failing_builder_is_named(bench: Bench) -> None:
    table = pa.table({"id": ["a", "b"], "at": pa.array([0, 1], pa.timestamp("us", tz="UTC")), "x": [1, 2]})
    table = table.append_column("kind", pa.array(["u", "v"])).append_column("y", pa.array([True, False]))
    pq.write_table(table, bench.home / "rows.parquet")
    version = bench.prepare(sources={"rows": str(bench.home / "rows.parquet")}).version
    assert delta.read_table(version.uri, version.version)["y"].to_pylist() == [1, 0]
    bench.source.write_text('id,at\n"x')
    with pytest.raises(TealError, match=r"builder 'runtime.data.tabular:build' of table 'rows' failed"):
        bench.prepare()


def test_a_lost_table_is_built_again_and_a_lost_store_finds_the_commit(bench: Bench) -> None:
    first = bench.prepare().version
    forgetful = ControlStore(f"sqlite:///{bench.home}/other.db")
    forgetful.create_schema()
    found = prepare(bench.config, paths=bench.paths, store=forgetful, code=CODE)
    assert (found.is_new, found.version) == (True, first)
    assert forgetful.data_version("rows") == first
    forgetful.close()
    shutil.rmtree(first.uri)
    rebuilt = bench.prepare()
    assert rebuilt.is_new
    assert rebuilt.version.fingerprint == first.fingerprint


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from tests.integration.test_data_prepare import Bench, CODE, kill_at
    kill_at(sys.argv[1], sys.argv[2])
    """
)


def kill_at(home: str, point: str) -> None:
    """In a process of its own: prepare with the write task run in place, and die at `point`."""
    from runtime.data import attempt
    from runtime.data.datasink import TableDatasink

    bench = Bench(Path(home))
    bench.change_source(0, "r0,2020-01-01T00:00:00Z,5,a,1,z")

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Context:
        task_idx = 0

    def run_in_place(self: attempt.Attempt, build: object, files: dict[str, Path]) -> list[Any]:
        from pyarrow import csv

        sink = TableDatasink(uri=self._uri, stem=self._stem, config=self._config)
        texts = csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=True)
        part = sink.write([csv.read_csv(files["rows"], convert_options=texts)], Context())
        if point == "written":
            (Path(self._uri) / f".part-{self._stem}-00001.parquet.1").write_bytes(b"half")
            die()
        return [part]

    def report(text: str, done: int = 0, total: int = 0) -> None:
        if text == point:
            die()

    class DyingStore(ControlStore):
        def record_data_version(self, version: Any) -> None:
            if point == "committed":
                die()
            super().record_data_version(version)
            if point == "recorded":
                die()

    attempt.Attempt._run_builder = run_in_place  # type: ignore[method-assign]
    store = DyingStore(bench.paths.control)
    prepare(bench.config, paths=bench.paths, store=store, code=CODE, on_progress=report)


@pytest.mark.parametrize(
    ("point", "expected_version"),
    [("written", 0), ("building the profile", 0), ("committing", 0), ("committed", 1), ("recorded", 1)],
)
def test_a_kill_leaves_the_old_version_or_the_new_and_the_next_call_finishes(
    bench: Bench, point: str, expected_version: int
) -> None:
    old = bench.prepare().version
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(bench.home), point],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert delta.newest_version(old.uri) == expected_version
    assert fingerprint_table(delta.read_table(old.uri, 0)).text == old.fingerprint
    newest = fingerprint_table(delta.read_table(old.uri, None)).text
    assert (newest == old.fingerprint) == (expected_version == 0)
    prepared = bench.prepare()
    assert prepared.version.version == 1
    assert prepared.is_new
    assert delta.newest_version(old.uri) == 1
    assert bench.store.data_version("rows") == prepared.version
    table = delta.read_table(old.uri, None)
    assert fingerprint_table(table).text == prepared.version.fingerprint
    named = {file["path"] for version in bench.store.data_versions() for file in version.lineage["files"]}
    parts = {name for name in bench.table_files() if name.startswith(("part-", ".part-"))}
    assert parts == named
    assert not bench.prepare().is_new


def test_flights_by_month(bench: Bench) -> None:
    config = TypeAdapter(DataConfig).validate_python(yaml.safe_load(FLIGHTS.read_text()))
    config = replace(config, since="2013-05-01", until="2013-06-01")
    version = prepare(config, paths=bench.paths, store=bench.store, code=CODE).version
    counts = version.lineage["counts"]
    assert counts["built"] == 336_776
    assert counts["built"] - counts["outside_window"] == 28_796
    assert version.num_rows == 28_128
    assert counts["unlabelled"] == 28_796 - 28_128
    table = delta.read_table(version.uri, version.version)
    late = table["late"].to_numpy()
    assert late.mean() == pytest.approx(0.220, abs=0.0005)
    assert table["temp"].null_count < 100
