"""Configuration of a rollout: its steps and what the canary must show at each."""

from dataclasses import field
from typing import Literal

from pydantic.dataclasses import dataclass

from runtime.config.strict import STRICT


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RolloutMetricConfig:
    """What the canary is compared with the primary on."""

    kind: Literal["errors", "latency", "score", "feedback"]
    """`errors`: answers that the edge gave as 5xx. `latency`: slower than the primary's quantile. `score`: its mean.
    `feedback`: the loss on labels that came back."""
    margin: float
    """Errors and latency: the rate may be 1 + margin times the primary's. Score: the mean may be off by so much.
    Feedback: the mean loss may be higher by so much."""
    loss: Literal["error", "brier", "log_loss"] | None = None
    """For feedback only. `error`: 1 where score and label lie on different sides of 0.5; its mean is 1 - accuracy."""
    quantile: float | None = None
    """For latency only."""
    negligible_rate: float | None = None
    """For errors only: a canary that is proved to have fewer than these passes, whatever the primary has."""
    expected: float | None = None
    """To foretell how many requests a step needs: the rate of errors, the standard deviation of score or loss."""
    weight: float = 1.0
    """Share of alpha_rollback, relative to the other metrics'."""
    is_required: bool = True
    """Whether a step passes only with this metric's evidence."""

    def __post_init__(self) -> None:
        if self.margin < 0 or (self.kind in ("score", "feedback") and self.margin == 0):
            raise ValueError(f"the margin of {self.kind} must be above 0 but got {self.margin:g}")
        if (self.kind == "latency") != (self.quantile is not None):
            raise ValueError(f"kind {self.kind} {'needs a' if self.kind == 'latency' else 'has no'} quantile")
        if (self.kind == "feedback") != (self.loss is not None):
            raise ValueError(f"kind {self.kind} {'needs a' if self.kind == 'feedback' else 'has no'} loss")
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


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RolloutShadowConfig:
    """Before any traffic the canary is asked what the primary was asked; nobody waits for its answers."""

    fraction: float = 0.1
    """Of the primary's requests."""
    min_requests: int = 1000
    """That both slots must have been asked before the first step."""
    max_error_rate: float = 0.01
    """Of these, that the canary may leave unanswered or answer with another status than 200."""
    max_difference: float = 0.1
    """That the scores may differ by, without their sign, on average over rows."""
    max_s: float = 3600.0
    """After which a shadow with too few requests ends as `on_deadline` says."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1 but got {self.fraction:g}")
        if not 0 < self.max_error_rate < 1:
            raise ValueError(f"max_error_rate must be within (0, 1) but got {self.max_error_rate:g}")
        for name in ("min_requests", "max_difference", "max_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name):g}")


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
    shadow: RolloutShadowConfig | None = None
    """A phase before the first step; None has none."""
    capacity_lead: bool = True
    """Replicas for a share are started and ready before it is given, and the primary keeps its own until the rollback
    window is over."""
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
    """Whether clients send x-routing-key. Then a key's first error in the rollout counts and no other; metrics may be
    errors alone, and promote_on must be no_harm."""

    def __post_init__(self) -> None:
        if sorted(set(self.steps_percent)) != self.steps_percent or not self.steps_percent:
            raise ValueError(f"steps_percent must rise strictly but got {self.steps_percent}")
        if self.steps_percent[0] < 1 or self.steps_percent[-1] != 100:
            raise ValueError(f"steps_percent must lie within 1..100 and end at 100 but got {self.steps_percent}")
        if unknown := sorted(set(self.steps) - set(self.steps_percent)):
            raise ValueError(f"steps has {unknown}, which steps_percent {self.steps_percent} does not")
        if (first := self.steps.get(self.steps_percent[0])) is not None and first.pause:
            raise ValueError(f"the first step, {self.steps_percent[0]} %, cannot pause; start the rollout later")
        others = sorted(name for name, metric in self.metrics.items() if metric.kind != "errors")
        if self.is_sticky and others:
            raise ValueError(
                f"is_sticky: true cannot be honoured for {', '.join(others)}: a sticky key must count once in a "
                "rollout, and only errors are counted by key; leave these metrics out of the plan"
            )
        if self.is_sticky and self.promote_on != "no_harm":
            raise ValueError(
                "is_sticky: true needs promote_on: no_harm: a worse slot uses up its keys sooner, and then looks "
                "better than it is; see docs/rollout-statistics.md"
            )
        if not any(metric.is_required for metric in self.metrics.values()):
            raise ValueError(f"metrics must have at least one that is required but got {sorted(self.metrics)}")
        if all(metric.kind == "feedback" for metric in self.metrics.values()):
            raise ValueError("metrics must have one that is no feedback: labels come too late to tell that all is well")
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
