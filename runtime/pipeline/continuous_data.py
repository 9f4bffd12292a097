"""The next version of the table: its newest prepared one, and the rows that were served and labelled since."""

import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from runtime.config.schema import Config
from runtime.core.errors import RefusedError
from runtime.data.contract import feature_names
from runtime.data.delta import parse_moment, read_table
from runtime.data.served import contract_rows, read_manifest, served_config, write_served
from runtime.monitoring.quality_ledger import State
from runtime.pipeline.continuous_reasons import base_version
from runtime.pipeline.quality_report import open_ledger
from runtime.serving.payload import feedback_uri, payload_column, payload_uri
from runtime.store.records import DataVersion

if TYPE_CHECKING:
    from runtime.pipeline.steps import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class NextData:
    version: DataVersion
    served: dict[str, Any] | None
    """What the served rows came from; None where there were too few, and the version is the prepared one."""


def build_next_data(session: "Session", endpoint: str, *, needs_served: bool) -> NextData:
    """Write the version, or find that the same rows made it before. Joins Ray.

    RefusedError where there are too few labelled rows and `needs_served`.
    """
    from runtime.pipeline.steps import prepare_data

    config = session.config
    base = base_version(session.store, config.data.name)
    state, labelled = _labelled_rows(session, endpoint)
    if labelled.num_rows < config.continuous.min_labels:
        if needs_served:
            raise RefusedError(
                f"{labelled.num_rows} served rows have a label, fewer than continuous.min_labels "
                f"{config.continuous.min_labels}; send what came true with `teal feedback FILE`"
            )
        return NextData(version=base, served=None)
    session.progress.update("collecting served rows")
    names = {name: payload_column(name) for name in feature_names(config.data.columns)}
    rows = contract_rows(_with_features(config, endpoint, state, labelled, names), config.data.columns, names)
    bounds = pc.min_max(labelled["at"]).as_py()
    root = Path(config.paths.payload.removeprefix("file://")) / "_served" / endpoint
    path = write_served(
        root,
        rows,
        {
            "base_table": base.table,
            "base_version": base.version,
            "base_uri": base.uri,
            "base_fingerprint": base.fingerprint,
            "payload_uri": payload_uri(config.paths.payload, endpoint),
            "payload_version": state.payload_version,
            "feedback_uri": feedback_uri(config.paths.payload, endpoint),
            "feedback_version": state.feedback_version,
            "conflicts": config.quality.conflicts,
            "since": bounds["min"].isoformat(),
            "until": bounds["max"].isoformat(),
        },
    )
    served = read_manifest(path).to_json()
    # Part of the commit itself: a kill right after it must not leave a version that looks like a prepared one.
    session = session.with_config(replace(config, data=served_config(config.data, path)))
    return NextData(version=prepare_data(session, origin={"served": served}).version, served=served)


def training_config(config: Config, served: dict[str, Any] | None) -> Config:
    """The windows of `continuous`, counted back from the newest served row; without them the configuration's own."""
    continuous = config.continuous
    if served is None or continuous.validation_s is None:
        return config
    end = parse_moment(served["until"]) + timedelta(microseconds=1)
    validation_since = end - timedelta(seconds=continuous.validation_s)
    train_since = None if continuous.train_s is None else validation_since - timedelta(seconds=continuous.train_s)
    training = replace(
        config.training,
        train_since=None if train_since is None else train_since.isoformat(),
        train_until=validation_since.isoformat(),
        validation_since=validation_since.isoformat(),
        validation_until=end.isoformat(),
    )
    gate = replace(config.gate, holdout_since=None, holdout_until=None)
    return replace(config, training=training, gate=gate)


def _labelled_rows(session: "Session", endpoint: str) -> tuple[State, pa.Table]:
    """The newest rows with a label: prediction id, row, at, label."""
    ledger = open_ledger(session.config, session.store, endpoint)
    ledger.update(time.time())
    state, rows = ledger.read(columns=["prediction_id", "row", "at", "label"], is_labelled=True)
    newest = rows.sort_by([("at", "descending"), ("prediction_id", "ascending"), ("row", "ascending")])
    kept = newest.slice(0, session.config.continuous.max_served_rows)
    return state, kept.sort_by([("at", "ascending"), ("prediction_id", "ascending"), ("row", "ascending")])


def _with_features(config: Config, endpoint: str, state: State, labelled: pa.Table, names: dict[str, str]) -> pa.Table:
    """The labelled rows with their features, from the version of the log that the labels were joined with."""
    uri = payload_uri(config.paths.payload, endpoint)
    bounds = pc.min_max(labelled["at"]).as_py()
    until = bounds["max"] + timedelta(microseconds=1)
    logged = read_table(uri, state.payload_version, None, bounds["min"], until, "at")
    places = pc.index_in(_keys(labelled), value_set=_keys(logged).combine_chunks())
    wanted = [column for column in names.values() if column in logged.column_names]
    found = logged.select(wanted).take(places)
    for column in wanted:
        labelled = labelled.append_column(column, found[column])
    return labelled


def _keys(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["prediction_id"], table["row"].cast(pa.string()), "/")
