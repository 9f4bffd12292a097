"""Configuration of what is counted and how long it is remembered."""

from dataclasses import field

from pydantic.dataclasses import dataclass

from runtime.config.strict import STRICT


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
    training_hours: bool = False
    """Until there is such history, compare with the training rows of the same hour of the week, by the table's time
    column. Only for traffic that comes at the time that the column would say."""
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
