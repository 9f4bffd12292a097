"""A small real bundle and the records around it, for tests and benchmarks of serving."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from runtime.cluster.free_ports import free_ports
from runtime.config.cluster import ClusterConfig
from runtime.config.monitoring import MonitoringConfig
from runtime.config.rollout import RolloutConfig
from runtime.config.schema import (
    ColumnConfig,
    Config,
    DataConfig,
    GateConfig,
    ModelConfig,
    PathsConfig,
    TrainingConfig,
    TuneConfig,
)
from runtime.config.serving import ServingConfig
from runtime.core.clock import utc_now
from runtime.data.encoding import Encoding
from runtime.data.profile import build_profile
from runtime.models.bundle import manifest_sha256, save_bundle
from runtime.models.tabular import build_model
from runtime.store.records import ModelVersion

NUM_NUMERIC = 8
CARRIERS = ["AA", "B6", "DL", "UA"]


def example_columns() -> dict[str, ColumnConfig]:
    columns = {f"x{index}": ColumnConfig(type="number") for index in range(NUM_NUMERIC - 2)}
    columns["distance"] = ColumnConfig(type="number", minimum=0, maximum=5000)
    columns["hour"] = ColumnConfig(type="integer", minimum=0, maximum=23, nullable=True)
    columns["carrier"] = ColumnConfig(type="category")
    columns["passport"] = ColumnConfig(type="category", pii=True)
    columns["late"] = ColumnConfig(type="binary", role="label")
    return columns


def example_row(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    row: dict[str, Any] = {f"x{index}": float(random.normal()) for index in range(NUM_NUMERIC - 2)}
    row["distance"] = float(random.uniform(100, 3000))
    row["hour"] = int(random.integers(0, 24))
    row["carrier"] = CARRIERS[int(random.integers(0, len(CARRIERS)))]
    row["passport"] = "P123"
    return row


def save_example_bundle(directory: Path, *, seed: int = 0) -> None:
    """An untrained MLP whose weights come from `seed`."""
    columns = example_columns()
    rows = [example_row(index) | {"late": index % 2} for index in range(500)]
    table = pa.Table.from_pylist(rows)
    encoding = Encoding.fit(table, columns)
    encoded = encoding.encode_table(table)
    config = ModelConfig(name="mlp", class_path="runtime.models.mlp:MLP")
    torch.manual_seed(seed)
    model = build_model(config, columns, encoding)
    model.fit_preprocessing(encoded)
    scores = model.predict(encoded.numeric, encoded.categorical)
    profile = build_profile(encoded, encoding, scores=scores)
    save_bundle(
        directory,
        model=model,
        model_config=config,
        columns=columns,
        encoding=encoding,
        profile=profile,
        lineage={"data_version": "example@0"},
    )


def example_model_version(directory: Path, *, version: int = 1, seed: int | None = None) -> ModelVersion:
    """The record of a bundle that is written to `directory` if there is none yet."""
    if not (directory / "bundle.json").exists():
        save_example_bundle(directory, seed=version if seed is None else seed)
    return ModelVersion(
        name="example",
        version=version,
        run_id="run",
        bundle_uri=str(directory),
        bundle_sha256=manifest_sha256(directory),
        lineage={"data_version": "example@0"},
        created_at=utc_now(),
    )


def example_config(home: Path, *, endpoint: str = "example") -> Config:
    """A whole configuration below `home`, with ports of its own."""
    return Config(
        paths=PathsConfig(
            home=str(home),
            control=f"sqlite:///{home}/control.db",
            mlflow=f"sqlite:///{home}/mlflow.db",
            warehouse=str(home / "warehouse"),
            artifacts=str(home / "artifacts"),
            payload=str(home / "payload"),
            run=str(home / "run"),
        ),
        data=DataConfig(name="example", builder="runtime.data.tabular:build", sources={}, columns=example_columns()),
        model=ModelConfig(name="mlp", class_path="runtime.models.mlp:MLP"),
        training=TrainingConfig(),
        tune=TuneConfig(families=["mlp"]),
        gate=GateConfig(),
        serving=ServingConfig(endpoint=endpoint, payload_flush_s=0.5),
        rollout=RolloutConfig(),
        monitoring=MonitoringConfig(push_interval_s=0.5),
        cluster=ClusterConfig(ports=free_ports()),
    )
