"""Deltas counted exactly once, across duplicates, disorder and kills; status and windows of time."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.config.monitoring import MonitoringConfig
from runtime.core.errors import ContractError, NotFoundError
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import Profile, build_profile
from runtime.monitoring import deltas
from runtime.monitoring.deltas import SeenDeltas
from runtime.monitoring.monitor import Monitor
from runtime.monitoring.packing import pack
from runtime.monitoring.profiles import StoreProfiles
from runtime.store.control import ControlStore
from runtime.store.records import ModelVersion
from runtime.telemetry.metrics import render_metrics
from tests.monitor_store import ingest, monitor_store
from tests.monitor_traffic import ENCODING, PROFILE, draw, message


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Home:
    """A monitor's directory, in which monitors come and go."""

    path: Path
    clock: Clock = field(default_factory=Clock)
    num_ticks_kept: int = 50

    def monitor(self, read_profile: Callable[[str], Profile] = lambda _: PROFILE) -> Monitor:
        config = MonitoringConfig(num_ticks_kept=self.num_ticks_kept)
        return Monitor(monitor_store(self.path), config, read_profile, clock=self.clock)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "monitor")


def only(monitor: Monitor) -> dict[str, Any]:
    (entry,) = monitor.status()["entries"]
    return dict(entry)


def test_status_says_what_was_counted(home: Home) -> None:
    monitor = home.monitor()
    ingest(monitor, message(1))
    home.clock.now = 1003.0
    ingest(monitor, message(2, replica="r2"))
    ingest(monitor, message(1, slot="green", model_version="flights:2", replica="r3"))
    status = monitor.status()
    assert json.loads(json.dumps(status, allow_nan=False)) == status
    blue, green = status["entries"]
    assert (blue["slot"], blue["model_version"], blue["since"], blue["last_at"]) == ("blue", "flights:1", 1000, 1003)
    assert (blue["requests"], blue["rows"], blue["errors"], blue["refused"]) == (20, 200, 2, 4)
    assert blue["latency_ms"]["p50"] == pytest.approx(4.0, rel=0.15)
    assert blue["latency_ms"]["p95"] == pytest.approx(40.0, rel=0.15)
    assert blue["mean_score"] == pytest.approx(0.25)
    assert set(blue["psi"]) == {"wind", "carrier"}
    assert (green["slot"], green["rows"]) == ("green", 100)


def test_a_delta_sent_again_changes_nothing(home: Home) -> None:
    monitor = home.monitor()
    assert ingest(monitor, message(1)) is True
    before = only(monitor)
    assert ingest(monitor, message(1)) is False
    assert only(monitor) == before
    assert monitor.status()["duplicates"] == 1


def test_order_does_not_matter(home: Home, tmp_path: Path) -> None:
    monitor, other = home.monitor(), Home(tmp_path / "other").monitor()
    for sequence in (1, 2, 3, 4, 5):
        ingest(monitor, message(sequence))
    for sequence in (4, 1, 5, 1, 3, 2, 4):
        ingest(other, message(sequence))
    assert only(monitor) == only(other)


@pytest.mark.parametrize("ticks_after", [(), (1,), (2,), (1, 2, 3), (3,)])
def test_a_killed_monitor_goes_on_without_loss_or_double_counting(home: Home, ticks_after: tuple[int, ...]) -> None:
    monitor = home.monitor()
    for sequence in (1, 2, 3):
        ingest(monitor, message(sequence))
        home.clock.now += 1
        if sequence in ticks_after:
            monitor.tick()
    before = monitor.status()
    heir = home.monitor()  # the first was never closed
    assert heir.status()["entries"] == before["entries"]
    assert heir.status()["since"] == 1000.0
    assert [ingest(heir, message(sequence)) for sequence in (1, 2, 3, 4)] == [False, False, False, True]
    assert only(heir)["rows"] == 400


def test_drift_of_one_stretch_of_time_is_not_that_of_another(home: Home) -> None:
    monitor = home.monitor()
    ingest(monitor, message(1, rows=2000))
    home.clock.now = 1010.0
    june = monitor.tick()
    ingest(monitor, message(2, rows=1000, shift=2.0))
    home.clock.now = 1020.0
    july = monitor.tick()
    ingest(monitor, message(3, rows=10))
    (calm,) = monitor.drift("flights", until=june)
    (moved,) = home.monitor().drift("flights", since=june, until=july)
    assert (calm["rows"], moved["rows"]) == (2000, 1000)
    assert calm["psi"]["wind"] < 0.05
    assert moved["psi"]["wind"] > 1
    assert moved["notice"] == ["wind"]
    assert monitor.drift("flights", since=july)[0]["rows"] == 10
    assert monitor.drift("flights")[0]["rows"] == 3010
    assert monitor.drift("other") == []


def test_old_ticks_go_but_totals_stay(home: Home) -> None:
    home.num_ticks_kept = 3
    monitor = home.monitor()
    for sequence in range(1, 8):
        ingest(monitor, message(sequence))
        home.clock.now += 1
        monitor.tick()
    assert only(monitor)["rows"] == 700
    assert monitor.drift("flights", since=0.0)[0]["rows"] == 300
    assert home.monitor().drift("flights", since=0.0)[0]["rows"] == 300
    with sqlite3.connect(home.path / "control.db") as database:
        assert database.execute("SELECT COUNT(*) FROM monitor_ticks").fetchone() == (3,)
        assert database.execute("SELECT COUNT(*) FROM monitor_journal").fetchone() == (0,)


