"""A whole Config for tests of processes and ports: its own home, its own ports, a table that nobody reads."""

from pathlib import Path

from runtime.config.cluster import ClusterConfig, PortsConfig
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


def cluster_config(home: Path, *, ports: PortsConfig | None = None, host: str = "127.0.0.1") -> Config:
    """Ports are the default ones unless given: only what starts a cluster needs free ones."""
    paths = PathsConfig(
        home=str(home),
        control=f"sqlite:///{home}/control.db",
        mlflow=f"sqlite:///{home}/mlflow.db",
        warehouse=str(home / "warehouse"),
        artifacts=str(home / "artifacts"),
        payload=str(home / "payload"),
        run=str(home / "run"),
    )
    return Config(
        paths=paths,
        data=DataConfig(
            name="none",
            builder="runtime.data.tabular:build",
            sources={},
            columns={"label": ColumnConfig(type="binary", role="label")},
        ),
        model=ModelConfig(name="none", class_path="runtime.models.linear:Linear"),
        training=TrainingConfig(),
        tune=TuneConfig(families=["none"]),
        gate=GateConfig(),
        serving=ServingConfig(endpoint="none"),
        rollout=RolloutConfig(),
        monitoring=MonitoringConfig(),
        cluster=ClusterConfig(host=host, ports=ports or PortsConfig(), num_cpus=4, object_store_bytes=128 << 20),
    )
