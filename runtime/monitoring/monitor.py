"""What the monitoring actor does, without Ray: takes deltas, keeps them, and says what they show.

Every series is compared with the profile of its own model version, so a canary that was trained on newer data is not
blamed for the champion's reference. It decides nothing.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from runtime.config.monitoring import MonitoringConfig
from runtime.core.errors import ContractError, NotFoundError, TealError
from runtime.data.profile import Profile
from runtime.monitoring.completeness import Completeness
from runtime.monitoring.deltas import Delta, Series, Tally, add_tallies
from runtime.monitoring.drift import SCORE, FeatureDrift, compare_scores, drift_report
from runtime.monitoring.evidence import EndpointWatch, describe_skew, describe_watch
from runtime.monitoring.histograms import describe_histogram
from runtime.monitoring.ledger import Ledger
from runtime.monitoring.schema_drift import schema_drift
from runtime.monitoring.training_hours import TrainingHours
from runtime.monitoring.watch import LONGEST_TICKS, Watch
from runtime.monitoring.windows import LEVELS, PERIODS, Windows
from runtime.store.monitor_counts import MonitorStore
from runtime.telemetry.latency import BOUNDS_MS, latency_quantile_ms
from runtime.telemetry.metrics import Sample

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
RECENT = {"10min": 600.0, "hour": 3600.0}
"""Periods that are summed from ticks, in seconds; longer ones from coarser windows."""
PERIOD_NAMES = (*RECENT, *PERIODS)
NUM_HISTOGRAMS = 6
"""Features of each slot that a report draws: the first culprits."""
MAX_PROFILES = 64
LOWEST_LOG_EVIDENCE = -700.0
"""Drawn for no evidence at all, whose logarithm is no number."""

ProfileReader = Callable[[str], Profile]
VocabularyReader = Callable[[str], Mapping[str, Sequence[str]]]


def _no_vocabularies(model_version: str) -> Mapping[str, Sequence[str]]:
    del model_version
    return {}


class Monitor:
    """Safe for many threads."""

    def __init__(
        self,
        store: MonitorStore,
        config: MonitoringConfig,
        read_profile: ProfileReader,
        clock: Callable[[], float] = time.time,
        read_vocabularies: VocabularyReader = _no_vocabularies,
        training_hours: TrainingHours | None = None,
        shard: int = 0,
        owns: Callable[[str], bool] = lambda endpoint: True,
    ) -> None:
        """`owns` says which endpoints belong to the shard."""
        self._config = config
        self._read_profile = read_profile
        self._read_vocabularies = read_vocabularies
        self._clock = clock
        self._profiles: dict[str, Profile] = {}
        self._faults: dict[str, str] = {}
        longest_tick_s = LONGEST_TICKS * config.tick_s
        self._windows = Windows(store, longest_tick_s=longest_tick_s)
        self._watch = Watch(config, self._profile, self._windows, training_hours)
        self._ledger = Ledger(
            store,
            shard=shard,
            num_shards=config.num_shards,
            owns=owns,
            num_ticks_kept=config.num_ticks_kept,
            now=clock(),
            followers=(self._watch, self._windows),  # in this order: a window notes whose alarm stood
        )
        self._lock = self._ledger.lock
        self._completeness = Completeness()
        if clock() - self._ledger.last_tick_at > longest_tick_s:
            self._ledger.close_tick(clock())  # it was away: what comes now is of another time than what is kept

    def offer(self, message: Mapping[str, Any]) -> bool:
        """Take a replica's message in; False if it came before. ContractError, also counted, if it is malformed.

        It is neither counted nor safe before `write` returns: acknowledge it only then, also one that came before.
        """
        try:
            delta = Delta.from_message(message, self._clock())
            is_new = self._ledger.offer(delta)
            if isinstance(taken_at := message.get("taken_at"), float):
                self._completeness.offer(delta.series, delta.replica, taken_at)
            return is_new
        except ContractError:
            with self._lock:
                self._ledger.num_refused += 1
            raise

    def write(self) -> None:
        """Keep all that was offered, and count it. What cannot be written waits for the next call."""
        offered = self._completeness.offered()
        self._ledger.write()
        self._completeness.count(offered)

    def tick(self, at: float | None = None) -> float:
        """Close the open tick at `at`, by default now, and write the state.

        Returns the boundary, seconds since 1970, for `drift`.
        """
        return self._ledger.close_tick(self._clock() if at is None else max(at, self._ledger.last_tick_at)).until

    def status(self) -> dict[str, Any]:
        """Plain values: each endpoint, slot and model version since it was first seen."""
        with self._lock:
            ledger = self._ledger
            return {
                "since": ledger.since,
                "last_tick_at": ledger.last_tick_at,
                "deltas": ledger.num_deltas,
                "duplicates": ledger.num_duplicates,
                "refused": ledger.num_refused,
                "forgotten": ledger.num_forgotten,
                "replicas": ledger.num_replicas,
                "drift": [self._evidence(name, watch) for name, watch in sorted(self._watch.endpoints.items())],
                "notice_psi": self._config.notice_psi,
                "entries": [self._entry(series, tally) for series, tally in sorted(ledger.totals().items(), key=_name)],
            }

    def drift(
        self, endpoint: str | None = None, *, since: float | None = None, until: float | None = None
    ) -> list[dict[str, Any]]:
        """As the entries of `status`, for the ticks that lie wholly within `since` and `until`."""
        with self._lock:
            window = self._ledger.window(since, until, endpoint)
            return [self._entry(series, tally) for series, tally in sorted(window.items(), key=_name)]

    def report(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """For each endpoint the evidence, and effect sizes over minutes, an hour, a day and a week by slot.

        NotFoundError if there is no such endpoint.
        """
        with self._lock:
            now = self._clock()
            totals = self._ledger.totals()
            names = sorted({series.endpoint for series in totals} | self._watch.endpoints.keys())
            if endpoint is not None and endpoint not in names:
                raise NotFoundError(f"the monitor knows no endpoint {endpoint!r}; it has counted {names}")
            return [self._report_endpoint(name, now) for name in names if endpoint in (None, name)]

    def history(self, endpoint: str, *, level: str, number: int) -> list[dict[str, Any]]:
        """The last stretches of five minutes (level minutes) or an hour (hours), oldest first: PSI by slot and feature.

        Each with its own rows' noise: `psi_without_drift` says what sampling alone gives.
        """
        with self._lock:
            return [
                {
                    "start": stretch.start,
                    "width_s": LEVELS[level].width_s,
                    "is_alarm": stretch.is_alarmed,
                    "entries": [
                        self._entry(series, tally) for series, tally in sorted(stretch.tallies.items(), key=_name)
                    ],
                    "histograms": self._stretch_histograms(endpoint, stretch.tallies, stretch.start),
                }
                for stretch in self._windows.recent(endpoint, LEVELS[level], number)
            ]

    def counters(self, endpoint: str) -> list[dict[str, Any]]:
        """Exact sums since the monitor began, by slot and model version: what only grows, for whoever compares.

        `complete_until`: every replica's counts up to then are in, in seconds since 1970; None where that is not known.
        """
        with self._lock:
            totals = self._ledger.totals()
        return [
            {
                "slot": series.slot,
                "model_version": series.model_version,
                "requests": tally.requests,
                "errors": tally.errors,
                "refused": tally.refused,
                "latency": tally.latency,
                "score": tally.counts.score_moments,
                "complete_until": self._completeness.until(series, self._clock()),
            }
            for series, tally in totals.items()
            if series.endpoint == endpoint
        ]

    def samples(self) -> list[Sample]:
        """What Prometheus scrapes."""
        with self._lock:
            ledger = self._ledger
            found = [
                Sample(name="teal_monitor_deltas_total", labels={}, value=ledger.num_deltas),
                Sample(name="teal_monitor_duplicates_total", labels={}, value=ledger.num_duplicates),
                Sample(name="teal_monitor_refused_total", labels={}, value=ledger.num_refused),
                Sample(name="teal_monitor_replicas", labels={}, value=ledger.num_replicas),
                Sample(name="teal_monitor_last_tick_timestamp_seconds", labels={}, value=ledger.last_tick_at),
            ]
            for endpoint, watch in self._watch.endpoints.items():
                found.extend(self._watch_samples(endpoint, watch))
            for series, tally in ledger.totals().items():
                found.extend(self._series_samples(series, tally))
            return found

    def _entry(self, series: Series, tally: Tally) -> dict[str, Any]:
        features = self._features(series, tally)
        counts = tally.counts
        return {
            "endpoint": series.endpoint,
            "slot": series.slot,
            "model_version": series.model_version,
            "since": tally.first_at,
            "last_at": tally.last_at,
            "requests": tally.requests,
            "rows": tally.rows,
            "errors": tally.errors,
            "refused": tally.refused,
            "latency_ms": {name: latency_quantile_ms(tally.latency, q) for name, q in QUANTILES.items()},
            "mean_score": float(counts.score_moments[1] / counts.score_moments[0]) if counts.score_moments[0] else None,
            "psi": {drift.feature: drift.psi for drift in features if drift.kind != SCORE},
            "score_psi": next((drift.psi for drift in features if drift.kind == SCORE), None),
            "notice": [drift.feature for drift in features if drift.psi > self._config.notice_psi],
            "features": [_plain(drift) for drift in features],
            "fault": self._faults.get(series.model_version),
        }

    def _features(self, series: Series, tally: Tally) -> list[FeatureDrift]:
        """Empty, with the reason under `fault`, where the version's profile cannot be had or does not fit."""
        try:
            found = drift_report(self._profile(series.model_version), tally.counts)
        except TealError as error:
            self._faults[series.model_version] = str(error)
            return []
        self._faults.pop(series.model_version, None)
        return found

    def _profile(self, model_version: str) -> Profile:
        profile = self._profiles.pop(model_version, None)
        if profile is None:
            profile = self._read_profile(model_version)
        self._profiles[model_version] = profile  # last used, last to go
        while len(self._profiles) > MAX_PROFILES:
            del self._profiles[next(iter(self._profiles))]
        return profile

    def _evidence(self, endpoint: str, watch: EndpointWatch) -> dict[str, Any]:
        described = describe_watch(endpoint, watch, self._config, self._watch.log_threshold)
        return described | {"fault": self._watch.faults.get(endpoint)}

    def _period(self, endpoint: str, name: str, now: float) -> dict[Series, Tally]:
        if name in RECENT:
            return self._ledger.window(now - RECENT[name], None, endpoint)
        opened = {series: tally for series, tally in self._ledger.open_tick().items() if series.endpoint == endpoint}
        return add_tallies(self._windows.sum(endpoint, name, now), opened)

    def _report_endpoint(self, endpoint: str, now: float) -> dict[str, Any]:
        watch = self._watch.endpoints.get(endpoint, EndpointWatch())
        evidence = self._evidence(endpoint, watch)
        periods = {name: self._period(endpoint, name, now) for name in PERIOD_NAMES}
        windows, between = {}, {}
        for name, tallies in periods.items():
            windows[name] = [
                self._entry(series, tally) | {"schema": self._schema(series, tally)}
                for series, tally in sorted(tallies.items(), key=_name)
            ]
            answering = [tallies[slot.series] for slot in watch.slots.values() if slot.series in tallies]
            if len(answering) == 2:
                difference = compare_scores(answering[0].counts, answering[1].counts)
                between[name] = None if difference is None else _plain(difference)
        return evidence | {
            "at": now,
            "notice_psi": self._config.notice_psi,
            "windows": windows,
            "between_slots": between,
            "histograms": self._histograms(watch, evidence["culprits"], periods["hour"] or periods["day"], now),
        }

    def _schema(self, series: Series, tally: Tally) -> list[dict[str, Any]]:
        try:
            return [asdict(one) for one in schema_drift(self._profile(series.model_version), tally.counts)]
        except TealError:
            return []  # the entry's `fault` says why

    def _histograms(
        self,
        watch: EndpointWatch,
        culprits: Sequence[Mapping[str, Any]],
        tallies: Mapping[Series, Tally],
        at: float,
    ) -> list[dict[str, Any]]:
        found = []
        for slot, one in watch.slots.items():
            tally = tallies.get(one.series)
            named = [culprit["feature"] for culprit in culprits if culprit["slot"] == slot][:NUM_HISTOGRAMS]
            if tally is None or not tally.counts.rows:
                continue
            profile = self._profile(one.series.model_version)
            reference = self._watch.reference(one.series, profile, at)
            words = self._read_vocabularies(one.series.model_version)
            for feature in named:
                histogram = describe_histogram(
                    profile, feature, current=tally.counts, reference=reference.counts, vocabularies=words
                )
                found.append(histogram | {"slot": slot, "model_version": one.series.model_version})
        return found

    def _stretch_histograms(self, endpoint: str, tallies: Mapping[Series, Tally], at: float) -> list[dict[str, Any]]:
        watch = self._watch.endpoints.get(endpoint)
        return [] if watch is None else self._histograms(watch, watch.culprits(), tallies, at)

    def _watch_samples(self, endpoint: str, watch: EndpointWatch) -> Iterable[Sample]:
        labels = {"endpoint": endpoint}
        evidence = max(watch.log_evidence, LOWEST_LOG_EVIDENCE) / math.log(10)
        yield Sample(name="teal_drift_evidence_log10", labels=labels, value=evidence)
        yield Sample(name="teal_drift_threshold_log10", labels=labels, value=self._watch.log_threshold / math.log(10))
        yield Sample(name="teal_drift_alarm", labels=labels, value=watch.alarm_since is not None)
        if watch.volume.expected is not None:
            yield Sample(name="teal_requests_expected", labels=labels, value=watch.volume.expected)
        for slot, one in watch.slots.items():
            skewed = len(describe_skew(one, self._config.skew_rows)["features"])
            yield Sample(name="teal_skewed_features", labels=labels | {"slot": slot}, value=skewed)

    def _series_samples(self, series: Series, tally: Tally) -> Iterable[Sample]:
        labels = {"endpoint": series.endpoint, "slot": series.slot, "model_version": series.model_version}
        yield Sample(name="teal_requests_total", labels=labels, value=tally.requests)
        yield Sample(name="teal_rows_total", labels=labels, value=tally.rows)
        yield Sample(name="teal_errors_total", labels=labels, value=tally.errors)
        yield Sample(name="teal_refused_total", labels=labels, value=tally.refused)
        middles = [bound / 1.07 for bound in BOUNDS_MS] + [BOUNDS_MS[-1]]
        total_ms = sum(count * middle for count, middle in zip(tally.latency.tolist(), middles, strict=True))
        yield Sample(
            name="teal_request_latency_seconds",
            labels=labels,
            value=total_ms / 1000,
            latency_counts=tuple(tally.latency.tolist()),
        )
        for drift in self._features(series, tally):
            yield Sample(name="teal_feature_psi", labels=labels | {"feature": drift.feature}, value=drift.psi)


def _name(item: tuple[Series, Tally]) -> Series:
    return item[0]


def _plain(drift: FeatureDrift) -> dict[str, Any]:
    return {name: getattr(drift, name) for name in FeatureDrift.__slots__}
