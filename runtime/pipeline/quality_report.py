"""An endpoint's quality: with labels by period, version and slice, without them by estimate, and whether loss moved."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, UsageError
from runtime.data.contract import categorical_names
from runtime.data.counts import count_scores
from runtime.data.delta import parse_moment
from runtime.data.metrics import Ints
from runtime.monitoring.cbpe import EstimatedQuality, estimate_quality
from runtime.monitoring.concept import LossAlarm, LossReference
from runtime.monitoring.quality_figures import Figures, group_rows, measure
from runtime.monitoring.quality_ledger import LabelCounts, QualityLedger
from runtime.pipeline.quality_reference import QualityReference, find_reference
from runtime.serving.payload import feedback_uri, payload_column, payload_uri
from runtime.store.control import ControlStore

Period = Literal["hour", "day", "week", "month", "all"]
PERIODS: dict[Period, str] = {
    "hour": "%Y-%m-%d %H:00",
    "day": "%Y-%m-%d",
    "week": "%G-W%V",
    "month": "%Y-%m",
    "all": "all",
}
Cluster = Literal["day", "hour", "row"]
CLUSTERS: tuple[tuple[Cluster, int], ...] = (("day", 86_400_000_000), ("hour", 3_600_000_000))
MIN_CLUSTERS = 5
MEASURED_COLUMNS = ("at", "slot", "model_name", "model_version", "score", "label")
MAX_AUTO_PERIODS = 40
"""Without a period asked for, the finest one that gives no more than so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeriodQuality:
    """One model version in one slot in one period, of all rows or of one slice."""

    period: str
    slot: str
    model_version: str
    slice_column: str | None
    slice_value: str | None
    cluster: Cluster
    """What its intervals take as independent."""
    measured: Figures
    estimated: EstimatedQuality | None
    """Without labels, of all its rows; None for a slice, and for a version that has no calibration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossLevel:
    """The concept drift detectors of one model version."""

    model_version: str
    num_rows: int
    num_batches: int
    """Stretches of time that were compared."""
    mean: float | None
    """Of the last ones."""
    has_risen: bool
    reference: float | None
    alarms: tuple[LossAlarm, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityOverview:
    endpoint: str
    period: Period
    since: str | None
    until: str | None
    confidence: float
    counts: LabelCounts
    qualities: tuple[PeriodQuality, ...]
    slices: tuple[PeriodQuality, ...]
    num_small_slices: int
    """Slices with too few labelled rows to be shown."""
    references: dict[str, QualityReference]
    """Of the versions that have one."""
    losses: tuple[LossLevel, ...]
    payload_version: int | None
    feedback_version: int | None


def open_ledger(config: Config, store: ControlStore, endpoint: str) -> QualityLedger:
    """The endpoint's ledger, below the directory of its payload log."""
    root = Path(config.paths.payload.removeprefix("file://"))

    def read_losses(model_version: str) -> LossReference | None:
        reference = find_reference(store, model_version)
        return None if reference is None else reference.losses

    return QualityLedger(
        root / "_quality" / endpoint,
        payload_uri=payload_uri(config.paths.payload, endpoint),
        feedback_uri=feedback_uri(config.paths.payload, endpoint),
        slice_columns=list(_slice_columns(config).values()),
        config=config.quality,
        read_reference=read_losses,
    )