def test_a_version_without_a_profile_is_counted_and_named(home: Home) -> None:
    def missing(model_version: str) -> Profile:
        raise NotFoundError(f"no profile of {model_version}")

    monitor = home.monitor(missing)
    ingest(monitor, message(1))
    entry = only(monitor)
    assert (entry["rows"], entry["psi"], entry["fault"]) == (100, {}, "no profile of flights:1")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"endpoint": ""}, "endpoint must be text that is not empty but got ''"),
        ({"sequence": -1}, "sequence must be a whole number of at least 0 but got -1"),
        ({"rows": True}, "rows must be a whole number of at least 0 but got True"),
        ({"requests": None}, "requests must be a whole number"),
        ({"counts": {}}, "counts must be Counts but got dict"),
        ({"latency_ms_counts": np.zeros(3, dtype=np.int64)}, "latency_ms_counts must be 98 counts"),
    ],
)
def test_a_malformed_delta_is_named_counted_and_changes_nothing(home: Home, changes: dict[str, Any], text: str) -> None:
    monitor = home.monitor()
    with pytest.raises(ContractError, match=text):
        ingest(monitor, message(1) | changes)
    assert monitor.status()["refused"] == 1
    assert monitor.status()["entries"] == []
    assert ingest(monitor, message(1)) is True


def test_counts_of_other_features_are_refused_whole(home: Home) -> None:
    monitor = home.monitor()
    ingest(monitor, message(1))
    other = build_profile(draw(0, 100), ENCODING)
    shorter = Encoding(numeric=(), categorical=("carrier",), vocabularies={"carrier": ("AA", "UA")})
    narrow = build_profile(Encoded(numeric=np.empty((9, 0), np.float32), categorical=draw(1, 9).categorical), shorter)
    assert narrow.counts.shape != other.counts.shape
    with pytest.raises(ContractError, match="do not merge"):
        ingest(monitor, message(2, counts=narrow.counts))
    assert only(monitor)["requests"] == 10
    assert only(home.monitor())["requests"] == 10


def test_memory_of_sequences_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "MAX_GAPS", 8)
    monkeypatch.setattr(deltas, "MAX_REPLICAS", 3)
    seen = SeenDeltas()
    for sequence in range(10, 200, 2):
        seen.add("r", sequence, 0.0)
    assert all(("r", sequence) in seen for sequence in range(10, 200, 2))
    assert ("r", 199) not in seen
    ((_, above, _),) = seen.to_json().values()
    assert len(above) <= 8
    for replica in "abc":
        seen.add(replica, 1, 0.0)
    assert ("r", 10) not in seen
    assert ("a", 1) in SeenDeltas.from_json(seen.to_json())


@pytest.mark.parametrize(
    ("state", "text"),
    [(b"not json", "in the control store is broken"), (pack({"format": 2}), "has format 2, expected 3: start the")],
)
def test_a_state_that_is_not_ours_is_named(home: Home, state: bytes, text: str) -> None:
    monitor = home.monitor()
    ingest(monitor, message(1))
    monitor.tick()
    with sqlite3.connect(home.path / "control.db") as database:
        database.execute("UPDATE monitor_endpoints SET state = ?", [state])
    with pytest.raises(ContractError, match=text):
        home.monitor()


def test_prometheus_sees_the_same_figures(home: Home) -> None:
    monitor = home.monitor()
    ingest(monitor, message(1))
    text = render_metrics(monitor.samples)
    labels = 'endpoint="flights",model_version="flights:1",slot="blue"'
    assert f"teal_rows_total{{{labels}}} 100.0" in _sorted_labels(text)
    assert f"teal_refused_total{{{labels}}} 2.0" in _sorted_labels(text)
    assert "teal_monitor_deltas_total 1.0" in text
    assert 'feature="wind"' in text
    assert "teal_request_latency_seconds_bucket{" in text


def _sorted_labels(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if "{" in line and not line.startswith("#"):
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition("}")
            line = f"{name}{{{','.join(sorted(labels.split(',')))}}}{value}"
        lines.append(line)
    return "\n".join(lines)


def test_profiles_come_from_the_bundle_that_the_store_names(tmp_path: Path) -> None:
    store = ControlStore(f"sqlite:///{tmp_path / 'control.db'}")
    store.create_schema()
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    store.record_model_version(
        ModelVersion(
            name="flights",
            version=3,
            run_id="run",
            bundle_uri=str(bundle),
            bundle_sha256="0" * 64,
            lineage={},
            created_at="2026-01-01T00:00:00+00:00",
        )
    )
    read_profile = StoreProfiles(store)
    with pytest.raises(NotFoundError, match="no profile of flights:3"):
        read_profile("flights:3")
    (bundle / "profile.json").write_text(json.dumps(PROFILE.to_json()))
    assert read_profile("flights:3") == PROFILE
    with pytest.raises(ContractError, match="must look like 'name:3'"):
        read_profile("3")
    (bundle / "profile.json").write_text("{")
    with pytest.raises(ContractError, match="is not JSON"):
        read_profile("flights:3")
    store.close()
