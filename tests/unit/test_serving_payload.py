"""What is logged can be read back, whoever writes at the same time."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from runtime.config.schema import ColumnConfig
from runtime.core.errors import NotFoundError
from runtime.core.ids import format_uuid7, new_id
from runtime.serving import delta_log
from runtime.serving.codec import Label
from runtime.serving.delta_log import ROW_BYTES, DeltaLog, append
from runtime.serving.payload import (
    Answer,
    Feedback,
    PayloadTable,
    build_feedback,
    feedback_uri,
    find_prediction,
    payload_uri,
    read_feedback,
    read_payload,
)
from tests.serving_example import example_columns, example_row

COLUMNS = example_columns()


def table_of(columns: dict[str, ColumnConfig] = COLUMNS) -> PayloadTable:
    return PayloadTable(columns, slot="green", model_name="m", model_version=2, data_version="d@1")


def answer(at_ms: int, num_rows: int = 1, **change: Any) -> Answer:
    return Answer(
        prediction_id=format_uuid7(at_ms, at_ms.to_bytes(10)),
        at_ns=at_ms * 1_000_000 + 123_000,
        started_ns=at_ms * 1_000_000 + 456_000,
        generation=7,
        request_id="r",
        rows=[example_row(index) | change for index in range(num_rows)],
        scores=[0.25 * index for index in range(num_rows)],
        latency_ms=1.5,
    )


def test_a_prediction_is_found_by_its_id(tmp_path: Path) -> None:
    uri = payload_uri(str(tmp_path), "flights")
    now_ms = time.time_ns() // 1_000_000
    answers = [answer(now_ms + offset, num_rows=3) for offset in (-5000, 0, 1, 5000)]
    append(uri, table_of().build(answers[:2]))
    append(uri, table_of().build(answers[2:]))
    found = find_prediction(uri, answers[1].prediction_id).to_pylist()
    assert [row["row"] for row in found] == [0, 1, 2]
    assert [row["score"] for row in found] == [0.0, 0.25, 0.5]
    assert found[2]["carrier"] == example_row(2)["carrier"]
    assert found[0]["x3"] == example_row(0)["x3"]
    assert found[0]["at"] == datetime.fromtimestamp(answers[1].at_ns // 1000 / 1e6, UTC)
    assert {name: found[0][name] for name in ("slot", "generation", "model_name", "model_version", "data_version")} == {
        "slot": "green",
        "generation": 7,
        "model_name": "m",
        "model_version": 2,
        "data_version": "d@1",
    }
    assert "passport" not in found[0]


def test_rows_that_came_as_a_table_are_logged_as_rows_are() -> None:
    rows = [example_row(index) for index in range(3)] + [example_row(3) | {"hour": None}]
    by_row = answer(1)._replace(rows=rows, scores=[0.1, 0.2, 0.3, 0.4])
    as_asked = pa.Table.from_pylist(rows).append_column("unused", pa.array([1, 2, 3, 4]))
    narrow = as_asked.set_column(0, "x0", as_asked["x0"].cast(pa.float64()))
    missing = narrow.set_column(
        narrow.column_names.index("hour"),
        "hour",
        pa.array([float("nan") if r["hour"] is None else float(r["hour"]) for r in rows]),
    )
    by_table = by_row._replace(rows=missing)
    assert table_of().build([by_table]).equals(table_of().build([by_row]))
    both = table_of().build([by_table, answer(2), by_table])
    assert both.num_rows == 9
    assert sorted(both["row"].to_pylist()) == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_tables_of_many_answers_keep_their_order_types_and_what_is_missing() -> None:
    rows = [example_row(index) for index in range(6)]
    of_json = pa.table({name: pa.array([row[name] for row in rows]) for name in reversed(rows[0])})
    hours = pa.array([1.0, float("nan"), None, 4.0, 5.0, 6.0])
    narrow = of_json.set_column(of_json.column_names.index("hour"), "hour", hours)
    split = pa.Table.from_batches(narrow.to_batches(max_chunksize=4))
    lacking = of_json.drop_columns(["hour"])
    scores = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    answers = [
        answer(at)._replace(rows=table, scores=np.array(scores))
        for at, table in enumerate([of_json, of_json, split, lacking, narrow, of_json] * 30, start=1)
    ]
    built = table_of().build(answers)
    assert built.num_rows == 6 * len(answers)
    assert built["prediction_id"].to_pylist() == [one.prediction_id for one in answers for _ in range(6)]
    assert built["row"].to_pylist() == list(range(6)) * len(answers)
    assert built["score"].to_pylist() == scores * len(answers)
    assert built["x3"].to_pylist() == [row["x3"] for row in rows] * len(answers)
    as_asked = [row["hour"] for row in rows]
    with_gaps = [1, None, None, 4, 5, 6]
    assert built["hour"].to_pylist() == [*as_asked * 2, *with_gaps, *[None] * 6, *with_gaps, *as_asked] * 30


def test_personal_numbers_in_tables_are_hashed_as_those_of_rows_are() -> None:
    columns = COLUMNS | {"x0": ColumnConfig(type="number", pii=True), "hour": ColumnConfig(type="integer", pii=True)}
    table = PayloadTable(columns, slot="blue", model_name="m", model_version=1, data_version="d", pii_key=b"k" * 32)
    rows = [example_row(index % 2) for index in range(4)]
    by_row = table.build([answer(1)._replace(rows=rows, scores=[0.0] * 4)])
    by_table = table.build([answer(1)._replace(rows=pa.Table.from_pylist(rows), scores=[0.0] * 4)])
    for name in ("x0", "hour", "passport"):
        assert by_table[name].to_pylist() == by_row[name].to_pylist()
    assert len(set(by_row["x0"].to_pylist())) == 2


def test_personal_columns_are_keyed_hashes_where_there_is_a_key() -> None:
    def hashes(key: bytes, *passports: str | None) -> list[str | None]:
        table = PayloadTable(COLUMNS, slot="blue", model_name="m", model_version=1, data_version="d", pii_key=key)
        built = table.build([answer(1, passport=passport) for passport in passports])
        found: list[str | None] = built["passport"].to_pylist()
        return found

    first, second, again, missing = hashes(b"k" * 32, "P1", "P2", "P1", None)
    assert first == again != second
    assert missing is None
    assert hashes(b"j" * 32, "P1")[0] != first
    assert first is not None
    assert "P1" not in first


def test_an_id_that_leads_nowhere_says_so(tmp_path: Path) -> None:
    uri = payload_uri(str(tmp_path), "flights")
    with pytest.raises(NotFoundError, match="no payload log"):
        find_prediction(uri, new_id())
    append(uri, table_of().build([answer(1_700_000_000_000)]))
    with pytest.raises(NotFoundError, match="is not in the log"):
        find_prediction(uri, new_id())
    with pytest.raises(NotFoundError, match="x-prediction-id"):
        find_prediction(uri, "no id")


def test_rows_are_read_by_time_and_column(tmp_path: Path) -> None:
    uri = payload_uri(str(tmp_path), "flights")
    times = [1_700_000_003_000, 1_700_000_001_000, 1_700_000_002_000]
    append(uri, table_of().build([answer(at) for at in times]))
    since, until = (datetime.fromtimestamp(second, UTC) for second in (1_700_000_002, 1_700_000_003))
    assert read_payload(uri, columns=["score", "x0"]).column_names == ["score", "x0"]
    assert read_payload(uri)["at"].to_pylist() == sorted(read_payload(uri)["at"].to_pylist())
    assert read_payload(uri, since=since, until=until).num_rows == 1


def test_whole_floats_fit_integer_columns_and_null_stays_null() -> None:
    table = table_of().build([answer(1, hour=3.0), answer(2, hour=None)])
    assert table["hour"].to_pylist() == [3, None]
    assert table["hour"].type == pa.int64()


def test_an_integer_beyond_a_double_costs_no_row(tmp_path: Path) -> None:
    table = table_of().build([answer(1), answer(2, x0=2**60 + 1), answer(3, hour=None)])
    assert table["x0"].to_pylist()[1] == float(2**60)
    assert table["hour"].to_pylist()[2] is None


def test_a_models_new_column_joins_the_log(tmp_path: Path) -> None:
    uri = payload_uri(str(tmp_path), "flights")
    append(uri, table_of().build([answer(1)]))
    wider = COLUMNS | {"wind": ColumnConfig(type="number")}
    append(uri, table_of(wider).build([answer(2, wind=3.5)]))
    append(uri, table_of().build([answer(3)]))
    assert read_payload(uri)["wind"].to_pylist() == [None, 3.5, None]


def test_writers_that_all_find_no_table_lose_nothing(tmp_path: Path) -> None:
    uri = payload_uri(str(tmp_path), "flights")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda at: append(uri, table_of().build([answer(at)])), range(1, 19)))
    assert read_payload(uri).num_rows == 18


def test_the_last_label_of_a_row_wins(tmp_path: Path) -> None:
    uri = feedback_uri(str(tmp_path), "flights")
    assert read_feedback(uri).num_rows == 0
    first, second = new_id(), new_id()

    def feedback(at: int, *labels: tuple[str, int, int]) -> Feedback:
        taken = [Label(prediction_id=name, row=row, label=label) for name, row, label in labels]
        return Feedback(labels=taken, received_ns=at * 1_000_000_000)

    append(uri, build_feedback([feedback(2, (first, 0, 1), (first, 1, 0))]))
    append(uri, build_feedback([feedback(1, (first, 0, 0)), feedback(3, (second, 0, 0), (second, 0, 1))]))
    found = read_feedback(uri).select(["prediction_id", "row", "label"]).to_pylist()
    assert {(row["prediction_id"], row["row"]): row["label"] for row in found} == {
        (first, 0): 1,
        (first, 1): 0,
        (second, 0): 1,
    }
    assert len(found) == 3


def test_a_log_writes_what_it_holds_when_it_is_closed(tmp_path: Path) -> None:
    uri = payload_uri(str(tmp_path), "flights")
    log = DeltaLog[Answer](uri, table_of().build, flush_s=3600)
    assert log.add(answer(1, num_rows=2), 2)
    log.close()
    assert read_payload(uri).num_rows == 2
    assert log.status() == {"buffered_rows": 0, "written_rows": 2, "dropped_rows": 0, "failures": 0}


def test_a_full_buffer_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_log, "EARLY_SHARE", 2.0)
    log = DeltaLog[Answer](
        payload_uri(str(tmp_path), "flights"), table_of().build, flush_s=3600, max_bytes=3 * ROW_BYTES
    )
    assert [log.add(answer(at, num_rows=2), 2) for at in (1, 2)] == [True, False]
    assert log.status()["dropped_rows"] == 2
    log.close()


def test_the_bound_is_of_what_is_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_log, "EARLY_SHARE", 2.0)
    log = DeltaLog[Answer](payload_uri(str(tmp_path), "flights"), table_of().build, flush_s=3600, max_bytes=1000)
    assert log.add(answer(1, num_rows=50), 50, 600)
    assert not log.add(answer(2, num_rows=50), 50, 600)
    assert log.add(answer(3), 1, 400)
    log._flush()
    assert log.add(answer(4, num_rows=50), 50, 1000)
    log.close()
    assert log.status() == {"buffered_rows": 0, "written_rows": 101, "dropped_rows": 50, "failures": 0}


def test_a_buffer_that_fills_is_written_before_its_time(tmp_path: Path) -> None:
    is_built = threading.Event()

    def build(answers: Sequence[Answer]) -> pa.Table:
        is_built.set()
        return table_of().build(answers)

    log = DeltaLog[Answer](payload_uri(str(tmp_path), "flights"), build, flush_s=3600, max_bytes=1000)
    log.add(answer(1), 1, 200)
    assert not is_built.is_set()
    log.add(answer(2), 1, 200)
    assert is_built.wait(30)
    log.close()
    assert log.status()["written_rows"] == 2


def test_only_ids_and_times_have_statistics(tmp_path: Path) -> None:
    uri = payload_uri(str(tmp_path), "flights")
    append(uri, table_of().build([answer(1)]))
    columns = pa.table(DeltaTable(uri).get_add_actions(flatten=True)).column_names
    assert {name for name in columns if name.startswith("max.")} == {"max.prediction_id", "max.at", "max.started_at"}
    assert pa.table(DeltaTable(uri).get_add_actions(flatten=True))["num_records"].to_pylist() == [1]


def test_rows_wait_while_the_disk_refuses(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the table's folder should be")
    log = DeltaLog[Answer](str(blocked), table_of().build, flush_s=3600)
    log.add(answer(1), 1)
    log._flush()
    assert (log.status()["buffered_rows"], log.status()["failures"]) == (1, 1)
    blocked.unlink()
    log.close()
    assert read_payload(str(blocked)).num_rows == 1


def test_rows_that_cannot_be_built_are_dropped_alone(tmp_path: Path) -> None:
    log = DeltaLog[Answer](payload_uri(str(tmp_path), "flights"), table_of().build, flush_s=3600)
    log.add(answer(1, x0="no number"), 1)
    log._flush()
    log.add(answer(2), 1)
    log.close()
    assert log.status() == {"buffered_rows": 0, "written_rows": 1, "dropped_rows": 1, "failures": 1}
