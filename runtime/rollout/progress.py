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
from runtime.rollout.plan import Step, analysis_plan
from runtime.rollout.readings import Counted, Reading, Source, counts_between, has_traffic, metric_counts
from runtime.rollout.view import Judged
from runtime.store.rollouts import Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    analysis: Analysis
    past: LatencyPast
    baselines: dict[Source, Reading] = field(default_factory=dict)
    last_tick_at: float | None = None
    missing_since: float | None = None

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
        }

    def at_new_step(self) -> "Progress":
        return replace(self, analysis=self.analysis.at_new_step(), baselines={}, last_tick_at=None, missing_since=None)

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
) -> Look:
    """Compare the readings with the baselines and add what happened since. A source that had no traffic in one of the
    slots keeps its baseline: its counts come with a later tick."""
    primary = "green" if rollout.canary_slot == "blue" else "blue"
    baselines = dict(progress.baselines)
    taken: dict[Source, dict[str, Counted] | None] = {}
    for source, reading in readings.items():
        if reading is None:
            continue
        before = baselines.get(source)
        counts = None if before is None else counts_between(before, reading)
        if counts is None:
            baselines[source] = reading
        elif has_traffic(counts):
            taken[source] = counts
            baselines[source] = reading
    kept = replace(progress, baselines=baselines)
    if not taken:
        return Look(progress=kept, counts=None, slots={})
    found = metric_counts(plan, taken, rollout.canary_slot, primary, progress.past)
    analysis = progress.analysis.observe(share, found)
    replicas = taken.get("replicas")
    after = replace(
        kept,
        analysis=analysis,
        past=progress.past if replicas is None else progress.past.after(replicas[primary]["latency"]),
        last_tick_at=now,
        missing_since=None if not analysis.missing else progress.missing_since or now,
    )
    return Look(progress=after, counts=found, slots={source: counts for source, counts in taken.items() if counts})


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
