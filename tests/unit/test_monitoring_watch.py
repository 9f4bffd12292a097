"""The monitor's conclusions: alarms within a budget, who is to blame, since when; none lost or doubled by a kill."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.config.monitoring import MonitoringConfig
from runtime.core.errors import NotFoundError, UnreachableError
from runtime.data.accumulate import Accumulator
from runtime.data.counts import Counts
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import Profile, build_profile
from runtime.monitoring.monitor import Monitor
from runtime.store.control import ControlStore
from runtime.telemetry.latency import count_latencies
from runtime.telemetry.metrics import render_metrics
from tests.monitor_store import ingest, monitor_store

ENCODING = Encoding(numeric=("wind", "heat"), categorical=("carrier",), vocabularies={"carrier": ("AA", "UA")})
START = 1_700_000_000.0


def draw(generator: np.random.Generator, num_rows: int, shift: float = 0.0, unknown: float = 0.0) -> Encoded:
    numeric = generator.normal([shift, 20.0], [1.0, 5.0], (num_rows, 2)).astype(np.float32)
    categorical = np.where(generator.random((num_rows, 1)) < unknown, 1, generator.integers(2, 4, (num_rows, 1)))
    return Encoded(numeric=numeric, categorical=categorical)


def make_profile() -> Profile:
    generator = np.random.default_rng(0)
    return build_profile(draw(generator, 20_000), ENCODING, generator.beta(2, 5, 20_000))


PROFILE = make_profile()


@dataclass
class Site:
    """A monitor with a clock by hand and traffic by the tick; the monitor may be replaced at any time."""

    path: Path
    config: MonitoringConfig = field(default_factory=MonitoringConfig)
    now: float = START
    sequence: int = 0
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def __post_init__(self) -> None:
        self.monitor = self.new_monitor()

    def new_monitor(self) -> Monitor:
        return Monitor(monitor_store(self.path), self.config, self.read_profile, clock=lambda: self.now)

    def read_profile(self, model_version: str) -> Profile:
        if model_version == "flights:9":
            raise NotFoundError("no profile of flights:9")
        return PROFILE

    def send(self, rows: int = 500, *, version: int = 1, slot: str = "blue", requests: int = 50, **how: float) -> None:
        accumulator = Accumulator(PROFILE)
        encoded = draw(self.generator, rows, **how)
        accumulator.add(encoded.numeric, encoded.categorical, self.generator.beta(2, 5, rows))
        self.sequence += 1
        ingest(
            self.monitor,
            {
                "endpoint": "flights",
                "slot": slot,
                "model_version": f"flights:{version}",
                "replica": "r1",
                "sequence": self.sequence,
                "requests": requests,
                "rows": rows,
                "errors": 0,
                "latency_ms_counts": count_latencies([4.0]),
                "counts": accumulator.take(),
            },
        )

    def tick(self, seconds: float = 10.0) -> None:
        self.now += seconds
        self.monitor.tick()

    def wait(self, seconds: float) -> None:
        """Without traffic."""
        self.tick(seconds)

    def run(self, num_ticks: int, **how: Any) -> None:
        for _ in range(num_ticks):
            self.send(**how)
            self.tick()

    @property
    def drift(self) -> dict[str, Any]:
        (found,) = self.monitor.status()["drift"]
        return dict(found)

    @property
    def report(self) -> dict[str, Any]:
        (found,) = self.monitor.report("flights")
        return dict(found)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "monitor")


def test_calm_traffic_raises_no_alarm_and_a_shift_is_named_with_its_beginning(site: Site) -> None:
    site.run(30)
    assert not site.drift["is_alarm"]
    assert site.drift["log_threshold"] == pytest.approx(np.log(30 * 8640))
    began = site.now
    site.run(8, shift=0.5)
    drift = site.drift
    assert drift["is_alarm"]
    first = drift["culprits"][0]
    assert (first["slot"], first["feature"]) == ("blue", "wind")
    assert began <= first["since"] < drift["alarm_since"] <= site.now
    assert drift["episodes"][-1]["culprits"][0] == {"slot": "blue", "feature": "wind"}
    site.run(60)
    assert not site.drift["is_alarm"]
    assert site.drift["episodes"][-1]["until"] is not None


def test_a_kill_at_any_point_changes_no_evidence(tmp_path: Path) -> None:
    whole, killed = Site(tmp_path / "whole"), Site(tmp_path / "killed")
    for step in range(12):
        for site in (whole, killed):
            site.send(shift=0.1 * step)
        killed.monitor = killed.new_monitor()  # the open tick's delta is in its journal alone
        for site in (whole, killed):
            site.tick()
        killed.monitor = killed.new_monitor()
    assert killed.drift == whole.drift
    assert killed.report == whole.report
    assert json.loads(json.dumps(whole.report, allow_nan=False)) == whole.report


def test_a_tick_that_could_not_be_written_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = Site(tmp_path / "whole"), Site(tmp_path / "broken")
    for site in (whole, broken):
        site.run(5, shift=0.2)
        site.send(shift=0.2)
    with monkeypatch.context() as context:
        context.setattr(ControlStore, "close_monitor_tick", _no_space)
        for _ in range(3):
            with pytest.raises(UnreachableError, match="no space"):
                broken.monitor.tick()
    for site in (whole, broken):
        site.tick()
    assert broken.drift == whole.drift
    assert broken.report["windows"] == whole.report["windows"]


def _no_space(*_: object) -> None:
    raise UnreachableError("no space left")


def test_another_version_in_the_slot_begins_anew_and_what_the_old_one_still_sends_is_not_judged(site: Site) -> None:
    site.run(10, shift=1.0)
    assert site.drift["is_alarm"]
    site.send(version=1, shift=1.0)
    site.send(version=2)
    site.tick()
    for _ in range(3):
        site.send(version=1, shift=1.0)
        site.send(version=2)
        site.tick()
    drift = site.drift
    assert drift["slots"]["blue"]["model_version"] == "flights:2"
    assert drift["slots"]["blue"]["ticks"] == 4
    assert not drift["is_alarm"]
    site.run(2, version=1)  # rolled back: the older version answers alone
    assert site.drift["slots"]["blue"]["model_version"] == "flights:1"


def test_both_slots_share_the_budget(site: Site) -> None:
    for _ in range(10):
        site.send(slot="blue")
        site.send(slot="green", version=2, shift=0.5)
        site.tick()
    drift = site.drift
    assert drift["is_alarm"]
    assert drift["culprits"][0]["slot"] == "green"
    report = site.report
    assert report["between_slots"]["hour"]["psi"] < 0.1  # scores were drawn alike


def test_windows_of_minutes_hours_a_day_and_a_week(site: Site) -> None:
    site.run(1)
    site.wait(30 * 60)
    site.run(1)
    site.wait(20 * 3600)
    site.run(1, shift=0.5)
    site.wait(5 * 86_400)
    site.run(2)
    windows = {name: [entry["rows"] for entry in entries] for name, entries in site.report["windows"].items()}
    assert windows == {"10min": [1000], "hour": [1000], "day": [1000], "week": [2500]}
    assert {name: [e["rows"] for e in found] for name, found in _report_of(site.new_monitor())["windows"].items()} == (
        windows
    )
    hours = site.monitor.history("flights", level="hours", number=100)
    assert sum(entry["rows"] for stretch in hours for entry in stretch["entries"]) == 2500
    psi = [entry["psi"]["wind"] for stretch in hours for entry in stretch["entries"]]
    assert sorted(value > 0.1 for value in psi)[-1]


def _report_of(monitor: Monitor) -> dict[str, Any]:
    return dict(monitor.report("flights")[0])


def test_new_categories_and_missing_values_are_told_apart_from_drift_of_values(site: Site) -> None:
    site.run(3, unknown=0.2)
    (entry,) = site.report["windows"]["hour"]
    (change,) = entry["schema"]
    assert (change["feature"], change["kind"]) == ("carrier", "unknown category")
    assert change["share"] == pytest.approx(0.2, abs=0.03)
    histogram = next(one for one in site.report["histograms"] if one["feature"] == "carrier")
    assert histogram["labels"][:2] == ["missing", "unknown"]
    assert histogram["current"][1] == pytest.approx(0.2, abs=0.03)
    assert sum(histogram["current"]) == pytest.approx(1.0)


def test_the_first_rows_of_a_version_are_held_against_its_training_rows(site: Site) -> None:
    site.run(2, version=1)
    assert site.drift["slots"]["blue"]["skew"] == {"rows": 1000, "is_complete": True, "features": []}
    site.run(2, version=2, shift=0.7)
    skew = site.drift["slots"]["blue"]["skew"]
    assert skew["features"] == ["wind"]
    site.run(5, version=2, shift=3.0)
    assert site.drift["slots"]["blue"]["skew"] == skew  # only the first rows count


def test_an_hour_of_earlier_weeks_becomes_the_reference_once_there_are_enough(tmp_path: Path) -> None:
    site = Site(tmp_path / "monitor", MonitoringConfig(reference_weeks=2, tick_s=90), now=START - START % 3600)
    week, watched = 7 * 86_400.0, list[dict[str, Any]]()

    def hour(shift: float) -> None:
        begin = site.now
        for _ in range(40):
            site.send(rows=60, shift=shift, requests=90)
            site.tick(90.0)
        watched.append(site.drift)
        site.wait(begin + week - site.now)

    for _ in range(3):
        hour(0.08)
    sources = [drift["slots"]["blue"]["reference"] for drift in watched]
    assert sources == ["training rows", "training rows", "same hour of the week in 2 earlier weeks"]
    assert watched[1]["volume"]["expected"] is None
    assert watched[2]["volume"]["expected"] == pytest.approx(90)
    assert not watched[2]["is_alarm"]
    for _ in range(40):
        site.send(rows=60, shift=0.08, requests=9)
        site.tick(90.0)
    drift = site.drift
    assert drift["is_alarm"]
    assert drift["culprits"][0]["feature"] == "volume"


def test_a_version_without_a_profile_is_said_and_the_other_slot_is_watched(site: Site) -> None:
    for _ in range(5):
        site.send(slot="green", version=9)
        site.send(slot="blue")
        site.tick()
    drift = site.drift
    assert drift["fault"] == "slot green: no profile of flights:9"
    assert drift["slots"]["blue"]["ticks"] == 5


def test_a_fault_in_the_watch_costs_no_count(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("runtime.monitoring.watch.fold_cells", fail)
    site.run(3)
    assert site.monitor.status()["entries"][0]["rows"] == 1500
    assert site.drift["fault"] == "RuntimeError('a bug')"
    monkeypatch.undo()
    site.run(1)
    assert site.drift["fault"] is None


def test_another_budget_starts_the_evidence_anew(site: Site) -> None:
    site.run(3)
    site.config = MonitoringConfig(false_alarm_budget_days=7)
    assert site.new_monitor().status()["drift"] == []
    assert site.new_monitor().status()["entries"][0]["rows"] == 1500


def test_prometheus_gets_the_evidence(site: Site) -> None:
    site.run(10, shift=1.0)
    text = render_metrics(site.monitor.samples)
    assert 'teal_drift_alarm{endpoint="flights"} 1.0' in text
    assert 'teal_drift_threshold_log10{endpoint="flights"} 5.4' in text
    assert 'teal_skewed_features{endpoint="flights",slot="blue"} 1.0' in text


def test_an_unknown_endpoint_is_named(site: Site) -> None:
    site.run(1)
    with pytest.raises(NotFoundError, match=r"no endpoint 'trains'; it has counted \['flights'\]"):
        site.monitor.report("trains")


def test_counts_travel_small_and_exact() -> None:
    import pickle

    accumulator = Accumulator(PROFILE)
    accumulator.add(*_arrays(3))
    for counts in (accumulator.take(), PROFILE.counts, Counts.zero(2, [4])):
        again = pickle.loads(pickle.dumps(counts))
        assert again.to_json() == counts.to_json()
        assert again.merge(counts).rows == 2 * counts.rows
    accumulator.add(*_arrays(3))
    assert len(pickle.dumps(accumulator.take())) < 500


def _arrays(rows: int) -> Any:
    encoded = draw(np.random.default_rng(5), rows)
    return encoded.numeric, encoded.categorical, np.full(rows, 0.5)
