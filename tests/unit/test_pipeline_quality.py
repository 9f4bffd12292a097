"""Quality of an endpoint from its log, the signals it gives, and the alerts that come of it. Real tables, no Ray."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from runtime.cli.context import to_jsonable
from runtime.cli.quality_render import alert_tables, quality_tables, sparkline
from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError, NotFoundError, UsageError
from runtime.data.contract import arrow_schema
from runtime.data.delta import table_uri
from runtime.monitoring.alerts import Signal
from runtime.pipeline.feedback_table import read_labels
from runtime.pipeline.quality_page import render_quality_page
from runtime.pipeline.quality_reference import QualityReference, find_reference, record_reference
from runtime.pipeline.quality_report import read_quality
from runtime.pipeline.quality_signals import monitor_signals, quality_signals, wilson
from runtime.pipeline.quality_watch import MonitorView, QualityWatch, acknowledge_alert, read_alerts
from runtime.serving.delta_log import append
from runtime.store.control import ControlStore
from runtime.store.records import DataVersion
from runtime.telemetry.metrics import render_metrics
from tests.quality_example import ENDPOINT, START, World, draw, make_reference, moment
from tests.serving_example import example_config, example_model_version, example_row


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.at(tmp_path)


def fill(world: World, *, noise: float = 0.0, n: int = 1500, day: float = 0.0, seed: int = 1) -> None:
    scores, labels = draw(seed, n, noise=noise)
    world.label(world.log(scores, day=day), labels, day=day + 0.5)


def named(signals: Any) -> dict[str, Signal]:
    return {signal.name: signal for signal in signals}


def test_quality_by_day_with_estimates_slices_and_losses(world: World) -> None:
    fill(world)
    scores, _ = draw(2, 600)
    world.log(scores, day=1)
    overview = read_quality(world.config, world.store, ENDPOINT, period="day", slices=["carrier"], now=moment(2))
    first, second = overview.qualities
    assert (first.period, first.measured.num_labelled, second.measured.num_labelled) == ("2026-06-01", 1500, 0)
    assert first.estimated is not None
    assert second.estimated is not None
    assert first.estimated.auc.value == pytest.approx(first.measured.auc.value, abs=0.04)
    assert second.estimated.auc.value == pytest.approx(first.measured.auc.value, abs=0.05)
    assert [(one.slice_value, one.measured.num_labelled) for one in overview.slices] == [
        ("AA", 500),
        ("HA", 500),
        ("UA", 500),
    ]
    assert overview.num_small_slices == 3
    (level,) = overview.losses
    assert (level.model_version, level.num_rows, level.num_batches, level.alarms) == ("flights:1", 1500, 14, ())
    assert (first.cluster, second.cluster) == ("row", "row")
    text = json.dumps(to_jsonable(overview), allow_nan=False)
    assert "calibration" in text
    page = render_quality_page(overview)
    assert page.count("<svg") == 3
    assert "valid only without concept drift" in page
    assert quality_tables(overview)


def test_the_period_is_the_finest_that_can_be_read(world: World) -> None:
    fill(world, n=10)
    assert read_quality(world.config, world.store, ENDPOINT, now=moment(1)).period == "hour"
    fill(world, n=10, day=20)
    assert read_quality(world.config, world.store, ENDPOINT, now=moment(22)).period == "day"
    later = read_quality(world.config, world.store, ENDPOINT, since="2026-06-20", now=moment(22))
    assert [one.measured.num_rows for one in later.qualities] == [10]


def test_what_cannot_be_measured_is_named(world: World) -> None:
    with pytest.raises(NotFoundError, match="has not answered yet"):
        read_quality(world.config, world.store, ENDPOINT)
    fill(world, n=10)
    with pytest.raises(UsageError, match="cannot slice by speed: the contract's categories are carrier"):
        read_quality(world.config, world.store, ENDPOINT, slices=["speed"])
    with pytest.raises(UsageError, match="cannot slice by passport"):
        read_quality(world.config, world.store, ENDPOINT, slices=["passport"])


def test_a_reference_goes_through_the_store(world: World) -> None:
    assert find_reference(world.store, "flights:1") == make_reference("flights:1")
    assert find_reference(world.store, "flights:9") is None
    with pytest.raises(ContractError, match="not a quality reference"):
        QualityReference.from_json({"auc": 1})


def test_a_registered_version_leaves_its_reference(tmp_path: Path) -> None:
    """A real bundle on a real table: what it scores there is what later quality is told against."""
    config = example_config(tmp_path)
    columns = config.data.columns | {"at": ColumnConfig(type="timestamp", role="time")}
    limits = replace(config.quality, loss_batch_s=86_400.0, loss_batch_rows=5)
    config = replace(config, data=replace(config.data, columns=columns), quality=limits)
    store = ControlStore.of(config.paths)
    store.create_schema()
    model = example_model_version(tmp_path / "bundle")
    rows = [example_row(index) | {"late": index % 2, "at": START + timedelta(hours=index)} for index in range(480)]
    uri = table_uri(config.paths.warehouse, "example")
    append(uri, pa.Table.from_pylist(rows, schema=arrow_schema(columns)))
    store.record_data_version(
        DataVersion(
            table="example", version=0, uri=uri, num_rows=480, fingerprint="f", lineage={}, created_at=START.isoformat()
        )
    )
    made = record_reference(config, store, model)
    assert find_reference(store, model.label) == made
    assert record_reference(config, store, model) == made
    assert made.holdout.startswith("example@0: example start..end, held out 0.2")
    assert 50 < made.num_rows < 150
    assert made.auc.low is not None
    assert made.calibration.probabilities[0] <= made.calibration.probabilities[-1]
    assert made.losses is None or made.losses.num_batches >= 10


def test_signals_of_a_model_that_is_well(world: World) -> None:
    fill(world)
    overview = read_quality(world.config, world.store, ENDPOINT, period="all", now=moment(2))
    signals = named(quality_signals(world.config, overview, world.store.endpoint(ENDPOINT)))
    assert set(signals) == {
        "auc_loss", "log_loss_rise", "calibration_gap", "estimated_auc_loss", "conflict_rate", "loss_shift"
    }  # fmt: skip
    for name in ("auc_loss", "log_loss_rise", "estimated_auc_loss", "calibration_gap"):
        assert (signals[name].low or 0.0) < 0.02
    assert signals["loss_shift"].value == 0
    assert "1,500 labelled rows against 4,000" in signals["auc_loss"].detail


def test_signals_of_concept_drift_that_the_estimate_does_not_see(world: World) -> None:
    fill(world, noise=0.8)
    overview = read_quality(world.config, world.store, ENDPOINT, period="all", now=moment(2))
    signals = named(quality_signals(world.config, overview, world.store.endpoint(ENDPOINT)))
    assert (signals["auc_loss"].low or 0.0) > 0.02
    assert (signals["log_loss_rise"].low or 0.0) > 0.02
    assert (signals["estimated_auc_loss"].low or 0.0) < 0.02
    assert signals["loss_shift"].value == 1


def test_few_rows_and_versions_that_are_gone_give_no_signal(world: World) -> None:
    fill(world, n=200)
    scores, labels = draw(4, 1000)
    world.label(world.log(scores, slot="green", version=7), labels)
    overview = read_quality(world.config, world.store, ENDPOINT, period="all", now=moment(2))
    signals = list(quality_signals(world.config, overview, world.store.endpoint(ENDPOINT)))
    assert {signal.name for signal in signals} == {"conflict_rate", "loss_shift"}


def entry(**change: Any) -> dict[str, Any]:
    features = [
        {"feature": "temp", "kind": "numeric", "psi": 5.7, "psi_without_drift": 0.1},
        {"feature": "hour", "kind": "numeric", "psi": 0.2, "psi_without_drift": 0.3},
        {"feature": "score", "kind": "score", "psi": 0.1, "psi_without_drift": 0.0},
    ]
    return {
        "endpoint": ENDPOINT,
        "slot": "blue",
        "model_version": "flights:1",
        "requests": 1000,
        "rows": 1000,
        "errors": 0,
        "latency_ms": {"p95": 12.0},
        "features": features,
        "score_psi": 0.1,
        **change,
    }


def monitor(now: float, *, log_evidence: float | None = None, **change: Any) -> MonitorView:
    evidence = {
        "endpoint": ENDPOINT,
        "log_evidence": log_evidence,
        "log_threshold": 12.5,
        "culprits": [{"slot": "blue", "feature": "temp"}, {"slot": None, "feature": "volume"}],
        "volume": {"expected": 100.0, "observed": 4},
    }
    entries = [entry(**change)]
    return MonitorView(status={"last_tick_at": now - 5, "entries": entries, "drift": [evidence]}, recent=entries)


def test_signals_of_the_monitor(world: World) -> None:
    view = monitor(100.0, log_evidence=13.0, errors=30)
    signals = named(monitor_signals(world.config, view.status, view.recent, 100.0))
    assert signals["staleness_s"].value == 5
    assert signals["drift"].value == pytest.approx(np.exp(0.5))
    assert signals["drift"].detail == "blue: temp, all: volume"
    assert signals["psi"].value == pytest.approx(5.6)  # what sampling gives is taken off
    assert signals["psi"].detail == "temp 5.60"
    assert signals["error_rate"].value == 0.03
    assert signals["latency_p95_ms"].value == 12
    assert signals["volume_ratio"].high == pytest.approx(0.085, abs=0.01)
    quiet = monitor(100.0, requests=3, rows=3)
    few = named(monitor_signals(world.config, quiet.status, quiet.recent, 100.0))
    assert not {"error_rate", "psi", "score_psi"} & set(few)
    assert few["drift"].value < 1e-3


def test_wilson_is_that_of_the_textbook() -> None:
    assert wilson(0, 10, 0.95) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(5, 10, 0.95) == pytest.approx((0.2366, 0.7634), abs=1e-3)


def make_watch(world: World, view: MonitorView | None) -> QualityWatch:
    return QualityWatch(config=world.config, store=world.store, read_monitor=lambda _: view)


def look_twice(world: World, view: MonitorView | None, at: float) -> QualityWatch:
    watch = make_watch(world, view)
    watch.look(at)
    watch.look(at + 400)
    return watch


def test_drift_without_harm_is_a_notice_though_psi_is_huge(world: World) -> None:
    """May of the flights: the raw PSI of temperature is 5.7 while quality is best."""
    fill(world)
    at = moment(2)
    look_twice(world, monitor(at + 400, log_evidence=20.0), at)
    alerts = read_alerts(world.store)
    assert {alert.rule for alert in alerts.values()} == {"data_drift", "features_moved", "volume"}
    assert {alert.severity for alert in alerts.values()} == {"notice"}


def test_drift_with_harm_pages_and_survives_a_restart_with_its_acknowledgement(world: World) -> None:
    fill(world, noise=0.8)
    world.store.subscribe("hook", ["alert"])
    at = moment(2)
    look_twice(world, monitor(at + 400, log_evidence=20.0), at)
    alerts = {alert.rule: alert for alert in read_alerts(world.store).values()}
    for rule in ("data_drift", "quality_decay", "log_loss_decay", "concept_drift"):
        assert (alerts[rule].severity, alerts[rule].phase) == ("page", "firing")
    assert "auc_loss" in (alerts["data_drift"].impact or "")
    told = [message.payload["rule"] for message in world.store.pending("hook", now=at + 500)]
    assert sorted(told) == sorted(alerts)

    after = acknowledge_alert(world.store, alerts["data_drift"].id, actor="ann", reason="retraining", now=at + 450)
    assert after.phase == "acknowledged"
    make_watch(world, monitor(at + 500, log_evidence=20.0)).look(at + 500)
    again = read_alerts(world.store)[after.key]
    assert (again.phase, again.acknowledged_by, again.severity) == ("acknowledged", "ann", "page")
    audit = world.store.transitions(ENDPOINT)[-1]
    assert (audit.action, audit.actor, audit.detail["alert"]) == ("alert acknowledged", "ann", after.id)
    assert alert_tables(list(read_alerts(world.store).values()), world.store.alert_events(), at + 500)
    with pytest.raises(UsageError, match="is acknowledged; only one that fires"):
        acknowledge_alert(world.store, after.key, actor="ben", reason="", now=at)
    with pytest.raises(NotFoundError, match="no alert 'x'; firing: "):
        acknowledge_alert(world.store, "x", actor="ben", reason="", now=at)


def test_a_monitor_that_is_away_goes_stale_and_nothing_else_changes(world: World) -> None:
    fill(world, n=10)
    at = moment(2)
    watch = look_twice(world, None, at)
    (alert,) = read_alerts(world.store).values()
    assert (alert.rule, alert.phase, alert.severity) == ("monitor_stale", "pending", "notice")
    watch.look(at + 500)
    assert read_alerts(world.store)[alert.key].phase == "firing"


def test_a_log_that_cannot_be_read_holds_up_no_other_signal(world: World) -> None:
    fill(world, n=10)
    (Path(world.config.paths.payload) / ENDPOINT / "_delta_log" / "00000000000000000000.json").write_text("{")
    at = moment(2)
    watch = look_twice(world, monitor(at, errors=500), at)
    assert ENDPOINT in watch.faults
    assert "errors" in {alert.rule for alert in read_alerts(world.store).values()}


def test_what_prometheus_scrapes(world: World) -> None:
    fill(world)
    at = moment(2)
    watch = look_twice(world, monitor(at + 400, log_evidence=20.0), at)
    text = render_metrics(watch.samples)
    assert 'teal_signal{bound="low",endpoint="flights",model_version="flights:1",signal="auc_loss",slot="blue"}' in text
    assert 'rule="data_drift",severity="notice"' in text
    assert "teal_alerts_last_look_timestamp_seconds" in text


def test_measuring_takes_no_more_than_its_share_of_the_time(world: World) -> None:
    watch = replace(make_watch(world, None), measured_at={ENDPOINT: 100.0}, cost_s={ENDPOINT: 2.0})
    assert not watch._is_due(ENDPOINT, 139.0)
    assert watch._is_due(ENDPOINT, 140.0)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "prediction_id,row,label\na,0,1\nb,0,2\n", "row 2: label must be 0 or 1 but got 2"),
        ("a.csv", "prediction_id,row,label\na,0,\n", "row 1: label must be 0 or 1 but got None"),
        ("a.csv", "prediction_id,row,label\na,-1,1\n", "row 1: row must be at least 0"),
        ("a.csv", "id,label\na,1\n", "lacks column prediction_id; it has id, label"),
        ("a.csv", "prediction_id,label\na,yes\n", "column label must be int8"),
        ("a.jsonl", '{"prediction_id": "a", "label": 1}\n{', "line 2 is no JSON"),
        ("a.jsonl", "[1]", "line 1 must be an object"),
        ("a.txt", "", "must end in .csv, .jsonl or .parquet"),
    ],
)
def test_a_file_of_labels_is_checked_whole(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ContractError, match=words):
        read_labels(tmp_path / name)


def test_a_file_of_labels_may_leave_the_row_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prediction_id,label\n7,1\nb,0\n")
    assert read_labels(tmp_path / "a.csv").to_pylist() == [
        {"prediction_id": "7", "row": 0, "label": 1},
        {"prediction_id": "b", "row": 0, "label": 0},
    ]
    with pytest.raises(NotFoundError):
        read_labels(tmp_path / "b.csv")


def test_a_sparkline_has_a_block_a_value() -> None:
    assert sparkline([0.0, 0.5, None, 1.0]) == "▁▅ █"
    assert sparkline([0.5, 0.5]) == "▄▄"
    assert sparkline([None]) == ""
