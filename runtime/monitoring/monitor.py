"""What the monitoring actor does, without Ray: takes deltas, keeps them, and says what they show.

Every series is compared with the profile of its own model version, so a canary that was trained on newer data is not
blamed for the champion's reference. It decides nothing.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from runtime.config.schema import MonitoringConfig
from runtime.core.errors import ContractError, NotFoundError, TealError
from runtime.data.profile import Profile
from runtime.monitoring.deltas import Delta, Series, Tally
from runtime.monitoring.drift import SCORE, FeatureDrift, drift_report
from runtime.monitoring.ledger import Ledger
from runtime.store.control import ControlStore
from runtime.telemetry.latency import BOUNDS_MS, latency_quantile_ms
from runtime.telemetry.metrics import Sample

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
PROFILE_FILE = "profile.json"  # named again, since the bundle's own module imports torch

ProfileReader = Callable[[str], Profile]


class Monitor:
    """Safe for many threads."""

    def __init__(
        self,
        directory: Path,
        config: MonitoringConfig,
        read_profile: ProfileReader,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._read_profile = read_profile
        self._clock = clock
        self._lock = threading.RLock()
        self._ledger = Ledger(directory, num_ticks_kept=config.num_ticks_kept, now=clock())
        self._profiles: dict[str, Profile] = {}
        self._faults: dict[str, str] = {}

    def ingest(self, message: Mapping[str, Any]) -> bool:
        """Take a replica's message in; False if it came before. ContractError, also counted, if it is malformed."""
        with self._lock:
            try:
                return self._ledger.add(Delta.from_message(message, self._clock()))
            except ContractError:
                self._ledger.num_refused += 1
                raise

    def tick(self) -> float:
        """Close the open tick and write the state. Returns the boundary, seconds since 1970, for `drift`."""
        with self._lock:
            return self._ledger.close_tick(self._clock()).until

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
                "notice_psi": self._config.notice_psi,
                "entries": [self._entry(series, tally) for series, tally in sorted(ledger.totals().items(), key=_name)],
            }

    def drift(
        self, endpoint: str | None = None, *, since: float | None = None, until: float | None = None
    ) -> list[dict[str, Any]]:
        """As the entries of `status`, for the ticks that lie wholly within `since` and `until`."""
        with self._lock:
            window = self._ledger.window(since, until)
            return [
                self._entry(series, tally)
                for series, tally in sorted(window.items(), key=_name)
                if endpoint is None or series.endpoint == endpoint
            ]

    def samples(self) -> list[Sample]:
        """What Prometheus scrapes."""
        with self._lock:
            ledger = self._ledger
            found = [
                Sample(name="teal_monitor_deltas_total", labels={}, value=ledger.num_deltas),
                Sample(name="teal_monitor_duplicates_total", labels={}, value=ledger.num_duplicates),
                Sample(name="teal_monitor_refused_total", labels={}, value=ledger.num_refused),
                Sample(name="teal_monitor_last_tick_timestamp_seconds", labels={}, value=ledger.last_tick_at),
            ]
            for series, tally in ledger.totals().items():
                found.extend(self._series_samples(series, tally))
            return found

    def close(self) -> None:
        with self._lock:
            self._ledger.close()

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
            profile = self._profiles.get(series.model_version)
            if profile is None:
                profile = self._profiles[series.model_version] = self._read_profile(series.model_version)
            found = drift_report(profile, tally.counts)
        except TealError as error:
            self._faults[series.model_version] = str(error)
            return []
        self._faults.pop(series.model_version, None)
        return found

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


class StoreProfiles:
    """Reads the profile of a model version, `name:version`, from the bundle that the control store names."""

    def __init__(self, store: ControlStore) -> None:
        self._store = store

    def __call__(self, model_version: str) -> Profile:
        name, _, version = model_version.rpartition(":")
        if not name or not version.isdigit():
            raise ContractError(f"model version {model_version!r} must look like 'name:3'")
        bundle = self._store.model_version(name, int(version)).bundle_uri
        path = Path(bundle.removeprefix("file://")) / PROFILE_FILE
        try:
            return Profile.from_json(json.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise NotFoundError(f"no profile of {model_version} at {path}") from error
        except ValueError as error:
            raise ContractError(f"the profile of {model_version} at {path} is not JSON: {error}") from error


def _name(item: tuple[Series, Tally]) -> Series:
    return item[0]


def _plain(drift: FeatureDrift) -> dict[str, Any]:
    return {name: getattr(drift, name) for name in FeatureDrift.__slots__}
