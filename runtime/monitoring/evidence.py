"""What is known of an endpoint's drift: the evidence of both slots and the volume, its parts, its past alarms."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.config.monitoring import MonitoringConfig
from runtime.data.counts import Counts
from runtime.monitoring.deltas import Series, counts_from_json, counts_json
from runtime.monitoring.detector import DriftDetector
from runtime.monitoring.skew import skewed_features
from runtime.monitoring.volume import VolumeState

SLOT_SHARE = 0.45
VOLUME_SHARE = 0.1
"""Of the budget: two slots and the volume make 1."""
VOLUME = "volume"


@dataclass(kw_only=True, slots=True)
class SlotWatch:
    """One version in one slot, since it answers there."""

    series: Series
    since: float
    detector: DriftDetector
    since_at: dict[str, float] = field(default_factory=dict)
    """Feature to the beginning of the tick at which its own evidence last rose above 1."""
    source: str = ""
    """What the last tick was compared with."""
    first: Counts | None = None
    """The first rows served, until there are enough for the skew check."""
    skew: dict[str, float] = field(default_factory=dict)
    """Feature to log evidence of training-serving skew on those rows."""

    def copied(self) -> "SlotWatch":
        twin = copy.copy(self)
        # An update of the detector replaces its arrays, so that the copy keeps the old ones.
        twin.detector, twin.since_at, twin.skew = copy.copy(self.detector), dict(self.since_at), dict(self.skew)
        return twin

    def to_json(self) -> dict[str, Any]:
        return {
            "series": [self.series.endpoint, self.series.slot, self.series.model_version],
            "since": self.since,
            "detector": self.detector.to_json(),
            "since_at": self.since_at,
            "source": self.source,
            "first": None if self.first is None else counts_json(self.first),
            "skew": self.skew,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "SlotWatch":
        endpoint, slot, model_version = value["series"]
        return cls(
            series=Series(endpoint=endpoint, slot=slot, model_version=model_version),
            since=value["since"],
            detector=DriftDetector.from_json(value["detector"]),
            since_at=value["since_at"],
            source=value["source"],
            first=None if value["first"] is None else counts_from_json(value["first"]),
            skew=value["skew"],
        )


@dataclass(kw_only=True, slots=True)
class EndpointWatch:
    slots: dict[str, SlotWatch] = field(default_factory=dict)
    retired: list[Series] = field(default_factory=list)
    """Versions whose slot another one took; what they still send is counted and not judged."""
    volume: VolumeState = field(default_factory=VolumeState)
    alarm_since: float | None = None
    episodes: list[dict[str, Any]] = field(default_factory=list)
    """Past and present alarms, newest last."""
    num_ticks: int = 0
    last_at: float = 0.0
    was_away: bool = False
    """Whether the monitor was away in the last tick."""

    @property
    def log_evidence(self) -> float:
        """Natural log of the weighted sum of all M."""
        parts = [math.log(SLOT_SHARE) + watch.detector.log_evidence for watch in self.slots.values()]
        return float(np.logaddexp.reduce([*parts, math.log(VOLUME_SHARE) + self.volume.log_m]))

    def copied(self) -> "EndpointWatch":
        twin = copy.copy(self)
        twin.slots = {slot: watch.copied() for slot, watch in self.slots.items()}
        twin.retired, twin.episodes = list(self.retired), [dict(episode) for episode in self.episodes]
        return twin

    def culprits(self) -> list[dict[str, Any]]:
        """Features of both slots and the volume, largest own evidence first; a ranking without an error rate."""
        found = [
            {
                "slot": slot,
                "model_version": watch.series.model_version,
                "feature": culprit.feature,
                "log_evidence": finite(culprit.log_evidence),
                "since": watch.since_at.get(culprit.feature),
                "last_log_e": culprit.last_log_e,
            }
            for slot, watch in self.slots.items()
            for culprit in watch.detector.culprits()
        ]
        found.append(
            {
                "slot": None,
                "model_version": None,
                "feature": VOLUME,
                "log_evidence": finite(self.volume.log_m),
                "since": None,
                "last_log_e": 0.0,
            }
        )
        return sorted(found, key=lambda one: (-or_lowest(one["log_evidence"]), -one["last_log_e"], one["feature"]))

    def to_json(self) -> dict[str, Any]:
        return {
            "slots": {slot: watch.to_json() for slot, watch in self.slots.items()},
            "retired": [[series.endpoint, series.slot, series.model_version] for series in self.retired],
            "volume": self.volume.to_json(),
            "alarm_since": self.alarm_since,
            "episodes": self.episodes,
            "num_ticks": self.num_ticks,
            "last_at": self.last_at,
            "was_away": self.was_away,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "EndpointWatch":
        return cls(
            slots={slot: SlotWatch.from_json(watch) for slot, watch in value["slots"].items()},
            retired=[Series(endpoint=e, slot=s, model_version=m) for e, s, m in value["retired"]],
            volume=VolumeState.from_json(value["volume"]),
            alarm_since=value["alarm_since"],
            episodes=value["episodes"],
            num_ticks=value["num_ticks"],
            last_at=value["last_at"],
            was_away=value["was_away"],
        )


def describe_watch(
    endpoint: str, watch: EndpointWatch, config: MonitoringConfig, log_threshold: float
) -> dict[str, Any]:
    """Plain values; logarithms of evidence that is still 0 are None."""
    volume = watch.volume
    return {
        "endpoint": endpoint,
        "log_evidence": finite(watch.log_evidence),
        "log_threshold": log_threshold,
        "is_alarm": watch.alarm_since is not None,
        "alarm_since": watch.alarm_since,
        "budget_days": config.false_alarm_budget_days,
        "margin": config.drift_margin,
        "ticks": watch.num_ticks,
        "culprits": watch.culprits(),
        "volume": {
            "expected": volume.expected,
            "observed": volume.observed,
            "log_evidence": finite(volume.log_m),
        },
        "slots": {
            slot: {
                "model_version": one.series.model_version,
                "since": one.since,
                "ticks": one.detector.num_ticks,
                "reference": one.source,
                "skew": describe_skew(one, config.skew_rows),
            }
            for slot, one in watch.slots.items()
        },
        "episodes": watch.episodes,
    }


def describe_skew(watch: SlotWatch, skew_rows: int) -> dict[str, Any]:
    rows = 0 if watch.first is None else watch.first.rows
    return {"rows": rows, "is_complete": rows >= skew_rows, "features": skewed_features(watch.skew)}


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def or_lowest(value: float | None) -> float:
    return -math.inf if value is None else value
