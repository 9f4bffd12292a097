"""The configuration as frozen dataclasses, one a group of `configs/`. Nothing here reads a file.

Units stand in the names. Values that only make sense together are checked where they are built.
"""

import ipaddress
from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from runtime.config.alerting import AlertsConfig, ContinuousConfig, QualityConfig
from runtime.config.notifications import NotifyConfig

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
    idle_replicas: int = 1
    """Of a slot without traffic: what a rollback finds running. 0 saves the memory and makes it wait for a start."""
    cpus_per_replica: float = 0.1
    gpus_per_replica: float = 0.0
    max_ongoing_requests: int = 64
    """That one replica is given at a time."""
    target_ongoing_requests: float = 8.0
    """That each replica should be busy with: more replicas are started above it, fewer kept below."""
    max_waiting_requests: int = 128
    """Of a slot whose replicas all have that many, in line at the edge; more are answered 429 at once."""
    max_queued_requests: int = 1024
    """In Ray's ingress while no replica is there, being replaced or started from zero; more are answered 429."""
    num_threads: int = 1
    max_body_bytes: int = 8 * 1024 * 1024
    max_rows_per_request: int = 4096
    payload_flush_s: float = 2.0
    payload_fraction: float = 1.0
    """Of the predictions, chosen by their id, that the payload log keeps: 0 is off. `teal trace` finds only these."""
    hash_pii: bool = False
    """Log keyed hashes of the columns that the contract marks pii, instead of leaving them out."""
    max_batch_rows: int = 0
    """Above 0 a thread runs the model on what gathered while it was busy: for models that take long, or a GPU."""
    max_waiting_rows: int = 8192
    """For such a batch; more are answered 429."""
    shadow_fraction: float = 0.0
    """Of the primary's requests that the other slot is asked too, off the answers' way; differences are recorded."""
    ready_timeout_s: float = 90.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise ValueError(
                f"need 0 <= min_replicas <= max_replicas with at least one at most, but got {self.min_replicas}, "
                f"{self.max_replicas}"
            )
        if not 0 <= self.idle_replicas <= self.max_replicas:
            raise ValueError(f"idle_replicas must be within 0..{self.max_replicas} but got {self.idle_replicas}")
        if self.target_ongoing_requests <= 0:
            raise ValueError(f"target_ongoing_requests must be above 0 but got {self.target_ongoing_requests:g}")
        for name in ("payload_fraction", "shadow_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0..1 but got {getattr(self, name):g}")
        if self.max_batch_rows < 0 or self.max_waiting_rows < 1:
            raise ValueError(
                "max_batch_rows must be at least 0 and max_waiting_rows at least 1 but got "
                f"{self.max_batch_rows} and {self.max_waiting_rows}"
            )
        if not self.endpoint.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"endpoint must be letters, digits, '-' and '_' but got {self.endpoint!r}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RolloutMetricConfig:
    """What the canary is compared with the primary on."""

    kind: Literal["errors", "latency", "score"]
    """`errors`: answers that the edge gave as 5xx. `latency`: slower than the primary's quantile. `score`: its mean."""
    margin: float
    """Errors and latency: the rate may be 1 + margin times the primary's. Score: the mean may be off by so much."""
    quantile: float | None = None
    """For latency only."""
    negligible_rate: float | None = None
    """For errors only: a canary that is proved to have fewer than these passes, whatever the primary has."""
    expected: float | None = None
    """To foretell how many requests a step needs: the rate of errors, the standard deviation of the score."""
    weight: float = 1.0
    """Share of alpha_rollback, relative to the other metrics'."""
    is_required: bool = True
    """Whether a step passes only with this metric's evidence."""

    def __post_init__(self) -> None:
        if self.margin < 0 or (self.kind == "score" and self.margin == 0):
            raise ValueError(f"the margin of {self.kind} must be above 0 but got {self.margin:g}")
        if (self.kind == "latency") != (self.quantile is not None):
            raise ValueError(f"kind {self.kind} {'needs a' if self.kind == 'latency' else 'has no'} quantile")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ValueError(f"quantile must be within (0, 1) but got {self.quantile:g}")
        if self.negligible_rate is not None and (self.kind != "errors" or not 0 < self.negligible_rate < 1):
            raise ValueError(f"negligible_rate is for errors and within (0, 1) but got {self.negligible_rate:g}")
        if self.weight <= 0:
            raise ValueError(f"weight must be above 0 but got {self.weight:g}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RolloutStepConfig:
    """What one step has of its own; None takes the plan's."""

    min_s: float | None = None
    min_requests: int | None = None
    max_s: float | None = None
    pause: bool = False
    """Wait before this step until somebody resumes."""
    approvals: int = 0
    """People other than the author who must approve before this step."""


def _default_rollout_metrics() -> dict[str, RolloutMetricConfig]:
    return {
        "errors": RolloutMetricConfig(kind="errors", margin=0.25, negligible_rate=0.005),
        "latency_p95": RolloutMetricConfig(kind="latency", quantile=0.95, margin=0.25),
    }


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RolloutConfig:
    """A plan: the steps that the canary's traffic goes through, and what it must show at each."""

    steps_percent: list[int] = field(default_factory=lambda: [10, 50, 100])
    """At 100 the primary has nothing to be compared with: the canary is made the primary there."""
    steps: dict[int, RolloutStepConfig] = field(default_factory=dict)
    """Percent to what this step has of its own."""
    min_s: float = 60.0
    """Of every step, from when all edges give the canary its share."""
    min_requests: int = 500
    """To the canary, at every step."""
    max_s: float = 21600.0
    """After which a step that is not decided ends as `on_deadline` says."""
    on_deadline: Literal["hold", "abort"] = "hold"
    approvals: int = 0
    """People other than the author who must approve before any traffic."""
    metrics: dict[str, RolloutMetricConfig] = field(default_factory=_default_rollout_metrics)
    alpha_rollback: float = 0.05
    """Chance that a canary as good as the primary is ever rolled back."""
    alpha_promotion: float = 0.05
    """Chance that one that is worse than a margin ever passes, with `promote_on: evidence`."""
    promote_on: Literal["evidence", "no_harm"] = "evidence"
    """`no_harm`: enough requests and nothing against it; for little traffic. It bounds no false promotions."""
    rollback_window_s: float = 60.0
    """How long the canary has 100 % before it is made the primary: until then the old one is a command away."""
    tick_s: float = 5.0
    """How often counts are taken and judged."""
    settle_s: float = 3.0
    """After a change of share what is counted belongs to neither; above twice monitoring.push_interval_s."""
    hold_after_s: float = 30.0
    """Without traffic, a metric, a ready slot or an edge's acknowledgement for so long, the rollout holds."""
    expected_requests_per_s: float | None = None
    """To both slots. With it a plan is refused of which a step cannot be decided within max_s."""
    is_sticky: bool = False
    """Whether clients send x-routing-key. Refused: see below."""

    def __post_init__(self) -> None:
        if sorted(set(self.steps_percent)) != self.steps_percent or not self.steps_percent:
            raise ValueError(f"steps_percent must rise strictly but got {self.steps_percent}")
        if self.steps_percent[0] < 1 or self.steps_percent[-1] != 100:
            raise ValueError(f"steps_percent must lie within 1..100 and end at 100 but got {self.steps_percent}")
        if unknown := sorted(set(self.steps) - set(self.steps_percent)):
            raise ValueError(f"steps has {unknown}, which steps_percent {self.steps_percent} does not")
        if (first := self.steps.get(self.steps_percent[0])) is not None and first.pause:
            raise ValueError(f"the first step, {self.steps_percent[0]} %, cannot pause; start the rollout later")
        if self.is_sticky:
            raise ValueError(
                "is_sticky: true cannot be honoured: a sticky key must count once in a rollout, and neither edges nor "
                "replicas count by key; shift by hand, or leave x-routing-key out while a rollout runs"
            )
        if not any(metric.is_required for metric in self.metrics.values()):
            raise ValueError(f"metrics must have at least one that is required but got {sorted(self.metrics)}")
        for name in ("min_s", "rollback_window_s", "settle_s", "approvals"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0 but got {getattr(self, name):g}")
        for name in ("max_s", "tick_s", "hold_after_s", "min_requests"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name):g}")
        for name in ("alpha_rollback", "alpha_promotion"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be within (0, 1) but got {getattr(self, name):g}")
        if self.expected_requests_per_s is not None and self.expected_requests_per_s <= 0:
            raise ValueError(f"expected_requests_per_s must be above 0 but got {self.expected_requests_per_s:g}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class MonitoringConfig:
    """What is counted and how often."""

    push_interval_s: float = 1.0
    tick_s: float = 10.0
    notice_psi: float = 0.1
    """PSI above which a feature is named in a report. An effect size, never a test."""
    num_ticks_kept: int = 360
    """Ticks the monitor remembers for questions about a time window; older ones stay in coarser windows."""
    false_alarm_budget_days: float = 30.0
    """At most one false drift alarm in so many days, over all features, both slots and the volume of an endpoint."""
    drift_margin: float = 0.01
    """About half the PSI below which a shift is not drift."""
    drift_decays: list[float] = field(default_factory=lambda: [0.5, 0.9, 0.98])
    """What is left after a tick of the weight of earlier ticks: short memories find large shifts, long ones small."""
    reference_weeks: int = 4
    """Weeks of own history after which traffic is compared with the same hour of earlier weeks; 0 never does."""
    skew_rows: int = 1000
    """The first rows of a new version that are checked against its training rows."""
    num_shards: int = 1
    """Monitoring actors; each endpoint has one of them."""

    def __post_init__(self) -> None:
        for name in ("push_interval_s", "tick_s", "false_alarm_budget_days"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name)}")
        for name in ("num_ticks_kept", "skew_rows", "num_shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 but got {getattr(self, name)}")
        if self.false_alarm_budget_days * 86400 < self.tick_s:
            raise ValueError("false_alarm_budget_days must be at least one tick long")
        if not 0 <= self.drift_margin < 1:
            raise ValueError(f"drift_margin must be at least 0 and below 1 but got {self.drift_margin:g}")
        if not self.drift_decays or any(not 0 < decay < 1 for decay in self.drift_decays):
            raise ValueError(f"drift_decays must be one or more numbers within (0, 1) but got {self.drift_decays}")
        if len(set(self.drift_decays)) != len(self.drift_decays):
            raise ValueError(f"drift_decays must differ but got {self.drift_decays}")
        if not 0 <= self.reference_weeks <= 8:
            raise ValueError(f"reference_weeks must be within 0..8, the weeks kept, but got {self.reference_weeks}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class PortsConfig:
    """Every TCP port that `teal up` binds: below 32768, as outgoing connections take theirs from above."""

    edge: int = 8080
    edge_grpc: int = 9080
    serve: int = 8000
    serve_fallback: int = 8500
    serve_fallback_grpc: int = 9500
    haproxy_metrics: int = 9101
    haproxy_stats: int = 8404
    monitor_metrics: int = 9464
    alerts_metrics: int = 9465
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
    listener_min: int = 29000
    listener_max: int = 29999
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
class EdgeConfig:
    """Who may ask the edge, in what form, how much. Tokens and their rights stand in the control store."""

    host: str | None = None
    """Address that the edge listens on; None takes `cluster.host`. Beyond loopback it needs tokens and TLS."""
    require_token: bool = False
    """Without it a request that carries no token may predict and give feedback; one with a wrong token never may."""
    anonymous_rate: int = 0
    """Requests a second from one address without a token; 0 is no limit."""
    tls: bool = False
    certificate: str | None = None
    """PEM file of the certificate and its chain; None makes one for development that signs itself."""
    private_key: str | None = None
    """PEM file; None if `certificate` holds the key too."""
    header_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    """For the body's first 128 KiB; the rest of a longer one only has to keep coming."""
    max_url_bytes: int = 4096
    max_header_bytes: int = 16384
    """Of all request headers together."""
    max_headers: int = 64
    access_log: str | None = None
    """HOST:PORT of a syslog receiver (UDP) that gets one JSON line a logged request; None logs nothing."""
    access_log_sample: int = 100
    """One request in so many is logged."""

    def __post_init__(self) -> None:
        for name in ("header_timeout_s", "body_timeout_s", "max_url_bytes", "max_header_bytes", "max_headers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name)}")
        if self.max_headers > 100:
            raise ValueError(f"max_headers must be at most 100, HAProxy's own limit, but got {self.max_headers}")
        if self.max_url_bytes + self.max_header_bytes > 65536:
            raise ValueError(
                "max_url_bytes and max_header_bytes together must be at most 65536, as a request's head shares its "
                f"buffer with the body, but got {self.max_url_bytes + self.max_header_bytes}"
            )
        if self.anonymous_rate < 0:
            raise ValueError(f"anonymous_rate must be at least 0 but got {self.anonymous_rate}")
        if self.access_log_sample < 1:
            raise ValueError(f"access_log_sample must be at least 1 but got {self.access_log_sample}")
        if self.access_log is not None and not self.access_log.rpartition(":")[2].isdigit():
            raise ValueError(f"access_log must be HOST:PORT but got {self.access_log!r}")
        if (self.certificate or self.private_key) and not self.tls:
            raise ValueError("certificate and private_key need tls: true")
        if self.private_key is not None and self.certificate is None:
            raise ValueError("private_key needs certificate")
        if self.host is not None and not is_loopback(self.host) and not (self.require_token and self.tls):
            raise ValueError(
                f"host {self.host!r} can be reached by other machines: set edge.require_token=true and edge.tls=true"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`; a name other than localhost counts as reachable."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
