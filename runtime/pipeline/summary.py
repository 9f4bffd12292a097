"""What a demo found, as plain values: `summary.json`, and all that the report shows.

Shares are 0..1, `second` counts from the first request of the load, a metric is None where only one class came back.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from runtime.core.errors import ContractError
from runtime.pipeline.observed import SlotSecond


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One setting of the split, and what the load saw of it."""

    name: str
    split_target: float
    """Share that the canary should get."""
    split_observed: float
    n: int
    """Answers that this setting routed."""
    interval_low: float
    """99.9 % binomial interval of the target at this n."""
    interval_high: float
    ok: bool
    """Observed lies within the interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetStep:
    """From `second` on a slot should get `share` of the traffic."""

    second: float
    slot: str
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that was done or found, in the order of the run."""

    second: float
    title: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateResult:
    """A trained candidate on its own holdout."""

    name: str
    family: str
    run_id: str
    auc: float | None
    log_loss: float | None
    verdict: str
    """Passed, Rejected, or empty if it never came to the gate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateDifference:
    """One metric of a gate; improvement and bounds are signed so that above 0 is better."""

    metric: str
    candidate: float
    champion: float
    improvement: float
    lower: float
    upper: float
    margin: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GateDecision:
    candidate: str
    champion: str
    """Label of the champion, or `base rate`."""
    verdict: str
    reasons: list[str]
    differences: list[GateDifference]
    holdout: str = ""
    n: int = 0
    is_forced: bool = False
    """It went on although rejected; the audit chain names who and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityOfMonth:
    """A model's quality on the labels that came back for one month, with 95 % intervals."""

    month: str
    model: str
    slot: str
    n: int
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    log_loss: float | None
    log_loss_low: float | None
    log_loss_high: float | None
    calibration_error: float | None
    """Expected calibration error over 15 bins of equal mass."""
    mean_score: float | None
    observed_rate: float | None
    """Share of positive labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A model's calibration in one month: bins of equal mass."""

    month: str
    model: str
    mean_scores: list[float]
    observed_rates: list[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSummary:
    requests_sent: int
    requests_failed: int
    phases: list[Phase]
    candidates: list[CandidateResult]
    champion: str
    data_versions: list[str]
    drift_by_feature: dict[str, dict[str, float]]
    """Month to feature to PSI against the training rows of the model that served it."""
    quality_by_month: list[QualityOfMonth]
    gates: list[GateDecision]
    rollback_ms: float
    """Command issued to the last answer that the bad slot began."""
    duration_s: float
    series: list[SlotSecond] = field(default_factory=list)
    targets: list[TargetStep] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    calibration: list[Calibration] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    """Sentences on what the figures do not show."""
    about: dict[str, str] = field(default_factory=dict)
    """Where it ran: versions, commit, machine."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "DemoSummary":
        """ContractError names the first key that is missing or wrong."""
        try:
            return _ADAPTER.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ContractError(f"not a demo summary: {place}: {first['msg']}") from error


_ADAPTER = TypeAdapter(DemoSummary)
