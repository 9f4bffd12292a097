"""Deltas counted exactly once, across duplicates, disorder and kills; status and windows of time."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.config.monitoring import MonitoringConfig
from runtime.core.errors import ContractError, NotFoundError
from runtime.data.accumulate import Accumulator
from runtime.data.encoding import Encoded, Encoding
from runtime.data.profile import Profile, build_profile
from runtime.monitoring import deltas
from runtime.monitoring.deltas import SeenDeltas
from runtime.monitoring.monitor import Monitor
from runtime.monitoring.profiles import StoreProfiles
from runtime.store.control import ControlStore
from runtime.store.records import ModelVersion
from runtime.telemetry.latency import count_latencies
from runtime.telemetry.metrics import render_metrics

ENCODING = Encoding(numeric=("wind",), categorical=("carrier",), vocabularies={"carrier": ("AA", "UA")})


def draw(seed: int, num_rows: int, shift: float = 0.0) -> Encoded:
    generator = np.random.default_rng(seed)
    return Encoded(
        numeric=generator.normal(shift, 1, (num_rows, 1)).astype(np.float32),
        categorical=generator.integers(2, 4, (num_rows, 1)),
    )


PROFILE = build_profile(draw(0, 20_000), ENCODING)


def message(
    sequence: int, *, replica: str = "r1", rows: int = 100, shift: float = 0.0, **changes: Any
) -> dict[str, Any]:
    accumulator = Accumulator(PROFILE)
    encoded = draw(sequence + 1, rows, shift)
    accumulator.add(encoded.numeric, encoded.categorical, np.full(rows, 0.25))
    return {
        "endpoint": "flights",
        "slot": "blue",
        "model_version": "flights:1",
        "replica": replica,
        "sequence": sequence,
        "requests": 10,
        "rows": rows,
        "errors": 1,
        "refused": 2,
        "latency_ms_counts": count_latencies([4.0] * 9 + [40.0]),
        "counts": accumulator.take(),
        **changes,
    }


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
        return Monitor(self.path, config, read_profile, clock=self.clock)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "monitor")


def only(monitor: Monitor) -> dict[str, Any]:
    (entry,) = monitor.status()["entries"]
    return dict(entry)


def test_status_says_what_was_counted(home: Home) -> None:
    monitor = home.monitor()
    monitor.ingest(message(1))
    home.clock.now = 1003.0
    monitor.ingest(message(2, replica="r2"))
    monitor.ingest(message(1, slot="green", model_version="flights:2", replica="r3"))
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
    assert monitor.ingest(message(1)) is True
    before = only(monitor)
    assert monitor.ingest(message(1)) is False
    assert only(monitor) == before
    assert monitor.status()["duplicates"] == 1


def test_order_does_not_matter(home: Home, tmp_path: Path) -> None:
    monitor, other = home.monitor(), Home(tmp_path / "other").monitor()
    for sequence in (1, 2, 3, 4, 5):
        monitor.ingest(message(sequence))
    for sequence in (4, 1, 5, 1, 3, 2, 4):
        other.ingest(message(sequence))
    assert only(monitor) == only(other)


@pytest.mark.parametrize("ticks_after", [(), (1,), (2,), (1, 2, 3), (3,)])
def test_a_killed_monitor_goes_on_without_loss_or_double_counting(home: Home, ticks_after: tuple[int, ...]) -> None:
    monitor = home.monitor()
    for sequence in (1, 2, 3):
        monitor.ingest(message(sequence))
        home.clock.now += 1
        if sequence in ticks_after:
            monitor.tick()
    before = monitor.status()
    heir = home.monitor()  # the first was never closed
    assert heir.status()["entries"] == before["entries"]
    assert heir.status()["since"] == 1000.0
    assert [heir.ingest(message(sequence)) for sequence in (1, 2, 3, 4)] == [False, False, False, True]
    assert only(heir)["rows"] == 400


def test_a_kill_between_the_two_files_of_a_tick_is_no_loss(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = home.monitor()
    monitor.ingest(message(1))

    def fail(path: Path, *_: object, **__: object) -> None:
        if path.name == "totals.json":
            raise OSError("no space left")
        path.write_bytes(b"{}")

    monkeypatch.setattr("runtime.monitoring.ledger.write_atomic", fail)
    with pytest.raises(OSError, match="no space"):
        monitor.tick()
    monkeypatch.undo()
    heir = home.monitor()
    assert only(heir)["rows"] == 100
    heir.tick()
    assert only(home.monitor())["rows"] == 100


def test_a_tick_that_could_not_be_written_is_tried_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = home.monitor()
    monitor.ingest(message(1))
    with monkeypatch.context() as broken:
        broken.setattr("runtime.monitoring.ledger.write_atomic", _no_space)
        with pytest.raises(OSError, match="no space"):
            monitor.tick()
    monitor.ingest(message(2))
    home.clock.now = 1010.0
    monitor.tick()
    assert monitor.drift("flights", since=1000.0, until=1010.0)[0]["rows"] == 200
    assert only(home.monitor())["rows"] == 200


def _no_space(path: Path, *_: object) -> None:
    raise OSError("no space left")


def test_a_torn_last_line_was_never_acknowledged(home: Home) -> None:
    monitor = home.monitor()
    monitor.ingest(message(1))
    (journal,) = home.path.glob("journal-*.jsonl")
    with journal.open("ab") as file:
        file.write(b'{"series": ["flights", "bl')
    heir = home.monitor()
    assert only(heir)["rows"] == 100
    heir.ingest(message(2))
    assert only(home.monitor())["rows"] == 200


def test_drift_of_one_stretch_of_time_is_not_that_of_another(home: Home) -> None:
    monitor = home.monitor()
    monitor.ingest(message(1, rows=2000))
    home.clock.now = 1010.0
    june = monitor.tick()
    monitor.ingest(message(2, rows=1000, shift=2.0))
    home.clock.now = 1020.0
    july = monitor.tick()
    monitor.ingest(message(3, rows=10))
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
        monitor.ingest(message(sequence))
        home.clock.now += 1
        monitor.tick()
    assert only(monitor)["rows"] == 700
    assert monitor.drift("flights", since=0.0)[0]["rows"] == 300
    assert home.monitor().drift("flights", since=0.0)[0]["rows"] == 300
    assert len(list(home.path.glob("tick-*.json"))) == 3


def test_a_version_without_a_profile_is_counted_and_named(home: Home) -> None:
    def missing(model_version: str) -> Profile:
        raise NotFoundError(f"no profile of {model_version}")

    monitor = home.monitor(missing)
    monitor.ingest(message(1))
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
        monitor.ingest(message(1) | changes)
    assert monitor.status()["refused"] == 1
    assert monitor.status()["entries"] == []
    assert monitor.ingest(message(1)) is True


def test_counts_of_other_features_are_refused_whole(home: Home) -> None:
    monitor = home.monitor()
    monitor.ingest(message(1))
    other = build_profile(draw(0, 100), ENCODING)
    shorter = Encoding(numeric=(), categorical=("carrier",), vocabularies={"carrier": ("AA", "UA")})
    narrow = build_profile(Encoded(numeric=np.empty((9, 0), np.float32), categorical=draw(1, 9).categorical), shorter)
    assert narrow.counts.shape != other.counts.shape
    with pytest.raises(ContractError, match="do not merge"):
        monitor.ingest(message(2, counts=narrow.counts))
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


def test_a_state_that_is_not_ours_is_named(home: Home) -> None:
    home.monitor().close()
    (home.path / "totals.json").write_text("not json")
    with pytest.raises(ContractError, match=r"totals.json is not JSON: .*move it away"):
        home.monitor()


def test_prometheus_sees_the_same_figures(home: Home) -> None:
    monitor = home.monitor()
    monitor.ingest(message(1))
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
