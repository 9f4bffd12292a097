"""The payload log joined with its labels, kept by day and brought up to date from what is new in both tables.

On disk a directory: one Parquet file a day, one of labels that wait for their prediction, and `state.json`, which names
them and the table versions they hold. It is replaced in one step, so a kill leaves the state before or after an update,
with nothing counted twice. The loss watches are part of that state.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runtime.config.alerting import QualityConfig
from runtime.core.files import write_atomic
from runtime.data.metrics import log_losses
from runtime.data.parquet import write_parquet
from runtime.monitoring.concept import LossReference, LossWatch
from runtime.monitoring.quality_changes import Changes, read_changes
from runtime.monitoring.quality_join import LABEL_COLUMNS, LABEL_SCHEMA, add_predictions, days_of, join_labels

FORMAT = 1
STATE_FILE = "state.json"
BASE_COLUMNS = ("prediction_id", "row", "at", "slot", "model_name", "model_version", "score")

ReferenceReader = Callable[[str], LossReference | None]
"""Of a model version, `name:3`: its losses on the rows that it was gated on, None if they do not tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCounts:
    """Since the ledger began."""

    predictions: int = 0
    repeated_predictions: int = 0
    """Logged twice, as after a retried write; counted once."""
    labels: int = 0
    labelled: int = 0
    """Rows that have one."""
    repeated: int = 0
    """The label that the row had already; ignored."""
    conflicting: int = 0
    """Another label than the row had; the policy says which counts."""
    late: int = 0
    waiting: int = 0
    """Labels whose prediction is not in the log; it may still come."""
    unknown: int = 0
    """Labels that waited for too long and were given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    payload_version: int | None = None
    feedback_version: int | None = None
    generation: int = 0
    days: dict[str, str] = field(default_factory=dict)
    """ISO date to the name of its file."""
    waiting: str | None = None
    counts: LabelCounts = field(default_factory=LabelCounts)
    watches: dict[str, Any] = field(default_factory=dict)
    """Model version to the state of its loss watch."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the rows were joined under; others make the ledger start over."""


