"""The rows that a candidate and the champion are compared on, and the comparison."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runtime.config.schema import Config, TrainingConfig
from runtime.core.clock import utc_now
from runtime.core.errors import NotFoundError, RefusedError
from runtime.data.contract import group_name, key_name, label_name, time_name
from runtime.data.current import current_version
from runtime.data.delta import read_table
from runtime.governance.gate import GateReport, compare, decide
from runtime.models.bundle import load_bundle
from runtime.store.control import ControlStore
from runtime.store.records import DataVersion, GateRecord, ModelVersion
from runtime.training.dataset import hold_out, trained_rows

if TYPE_CHECKING:
    from runtime.pipeline.steps import Session
    from runtime.training.sweep import Candidate

WINDOW_NAMES = ("train_since", "train_until", "validation_since", "validation_until", "validation_fraction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdout:
    """Labelled rows that models are judged on."""

    version: DataVersion
    name: str
    """Counts how often the rows were used."""
    rows: pa.Table
    num_left_out: int
    """Rows within it that one of the models was trained on."""


def compare_on_holdout(session: "Session", candidate: "Candidate", champion: ModelVersion | None) -> GateReport:
    """Score the same rows with both models, decide, and record the decision with its holdout."""
    config = session.config
    trained = {f"candidate {candidate.run_id}": candidate.lineage}
    if champion is not None:
        trained[champion.label] = champion.lineage
    holdout = find_holdout(config, session.store, trained)
    rows = holdout.rows
    labels = rows.column(label_name(config.data.columns)).to_numpy()
    group = group_name(config.data.columns)
    comparison = compare(
        labels,
        score_rows(candidate.bundle_dir, candidate.bundle_sha256, rows),
        None if champion is None else score_rows(champion.bundle_uri, champion.bundle_sha256, rows),
        None if group is None else rows.column(group).to_numpy(zero_copy_only=False),
        config.gate,
    )
    report = decide(
        comparison,
        config.gate,
        num_previous_gates=len(session.store.gates(holdout=holdout.name)),
        num_left_out=holdout.num_left_out,
    )
    session.store.record_gate(
        GateRecord(
            at=utc_now(),
            holdout=holdout.name,
            candidate=candidate.run_id,
            champion=None if champion is None else champion.label,
            verdict=report.verdict,
            report=report.to_json(),
        )
    )
    return report


def find_holdout(config: Config, store: ControlStore, trained: Mapping[str, Mapping[str, Any]]) -> Holdout:
    """The rows of `gate.holdout_since/until` in the table's current version; without them those that the first
    model's training held out, in the version that it was trained on. Rows that a model learnt from are left out.

    `trained` is each model's name and lineage. NotFoundError without rows, RefusedError where too few are left.
    """
    version, windows = _windows(config, store, next(iter(trained.values())))
    name, rows = read_holdout(config, version, windows)
    keeps = np.ones(rows.num_rows, dtype=np.bool_)
    learnt = {}
    for model, lineage in trained.items():
        seen = _learnt_from(config, version, rows, lineage)
        if seen.any():
            learnt[model] = int(seen.sum())
            keeps &= ~seen
    num_left = int(keeps.sum())
    if learnt and num_left < config.gate.min_rows:
        found = " and ".join(f"{model} was trained on {count:,} of them" for model, count in learnt.items())
        raise RefusedError(
            f"the holdout {name} has {rows.num_rows:,} rows, but {found}, which leaves {num_left:,}, fewer than "
            f"gate.min_rows {config.gate.min_rows}; name rows that are new to both: gate.holdout_since=MOMENT"
        )
    kept = rows.filter(pa.array(keeps))
    if not kept.num_rows:
        raise NotFoundError(
            f"no labelled rows of {version.label} within {name}; set gate.holdout_since and gate.holdout_until"
        )
    return Holdout(version=version, name=name, rows=kept, num_left_out=rows.num_rows - num_left)


def read_holdout(config: Config, version: DataVersion, windows: TrainingConfig) -> tuple[str, pa.Table]:
    """Name and labelled rows of `gate.holdout_since/until`, else of what a training with `windows` holds out."""
    gate = config.gate
    since, until, fraction = gate.holdout_since, gate.holdout_until, None
    if since is None and until is None:
        since, until = windows.validation_since, windows.validation_until
    if since is None and until is None:
        since, until, fraction = windows.train_since, windows.train_until, windows.validation_fraction
    columns = config.data.columns
    table = read_table(version.uri, version.version, since=since, until=until, time_column=time_name(columns))
    table = table.filter(pc.is_valid(table.column(label_name(columns))))
    if fraction is not None:
        table = table.filter(pa.array(hold_out(table, columns, fraction)))
    name = f"{version.table} {since or 'start'}..{until or 'end'}"
    return name if fraction is None else f"{name}, held out {fraction:g}", table


def _windows(config: Config, store: ControlStore, lineage: Mapping[str, Any]) -> tuple[DataVersion, TrainingConfig]:
    """The version to read, and the windows that say what was held out of training in it."""
    data = lineage.get("data", {})
    is_named = config.gate.holdout_since is not None or config.gate.holdout_until is not None
    if is_named or data.get("table") != config.data.name:
        return current_version(store, config.data.name), config.training
    version = store.data_version(config.data.name, int(data["version"]))
    if config.training.validation_since is not None or config.training.validation_until is not None:
        return version, config.training
    return version, _training_of(config, lineage)


def _training_of(config: Config, lineage: Mapping[str, Any]) -> TrainingConfig:
    known = lineage.get("config", {}).get("training", {})
    return replace(config.training, **{name: known[name] for name in WINDOW_NAMES if name in known})


def _learnt_from(config: Config, version: DataVersion, rows: pa.Table, lineage: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Mask of the rows that the model was trained on: within its windows, and in its data version by their key."""
    data = lineage.get("data", {})
    if "config" not in lineage or data.get("table") != version.table:
        return np.zeros(rows.num_rows, dtype=np.bool_)
    columns = config.data.columns
    seen = trained_rows(rows, columns, _training_of(config, lineage))
    key = key_name(columns)
    if key is None or int(data["version"]) == version.version or not seen.any():
        return seen
    known = read_table(version.uri, int(data["version"]), columns=[key]).column(key)
    return np.asarray(seen & pc.is_in(rows.column(key), value_set=known.combine_chunks()).to_numpy())


def score_rows(bundle_uri: str, bundle_sha256: str, rows: pa.Table) -> NDArray[np.float64]:
    bundle = load_bundle(Path(bundle_uri), expected_sha256=bundle_sha256)
    encoded = bundle.encoding.encode_table(rows)
    return bundle.model.predict(encoded.numeric, encoded.categorical)
