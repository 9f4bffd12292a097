"""The next data version: the prepared rows, and those that were served and labelled since."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.core.errors import ContractError, RefusedError
from runtime.data.contract import split_valid
from runtime.data.served import contract_rows, read_manifest, served_config, write_served
from runtime.pipeline.continuous_data import NextData, build_next_data, training_config
from runtime.pipeline.continuous_reasons import base_version
from runtime.pipeline.progress import Silent
from runtime.pipeline.steps import Session
from tests.quality_example import COLUMNS, ENDPOINT, World, draw


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.at(tmp_path)


def test_windows_are_counted_back_from_the_newest_served_row(world: World) -> None:
    served = {"until": "2026-06-10T00:00:00+00:00"}
    assert training_config(world.config, served) == world.config
    config = replace(world.config, continuous=replace(world.config.continuous, validation_s=86400.0, train_s=172800.0))
    assert training_config(config, None) == config
    found = training_config(config, served)
    assert found.training.validation_since == found.training.train_until == "2026-06-09T00:00:00.000001+00:00"
    assert found.training.train_since == "2026-06-07T00:00:00.000001+00:00"
    assert found.training.validation_until == "2026-06-10T00:00:00.000001+00:00"
    assert found.gate.holdout_since is None


def test_served_rows_join_the_newest_prepared_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = draw(1, 60)
    ids = world.log(scores)
    world.label(ids[:50], labels[:50])
    world.add_data_version(1, served={"base_table": ENDPOINT, "base_version": 0})
    config = replace(world.config, continuous=replace(world.config.continuous, min_labels=40, max_served_rows=45))
    session = Session(config=config, store=world.store, registry=SimpleNamespace(), progress=Silent())  # type: ignore[arg-type]
    prepared: list[Any] = []

    def prepare(session: Session, *, origin: dict[str, Any]) -> Any:
        prepared.append(session.config.data)
        return SimpleNamespace(version=world.add_data_version(2, **origin), is_new=True)

    monkeypatch.setattr("runtime.pipeline.steps.prepare_data", prepare)
    built = build_next_data(session, ENDPOINT, needs_served=True)
    assert built.served is not None
    assert (built.served["base_version"], built.served["num_rows"]) == (0, 45)
    assert (built.served["payload_version"], built.served["feedback_version"]) == (0, 0)
    assert world.store.data_version(ENDPOINT, 2).lineage["served"] == built.served
    assert base_version(world.store, ENDPOINT).version == 0
    (data,) = prepared
    assert data.builder == "runtime.data.served:build"
    path = Path(data.sources["manifest"])
    rows = pq.read_table(path.parent / built.served["rows"])
    # The newest 45 of the 50 with a label, each with its own features and label.
    assert rows["speed"].to_pylist() == [float(index) for index in range(5, 50)]
    assert rows["slot"].to_pylist() == list(range(5, 50))
    assert rows["late"].to_pylist() == labels[5:50].astype(int).tolist()
    assert rows["id"].to_pylist() == [f"{one}/0" for one in ids[5:50]]
    assert set(rows["day"].to_pylist()) == {"2026-06-01"}
    assert rows["passport"].null_count == 45
    again = build_next_data(session, ENDPOINT, needs_served=True)
    assert again.served == built.served

    limits = replace(config.continuous, min_labels=51, max_served_rows=100)
    poor = session.with_config(replace(config, continuous=limits))
    assert build_next_data(poor, ENDPOINT, needs_served=False) == NextData(
        version=base_version(world.store, ENDPOINT), served=None
    )
    with pytest.raises(RefusedError, match=r"50 served rows have a label, fewer than continuous.min_labels 51"):
        build_next_data(poor, ENDPOINT, needs_served=True)


def logged_rows() -> pa.Table:
    return pa.table(
        {
            "prediction_id": ["a", "b"],
            "row": pa.array([0, 3], pa.int32()),
            "at": pa.array(np.array([0, 86_400_000_000]), pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "label": pa.array([1, 0], pa.int8()),
            "speed": [1.0, 2.0],
            "feature_slot": pa.array([1, 2], pa.int64()),
            "carrier": ["AA", "UA"],
        }
    )


NAMES = {"speed": "speed", "slot": "feature_slot", "carrier": "carrier", "passport": "passport"}


def test_served_rows_keep_the_contract() -> None:
    rows = contract_rows(logged_rows(), COLUMNS, NAMES)
    _, violations, mask = split_valid(rows, COLUMNS)
    assert violations == []
    assert mask.all()
    assert rows.column_names == list(COLUMNS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"passport": replace(COLUMNS["passport"], nullable=False)}, "'passport' cannot be filled .* are not logged"),
        ({"id": replace(COLUMNS["id"], type="integer")}, "'id' cannot be filled .* integer of role key"),
    ],
)
def test_a_column_that_the_log_cannot_fill_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        contract_rows(logged_rows(), COLUMNS | change, NAMES)


MANIFEST: dict[str, Any] = {
    "base_table": "t",
    "base_version": 0,
    "base_uri": "/t",
    "base_fingerprint": "f",
    "payload_uri": "/p",
    "payload_version": 3,
    "feedback_uri": "/f",
    "feedback_version": 2,
    "conflicts": "last",
    "since": "a",
    "until": "b",
}


def test_a_manifest_stands_for_its_rows(tmp_path: Path, world: World) -> None:
    path = write_served(tmp_path, logged_rows(), MANIFEST)
    assert write_served(tmp_path, logged_rows(), MANIFEST) == path
    manifest = read_manifest(path)
    assert (manifest.num_rows, manifest.payload_version) == (2, 3)
    (tmp_path / manifest.rows).write_bytes(b"other")
    with pytest.raises(ContractError, match="was changed after it was written"):
        read_manifest(path)
    path.write_text("{}")
    with pytest.raises(ContractError, match="is no manifest of served rows"):
        read_manifest(path)
    config = served_config(replace(world.config.data, since="2026-01-01", allowed_modules=["mine"]), path)
    assert (config.since, config.allowed_modules) == (None, ["mine", "runtime.data"])
