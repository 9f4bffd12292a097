"""Traffic with a season, compared with training rows of the same hour before there is any history."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from runtime.config.monitoring import MonitoringConfig
from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError, NotFoundError
from runtime.data.contract import contract_to_json
from runtime.data.counts import Counts
from runtime.data.encoding import Encoding
from runtime.data.profile import Profile, build_profile
from runtime.models.manifest import Manifest
from runtime.monitoring.monitor import Monitor
from runtime.monitoring.training_hours import HourCounts, TrainingHours
from runtime.monitoring.training_rows import count_rows, read_training_hours
from runtime.monitoring.windows import hour_of_week
from runtime.serving.delta_log import append
from runtime.telemetry.latency import count_latencies
from tests.monitor_store import ingest, monitor_store

MONDAY = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
COLUMNS = {
    "at": ColumnConfig(type="timestamp", role="time"),
    "wind": ColumnConfig(type="number"),
    "carrier": ColumnConfig(type="category"),
    "late": ColumnConfig(type="binary", role="label"),
}
NUM_WEEKS = 6


def wind_at(hour: Any, generator: np.random.Generator) -> Any:
    """Calm at night and strong by day, with more of it at the end of the week."""
    return generator.normal(3 * np.sin(2 * np.pi * hour / 24) + hour / 84, 1)


def make_rows(num_weeks: int = NUM_WEEKS, per_hour: int = 400) -> pa.Table:
    generator = np.random.default_rng(0)
    hours = np.repeat(np.arange(num_weeks * 168), per_hour)
    moments = ((MONDAY + hours * 3600 + generator.random(hours.size) * 3599) * 1e6).astype(np.int64)
    return pa.table(
        {
            "at": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "wind": wind_at(hours % 168, generator),
            "carrier": pa.array(generator.choice(["AA", "UA"], hours.size)),
            "late": pa.array(generator.integers(0, 2, hours.size), pa.int8()),
        }
    )


ROWS = make_rows()
ENCODING = Encoding.fit(ROWS, COLUMNS)
PROFILE = build_profile(ENCODING.encode_table(ROWS), ENCODING)


def manifest(uri: str, *, train_since: str | None = None) -> Manifest:
    return Manifest(
        format=1,
        name="linear",
        class_path="",
        arguments={},
        allowed_modules=[],
        contract=contract_to_json(COLUMNS),
        encoding=ENCODING.to_json(),
        lineage={
            "data": {"table": "trips", "uri": uri, "version": 0},
            "config": {"training": {"train_since": train_since, "train_until": None}},
        },
        files={},
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("warehouse") / "trips")
    append(uri, ROWS)
    return uri


@pytest.fixture(scope="module")
def hours(table: str) -> HourCounts:
    return read_training_hours(manifest(table), PROFILE)


def test_hours_hold_every_row_of_the_version_once(hours: HourCounts) -> None:
    total: Counts | None = None
    for hour in range(168):
        counts, num_weeks = hours.matching(hour, of="week")
        assert counts is not None
        assert (counts.rows, num_weeks) == (NUM_WEEKS * 400, NUM_WEEKS)
        total = counts if total is None else total.merge(counts)
    assert total is not None
    assert (total.numeric == PROFILE.counts.numeric).all()
    assert (total.categorical[0] == PROFILE.counts.categorical[0]).all()
    of_day, num_weeks = hours.matching(9, of="day")
    assert of_day is not None
    assert (of_day.rows, num_weeks) == (7 * NUM_WEEKS * 400, NUM_WEEKS)


def test_only_rows_of_the_training_window_count(table: str) -> None:
    late = read_training_hours(manifest(table, train_since="2026-02-09"), PROFILE)  # the sixth Monday
    assert {len(weeks) for weeks in late.weeks} == {1}
    assert sum(packed[0] for packed in late.packed if packed is not None) == 168 * 400


def test_what_cannot_be_read_is_named(table: str) -> None:
    with pytest.raises(ContractError, match="lineage does not name its training rows"):
        read_training_hours(replace(manifest(table), lineage={}), PROFILE)
    timeless = {name: column for name, column in COLUMNS.items() if name != "at"}
    with pytest.raises(NotFoundError, match="'trips' has no column with role time"):
        read_training_hours(replace(manifest(table), contract=contract_to_json(timeless)), PROFILE)


class Season:
    """A monitor by hand, fed with traffic whose values follow the hour."""

    def __init__(self, directory: Path, hours: TrainingHours | None) -> None:
        self.now = MONDAY + 52 * 7 * 86_400
        config = MonitoringConfig(tick_s=600, training_hours=hours is not None)
        self.monitor = Monitor(
            monitor_store(directory), config, lambda _: PROFILE, clock=lambda: self.now, training_hours=hours
        )
        self.generator = np.random.default_rng(3)
        self.sequence = 0

    def run(self, num_ticks: int, shift: float = 0.0) -> dict[str, Any]:
        for _ in range(num_ticks):
            wind = wind_at(np.full(300, hour_of_week(self.now)), self.generator) + shift
            categories = self.generator.integers(2, 4, (300, 1))
            self.sequence += 1
            message = {
                "endpoint": "trips",
                "slot": "blue",
                "model_version": "trips:1",
                "replica": "r",
                "sequence": self.sequence,
                "requests": 300,
                "rows": 300,
                "errors": 0,
                "latency_ms_counts": count_latencies([1.0]),
                "counts": count_rows(PROFILE, wind.astype(np.float32).reshape(-1, 1), categories),
            }
            ingest(self.monitor, message)
            self.now += 600
            self.monitor.tick()
        (drift,) = self.monitor.status()["drift"]
        return dict(drift)


def test_a_season_is_no_drift_where_training_rows_are_compared_by_the_hour(tmp_path: Path, hours: HourCounts) -> None:
    pooled = Season(tmp_path / "pooled", None).run(60)
    assert pooled["is_alarm"]
    assert pooled["slots"]["blue"]["reference"] == "training rows"
    season = Season(tmp_path / "hours", TrainingHours(lambda *_: hours, run=lambda work: work()))
    calm = season.run(144)
    assert not calm["is_alarm"]
    assert calm["slots"]["blue"]["reference"] == "training rows of the same hour of the week in 6 weeks"
    moved = season.run(12, shift=0.7)
    assert moved["is_alarm"]
    assert moved["culprits"][0]["feature"] == "wind"


def test_until_the_rows_are_read_all_training_rows_are_the_reference(tmp_path: Path, hours: HourCounts) -> None:
    waiting: list[Any] = []
    season = Season(tmp_path, TrainingHours(lambda *_: hours, run=waiting.append))
    assert season.run(2)["slots"]["blue"]["reference"] == "training rows"
    (work,) = waiting
    work()
    assert season.run(1)["slots"]["blue"]["reference"].startswith("training rows of the same hour")


def test_a_table_that_is_gone_is_said_once_and_asked_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def gone(model_version: str, profile: Profile) -> HourCounts:
        asked.append(model_version)
        raise NotFoundError("no table at /gone")

    season = Season(tmp_path, TrainingHours(gone, run=lambda work: work()))
    assert season.run(8)["slots"]["blue"]["reference"] == "training rows"
    assert asked == ["trips:1"]
    assert [record.message for record in caplog.records].count("training rows by hour cannot be had") == 1
