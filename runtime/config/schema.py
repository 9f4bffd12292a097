"""The configuration as frozen dataclasses, one a group of `configs/`. Nothing here reads a file.

Units stand in the names. Values that only make sense together are checked where they are built.
"""

from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

ColumnType = Literal["number", "integer", "category", "binary", "timestamp", "string"]
ColumnRole = Literal["feature", "label", "key", "group", "time", "ignored"]
Slot = Literal["blue", "green"]


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class PathsConfig:
    """Where things live; each a path or a URI."""

    home: str
    control: str
    """SQLAlchemy URL of the control store."""
    mlflow: str
    """MLflow tracking URI."""
    warehouse: str
    artifacts: str
    payload: str
    run: str
    """Tokens, edge configuration, pids, logs: this machine's only."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ColumnConfig:
    """One column's promise."""

    type: ColumnType
    role: ColumnRole = "feature"
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    allowed: list[str] | None = None
    """Closed set of a category's values; None leaves it open: unseen values count as `other`."""
    pii: bool = False

    def __post_init__(self) -> None:
        if self.role == "feature" and self.type not in ("number", "integer", "category", "binary"):
            raise ValueError(f"a feature must be number, integer, binary or category, but got type {self.type!r}")
        if self.role == "label" and self.type != "binary":
            raise ValueError(f"the label must be binary (0 or 1), but got type {self.type!r}")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class DataConfig:
    """A table: where its rows come from and what they promise."""

    name: str
    builder: str
    """Import path of `(DataConfig) -> ray.data.Dataset`, from `allowed_modules`."""
    sources: dict[str, str]
    """Logical name to file path, `package:NAME/file` for a file inside an installed package."""
    columns: dict[str, ColumnConfig]
    since: str | None = None
    """First moment taken, ISO 8601 in UTC, by the column with role time."""
    until: str | None = None
    """First moment not taken."""
    max_invalid_fraction: float = 0.0
    """Rows that break the contract are set aside up to this fraction; above it nothing is written."""
    allowed_modules: list[str] = field(default_factory=lambda: ["runtime.data"])

    def __post_init__(self) -> None:
        labels = [name for name, column in self.columns.items() if column.role == "label"]
        if len(labels) != 1:
            raise ValueError(f"exactly one column must have role label, but got {labels}")
        times = [name for name, column in self.columns.items() if column.role == "time"]
        if len(times) > 1:
            raise ValueError(f"at most one column may have role time, but got {times}")
        if (self.since or self.until) and not times:
            raise ValueError("since and until need a column with role time")
        if not 0 <= self.max_invalid_fraction < 1:
            raise ValueError(f"max_invalid_fraction must be within [0, 1) but got {self.max_invalid_fraction}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class SearchDimension:
    """One hyperparameter's range for a sweep."""

    kind: Literal["choice", "uniform", "loguniform", "integer"]
    values: list[Any] | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.kind == "choice" and not self.values:
            raise ValueError("kind choice needs values")
        if self.kind != "choice" and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError(f"kind {self.kind} needs low < high but got {self.low} and {self.high}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ModelConfig:
    """A family of torch modules: what `class_path` is built with, and what a sweep may vary."""

    name: str
    class_path: str
    """Import path of a torch.nn.Module: `(num_numeric, cardinalities, **arguments)`."""
    arguments: dict[str, Any] = field(default_factory=dict)
    space: dict[str, SearchDimension] = field(default_factory=dict)
    """Key `arguments.NAME` or `training.NAME` to its range."""
    allowed_modules: list[str] = field(default_factory=lambda: ["runtime.models"])


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TrainingConfig:
    """How one candidate is fitted. Times are ISO 8601 in UTC, half open, by the table's time column."""

    train_since: str | None = None
    train_until: str | None = None
    validation_since: str | None = None
    validation_until: str | None = None
    validation_fraction: float = 0.2
    """Used where no validation time is given: share of groups (or rows) held out, by seeded hash."""
    epochs: int = 8
    batch_size: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    patience: int = 3
    """Epochs without a better validation log loss after which training ends."""
    seed: int = 0
    num_threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 but got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0 but got {self.learning_rate}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0 but got {self.weight_decay}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be within (0, 1) but got {self.validation_fraction}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TuneConfig:
    """How a sweep searches."""

    families: list[str]
    """Names of the `model` group's configurations that compete."""
    num_samples: int = 3
    """Trials of each family."""
    max_concurrent: int = 2
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    grace_epochs: int = 2
    """Epochs that every trial gets before it may be stopped."""
    reduction_factor: int = 3
    """Of the trials of a family that reach a rung, about one in this many goes on."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_concurrent", "grace_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 but got {getattr(self, name)}")
        if self.reduction_factor < 2:
            raise ValueError(f"reduction_factor must be at least 2 but got {self.reduction_factor}")
        if not self.families or len(set(self.families)) != len(self.families):
            raise ValueError(f"families must name at least one model, each once, but got {self.families}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class GateConfig:
    """What a candidate must show against the champion on the same rows."""

    margins: dict[Literal["auc", "log_loss", "brier"], float] = field(
        default_factory=lambda: {"auc": 0.01, "log_loss": 0.01}
    )
    """Metric to the loss (in the metric's own unit) that is still tolerated."""
    must_improve: Literal["auc", "log_loss", "brier"] | None = None
    """Metric on which the candidate must also be better, not only no worse."""
    holdout_since: str | None = None
    """Rows to compare on, by the table's time column; without it the rows that training held out."""
    holdout_until: str | None = None
    confidence: float = 0.975
    """One-sided level of each bound."""
    num_resamples: int = 2000
    seed: int = 0
    min_rows: int = 500

    def __post_init__(self) -> None:
        if not self.margins:
            raise ValueError("margins must name at least one metric; a gate that checks nothing lets everything pass")
        for metric, margin in self.margins.items():
            if margin < 0:
                raise ValueError(f"the margin of {metric} must be at least 0 but got {margin}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must be within (0.5, 1) but got {self.confidence}")
        if self.num_resamples < 200:
            raise ValueError(f"num_resamples must be at least 200 but got {self.num_resamples}")
        if self.min_rows < 1:
            raise ValueError(f"min_rows must be at least 1 but got {self.min_rows}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ServingConfig:
    """An endpoint and its two slots."""

    endpoint: str
    min_replicas: int = 1
    max_replicas: int = 1
    cpus_per_replica: float = 0.1
    gpus_per_replica: float = 0.0
    max_ongoing_requests: int = 64
    max_queued_requests: int = 1024
    """Enough to hold what comes while the only replica is replaced; more are answered 429."""
    num_threads: int = 1
    max_body_bytes: int = 8 * 1024 * 1024
    max_rows_per_request: int = 4096
    payload_flush_s: float = 2.0
    ready_timeout_s: float = 90.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ValueError(f"need 1 <= min_replicas <= max_replicas but got {self.min_replicas}, {self.max_replicas}")
        if not self.endpoint.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"endpoint must be letters, digits, '-' and '_' but got {self.endpoint!r}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RolloutConfig:
    """The steps a shift goes through."""

    steps_percent: list[int] = field(default_factory=lambda: [10, 50, 100])

    def __post_init__(self) -> None:
        if sorted(set(self.steps_percent)) != self.steps_percent or not self.steps_percent:
            raise ValueError(f"steps_percent must rise strictly but got {self.steps_percent}")
        if self.steps_percent[0] < 1 or self.steps_percent[-1] != 100:
            raise ValueError(f"steps_percent must lie within 1..100 and end at 100 but got {self.steps_percent}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class MonitoringConfig:
    """What is counted and how often."""

    push_interval_s: float = 1.0
    tick_s: float = 10.0
    notice_psi: float = 0.1
    """PSI above which a feature is named in a report. An effect size, never a test."""
    num_ticks_kept: int = 360
    """Ticks the monitor remembers for questions about a time window; older ones stay in the totals only."""

    def __post_init__(self) -> None:
        for name in ("push_interval_s", "tick_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name)}")
        if self.num_ticks_kept < 1:
            raise ValueError(f"num_ticks_kept must be at least 1 but got {self.num_ticks_kept}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class PortsConfig:
    """Every TCP port that `teal up` binds: below 32768, as outgoing connections take theirs from above."""

    edge: int = 8080
    serve: int = 8000
    serve_fallback: int = 8500
    serve_fallback_grpc: int = 9500
    haproxy_metrics: int = 9101
    haproxy_stats: int = 8404
    monitor_metrics: int = 9464
    gcs: int = 6379
    dashboard: int = 8265
    dashboard_metrics: int = 8266
    dashboard_agent: int = 8267
    dashboard_agent_grpc: int = 8268
    runtime_env_agent: int = 8269
    node_manager: int = 8270
    object_manager: int = 8271
    ray_metrics: int = 8272
    ray_client: int = 10001
    replica_min: int = 30000
    replica_max: int = 31000
    replica_grpc_min: int = 31001
    replica_grpc_max: int = 32000
    worker_min: int = 20002
    worker_max: int = 20999

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            port = getattr(self, name)
            if not 1024 <= port <= 65535:
                raise ValueError(f"{name} must be within 1024..65535 but got {port}")
            if name.endswith("_min") and port > getattr(self, f"{name.removesuffix('min')}max"):
                raise ValueError(f"{name} {port} is above {name.removesuffix('min')}max")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ClusterConfig:
    """The machine's part: Ray, the edge, the addresses."""

    host: str = "127.0.0.1"
    num_cpus: int = 8
    """Logical CPUs that Ray may hand out; actors of teal ask for a tenth each."""
    object_store_bytes: int = 512 * 1024 * 1024
    edge_poll_s: float = 0.25
    edge_threads: int = 1
    start_timeout_s: float = 120.0
    stop_grace_s: float = 5.0
    """How long `stop` waits before it kills."""
    temp_root: str = "/tmp"
    """Ray's session is in `<temp_root>/teal-<hash of home>`: short, as a unix socket's path has at most 107 bytes."""
    ports: PortsConfig = field(default_factory=PortsConfig)


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Config:
    """Everything, composed by `configs/config.yaml`."""

    paths: PathsConfig
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    tune: TuneConfig
    gate: GateConfig
    serving: ServingConfig
    rollout: RolloutConfig
    monitoring: MonitoringConfig
    cluster: ClusterConfig
