"""Quality from logged rows and labels: the join's cases by hand, the intervals by how often they hold the truth."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from runtime.core.errors import ContractError
from runtime.data.metrics import Floats
from runtime.monitoring.quality import measure_quality

START = datetime(2026, 6, 10, tzinfo=UTC)
MOMENT = pa.timestamp("us", tz="UTC")


def make_payload(scores: Floats, **columns: list[Any]) -> pa.Table:
    n = len(scores)
    values: dict[str, Any] = {
        "prediction_id": [f"p{index // 2}" for index in range(n)],
        "row": pa.array([index % 2 for index in range(n)], pa.int32()),
        "at": pa.array([START] * n, MOMENT),
        "slot": ["blue"] * n,
        "model_name": ["flights"] * n,
        "model_version": pa.array([1] * n, pa.int64()),
        "score": scores,
    }
    return pa.table({**values, **columns})


def make_feedback(rows: list[tuple[str, int, int, datetime]]) -> pa.Table:
    ids, numbers, labels, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "prediction_id": pa.array(ids, pa.string()),
            "row": pa.array(numbers, pa.int32()),
            "label": pa.array(labels, pa.int8()),
            "received_at": pa.array(times, MOMENT),
        }
    )


def all_labels(payload: pa.Table, labels: Floats) -> pa.Table:
    return make_feedback(
        [
            (prediction_id, row, int(label), START + timedelta(hours=1))
            for prediction_id, row, label in zip(
                payload["prediction_id"].to_pylist(), payload["row"].to_pylist(), labels, strict=True
            )
        ]
    )


def draw(seed: int, num_rows: int) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(seed)
    scores = generator.beta(2, 3, num_rows)
    return scores, (generator.random(num_rows) < scores).astype(float)


def test_every_odd_label_is_handled_and_counted() -> None:
    payload = make_payload(np.array([0.1, 0.9, 0.4, 0.6, 0.5, 0.5]))
    early, late = START + timedelta(days=1), START + timedelta(days=9)
    feedback = make_feedback(
        [
            ("p0", 0, 0, early),
            ("p0", 0, 0, late),  # the same again
            ("p0", 1, 0, early),
            ("p0", 1, 1, late),  # revised, and late
            ("p1", 0, 0, early),
            ("p1", 0, 1, early),  # both at once
            ("p1", 1, 1, early),
            ("gone", 0, 1, early),
            ("p0", 7, 1, early),  # no such row
        ]
    )
    report = measure_quality(pa.concat_tables([payload, payload.slice(0, 2)]), feedback)
    assert (report.num_predictions, report.num_repeated_predictions) == (6, 2)
    assert (report.num_labels, report.num_repeated_labels) == (9, 1)
    assert (report.num_revised, report.num_conflicting, report.num_unknown) == (1, 1, 2)
    assert report.num_late == 2
    (quality,) = report.qualities
    assert (quality.num_rows, quality.num_labelled) == (6, 3)
    assert quality.observed_rate == pytest.approx(2 / 3)
    assert quality.auc.value == 1.0


def test_groups_are_period_slot_and_version() -> None:
    scores, labels = draw(0, 400)
    payload = make_payload(
        scores,
        slot=["blue", "green"] * 200,
        model_version=[1, 2] * 200,
        month=["2013-06"] * 300 + ["2013-07"] * 100,
    )
    report = measure_quality(payload, all_labels(payload, labels), period_column="month")
    assert [(found.period, found.slot, found.model_version, found.num_rows) for found in report.qualities] == [
        ("2013-06", "blue", "flights:1", 150),
        ("2013-06", "green", "flights:2", 150),
        ("2013-07", "blue", "flights:1", 50),
        ("2013-07", "green", "flights:2", 50),
    ]
    first = report.qualities[0]
    assert first.auc.value == pytest.approx(roc_auc_score(labels[:300:2], scores[:300:2]))
    assert first.auc.low is not None
    assert first.auc.high is not None
    assert first.auc.low < roc_auc_score(labels[:300:2], scores[:300:2]) < first.auc.high
    assert [found.period for found in measure_quality(payload, all_labels(payload, labels)).qualities] == [
        "2026-06"
    ] * 2


def test_figures_without_labels_or_with_one_class_are_unknown_and_not_zero() -> None:
    payload = make_payload(np.array([0.2, 0.4]))
    (quality,) = measure_quality(payload, make_feedback([])).qualities
    assert (quality.num_rows, quality.num_labelled, quality.auc.value, quality.calibration_error) == (2, 0, None, None)
    (quality,) = measure_quality(payload, all_labels(payload, np.array([1.0, 1.0]))).qualities
    assert quality.auc.value is None
    assert quality.calibration_gap.value == pytest.approx(0.7)


def test_a_missing_column_is_named() -> None:
    payload = make_payload(np.array([0.2, 0.4]))
    with pytest.raises(ContractError, match=r"payload table lacks \['month'\]"):
        measure_quality(payload, make_feedback([]), period_column="month")
    with pytest.raises(ContractError, match=r"feedback table lacks \['label'\]"):
        measure_quality(payload, make_feedback([]).drop_columns(["label"]))


def test_intervals_hold_the_truth_as_often_as_they_say_with_correlated_days() -> None:
    """Whole days are copied rows: intervals over days hold, intervals over rows do not."""
    truth, repetitions, num_days = 0.5 + 0.25, 250, 25
    held = {"day": 0, None: 0}
    for seed in range(repetitions):
        generator = np.random.default_rng((1, seed))
        base_labels = (np.arange(num_days * 8) % 2).astype(float)
        # Uniform scores, those of positives raised by half in a 50 % mixture: AUC is 3/4.
        raised = generator.random(base_labels.size) < 0.5 * base_labels
        base = np.where(raised, 0.5 + generator.random(base_labels.size) / 2, generator.random(base_labels.size) / 2)
        labels, scores = np.repeat(base_labels, 4), np.repeat(base, 4)
        payload = make_payload(scores, day=np.repeat(np.arange(num_days), 32).tolist())
        feedback = all_labels(payload, labels)
        for column in ("day", None):
            (quality,) = measure_quality(payload, feedback, cluster_column=column).qualities
            assert quality.auc.low is not None
            assert quality.auc.high is not None
            held[column] += quality.auc.low <= truth <= quality.auc.high
    low = stats.binom.ppf(0.001, repetitions, 0.95)
    assert held["day"] >= low
    assert held[None] < low
