"""The rows that a candidate and the champion are compared on, and the comparison."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runtime.config.schema import Config
from runtime.core.clock import utc_now
from runtime.core.errors import NotFoundError
from runtime.data.contract import group_name, label_name, time_name
from runtime.data.delta import read_table
from runtime.governance.gate import GateReport, compare, decide
from runtime.models.bundle import load_bundle
from runtime.store.records import DataVersion, GateRecord, ModelVersion
from runtime.training.dataset import hold_out

if TYPE_CHECKING:
    from runtime.pipeline.steps import Session
    from runtime.training.sweep import Candidate


def compare_on_holdout(session: "Session", candidate: "Candidate", champion: ModelVersion | None) -> GateReport:
    """Score the same rows with both models, decide, and record the decision with its holdout.

    The rows are those of `gate.holdout_since/until` in the newest data version; without them those that the
    candidate's training held out.
    """
    config = session.config
    version = session.store.data_version(config.data.name)
    name, rows = read_holdout(config, version)
    labels = rows.column(label_name(config.data.columns)).to_numpy()
    group = group_name(config.data.columns)
    comparison = compare(
        labels,
        score_rows(candidate.bundle_dir, candidate.bundle_sha256, rows),
        None if champion is None else score_rows(champion.bundle_uri, champion.bundle_sha256, rows),
        None if group is None else rows.column(group).to_numpy(zero_copy_only=False),
        config.gate,
    )
    report = decide(comparison, config.gate, num_previous_gates=len(session.store.gates(holdout=name)))
    session.store.record_gate(
        GateRecord(
            at=utc_now(),
            holdout=name,
            candidate=candidate.run_id,
            champion=None if champion is None else champion.label,
            verdict=report.verdict,
            report=report.to_json(),
        )
    )
    return report


def read_holdout(config: Config, version: DataVersion) -> tuple[str, pa.Table]:
    """The holdout's name, which counts how often it was used, and its labelled rows."""
    training, gate = config.training, config.gate
    since, until, fraction = gate.holdout_since, gate.holdout_until, None
    if since is None and until is None:
        since, until = training.validation_since, training.validation_until
    if since is None and until is None:
        since, until, fraction = training.train_since, training.train_until, training.validation_fraction
    columns = config.data.columns
    table = read_table(version.uri, version.version, since=since, until=until, time_column=time_name(columns))
    table = table.filter(pc.is_valid(table.column(label_name(columns))))
    if fraction is not None:
        table = table.filter(pa.array(hold_out(table, columns, fraction)))
    name = f"{version.table} {since or 'start'}..{until or 'end'}"
    if fraction is not None:
        name += f", held out {fraction:g}"
    if not table.num_rows:
        raise NotFoundError(
            f"no labelled rows of {version.label} within {name}; set gate.holdout_since and gate.holdout_until"
        )
    return name, table


def score_rows(bundle_uri: str, bundle_sha256: str, rows: pa.Table) -> NDArray[np.float64]:
    bundle = load_bundle(Path(bundle_uri), expected_sha256=bundle_sha256)
    encoded = bundle.encoding.encode_table(rows)
    return bundle.model.predict(encoded.numeric, encoded.categorical)
