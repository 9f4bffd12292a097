"""Configuration of what is concluded from what is counted: quality, alerts, training again."""

from dataclasses import field
from typing import Literal

from pydantic.dataclasses import dataclass

from runtime.config.strict import STRICT

SignalName = Literal[
    "drift",
    "psi",
    "score_psi",
    "auc_loss",
    "log_loss_rise",
    "calibration_gap",
    "estimated_auc_loss",
    "loss_shift",
    "error_rate",
    "latency_p95_ms",
    "staleness_s",
    "volume_ratio",
    "conflict_rate",
]
Severity = Literal["page", "notice"]
TriggerKind = Literal["drift", "quality", "data", "schedule", "feedback"]

HARM_SIGNALS: tuple[SignalName, ...] = (
    "auc_loss",
    "log_loss_rise",
    "calibration_gap",
    "estimated_auc_loss",
    "error_rate",
    "latency_p95_ms",
)
"""What hurts somebody, measured or estimated; the others only say that something is different."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class QualityConfig:
    """How labels that come later are joined to the payload log, and how quality is told from them."""

    conflicts: Literal["first", "last"] = "last"
    """Which of two different labels of one row counts."""
    late_after_s: float = 7 * 86400.0
    """A label that came later than this after its prediction is counted as late; it counts all the same."""
    wait_s: float = 30 * 86400.0
    """How long the label of a prediction that is not in the log waits for it."""
    window_s: float = 7 * 86400.0
    """How far back quality is taken for alerts."""
    min_rows: int = 300
    """Labelled rows below which no alert looks at a figure."""
    min_slice_rows: int = 200
    """Labelled rows below which a slice is not shown."""
    confidence: float = 0.95
    loss_batch_s: float = 86400.0
    """Predictions of so many seconds make one value of the concept drift detectors, their mean loss."""
    loss_batch_rows: int = 50
    """Labelled rows that such a stretch needs at least; with fewer it goes on."""
    loss_tolerance: float = 0.02
    """A rise or fall of the mean loss by less than this, in nats a row, is no concept drift."""

    def __post_init__(self) -> None:
        for name in ("late_after_s", "wait_s", "window_s", "loss_batch_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name)}")
        for name in ("min_rows", "min_slice_rows", "loss_batch_rows"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2 but got {getattr(self, name)}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must be within (0.5, 1) but got {self.confidence}")
        if self.loss_tolerance < 0:
            raise ValueError(f"loss_tolerance must be at least 0 but got {self.loss_tolerance}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class AlertRuleConfig:
    """One condition on one signal, and what is said when it holds."""

    signal: SignalName
    above: float | None = None
    below: float | None = None
    is_proven: bool = True
    """Whether the whole interval of the signal must lie beyond the threshold, where it has one."""
    for_s: float = 60.0
    """How long the condition must hold before the alert fires."""
    severity: Severity = "notice"
    """`page` pages only with harm measured or estimated for the same endpoint; without it is a notice."""
    runbook: str
    """What to look at and what to do, in a line."""

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"a rule needs either above or below but got {self.above} and {self.below}")
        if self.for_s < 0:
            raise ValueError(f"for_s must be at least 0 but got {self.for_s}")
        if not self.runbook.strip():
            raise ValueError("a rule needs a runbook: who is woken must know what to do")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class AlertsConfig:
    """The rules, by name, and what counts as harm."""

    interval_s: float = 10.0
    """Seconds between two evaluations."""
    resolve_s: float = 120.0
    """How long a condition must have ceased before its alert is resolved."""
    forget_s: float = 3600.0
    """An alert whose signal has been missing for so long is resolved as not measured any more."""
    harm: dict[SignalName, float] = field(default_factory=dict)
    """Signal to the threshold above which it is harm; only signals that hurt somebody."""
    rules: dict[str, AlertRuleConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("interval_s", "forget_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name)}")
        if self.resolve_s < 0:
            raise ValueError(f"resolve_s must be at least 0 but got {self.resolve_s}")
        for signal in self.harm:
            if signal not in HARM_SIGNALS:
                raise ValueError(f"{signal} harms nobody by itself; harm takes {', '.join(HARM_SIGNALS)}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TriggerConfig:
    """One reason to train again."""

    kind: TriggerKind
    debounce_s: float = 300.0
    """How long the reason must hold without a break."""
    every_s: float | None = None
    """For kind schedule: since the last training began."""
    min_labels: int | None = None
    """For kind feedback: labels that came since the last training began."""

    def __post_init__(self) -> None:
        if self.debounce_s < 0:
            raise ValueError(f"debounce_s must be at least 0 but got {self.debounce_s}")
        if (self.kind == "schedule") != (self.every_s is not None):
            raise ValueError(f"every_s is for kind schedule, and needed there, but kind is {self.kind}")
        if (self.kind == "feedback") != (self.min_labels is not None):
            raise ValueError(f"min_labels is for kind feedback, and needed there, but kind is {self.kind}")
        for name in ("every_s", "min_labels"):
            if (getattr(self, name) or 1) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ContinuousConfig:
    """When `teal continuous run` trains again, on what, and what it does with the result."""

    triggers: dict[str, TriggerConfig] = field(default_factory=dict)
    interval_s: float = 30.0
    """Seconds between two looks."""
    cooldown_s: float = 6 * 3600.0
    """Since the end of the last training."""
    max_runs_per_week: int = 7
    min_labels: int = 500
    """Labelled rows in the payload log below which no next data version is built of them."""
    max_served_rows: int = 1_000_000
    """The newest labelled rows of the log that join the table."""
    validation_s: float | None = None
    """The last so many seconds of the rows validate and gate; None keeps the training group's own windows."""
    train_s: float | None = None
    """So many seconds before them are trained on; None takes all before them."""
    rollout: bool = True
    """Start a rollout of what passed the gate; else it waits in the idle slot without traffic."""

    def __post_init__(self) -> None:
        if self.interval_s <= 0:
            raise ValueError(f"interval_s must be above 0 but got {self.interval_s}")
        if self.cooldown_s < 0:
            raise ValueError(f"cooldown_s must be at least 0 but got {self.cooldown_s}")
        for name in ("max_runs_per_week", "min_labels", "max_served_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 but got {getattr(self, name)}")
        for name in ("validation_s", "train_s"):
            if (getattr(self, name) or 1) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name)}")
        if self.train_s is not None and self.validation_s is None:
            raise ValueError("train_s needs validation_s")
