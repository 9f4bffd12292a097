"""What a demo found, as it found it; `demo_summary` makes the summary of it."""

from dataclasses import dataclass, field
from typing import Any

from runtime.pipeline.load import Answer
from runtime.pipeline.replay import Replayed
from runtime.store.records import Slot


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoPhase:
    """A time of one target share, told by the generations that routed it."""

    name: str
    slot: Slot
    share: int
    generations: set[int]
    started_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoGate:
    run_id: str
    champion: str | None
    holdout: str
    verdict: str
    report: dict[str, Any]
    is_forced: bool


@dataclass(kw_only=True)
class DemoRecord:
    """What the run found, as it found it; `demo_summary` makes the summary of it."""

    events: list[tuple[float, str, str]] = field(default_factory=list)
    """When, what, and what of it."""
    phases: list[DemoPhase] = field(default_factory=list)
    gates: list[DemoGate] = field(default_factory=list)
    candidates: list[Any] = field(default_factory=list)
    """training.sweep.Candidate of every sweep, in order."""
    replayed: list[Replayed] = field(default_factory=list)
    num_label_requests: int = 0
    num_label_requests_failed: int = 0
    drift: dict[str, dict[str, float]] = field(default_factory=dict)
    """Month to feature to PSI."""
    data_versions: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Run of each candidate to the name that people read."""
    champion: str = ""
    bad_slot: Slot = "blue"
    bad_version: str = ""
    rollback_issued_at: float = 0.0
    answers: list[Answer] = field(default_factory=list)
