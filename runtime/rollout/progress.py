"""What a rollout remembers from tick to tick: evidence, past latencies, the readings that the next tick starts from.

It is stored with each tick in one transaction, so a controller that is killed anywhere counts nothing twice and loses
nothing: the next reading is compared with the last one that was stored.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from runtime.config.rollout import RolloutConfig
from runtime.core.errors import ContractError
from runtime.rollout.analysis import Analysis, MetricCounts
from runtime.rollout.event_counts import LatencyPast
from runtime.rollout.labels import LossSums, Span, fresh_sums
from runtime.rollout.plan import Step, analysis_plan
from runtime.rollout.readings import Counted, Reading, Source, counts_between, fresh_keys, has_traffic, metric_counts
from runtime.rollout.view import Judged
from runtime.store.rollouts import Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    analysis: Analysis
    past: LatencyPast
    baselines: dict[Source, Reading] = field(default_factory=dict)
    last_tick_at: float | None = None
    missing_since: float | None = None
    spans: tuple[Span, ...] = ()
    """The stretches at one share, one a step; the last is open."""
    losses: LossSums = field(default_factory=dict)
    """What the evidence has taken in of the labels."""
    spent: frozenset[str] = frozenset()
    """In a sticky plan: the keys that have met an error."""

    @classmethod
    def begin(cls, plan: RolloutConfig, step: Step) -> "Progress":
        return cls(analysis=Analysis.begin(analysis_plan(plan, step)), past=LatencyPast.empty())

    @classmethod
    def from_json(cls, plan: RolloutConfig, step: Step, values: Mapping[str, Any]) -> "Progress":
        """ContractError for what another version of teal kept in another form."""
        if not values:
            return cls.begin(plan, step)
        try:
            return cls(
                analysis=Analysis.from_json(analysis_plan(plan, step), values["analysis"]),
                past=LatencyPast(counts=np.array(values["past"], dtype=np.float64)),
                baselines={source: Reading.from_json(reading) for source, reading in values["baselines"].items()},
                last_tick_at=values["last_tick_at"],
                missing_since=values["missing_since"],
                spans=tuple(Span(**span) for span in values.get("spans", ())),
                losses=values.get("losses", {}),
                spent=frozenset(values.get("spent", ())),
            )
        except (KeyError, TypeError) as error:
            raise ContractError(f"the rollout's evidence cannot be read: {error!r}") from error

    def to_json(self) -> dict[str, Any]:
        return {
            "analysis": self.analysis.to_json(),
            "past": self.past.counts.tolist(),
            "baselines": {source: reading.to_json() for source, reading in self.baselines.items()},
            "last_tick_at": self.last_tick_at,
            "missing_since": self.missing_since,
            "spans": [span.to_json() for span in self.spans],
            "losses": self.losses,
            "spent": sorted(self.spent),
        }

    def at_new_step(self, now: float) -> "Progress":
        """`now` is before any edge can know of the new share."""
        closed = tuple(span if span.until is not None else replace(span, until=now) for span in self.spans)
        return replace(
            self,
            analysis=self.analysis.at_new_step(),
            baselines={},
            last_tick_at=None,
            missing_since=None,
            spans=closed,
        )

    def in_span(self, step: int, share: int, since: float) -> "Progress":
        """With the stretch of this step, which began when every edge followed."""
        if self.spans and self.spans[-1].until is None:
            return self
        return replace(self, spans=(*self.spans, Span(step=step, share=share, since=since)))

    def judged(self) -> Judged:
        verdict = self.analysis.verdict()
        return Judged(
            outcome=verdict.outcome,
            reasons=verdict.reasons,
            step_requests=self.analysis.step_requests,
            last_tick_at=self.last_tick_at,
            missing_since=self.missing_since,
            missing=self.analysis.missing,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What one reading brought."""

    progress: Progress
    counts: dict[str, MetricCounts | None] | None
    """None if it was no tick: there was no traffic to compare, or nothing to compare it with yet."""
    slots: dict[str, dict[str, Counted]]
    """Source to slot to what was counted; what the certificate sums up."""


def look(
    plan: RolloutConfig,
    rollout: Rollout,
    progress: Progress,
    readings: Mapping[Source, Reading | None],
    *,
    share: int,
    now: float,
    settled_at: float = 0.0,
) -> Look:
    """Compare the readings with the baselines and add what happened since. A source that had no traffic in one of the
    slots keeps its baseline: its counts come with a later tick. `settled_at`: from then on all is of this share.
    """
    primary = "green" if rollout.canary_slot == "blue" else "blue"
    baselines = dict(progress.baselines)
    taken: dict[Source, dict[str, Counted] | None] = {}
    keys: dict[str, frozenset[str]] | None = None
    for source, reading in readings.items():
        if reading is None:
            continue
        before = baselines.get(source)
        counts = None if before is None else counts_between(before, reading)
        if counts is None:
            # What was counted at another share and comes late belongs before the baseline, not after it.
            if reading.complete_until is not None and reading.complete_until >= settled_at:
                baselines[source] = reading
        elif has_traffic(counts):
            taken[source] = counts
            if before is not None and source == "edge" and plan.is_sticky:
                keys = fresh_keys(before, reading, progress.spent)
            baselines[source] = reading
    kept = replace(progress, baselines=baselines)
    if not taken:
        return Look(progress=kept, counts=None, slots={})
    found = metric_counts(plan, taken, rollout.canary_slot, primary, progress.past, keys)
    analysis = progress.analysis.observe(share, found)
    replicas = taken.get("replicas")
    after = replace(
        kept,
        analysis=analysis,
        spent=progress.spent.union(*(keys or {}).values()),
        past=progress.past if replicas is None else progress.past.after(replicas[primary]["latency"]),
        last_tick_at=now,
        missing_since=None if not analysis.missing else progress.missing_since or now,
    )
    return Look(progress=after, counts=found, slots={source: counts for source, counts in taken.items() if counts})


def look_at_labels(plan: RolloutConfig, rollout: Rollout, progress: Progress, losses: LossSums) -> Progress:
    """Take in the labels that came since they were last looked at, each for the share that its row was answered at."""
    primary = "green" if rollout.canary_slot == "blue" else "blue"
    analysis, taken = progress.analysis, dict(progress.losses)
    for name, metric in plan.metrics.items():
        for span in progress.spans:
            key = f"{metric.loss}/{span.step}"
            fresh = (
                None if metric.loss is None else fresh_sums(losses, progress.losses, key, rollout.canary_slot, primary)
            )
            if fresh is not None:
                analysis = analysis.observe_late(name, fresh, is_of_this_step=span.step == rollout.step)
                taken[key] = losses[key]
    return replace(progress, analysis=analysis, losses=taken)


def counts_to_json(seen: Look) -> dict[str, Any]:
    """What a tick keeps of its counts: by metric, and requests and errors by source and slot."""
    assert seen.counts is not None
    short = ("requests", "errors", "refused")
    return {
        "metrics": {name: None if counted is None else asdict(counted) for name, counted in seen.counts.items()},
        "slots": {
            source: {
                slot: {name: counted[name][0] for name in short if name in counted} for slot, counted in slots.items()
            }
            for source, slots in seen.slots.items()
        },
    }
