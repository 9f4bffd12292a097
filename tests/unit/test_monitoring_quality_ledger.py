"""The payload log joined with labels as they come: real Delta tables, every odd label, every restart."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.config.alerting import QualityConfig
from runtime.core.ids import format_uuid7
from runtime.data.parquet import write_parquet
from runtime.monitoring import quality_changes, quality_parts
from runtime.monitoring.quality_join import MOMENT, add_predictions, join_labels, made_ms
from runtime.monitoring.quality_ledger import QualityLedger, State

START = datetime(2026, 6, 10, 12, tzinfo=UTC)
NOW = (START + timedelta(days=20)).timestamp()


def make_id(number: int, day: int = 0) -> str:
    moment = START + timedelta(days=day, seconds=number)
    return format_uuid7(int(moment.timestamp() * 1000), number.to_bytes(10))


def make_rows(ids: Sequence[tuple[str, int]], *, day: int = 0, version: int = 1, score: float = 0.25) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "prediction_id": [one for one, _ in ids],
            "row": pa.array([row for _, row in ids], pa.int32()),
            "at": pa.array([START + timedelta(days=day, seconds=number) for number in range(n)], MOMENT),
            "slot": ["blue"] * n,
            "model_name": ["flights"] * n,
            "model_version": pa.array([version] * n, pa.int64()),
            "carrier": ["AA" if number % 2 else "UA" for number in range(n)],
            "score": pa.array([score] * n, pa.float64()),
        }
    )


def make_labels(labels: Sequence[tuple[str, int, int, timedelta]]) -> pa.Table:
    return pa.table(
        {
            "prediction_id": pa.array([one for one, *_ in labels], pa.string()),
            "row": pa.array([row for _, row, *_ in labels], pa.int32()),
            "label": pa.array([label for *_, label, _ in labels], pa.int8()),
            "received_at": pa.array([START + delay for *_, delay in labels], MOMENT),
        }
    )


def moments(numbers: Sequence[int]) -> pa.Array:
    return pa.array([START + timedelta(seconds=number) for number in numbers], MOMENT)


class Tables:
    """A payload log and its feedback, and a ledger over them."""

    def __init__(self, home: Path) -> None:
        self.payload, self.feedback = str(home / "flights"), str(home / "flights_feedback")
        self.home = home

    def ledger(self, conflicts: Literal["first", "last"] = "last", **settings: Any) -> QualityLedger:
        return QualityLedger(
            self.home / "quality",
            payload_uri=self.payload,
            feedback_uri=self.feedback,
            slice_columns=["carrier"],
            config=QualityConfig(conflicts=conflicts, loss_batch_rows=2, loss_batch_s=3, **settings),
            read_reference=lambda _: None,
        )

    def log(self, rows: pa.Table) -> None:
        write_deltalake(self.payload, rows, mode="append", schema_mode="merge")

    def label(self, *labels: tuple[str, int, int, timedelta]) -> None:
        write_deltalake(self.feedback, make_labels(labels), mode="append")


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def labels_of(ledger: QualityLedger) -> dict[tuple[str, int], int | None]:
    rows = ledger.read()[1]
    return {
        (row["prediction_id"], row["row"]): row["label"]
        for row in rows.select(["prediction_id", "row", "label"]).to_pylist()
    }


HOUR = timedelta(hours=1)


def test_nothing_was_logged_yet(tables: Tables) -> None:
    ledger = tables.ledger()
    assert ledger.update(NOW).counts.predictions == 0
    state, rows = ledger.read()
    assert (state.parts, rows.num_rows) == ({}, 0)


@pytest.mark.parametrize(("conflicts", "kept"), [("first", 0), ("last", 1)])
def test_every_odd_label_is_counted_and_the_policy_decides(
    tables: Tables, conflicts: Literal["first", "last"], kept: int
) -> None:
    a, b, later = make_id(1), make_id(2), make_id(3, day=1)
    tables.log(make_rows([(a, 0), (a, 1), (b, 0), (b, 0)]))
    tables.label((a, 0, 0, HOUR), (a, 0, 0, 2 * HOUR), (a, 1, 1, timedelta(days=9)), (later, 0, 1, HOUR))
    ledger = tables.ledger(conflicts)
    first = ledger.update(NOW).counts
    assert (first.predictions, first.repeated_predictions, first.labels, first.labelled) == (3, 1, 4, 2)
    assert (first.repeated, first.conflicting, first.late, first.waiting, first.unknown) == (1, 0, 1, 1, 0)

    tables.label((a, 0, 1, 3 * HOUR), (a, 0, 1, 4 * HOUR), (make_id(9), 0, 1, HOUR))
    tables.log(make_rows([(later, 0), (b, 0)], day=1))
    second = ledger.update(NOW).counts
    # The first policy calls each label that contradicts the first one conflicting, the last one each change.
    assert second.conflicting == (2 if conflicts == "first" else 1)
    assert second.repeated == (1 if conflicts == "first" else 2)
    assert (second.labelled, second.waiting, second.repeated_predictions) == (3, 1, 2)
    assert labels_of(ledger) == {(a, 0): kept, (a, 1): 1, (b, 0): None, (later, 0): 1}


def test_an_unknown_label_waits_until_its_horizon_and_is_then_given_up(tables: Tables) -> None:
    tables.log(make_rows([(make_id(1), 0)]))
    tables.label((make_id(2), 0, 1, HOUR), (make_id(1), 7, 1, HOUR), ("no id", 0, 1, HOUR))
    ledger = tables.ledger(wait_s=3600 * 24)
    assert ledger.update(START.timestamp() + 7200).counts.waiting == 3
    tables.log(make_rows([(make_id(2), 0)]))
    assert ledger.update(START.timestamp() + 10_000).counts.waiting == 2
    tables.log(make_rows([(make_id(5), 0)]))
    done = ledger.update(START.timestamp() + 3600 * 26).counts
    assert (done.waiting, done.unknown, done.labelled) == (0, 2, 1)


def test_an_update_without_news_writes_nothing_and_reads_no_file_again(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(quality_changes, "check_plain_file", lambda path: read.append(path.name))
    for number in range(3):
        tables.log(make_rows([(make_id(number), 0)]))
    ledger = tables.ledger()
    before = ledger.update(NOW)
    assert len(read) == 3
    assert ledger.update(NOW) == before
    assert len(read) == 3
    tables.log(make_rows([(make_id(7), 0)]))
    after = ledger.update(NOW)
    assert len(read) == 4
    assert after.counts.predictions == 4


def test_a_part_that_gets_predictions_and_labels_is_written_once(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def write(path: Path, rows: pa.Table) -> str:
        written.append(path.name)
        return write_parquet(path, rows)

    monkeypatch.setattr(quality_parts, "write_parquet", write)
    tables.log(make_rows([(make_id(number), 0) for number in range(5)]))
    tables.label((make_id(3), 0, 1, HOUR))
    state = tables.ledger().update(NOW)
    assert (written, state.counts.labelled) == (list(state.parts.values()), 1)


def test_a_kill_between_the_files_and_the_state_counts_nothing_twice(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.log(make_rows([(make_id(1), 0), (make_id(2), 0)]))
    ledger = tables.ledger()
    ledger.update(NOW)
    tables.label((make_id(1), 0, 1, HOUR))
    with monkeypatch.context() as patch:
        patch.setattr(QualityLedger, "_write_state", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            ledger.update(NOW)
    state = tables.ledger().update(NOW)
    assert (state.counts.labelled, state.counts.repeated, state.counts.predictions) == (1, 0, 2)
    names = {path.name for path in (tables.home / "quality").glob("*.parquet")}
    assert names == set(state.parts.values())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_rows_that_were_erased_or_compacted_make_it_start_over(tables: Tables) -> None:
    gone, kept = make_id(1), make_id(2)
    tables.log(make_rows([(gone, 0)]))
    tables.log(make_rows([(kept, 0)]))
    tables.label((gone, 0, 1, HOUR), (kept, 0, 0, HOUR))
    ledger = tables.ledger()
    assert ledger.update(NOW).counts.labelled == 2
    DeltaTable(tables.payload).delete(f"prediction_id = '{gone}'")
    after = ledger.update(NOW)
    assert (after.counts.predictions, after.counts.labelled, after.counts.waiting) == (1, 1, 1)
    assert list(labels_of(ledger)) == [(kept, 0)]


def test_other_settings_and_a_table_that_was_made_anew_make_it_start_over(tables: Tables) -> None:
    tables.log(make_rows([(make_id(1), 0)]))
    tables.label((make_id(1), 0, 0, HOUR), (make_id(1), 0, 1, 2 * HOUR))
    assert tables.ledger("last").update(NOW).counts.labelled == 1
    assert labels_of(tables.ledger("last")) == {(make_id(1), 0): 1}
    assert tables.ledger("first").update(NOW).counts.predictions == 1
    assert labels_of(tables.ledger("first")) == {(make_id(1), 0): 0}


def test_only_the_parts_of_a_window_are_read(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_parts, "PART_ROWS", 1)
    for day in (0, 1, 5):
        tables.log(make_rows([(make_id(0, day=day), 0)], day=day))
    ledger = tables.ledger()
    state = ledger.update(NOW)
    begins = [datetime.fromtimestamp(int(start) / 1000, UTC) for start in state.parts]
    assert begins == [datetime(1970, 1, 1, tzinfo=UTC), START + timedelta(days=1), START + timedelta(days=5)]
    assert ledger.read(since=START + timedelta(days=1))[1].num_rows == 2
    assert ledger.read(since=START + timedelta(hours=1), until=START + timedelta(days=2))[1].num_rows == 1
    (tables.home / "quality" / state.parts["0"]).unlink()
    assert ledger.read(since=START + timedelta(days=2))[1].num_rows == 1


@pytest.mark.parametrize("how", ["grows", "starts over"])
def test_a_scan_reads_each_row_once_whatever_is_updated_meanwhile(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(quality_parts, "PART_ROWS", 3)
    numbers = range(0, 80, 4)
    tables.log(make_rows([(make_id(number), 0) for number in numbers]).set_column(2, "at", moments(numbers)))
    ledger = tables.ledger()
    num_parts = len(ledger.update(NOW).parts)
    assert num_parts > 4
    read = []
    for number, rows in enumerate(ledger.scan()):
        read += rows["prediction_id"].to_pylist()
        if how == "grows":
            between = [4 * later + number % 3 + 1 for later in range(20)]
            more = make_rows([(make_id(one), 0) for one in between]).set_column(2, "at", moments(between))
            tables.log(more)
        elif number == 2:
            monkeypatch.setattr(quality_parts, "PART_ROWS", 5)
            DeltaTable(tables.payload).delete(f"prediction_id = '{make_id(0)}'")
        ledger.update(NOW)
    assert len(read) == len(set(read))
    assert {make_id(number) for number in numbers} <= set(read)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), max_size=12),
            st.lists(st.tuples(st.integers(0, 32), st.integers(0, 1), st.integers(0, 1)), max_size=6),
        ),
        min_size=1,
        max_size=5,
    ),
    part_rows=st.sampled_from([1, 2, 5]),
)
def test_rows_in_many_parts_are_what_they_are_in_one(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[list[tuple[int, int]], list[tuple[int, int, int]]]],
    part_rows: int,
) -> None:
    """In whatever order predictions and labels come, and in however many updates."""
    tables = Tables(tmp_path_factory.mktemp("parts"))
    one_part = QualityLedger(
        tables.home / "whole",
        payload_uri=tables.payload,
        feedback_uri=tables.feedback,
        slice_columns=["carrier"],
        config=QualityConfig(loss_batch_rows=2, loss_batch_s=3),
        read_reference=lambda _: None,
    )
    clock = 0
    for logged, labels in steps:
        if logged:
            tables.log(make_rows([(make_id(number), row) for number, row in logged]))
        given_labels = []
        for number, row, label in labels:
            clock += 1
            given_labels.append((make_id(number), row, label, timedelta(hours=1, seconds=clock)))
        if given_labels:
            tables.label(*given_labels)
        with monkeypatch.context() as patch:
            patch.setattr(quality_parts, "PART_ROWS", part_rows)
            patch.setattr(quality_changes, "BATCH_ROWS", part_rows)
            state = tables.ledger().update(NOW)
            split = tables.ledger().read()[1]
        whole_state = one_part.update(NOW)
        assert state.counts == whole_state.counts
        assert state.watches == whole_state.watches
        whole = one_part.read()[1]
        order = [("prediction_id", "ascending"), ("row", "ascending")]
        assert split.sort_by(order).select(whole.column_names).equals(whole.sort_by(order))
        sizes = [pq.read_metadata(tables.home / "quality" / name).num_rows for name in state.parts.values()]
        # Rows of one millisecond, here those of one id, are not parted.
        assert max(sizes, default=0) <= 2 * part_rows + 1


def test_the_loss_watch_goes_on_where_it_was(tables: Tables) -> None:
    ids = [(make_id(number), 0) for number in range(8)]
    tables.log(make_rows(ids))
    ledger = tables.ledger()
    for one, row in ids:
        tables.label((one, row, 1, HOUR))
        state = ledger.update(NOW)
    (watch,) = ledger.watches(state).values()
    assert (watch.num_rows, watch.num_batches) == (8, 2)
    assert watch.mean == pytest.approx(-np.log(0.25))


def test_the_state_is_one_json_file(tables: Tables) -> None:
    tables.log(make_rows([(make_id(1), 0)]))
    tables.ledger().update(NOW)
    assert State(**json.loads((tables.home / "quality" / "state.json").read_text())).generation == 1


def test_times_are_those_of_the_ids() -> None:
    ids = pa.chunked_array([[make_id(1, day=3), "x", "z" * 36, make_id(2)]])
    at = pa.chunked_array([pa.array([START] * 4, MOMENT)])
    start = int(START.timestamp() * 1000)
    assert made_ms(ids, at).tolist() == [start + 3 * 86_400_000 + 1000, start, start, start + 2000]


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=6), min_size=1, max_size=5
    ),
    policy=st.sampled_from(["first", "last"]),
)
def test_labels_in_batches_end_as_labels_one_by_one(
    batches: list[list[tuple[int, int]]], policy: Literal["first", "last"]
) -> None:
    """Against the definition, written as a loop over labels."""
    rows, _ = add_predictions(None, make_rows([(make_id(number), 0) for number in range(3)]))
    held: dict[int, int] = {}
    expected = {"repeated": 0, "conflicting": 0, "fresh": 0, "unknown": 0}
    found = dict.fromkeys(expected, 0)
    clock = 0
    for batch in batches:
        labels = []
        for number, label in batch:
            clock += 1
            labels.append((make_id(number), 0, label, timedelta(seconds=clock)))
            if number == 3:
                expected["unknown"] += 1
            elif number not in held:
                held[number] = label
                expected["fresh"] += 1
            elif held[number] == label:
                expected["repeated"] += 1
            else:
                expected["conflicting"] += 1
                held[number] = held[number] if policy == "first" else label
        joined = join_labels(rows, make_labels(labels), policy, 3600)
        rows = joined.rows
        found["repeated"] += joined.num_repeated
        found["conflicting"] += joined.num_conflicting
        found["fresh"] += joined.fresh.num_rows
        found["unknown"] += joined.unknown.num_rows
    assert found == expected
    assert rows["label"].to_pylist() == [held.get(number) for number in range(3)]