def read_quality(
    config: Config,
    store: ControlStore,
    endpoint: str,
    *,
    since: str | datetime | None = None,
    until: str | datetime | None = None,
    period: Period | None = None,
    slices: Sequence[str] = (),
    now: float | None = None,
) -> QualityOverview:
    """Bring the join up to date and measure it. Does not join Ray.

    NotFoundError for an endpoint that never answered, UsageError for a slice that is no category of the contract.
    """
    columns = _slice_columns(config)
    unknown = [name for name in slices if name not in columns]
    if unknown:
        raise UsageError(f"cannot slice by {', '.join(unknown)}: the contract's categories are {', '.join(columns)}")
    ledger = open_ledger(config, store, endpoint)
    state = ledger.update(time.time() if now is None else now)
    if state.payload_version is None:
        known = ", ".join(one.name for one in store.endpoints()) or "none, `teal deploy` makes one"
        raise NotFoundError(f"endpoint {endpoint!r} has not answered yet, so nothing was logged; endpoints: {known}")
    bounds = [None if text is None else parse_moment(text) for text in (since, until)]
    state, rows = ledger.read(*bounds, columns=[*MEASURED_COLUMNS, *(columns[name] for name in dict.fromkeys(slices))])
    period = period or _choose_period(rows)
    models = pc.binary_join_element_wise(rows["model_name"], rows["model_version"].cast(pa.string()), ":")
    recorded = {label: find_reference(store, label) for label in pc.unique(models).to_pylist()}
    references = {label: reference for label, reference in recorded.items() if reference is not None}
    keys = [pc.strftime(rows["at"], format=PERIODS[period]), rows["slot"], models]
    qualities = _measure(config, rows, keys, None, references)
    found = [
        one for name in slices if columns[name] in rows.column_names
        for one in _measure(config, rows, [*keys, rows[columns[name]]], name, references)
    ]  # fmt: skip
    shown = [one for one in found if one.measured.num_labelled >= config.quality.min_slice_rows]
    return QualityOverview(
        endpoint=endpoint,
        period=period,
        since=None if bounds[0] is None else bounds[0].isoformat(),
        until=None if bounds[1] is None else bounds[1].isoformat(),
        confidence=config.quality.confidence,
        counts=state.counts,
        qualities=tuple(qualities),
        slices=tuple(shown),
        num_small_slices=len(found) - len(shown),
        references=references,
        losses=tuple(
            LossLevel(
                model_version=model,
                num_rows=watch.num_rows,
                num_batches=watch.num_batches,
                mean=watch.mean,
                has_risen=watch.has_risen,
                reference=None if watch.reference is None else watch.reference.mean,
                alarms=tuple(watch.alarms),
            )
            for model, watch in sorted(ledger.watches(state).items())
        ),
        payload_version=state.payload_version,
        feedback_version=state.feedback_version,
    )


def _measure(
    config: Config,
    rows: pa.Table,
    keys: Sequence[pa.ChunkedArray],
    slice_column: str | None,
    references: dict[str, QualityReference],
) -> list[PeriodQuality]:
    if not rows.num_rows:
        return []
    scores = rows["score"].to_numpy()
    labels = rows["label"].cast(pa.float64()).to_numpy()
    at = np.asarray(rows["at"].cast(pa.int64()), dtype=np.int64)
    found = []
    for values, chosen in group_rows(keys):
        period, slot, model = values[:3]
        reference = references.get(model)
        cluster, clusters = _choose_clusters(at[chosen])
        estimated = None
        if reference is not None and slice_column is None:
            cells, _ = count_scores(scores[chosen])
            estimated = estimate_quality(cells, reference.calibration, confidence=config.quality.confidence)
        found.append(
            PeriodQuality(
                period=period,
                slot=slot,
                model_version=model,
                slice_column=slice_column,
                slice_value=None if slice_column is None else str(values[3]),
                cluster=cluster,
                measured=measure(labels[chosen], scores[chosen], clusters, config.quality.confidence),
                estimated=estimated,
            )
        )
    return found


def _choose_clusters(at: Ints) -> tuple[Cluster, Ints | None]:
    """Rows of one day share what the day brought: the coarsest stretch of time of which there are enough."""
    for name, width in CLUSTERS:
        numbers = at // width
        if np.unique(numbers).size >= MIN_CLUSTERS:
            return name, numbers
    return "row", None


def _slice_columns(config: Config) -> dict[str, str]:
    """Categories of the contract to their columns in the payload log, which has no personal ones."""
    columns = config.data.columns
    return {name: payload_column(name) for name in categorical_names(columns) if not columns[name].pii}


def _choose_period(rows: pa.Table) -> Period:
    if not rows.num_rows:
        return "day"
    bounds = pc.min_max(rows["at"]).as_py()
    span_s = (bounds["max"] - bounds["min"]).total_seconds()
    for period, seconds in (("hour", 3600), ("day", 86400), ("week", 7 * 86400)):
        if span_s <= seconds * MAX_AUTO_PERIODS:
            return period  # type: ignore[return-value]
    return "month"


def start_of_window(config: Config, now: float) -> datetime:
    """Since when quality counts for alerts."""
    return datetime.fromtimestamp(now - config.quality.window_s, UTC)
