"""Everything that decides what a rollout does next: what is stored of it, what its ticks showed, what is observed."""

from dataclasses import dataclass

from runtime.config.rollout import RolloutConfig
from runtime.rollout.phases import UNDER_WAY, Phase
from runtime.rollout.plan import Step
from runtime.rollout.shadowing import ShadowVerdict
from runtime.store.records import FULL_SHARE, EndpointState
from runtime.store.rollouts import Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What the rollout's ticks have shown so far."""

    outcome: str
    """Successful, Failed or Inconclusive."""
    reasons: tuple[str, ...]
    step_requests: int
    """To the canary in this step."""
    last_tick_at: float | None
    missing_since: float | None
    """Since when ticks have lacked a metric."""
    missing: tuple[str, ...]


NOTHING_JUDGED = Judged(
    outcome="Inconclusive",
    reasons=("nothing was counted yet",),
    step_requests=0,
    last_tick_at=None,
    missing_since=None,
    missing=(),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """The world, read just now."""

    endpoint: EndpointState
    is_applied: bool
    """Every live edge gives the canary what the store says, and one is alive."""
    behind: str
    """Who does not, empty if nobody."""
    not_ready: dict[str, str]
    """Role (canary, primary) to why it does not answer; without those that do."""
    approved_by: frozenset[str]
    """Who approved the next step."""
    denied_by: str | None
    capacity: str | None = None
    """Why the slots cannot carry yet what they soon must; None once they can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Everything a rule looks at."""

    rollout: Rollout
    plan: RolloutConfig
    steps: tuple[Step, ...]
    judged: Judged
    observed: Observed
    now: float
    shadow: ShadowVerdict | None = None
    """While the canary is asked in the shadow."""

    @property
    def phase(self) -> Phase:
        return Phase(self.rollout.phase)

    @property
    def step(self) -> Step | None:
        return self.steps[self.rollout.step] if self.rollout.step >= 0 else None

    @property
    def next_step(self) -> Step | None:
        number = self.rollout.step + 1
        return self.steps[number] if number < len(self.steps) else None

    @property
    def share(self) -> int:
        """What the canary should have now."""
        if self.phase in UNDER_WAY:
            return self.step.share if self.step else 0
        return FULL_SHARE if self.phase is Phase.PROMOTING else 0

    @property
    def step_s(self) -> float:
        return self.now - self.rollout.step_since if self.rollout.step_since is not None else 0.0
