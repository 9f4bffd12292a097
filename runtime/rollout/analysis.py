"""Is the canary worse, proved not worse, or not decided? One tick at a time, as often as one likes.

- Failed: Σ w E over the metrics' rollback evidence reached 1/α at any tick. Null: every metric keeps its margin, in
  every tick. Valid however the metrics depend on each other.
- Successful: the smallest promotion evidence among the required metrics is at 1/α. Null: at least one of them is worse
  than its margin. If metric j is, then min E ≤ E_j, and E_j is a supermartingale; a weighted sum would not do, since
  one metric's good news would hide another's silence.
- Inconclusive: anything else, also a tick without traffic or with a metric missing. It is never read as Successful.

Knows neither steps, time nor where counts come from.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from runtime.core.errors import ConfigError, ContractError
from runtime.rollout.event_counts import EventCounts, ValueSums
from runtime.rollout.evidence import check_alpha, check_margin, log_weighted_sum
from runtime.rollout.metric_state import DriftSum, EventState, ValueState
from runtime.store.records import FULL_SHARE

Outcome = Literal["Successful", "Failed", "Inconclusive"]
MetricCounts = EventCounts | ValueSums


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What is compared, and how much worse the canary may be."""

    name: str
    kind: Literal["event", "value"] = "event"
    margin: float = 0.1
    """Events: the canary's rate may be 1 + margin times the primary's. Values: its mean may be worse by so much."""
    weight: float = 1.0
    """Share of α for false rollbacks, relative to the other metrics'."""
    is_required: bool = True
    """Whether promotion needs this metric's evidence."""
    is_higher_worse: bool = True
    """For values only; an event is always bad."""
    negligible_rate: float | None = None
    """For events only: a canary proved to have a lower rate passes too. Where nothing fails, nothing else can."""

    is_late: bool = False
    """Counted by `observe_late` alone: a tick without it lacks nothing."""

    def __post_init__(self) -> None:
        check_margin(self.margin)
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"metric {self.name!r}: weight must be above 0 but got {self.weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisPlan:
    """The metrics of a rollout and the false decisions that are put up with."""

    metrics: tuple[Metric, ...]
    alpha_rollback: float = 0.05
    alpha_promotion: float = 0.05
    promote_on: Literal["evidence", "no_harm"] = "evidence"
    """`no_harm`: enough requests and no evidence against it. That limits no rate of false promotions."""
    min_requests: int = 1000
    """To the canary in a step, before `no_harm` lets it pass."""

    def __post_init__(self) -> None:
        check_alpha(self.alpha_rollback)
        check_alpha(self.alpha_promotion)
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"a plan needs metrics with different names but got {names}")
        if all(metric.is_late for metric in self.metrics):
            raise ConfigError(f"a plan needs a metric that is not late but got {names}")
        if not any(metric.is_required for metric in self.metrics):
            raise ConfigError(f"a plan needs at least one required metric but none of {names} is")
        if self.min_requests < 1:
            raise ConfigError(f"min_requests must be at least 1 but got {self.min_requests}")

    @property
    def weights(self) -> list[float]:
        """Of the metrics, in their order; they sum to 1."""
        total = sum(metric.weight for metric in self.metrics)
        return [metric.weight / total for metric in self.metrics]


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricVerdict:
    """One metric's evidence, as logarithms: E = exp(...)."""

    name: str
    log_rollback: float
    log_promotion: float
    canary_requests: int
    primary_requests: int
    canary_events: int | None
    primary_events: int | None
    is_asymptotic: bool
    """A real-valued metric: α holds in the limit of many rows only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    outcome: Outcome
    basis: Literal["evidence", "no_harm"]
    """What a Successful would rest on, or does."""
    reasons: tuple[str, ...]
    log_rollback: float
    """Of the metrics together, the highest so far: once proved worse, always."""
    log_promotion: float
    """Of the required metric that has shown least, now."""
    rollback_threshold: float
    """log 1/α"""
    promotion_threshold: float
    metrics: tuple[MetricVerdict, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """All evidence of a rollout. `observe` each tick, `verdict` whenever wanted; survives as JSON."""

    plan: AnalysisPlan
    states: tuple[EventState | ValueState, ...]
    max_log_rollback: float = 0.0
    step_requests: int = 0
    """To the canary since the step began: the fewest of any required metric."""
    missing: tuple[str, ...] = ()
    """Why the latest tick cannot promote."""
    num_ticks: int = 0

    @classmethod
    def begin(cls, plan: AnalysisPlan) -> "Analysis":
        states = tuple(EventState() if metric.kind == "event" else ValueState() for metric in plan.metrics)
        return cls(plan=plan, states=states)

    def observe(self, share: int, counts: Mapping[str, MetricCounts | None]) -> "Analysis":
        """Add a tick, all of it at this share (basis points). A metric that could not be counted is None or absent.

        ContractError for a metric that the plan does not have, or counts of the other kind.
        """
        unknown = sorted(set(counts) - {metric.name for metric in self.plan.metrics})
        if unknown:
            raise ContractError(
                f"no metric {', '.join(unknown)} in the plan; it has {[m.name for m in self.plan.metrics]}"
            )
        if not 0 <= share <= FULL_SHARE:
            raise ContractError(f"a share must be within 0..{FULL_SHARE} basis points but got {share}")
        pairs = [
            (metric, _next_state(metric, state, counts.get(metric.name), share / FULL_SHARE))
            for metric, state in zip(self.plan.metrics, self.states, strict=True)
        ]
        timely = [metric for metric in self.plan.metrics if not metric.is_late]
        judged = [metric for metric in timely if metric.is_required] or timely
        required = [counts.get(metric.name) for metric in judged]
        return replace(
            self._with_states(tuple(state for _, state in pairs)),
            step_requests=self.step_requests + min(_canary_size(counted) for counted in required),
            missing=tuple(why for metric in timely if (why := _why_missing(metric, counts.get(metric.name)))),
            num_ticks=self.num_ticks + 1,
        )

    def observe_late(self, name: str, counted: ValueSums, *, is_of_this_step: bool) -> "Analysis":
        """Add what is known only now of rows that were answered at one share, of this step or an earlier one.

        An earlier step's speaks against the canary like any other; for it only what this step brought does.
        """
        states = []
        for metric, state in zip(self.plan.metrics, self.states, strict=True):
            if metric.name != name:
                states.append(state)
                continue
            after = _next_state(metric, state, counted, 0.5)
            if isinstance(after, ValueState) and isinstance(state, ValueState) and not is_of_this_step:
                after = replace(after, promotion=state.promotion)
            states.append(after)
        return self._with_states(tuple(states))

    def _with_states(self, states: "tuple[EventState | ValueState, ...]") -> "Analysis":
        combined = float(log_weighted_sum([state.log_rollback for state in states], self.plan.weights))
        return replace(self, states=states, max_log_rollback=max(self.max_log_rollback, combined))

    def at_new_step(self) -> "Analysis":
        """Promotion starts again from nothing; evidence against the canary stays."""
        states = tuple(state.at_new_step() for state in self.states)
        return replace(self, states=states, step_requests=0, missing=("no tick yet in this step",))

    def verdict(self) -> Verdict:
        plan = self.plan
        metrics = tuple(_describe(metric, state) for metric, state in zip(plan.metrics, self.states, strict=True))
        least = min(
            (described for metric, described in zip(plan.metrics, metrics, strict=True) if metric.is_required),
            key=lambda described: described.log_promotion,
        )
        rollback_threshold, promotion_threshold = -math.log(plan.alpha_rollback), -math.log(plan.alpha_promotion)
        outcome: Outcome = "Inconclusive"
        reasons: tuple[str, ...]
        if self.max_log_rollback >= rollback_threshold:
            most = max(metrics, key=lambda described: described.log_rollback)
            outcome = "Failed"
            reasons = (
                f"the canary is worse than its margin, most so in {most.name}: log evidence "
                f"{self.max_log_rollback:.2f} reached {rollback_threshold:.2f}",
            )
        elif not self.num_ticks or self.missing:
            reasons = self.missing or ("nothing was counted yet",)
        elif plan.promote_on == "no_harm" and (unheard := self._unheard()):
            reasons = unheard
        elif plan.promote_on == "no_harm":
            if self.step_requests >= plan.min_requests:
                outcome = "Successful"
                reasons = (
                    f"{self.step_requests} requests and no evidence against the canary, nor proof that it is as good",
                )
            else:
                reasons = (f"{self.step_requests} of the {plan.min_requests} requests that this step needs",)
        elif least.log_promotion >= promotion_threshold:
            outcome = "Successful"
            reasons = (
                f"every required metric is within its margin: least log evidence {least.log_promotion:.2f}, of "
                f"{least.name}, reached {promotion_threshold:.2f}",
            )
        else:
            reasons = (
                f"{least.name} is not yet proved to be within its margin: log evidence "
                f"{least.log_promotion:.2f} of {promotion_threshold:.2f}",
            )
        return Verdict(
            outcome=outcome,
            basis=plan.promote_on,
            reasons=reasons,
            log_rollback=self.max_log_rollback,
            log_promotion=least.log_promotion,
            rollback_threshold=rollback_threshold,
            promotion_threshold=promotion_threshold,
            metrics=metrics,
        )

    def _unheard(self) -> tuple[str, ...]:
        """Required metrics that are late and of which nothing came yet."""
        return tuple(
            f"{metric.name}: no labels came back yet"
            for metric, state in zip(self.plan.metrics, self.states, strict=True)
            if metric.is_late and metric.is_required and not state.canary_requests
        )

    def to_json(self) -> dict[str, Any]:
        """Without the plan, which the rollout keeps."""
        document = asdict(self)
        del document["plan"]
        return document

    @classmethod
    def from_json(cls, plan: AnalysisPlan, document: Mapping[str, Any]) -> "Analysis":
        """ContractError if the document was written under a plan with other metrics."""
        if len(document["states"]) != len(plan.metrics):
            raise ContractError(f"{len(document['states'])} metrics were kept but the plan has {len(plan.metrics)}")
        states = [_state_from_json(metric, kept) for metric, kept in zip(plan.metrics, document["states"], strict=True)]
        rest = {key: document[key] for key in ("max_log_rollback", "step_requests", "num_ticks")}
        return cls(plan=plan, states=tuple(states), missing=tuple(document["missing"]), **rest)


def _next_state(
    metric: Metric, state: EventState | ValueState, counted: MetricCounts | None, share: float
) -> EventState | ValueState:
    if counted is None:
        return state
    if isinstance(state, EventState) and isinstance(counted, EventCounts):
        return state.after(counted, share=share, margin=metric.margin, negligible_rate=metric.negligible_rate)
    if isinstance(state, ValueState) and isinstance(counted, ValueSums):
        return state.after(counted, margin=metric.margin, sign=1 if metric.is_higher_worse else -1)
    raise ContractError(f"metric {metric.name!r} is of kind {metric.kind} but got {type(counted).__name__}")


def _canary_size(counted: MetricCounts | None) -> int:
    if counted is None:
        return 0
    return counted.canary_requests if isinstance(counted, EventCounts) else counted.canary_rows


def _why_missing(metric: Metric, counted: MetricCounts | None) -> str | None:
    if counted is None:
        return f"{metric.name} was not counted"
    primary = counted.primary_requests if isinstance(counted, EventCounts) else counted.primary_rows
    idle = [slot for slot, size in (("canary", _canary_size(counted)), ("primary", primary)) if not size]
    return f"{metric.name}: no traffic to the {' and the '.join(idle)}" if idle else None


def _describe(metric: Metric, state: EventState | ValueState) -> MetricVerdict:
    events = (state.canary_events, state.primary_events) if isinstance(state, EventState) else (None, None)
    return MetricVerdict(
        name=metric.name,
        log_rollback=state.log_rollback,
        log_promotion=state.log_promotion,
        canary_requests=state.canary_requests,
        primary_requests=state.primary_requests,
        canary_events=events[0],
        primary_events=events[1],
        is_asymptotic=isinstance(state, ValueState),
    )


def _state_from_json(metric: Metric, kept: Mapping[str, Any]) -> EventState | ValueState:
    if ("canary_events" in kept) != (metric.kind == "event"):
        raise ContractError(f"metric {metric.name!r} is of kind {metric.kind}, but what was kept is of the other kind")
    if metric.kind == "event":
        ratios = {name: tuple(kept.get(name, ())) for name in ("rollback", "promotion", "ceiling")}
        return EventState(**{**kept, **ratios})
    return ValueState(**{**kept, "rollback": DriftSum(**kept["rollback"]), "promotion": DriftSum(**kept["promotion"])})
