"""What this hour's traffic is compared with: the same hour of earlier weeks where there are enough, else training rows.

Only what was counted before the hour is looked at, and no hour in which an alarm stood, so that drift does not become
its own reference. Hours of one version are never taken for another's: their bins differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.data.counts import Counts, Float64s
from runtime.data.profile import Profile
from runtime.monitoring.deltas import Series
from runtime.monitoring.detector import fold_cells, reference_probabilities
from runtime.monitoring.training_hours import TrainingHours
from runtime.monitoring.windows import HOUR_S, Windows, hour_of_week, week_number

MIN_ROWS = 2_000
"""Below this a reference is mostly sampling."""
HOUR_NAMES = {"week": "hour of the week", "day": "hour of the day"}
"""What is looked for, the closest first."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    probabilities: Mapping[str, Float64s]
    """Feature to the probabilities of its cells, all above 0."""
    allowance: Mapping[str, float]
    """What the reference's own sampling adds to the margin, by feature."""
    source: str
    """In words, for the report."""
    counts: Counts


def profile_reference(profile: Profile) -> Reference:
    return build_reference(profile, profile.counts, "training rows")


def build_reference(profile: Profile, counts: Counts, source: str) -> Reference:
    """`counts` in the profile's bins. A score the profile has and the counts lack is taken from the profile."""
    cells = fold_cells(profile, counts)
    own = fold_cells(profile, profile.counts)
    used = {name: found if found.sum() else own[name] for name, found in cells.items()}
    return Reference(
        probabilities=reference_probabilities(used),
        # Sampling alone gives a PSI of (cells - 1) / rows on average, half of it as divergence: twice that is allowed.
        allowance={name: (found.size - 1) / max(float(found.sum()), 1.0) for name, found in used.items()},
        source=source,
        counts=counts,
    )


class References:
    """Chooses once an hour and series, and remembers the choice."""

    def __init__(self, windows: Windows, *, min_weeks: int, training_hours: TrainingHours | None = None) -> None:
        """`min_weeks` of 0 looks at the profile only; `training_hours` None leaves its rows in one."""
        self._windows = windows
        self._min_weeks = min_weeks
        self._training_hours = training_hours
        self._chosen: dict[Series, tuple[int, Profile, Reference]] = {}

    def choose(self, series: Series, profile: Profile, at: float) -> Reference:
        hour = int(at // HOUR_S)
        chosen = self._chosen.get(series)
        if chosen is None or chosen[0] != hour or chosen[1] is not profile:
            reference = self._look(series, profile, at)
            if self._training_hours is not None and self._training_hours.is_pending(series.model_version):
                return reference  # for now: the next tick looks again
            chosen = (hour, profile, reference)
            self._chosen[series] = chosen
        return chosen[2]

    def forget(self, keep: set[Series]) -> None:
        self._chosen = {series: chosen for series, chosen in self._chosen.items() if series in keep}
        if self._training_hours is not None:
            self._training_hours.forget({series.model_version for series in keep})

    def _look(self, series: Series, profile: Profile, at: float) -> Reference:
        if self._min_weeks:
            found = self._from_history(series, profile, at)
            if found is None and self._training_hours is not None:
                found = self._from_training(self._training_hours, series, profile, at)
            if found is not None:
                return found
        return profile_reference(profile)

    def _from_history(self, series: Series, profile: Profile, at: float) -> Reference | None:
        for of, name in HOUR_NAMES.items():
            counts: Counts | None = None
            weeks = set()
            for stretch in self._windows.same_hours(series.endpoint, at, of=of):
                tally = stretch.tallies.get(series)
                if tally is None or stretch.is_alarmed or tally.counts.shape != profile.counts.shape:
                    continue
                weeks.add(week_number(stretch.start))
                counts = tally.counts if counts is None else counts.merge(tally.counts)
            if counts is not None and counts.rows >= MIN_ROWS and len(weeks) >= self._min_weeks:
                return build_reference(profile, counts, f"same {name} in {len(weeks)} earlier weeks")
        return None

    def _from_training(self, hours: TrainingHours, series: Series, profile: Profile, at: float) -> Reference | None:
        by_hour = hours.get(series.model_version, profile)
        if by_hour is None:
            return None
        for of, name in HOUR_NAMES.items():
            counts, num_weeks = by_hour.matching(hour_of_week(at), of=of)
            if counts is not None and counts.rows >= MIN_ROWS and num_weeks >= self._min_weeks:
                return build_reference(profile, counts, f"training rows of the same {name} in {num_weeks} weeks")
        return None
