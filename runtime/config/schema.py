"""The configuration as frozen dataclasses, one a group of `configs/`. Nothing here reads a file.

Units stand in the names. Values that only make sense together are checked where they are built.
"""

from dataclasses import field
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from runtime.config.alerting import AlertsConfig, ContinuousConfig, QualityConfig
from runtime.config.cluster import ClusterConfig
from runtime.config.monitoring import MonitoringConfig
from runtime.config.notifications import NotifyConfig
from runtime.config.rollout import RolloutConfig
from runtime.config.serving import EdgeConfig, ServingConfig
from runtime.config.strict import STRICT

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
    edge: EdgeConfig = field(default_factory=EdgeConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    continuous: ContinuousConfig = field(default_factory=ContinuousConfig)
    notify: NotifyConfig = field(default_factory=NotifyConfig)
