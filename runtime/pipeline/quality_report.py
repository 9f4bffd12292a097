"""An endpoint's quality: with labels by period, version and slice, without them by estimate, and whether loss moved."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, UsageError
from runtime.data.contract import categorical_names
from runtime.data.delta import parse_moment
from runtime.data.metrics import Floats, Ints
from runtime.monitoring.cbpe import EstimatedQuality, estimate_quality
from runtime.monitoring.concept import LossAlarm, LossReference
from runtime.monitoring.quality_figures import Figures, group_rows
from runtime.monitoring.quality_ledger import LabelCounts, QualityLedger
from runtime.monitoring.quality_tally import Cluster, GroupTally
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
    period = period or _choose_period(ledger, *bounds)
    sliced = {name: columns[name] for name in dict.fromkeys(slices)}
    measuring = _Measuring(config, store, PERIODS[period], sliced)
    for rows in ledger.scan(*bounds, columns=[*MEASURED_COLUMNS, *sliced.values()]):
        measuring.add(rows)
    qualities = measuring.qualities(None)
    found = [one for name in sliced for one in measuring.qualities(name)]
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
        references=measuring.references,
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


class _Measuring:
    """Figures of each period, slot and model version, of all their rows and of each slice of them."""

    def __init__(self, config: Config, store: ControlStore, period_format: str, slices: Mapping[str, str]) -> None:
        """`slices`: category of the contract to its column."""
        self.references: dict[str, QualityReference] = {}
        self._config, self._store, self._format = config, store, period_format
        self._slices = slices
        self._groups: dict[str | None, dict[tuple[Any, ...], GroupTally]] = {name: {} for name in (None, *slices)}
        self._models: set[str] = set()
        self._present: set[str | None] = {None}

    def add(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        models = pc.binary_join_element_wise(rows["model_name"], rows["model_version"].cast(pa.string()), ":")
        self._look_up(pc.unique(models).to_pylist())
        keys = [pc.strftime(rows["at"], format=self._format), rows["slot"], models]
        at = np.asarray(rows["at"].cast(pa.int64()), dtype=np.int64)
        scores, labels = rows["score"].to_numpy(), rows["label"].cast(pa.float64()).to_numpy()
        self._gather(None, keys, at, scores, labels)
        for name, column in self._slices.items():
            if column in rows.column_names:
                self._present.add(name)
                values = rows[column]
            else:  # the contract may have got it since
                values = pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
            self._gather(name, [*keys, values], at, scores, labels)

    def qualities(self, name: str | None) -> list[PeriodQuality]:
        """Of one slice's values, or of all rows; in the order of their periods, slots, versions and values."""
        if name not in self._present:
            return []
        groups = sorted(self._groups[name].items(), key=lambda item: tuple(str(value) for value in item[0]))
        return [self._quality(name, values, tally) for values, tally in groups]

    def _gather(
        self, name: str | None, keys: Sequence[pa.ChunkedArray], at: Ints, scores: Floats, labels: Floats
    ) -> None:
        groups = self._groups[name]
        for values, chosen in group_rows(keys):
            groups.setdefault(values, GroupTally()).add(at[chosen], scores[chosen], labels[chosen])

    def _quality(self, name: str | None, values: tuple[Any, ...], tally: GroupTally) -> PeriodQuality:
        period, slot, model = values[:3]
        confidence = self._config.quality.confidence
        reference = self.references.get(model)
        estimated = None
        if reference is not None and name is None:
            estimated = estimate_quality(tally.cells, reference.calibration, confidence=confidence)
        cluster, measured = tally.figures(confidence)
        return PeriodQuality(
            period=period,
            slot=slot,
            model_version=model,
            slice_column=name,
            slice_value=None if name is None else str(values[3]),
            cluster=cluster,
            measured=measured,
            estimated=estimated,
        )

    def _look_up(self, models: Iterable[str]) -> None:
        for model in models:
            if model in self._models:
                continue
            self._models.add(model)
            reference = find_reference(self._store, model)
            if reference is not None:
                self.references[model] = reference


def _slice_columns(config: Config) -> dict[str, str]:
    """Categories of the contract to their columns in the payload log, which has no personal ones."""
    columns = config.data.columns
    return {name: payload_column(name) for name in categorical_names(columns) if not columns[name].pii}


def _choose_period(ledger: QualityLedger, since: datetime | None, until: datetime | None) -> Period:
    parts = ledger.scan(since, until, columns=["at"])
    bounds = [pc.min_max(rows["at"]).as_py() for rows in parts if rows.num_rows]
    if not bounds:
        return "day"
    span_s = (max(one["max"] for one in bounds) - min(one["min"] for one in bounds)).total_seconds()
    for period, seconds in (("hour", 3600), ("day", 86400), ("week", 7 * 86400)):
        if span_s <= seconds * MAX_AUTO_PERIODS:
            return period  # type: ignore[return-value]
    return "month"


def start_of_window(config: Config, now: float) -> datetime:
    """Since when quality counts for alerts."""
    return datetime.fromtimestamp(now - config.quality.window_s, UTC)