class QualityLedger:
    """For one endpoint; safe in many processes, one of which works at a time."""

    def __init__(
        self,
        directory: Path,
        *,
        payload_uri: str,
        feedback_uri: str,
        slice_columns: Sequence[str],
        config: QualityConfig,
        read_reference: ReferenceReader,
    ) -> None:
        self._directory = directory
        self._payload_uri, self._feedback_uri = payload_uri, feedback_uri
        self._slice_columns = [name for name in slice_columns if name not in BASE_COLUMNS]
        self._config = config
        self._read_reference = read_reference
        self._settings = {
            "format": FORMAT,
            "payload": payload_uri,
            "feedback": feedback_uri,
            "conflicts": config.conflicts,
            "slices": self._slice_columns,
            "batch": [config.loss_batch_s, config.loss_batch_rows],
            "tolerance": config.loss_tolerance,
        }

    def update(self, now: float) -> State:
        """Take in what both tables got since the last update. `now` is seconds since 1970."""
        with self._lock():
            return self._update(self._read_state(), now)

    def read(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        columns: Sequence[str] | None = None,
    ) -> tuple[State, pa.Table]:
        """Predictions of `since` <= at < `until` with their labels, as the last update left them.

        `columns`: all by default. Ids are half of all bytes, and figures need none; `at` must be among them.
        """
        with self._lock():
            state = self._read_state()
            tables = [
                _read_columns(self._directory / name, columns)
                for day, name in sorted(state.days.items())
                # An id is made a moment after the request arrived, so a row may stand under the day after its own.
                if (since is None or _day_start(day) > since - timedelta(days=1))
                and (until is None or _day_start(day) < until + timedelta(days=1))
            ]
        empty = (
            self._empty() if columns is None else self._empty().select(_present(columns, self._empty().column_names))
        )
        rows = pa.concat_tables(tables, promote_options="permissive") if tables else empty
        for bound, compare in ((since, pc.greater_equal), (until, pc.less)):
            if bound is not None:
                rows = rows.filter(compare(rows["at"], pa.scalar(bound, rows["at"].type)))
        return state, rows

    def watches(self, state: State) -> dict[str, LossWatch]:
        return {model: LossWatch.from_json(value) for model, value in state.watches.items()}

    def _update(self, state: State, now: float) -> State:
        payload, feedback = self._changes(state)
        if _is_void(payload, state.payload_version) or _is_void(feedback, state.feedback_version):
            state = State(settings=self._settings, generation=state.generation)
            payload, feedback = self._changes(state)
        if payload.version == state.payload_version and feedback.version == state.feedback_version:
            return state
        logged = payload.rows if payload.rows is not None else self._empty()
        labels = feedback.rows if feedback.rows is not None else LABEL_SCHEMA.empty_table()
        generation = state.generation + 1
        counts = state.counts
        waiting = [] if state.waiting is None else [pq.read_table(self._directory / state.waiting, partitioning=None)]
        work = _Work(state=state, directory=self._directory, generation=generation, config=self._config)
        left = work.run(logged, labels, waiting)
        limit = datetime.fromtimestamp(now - self._config.wait_s, UTC)
        is_young = pc.greater(left["received_at"], pa.scalar(limit, left["received_at"].type))
        held = left.filter(is_young)
        name = f"waiting.{generation}.parquet" if held.num_rows else None
        if name is not None:
            write_parquet(self._directory / name, held)
        counts = replace(
            counts,
            predictions=counts.predictions + logged.num_rows - work.num_repeated_predictions,
            repeated_predictions=counts.repeated_predictions + work.num_repeated_predictions,
            labels=counts.labels + labels.num_rows,
            labelled=counts.labelled + work.num_fresh,
            repeated=counts.repeated + work.num_repeated,
            conflicting=counts.conflicting + work.num_conflicting,
            late=counts.late + work.num_late,
            waiting=held.num_rows,
            unknown=counts.unknown + left.num_rows - held.num_rows,
        )
        after = State(
            payload_version=payload.version,
            feedback_version=feedback.version,
            generation=generation,
            days=work.days,
            waiting=name,
            counts=counts,
            watches=self._watch(state.watches, work.fresh),
            settings=self._settings,
        )
        self._write_state(after)
        return after

    def _changes(self, state: State) -> tuple[Changes, Changes]:
        # Feedback first: a label that is read then has its prediction in the log that is read afterwards, or later.
        feedback = read_changes(self._feedback_uri, state.feedback_version, LABEL_COLUMNS)
        payload = read_changes(self._payload_uri, state.payload_version, [*BASE_COLUMNS, *self._slice_columns])
        return payload, feedback

    def _watch(self, watches: Mapping[str, Any], fresh: Sequence[pa.Table]) -> dict[str, Any]:
        after = dict(watches)
        if not fresh:
            return after
        rows = pa.concat_tables(fresh, promote_options="permissive").sort_by("received_at")
        models = pc.binary_join_element_wise(rows["model_name"], rows["model_version"].cast(pa.string()), ":")
        losses = log_losses(rows["label"].cast(pa.float64()).to_numpy(), rows["score"].to_numpy())
        at = np.asarray(rows["at"].cast(pa.int64()), dtype=np.float64) / 1e6
        for model in pc.unique(models).to_pylist():
            chosen = np.asarray(pc.equal(models, model))
            watch = self._load_watch(model, after.get(model))
            watch.observe(losses[chosen], at[chosen])
            after[model] = watch.to_json()
        return after

    def _load_watch(self, model: str, value: Mapping[str, Any] | None) -> LossWatch:
        if value is not None:
            return LossWatch.from_json(value)
        config = self._config
        reference = self._read_reference(model)
        return LossWatch(
            batch_s=config.loss_batch_s,
            min_rows=config.loss_batch_rows,
            tolerance=config.loss_tolerance,
            reference=reference,
        )

    def _read_state(self) -> State:
        """A new state where there is none, or one that was made under other settings."""
        try:
            value = json.loads((self._directory / STATE_FILE).read_bytes())
        except FileNotFoundError:
            return State(settings=self._settings)
        if value.get("settings") != self._settings:
            return State(settings=self._settings, generation=int(value.get("generation", 0)))
        return State(**{**value, "counts": LabelCounts(**value["counts"])})

    def _write_state(self, state: State) -> None:
        write_atomic(self._directory / STATE_FILE, json.dumps(asdict(state)))
        kept = {*state.days.values(), state.waiting}
        for path in self._directory.glob("*.parquet"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _empty(self) -> pa.Table:
        types = {"row": pa.int32(), "at": LABEL_SCHEMA.field("received_at").type, "model_version": pa.int64()}
        fields = [(name, types.get(name, pa.string())) for name in BASE_COLUMNS if name != "score"]
        return pa.schema(
            [*fields, ("score", pa.float64()), ("label", pa.int8()), LABEL_SCHEMA.field("received_at")]
        ).empty_table()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class _Work:
    """One update's days: read, joined, written under new names."""

    def __init__(self, *, state: State, directory: Path, generation: int, config: QualityConfig) -> None:
        self._directory, self._generation, self._config = directory, generation, config
        self.days = dict(state.days)
        self.fresh: list[pa.Table] = []
        self.num_fresh = self.num_repeated = self.num_conflicting = self.num_late = self.num_repeated_predictions = 0

    def run(self, logged: pa.Table, labels: pa.Table, waiting: Sequence[pa.Table]) -> pa.Table:
        """Returns the labels whose prediction is not there."""
        logged_days = days_of(logged["prediction_id"], logged["at"])
        parts = [labels, *waiting]
        all_labels = pa.concat_tables([part.select(list(LABEL_COLUMNS)).cast(LABEL_SCHEMA) for part in parts])
        label_days = days_of(all_labels["prediction_id"], all_labels["received_at"])
        is_waiting = np.arange(all_labels.num_rows) >= labels.num_rows
        # What waits was looked up before; only a day that got predictions since can have its row.
        is_tried = ~is_waiting | np.isin(label_days, logged_days)
        left = [all_labels.filter(pa.array(~is_tried))]
        for day in np.union1d(logged_days, label_days[is_tried]).tolist():
            chosen = all_labels.filter(pa.array(is_tried & (label_days == day)))
            left.append(self._join_day(_iso_day(day), logged.filter(pa.array(logged_days == day)), chosen))
        return pa.concat_tables(left)

    def _join_day(self, day: str, logged: pa.Table, labels: pa.Table) -> pa.Table:
        name = self.days.get(day)
        rows = None if name is None else pq.read_table(self._directory / name, partitioning=None)
        if rows is None and not logged.num_rows:
            return labels
        rows, num_repeated_predictions = add_predictions(rows, logged)
        joined = join_labels(rows, labels, self._config.conflicts, self._config.late_after_s)
        self.days[day] = f"{day}.{self._generation}.parquet"
        write_parquet(self._directory / self.days[day], joined.rows)
        self.fresh.append(joined.fresh)
        self.num_fresh += joined.fresh.num_rows
        self.num_repeated += joined.num_repeated
        self.num_conflicting += joined.num_conflicting
        self.num_late += joined.num_late
        self.num_repeated_predictions += num_repeated_predictions
        return joined.unknown


def _read_columns(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """Those that are there: the contract may have got some since."""
    names = None if columns is None else _present(columns, pq.read_schema(path).names)
    return pq.read_table(path, columns=names, partitioning=None)


def _present(columns: Sequence[str], among: Sequence[str]) -> list[str]:
    return [name for name in columns if name in among]


def _is_void(changes: Changes, known: int | None) -> bool:
    """Whether what was read of a table before does not count any more."""
    return known is not None and changes.is_whole


def _iso_day(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()


def _day_start(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)
