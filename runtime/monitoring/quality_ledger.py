"""The payload log joined with its labels, kept in parts and brought up to date from what is new in both tables.

On disk a directory: a Parquet file for each part, which is a stretch of time with a bounded number of rows, one of
labels that wait for their prediction, and `state.json`, which names them and the table versions they hold. It is
replaced in one step, so a kill leaves the state before or after an update, with nothing counted twice. The loss
watches are part of that state. Nothing holds more than a few parts in memory, however much was logged.
"""

import fcntl
import json
import math
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
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
from runtime.monitoring.quality_join import LABEL_COLUMNS, LABEL_SCHEMA, as_labels
from runtime.monitoring.quality_parts import PartsUpdate

FORMAT = 2
STATE_FILE = "state.json"
SLACK_MS = 60_000
"""A prediction's id is made within so much of the time that its row tells."""
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
    parts: dict[str, str] = field(default_factory=dict)
    """When each begins, in milliseconds since 1970, to its file's name. It reaches until the next one."""
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

    def scan(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Predictions of `since` <= at < `until` with their labels, part by part, each as the last update left it.

        `columns`: all by default. Ids are half of all bytes, and figures need none; `at` must be among them. Updates
        may come between two parts: a row is read once all the same.
        """
        reached = 0.0 if since is None else max(_ms(since) - SLACK_MS, 0.0)
        last = math.inf if until is None else _ms(until) + SLACK_MS
        while reached < last:
            with self._lock():
                parts = self._read_state().parts
                starts = sorted(map(int, parts))
                if not starts:
                    return
                index = bisect_right(starts, reached) - 1
                rows = _read_columns(self._directory / parts[str(starts[index])], columns)
            # A part that reaches further back than where the last one ended was joined anew meanwhile.
            resumed = datetime.fromtimestamp(reached / 1000, UTC) if starts[index] < reached else None
            for bound, compare in ((since, pc.greater_equal), (resumed, pc.greater_equal), (until, pc.less)):
                if bound is not None:
                    rows = rows.filter(compare(rows["at"], pa.scalar(bound, rows["at"].type)))
            reached = starts[index + 1] if index + 1 < len(starts) else math.inf
            yield rows

    def read(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        columns: Sequence[str] | None = None,
        is_labelled: bool = False,
    ) -> tuple[State, pa.Table]:
        """What `scan` gives, as one table, and a state that is at least as new.

        `is_labelled`: only rows whose label is known.
        """
        parts = self.scan(since, until, columns=columns)
        tables = [rows.filter(pc.is_valid(rows["label"])) if is_labelled else rows for rows in parts]
        with self._lock():
            state = self._read_state()
        empty = self._empty()
        tables.append(empty if columns is None else empty.select(_present(columns, empty.column_names)))
        return state, pa.concat_tables(tables, promote_options="permissive")

    def watches(self, state: State) -> dict[str, LossWatch]:
        return {model: LossWatch.from_json(value) for model, value in state.watches.items()}

    def _update(self, state: State, now: float) -> State:
        payload, feedback = self._changes(state)
        if _is_void(payload, state.payload_version) or _is_void(feedback, state.feedback_version):
            state = State(settings=self._settings, generation=state.generation)
            payload, feedback = self._changes(state)
        if payload.version == state.payload_version and feedback.version == state.feedback_version:
            return state
        labels = as_labels(feedback.tables())
        waiting = as_labels(
            [] if state.waiting is None else [pq.read_table(self._directory / state.waiting, partitioning=None)]
        )
        generation = state.generation + 1
        work = PartsUpdate(self._directory, state.parts, generation=generation, config=self._config)
        for logged in payload.tables():
            work.add(logged)
        left = work.join(labels, waiting)
        counts = state.counts
        limit = datetime.fromtimestamp(now - self._config.wait_s, UTC)
        is_young = pc.greater(left["received_at"], pa.scalar(limit, left["received_at"].type))
        held = left.filter(is_young)
        name = f"waiting.{generation}.parquet" if held.num_rows else None
        if name is not None:
            write_parquet(self._directory / name, held)
        counts = replace(
            counts,
            predictions=counts.predictions + work.num_predictions,
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
            parts=work.parts,
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
        kept = {*state.parts.values(), state.waiting}
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


def _read_columns(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """Those that are there: the contract may have got some since."""
    names = None if columns is None else _present(columns, pq.read_schema(path).names)
    return pq.read_table(path, columns=names, partitioning=None)


def _present(columns: Sequence[str], among: Sequence[str]) -> list[str]:
    return [name for name in columns if name in among]


def _is_void(changes: Changes, known: int | None) -> bool:
    """Whether what was read of a table before does not count any more."""
    return known is not None and changes.is_whole


def _ms(moment: datetime) -> float:
    return moment.timestamp() * 1000
