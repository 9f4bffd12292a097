"""A log of many small files: merged without a loss, and searched by the statistics of its files."""

import json
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction, RemoveAction

from runtime.core.errors import ContractError, NotFoundError
from runtime.core.ids import format_uuid7
from runtime.serving.compaction import compact
from runtime.serving.delta_log import append
from runtime.serving.payload import Answer, PayloadTable, find_prediction, payload_uri, read_payload
from tests.serving_example import example_columns, example_row

TABLE = PayloadTable(example_columns(), slot="blue", model_name="m", model_version=1, data_version="d@0")
DAY_MS = 86_400_000
NOON_MS = 1_700_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2


def answer(at_ms: int) -> Answer:
    return Answer(
        prediction_id=format_uuid7(at_ms, at_ms.to_bytes(10)),
        at_ns=at_ms * 1_000_000,
        started_ns=at_ms * 1_000_000,
        generation=1,
        request_id="",
        rows=[example_row(0), example_row(1)],
        scores=[0.25, 0.5],
        latency_ms=1.0,
    )


def test_a_day_is_a_folder_and_its_files_become_one(tmp_path: Path) -> None:
    uri = payload_uri(str(tmp_path), "e")
    moments = [NOON_MS + day * DAY_MS + second * 1000 for day in (0, 1, 2) for second in (2, 0, 3, 1)]
    for moment in moments:
        append(uri, TABLE.build([answer(moment)]))
    assert len({path.parent.name for path in Path(uri).rglob("*.parquet")}) == 3
    before = read_payload(uri).sort_by([("prediction_id", "ascending"), ("row", "ascending")])
    last_day = datetime.fromtimestamp(NOON_MS / 1000, UTC).date() + timedelta(days=2)
    done = compact(uri, before=last_day, kept_hours=0)
    assert (done.num_days, done.num_files_before, done.num_files_after, done.num_files_deleted) == (2, 12, 6, 8)
    assert compact(uri, before=last_day, kept_hours=0).num_days == 0
    assert read_payload(uri).sort_by([("prediction_id", "ascending"), ("row", "ascending")]).equals(before)
    for moment in moments:
        assert find_prediction(uri, answer(moment).prediction_id)["row"].to_pylist() == [0, 1]
    append(uri, TABLE.build([answer(NOON_MS)]))
    assert read_payload(uri).num_rows == 26


def test_there_must_be_a_log(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no payload log"):
        compact(str(tmp_path / "none"))


def test_a_look_up_opens_only_files_that_can_hold_the_id(tmp_path: Path) -> None:
    """400 files of 250,000 rows, 100 million: all but one are names in the log that lead nowhere."""
    uri = payload_uri(str(tmp_path), "e")
    append(uri, TABLE.build([answer(NOON_MS)]))
    table = DeltaTable(uri)
    actions: list[AddAction | RemoveAction] = []
    for number in range(1, 401):
        low, high = (format_uuid7(NOON_MS + number * 200_000 + ms, bytes(10)) for ms in (0, 199_999))
        moment = datetime.fromtimestamp((NOON_MS + number * 200_000) / 1000, UTC)
        statistics = {
            "numRecords": 250_000,
            "minValues": {"prediction_id": low},
            "maxValues": {"prediction_id": high},
            "nullCount": {"prediction_id": 0},
        }
        day = {"at_day": moment.date().isoformat()}
        actions.append(AddAction(f"at_day={day['at_day']}/f{number}.parquet", 1, day, 0, True, json.dumps(statistics)))
    schema = Schema.from_arrow(pa.schema(table.schema().to_arrow()))
    table.create_write_transaction(actions, mode="append", schema=schema, partition_by=["at_day"])
    assert len(DeltaTable(uri).file_uris()) == 401
    assert find_prediction(uri, answer(NOON_MS).prediction_id)["score"].to_pylist() == [0.25, 0.5]
    with pytest.raises(NotFoundError, match="is not in the log"):
        find_prediction(uri, format_uuid7(NOON_MS - 5000, bytes(10)))
    with pytest.raises(ContractError, match=r"f1\.parquet"):
        find_prediction(uri, format_uuid7(NOON_MS + 300_000, bytes(10)))


def test_a_log_that_was_made_without_days_is_searched_too(tmp_path: Path) -> None:
    uri = payload_uri(str(tmp_path), "e")
    now_ms = time.time_ns() // 1_000_000
    append(uri, TABLE.build([answer(now_ms)]).drop_columns(["at_day"]))
    append(uri, TABLE.build([answer(now_ms + 5)]))
    assert find_prediction(uri, answer(now_ms).prediction_id).num_rows == 2
    assert find_prediction(uri, answer(now_ms + 5).prediction_id)["at_day"].to_pylist()[0] == datetime.now(UTC).date()
    assert compact(uri, before=date(2100, 1, 1)).num_days == 0
