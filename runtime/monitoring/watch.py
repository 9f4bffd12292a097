"""Evidence of drift, endpoint by endpoint, every tick once: one false alarm budget for both slots and the volume.

Each part has a fixed share of the budget. A slot's evidence begins anew when another version answers in it; a sum of
e-detectors with fixed shares is an e-detector, whenever each begins. It decides nothing.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from runtime.config.monitoring import MonitoringConfig
from runtime.core.errors import ContractError, TealError
from runtime.data.profile import Profile
from runtime.monitoring.deltas import Series, Tally
from runtime.monitoring.detector import DetectorConfig, DriftDetector, fold_cells
from runtime.monitoring.evidence import EndpointWatch, SlotWatch, or_lowest
from runtime.monitoring.ledger import Tick
from runtime.monitoring.references import Reference, References, profile_reference
from runtime.monitoring.skew import skew_evidence
from runtime.monitoring.training_hours import TrainingHours
from runtime.monitoring.volume import ExpectedVolume, expect_volume
from runtime.monitoring.windows import HOUR_S, Windows
from runtime.store.monitor_counts import WindowRow

logger = logging.getLogger(__name__)

MAX_EPISODES = 20
MAX_RETIRED = 16
MAX_ENDPOINTS = 64
LONGEST_TICKS = 2.0
"""A tick longer than this times its length is one that the monitor was away in."""

ProfileReader = Callable[[str], Profile]


class Watch:
    """Follows the ledger; each endpoint's fault is its own."""

    name: ClassVar[str] = "watch"

    def __init__(
        self,
        config: MonitoringConfig,
        read_profile: ProfileReader,
        windows: Windows,
        training_hours: TrainingHours | None = None,
    ) -> None:
        self._config = config
        self._detector_config = DetectorConfig(
            budget_ticks=config.false_alarm_budget_days * 86_400 / config.tick_s,
            margin=config.drift_margin,
            decays=tuple(config.drift_decays),
        )
        self._read_profile = read_profile
        self._windows = windows
        self._references = References(windows, min_weeks=config.reference_weeks, training_hours=training_hours)
        self._endpoints: dict[str, EndpointWatch] = {}
        self._volumes: dict[str, tuple[int, ExpectedVolume | None]] = {}
        self.faults: dict[str, str] = {}

    @property
    def log_threshold(self) -> float:
        return math.log(self._detector_config.budget_ticks)

    @property
    def endpoints(self) -> Mapping[str, EndpointWatch]:
        return self._endpoints

    def reference(self, series: Series, profile: Profile, at: float) -> Reference:
        """What traffic at that time is compared with."""
        return self._references.choose(series, profile, at)

    def advance(self, tick: Tick) -> list[WindowRow]:
        watched = {name: watch for name, watch in self._endpoints.items() if name in tick.endpoints}
        for endpoint in sorted({series.endpoint for series in tick.tallies} | watched.keys()):
            before = watched.setdefault(endpoint, EndpointWatch(last_at=tick.until))
            watch, fault = before.copied(), self.faults.pop(endpoint, None)
            try:
                self._advance(endpoint, watch, tick)
            except Exception as error:
                # Counting must go on whatever is wrong with what is concluded; what was known stays.
                self.faults[endpoint] = repr(error)
                if fault != repr(error):
                    logger.exception("drift of endpoint %s is not watched", endpoint)
            else:
                watched[endpoint] = watch
        if len(watched) > MAX_ENDPOINTS:
            watched.pop(min(watched, key=lambda name: watched[name].last_at))
        self._endpoints = watched
        self._references.forget({slot.series for watch in watched.values() for slot in watch.slots.values()})
        self._windows.mark(name for name, watch in watched.items() if watch.alarm_since is not None)
        return []

    def snapshot(self) -> dict[str, EndpointWatch]:
        return self._endpoints

    def restore(self, snapshot: dict[str, EndpointWatch]) -> None:
        self._endpoints = snapshot

    def to_json(self, endpoint: str) -> Any:
        watch = self._endpoints.get(endpoint)
        return None if watch is None else {"settings": self._settings(), "watch": watch.to_json()}

    def load(self, endpoint: str, value: Any) -> None:
        try:
            # Another budget or margin is another claim, which old evidence does not support.
            if value["settings"] == self._settings():
                self._endpoints[endpoint] = EndpointWatch.from_json(value["watch"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ContractError(f"the evidence is broken: {error!r}") from error

    def _settings(self) -> list[Any]:
        config = self._detector_config
        return [config.budget_ticks, config.margin, list(config.decays)]

    def _advance(self, endpoint: str, watch: EndpointWatch, tick: Tick) -> None:
        tallies = {series: tally for series, tally in tick.tallies.items() if series.endpoint == endpoint}
        for slot in sorted({series.slot for series in tallies}):
            try:
                self._choose(watch, slot, {s: tally for s, tally in tallies.items() if s.slot == slot}, tick)
                chosen = watch.slots.get(slot)
                tally = None if chosen is None else tallies.get(chosen.series)
                if chosen is not None and tally is not None and tally.counts.rows:
                    self._judge(chosen, tally, tick)
            except TealError as error:
                # No profile, or counts that do not fit it: this slot is not watched, and says so.
                self.faults[endpoint] = f"slot {slot}: {error}"
        # What piled up in replicas while the monitor was away comes in the tick after: neither says what traffic is.
        seconds = tick.until - tick.since
        was_away, watch.was_away = watch.was_away, seconds > LONGEST_TICKS * self._config.tick_s
        if not (watch.was_away or was_away):
            watch.volume = watch.volume.advance(
                sum(tally.requests for tally in tallies.values()),
                at=tick.since,
                seconds=seconds,
                expected=self._expected_volume(endpoint, tick.since),
            )
        if tallies:
            watch.last_at = tick.until
        watch.num_ticks += 1
        self._settle(watch, tick)

    def _choose(self, watch: EndpointWatch, slot: str, tallies: Mapping[Series, Tally], tick: Tick) -> None:
        """Whose evidence the slot's is: the version that came last, not one whose last answers come late."""
        current = watch.slots.get(slot)
        if current is not None and current.series in tallies:
            fresh = [series for series in tallies if series != current.series and series not in watch.retired]
        else:
            fresh = [series for series in tallies if current is None or series != current.series]
        fresh = [series for series in fresh if tallies[series].counts.rows]
        if not fresh:
            return
        series = max(fresh, key=lambda one: tallies[one].first_at)
        detector = self._new_detector(series)
        if current is not None:
            watch.retired = [one for one in [*watch.retired, current.series] if one != series][-MAX_RETIRED:]
        watch.slots[slot] = SlotWatch(series=series, since=tick.since, detector=detector)

    def _new_detector(self, series: Series) -> DriftDetector:
        profile = self._read_profile(series.model_version)
        cells = profile_reference(profile).probabilities
        return DriftDetector(self._detector_config, {name: shares.size for name, shares in cells.items()})

    def _judge(self, watch: SlotWatch, tally: Tally, tick: Tick) -> None:
        profile = self._read_profile(watch.series.model_version)
        reference = self.reference(watch.series, profile, tick.since)
        watch.source = reference.source
        watch.detector.update(fold_cells(profile, tally.counts), reference.probabilities, reference.allowance)
        rising = {one.feature for one in watch.detector.culprits() if one.since_tick is not None}
        watch.since_at = {name: watch.since_at.get(name, tick.since) for name in sorted(rising)}
        if watch.first is None or watch.first.rows < self._config.skew_rows:
            watch.first = tally.counts if watch.first is None else watch.first.merge(tally.counts)
            trained = profile_reference(profile)
            margins = {name: self._config.drift_margin + trained.allowance[name] for name in trained.allowance}
            watch.skew = skew_evidence(fold_cells(profile, watch.first), trained.probabilities, margins)

    def _expected_volume(self, endpoint: str, at: float) -> ExpectedVolume | None:
        hour = int(at // HOUR_S)
        known = self._volumes.get(endpoint)
        if known is None or known[0] != hour:
            stretches = [one for one in self._windows.same_hours(endpoint, at) if not one.is_alarmed]
            known = (hour, expect_volume(endpoint, stretches, self._config.reference_weeks))
            self._volumes[endpoint] = known
        return known[1]

    def _settle(self, watch: EndpointWatch, tick: Tick) -> None:
        is_alarm = watch.log_evidence >= self.log_threshold
        if is_alarm and watch.alarm_since is None:
            watch.alarm_since = tick.until
            watch.episodes = [*watch.episodes, {"since": tick.until, "until": None}][-MAX_EPISODES:]
        if is_alarm:
            # Who is named while it stands: at its end the evidence of all is small.
            worst = [one for one in watch.culprits() if or_lowest(one["log_evidence"]) > 0][:5]
            watch.episodes[-1]["culprits"] = [{name: one[name] for name in ("slot", "feature")} for one in worst]
        elif watch.alarm_since is not None:
            watch.alarm_since = None
            watch.episodes[-1]["until"] = tick.until
