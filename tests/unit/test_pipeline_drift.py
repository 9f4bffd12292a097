"""The drift page, what the terminal shows, and the replay of history, against a monitor fed by hand."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from runtime.cli import render_monitor
from runtime.config.schema import ColumnConfig
from runtime.core.errors import NotFoundError, UsageError
from runtime.data.delta import table_uri
from runtime.data.encoding import Encoding
from runtime.data.profile import build_profile
from runtime.pipeline.drift_page import render_drift_page
from runtime.pipeline.drift_replay import Replay, parse_stretch, replay_history, replay_rows
from runtime.pipeline.drift_report import read_drift, write_drift_page
from runtime.serving.delta_log import append
from runtime.serving.payload import Answer, PayloadTable, payload_uri
from tests.serving_example import example_columns, example_config, example_model_version, example_row
from tests.unit.test_monitoring_watch import Site

START = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
COLUMNS = {
    "at": ColumnConfig(type="timestamp", role="time"),
    "wind": ColumnConfig(type="number"),
    "carrier": ColumnConfig(type="category"),
    "late": ColumnConfig(type="binary", role="label"),
}


def text_of(parts: Any) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*parts)
    return console.export_text()


def make_rows(num_hours: int, *, moved_from: int | None = None, per_hour: int = 200) -> pa.Table:
    generator = np.random.default_rng(4)
    hours = np.repeat(np.arange(num_hours), per_hour)
    moments = ((START + hours * 3600 + generator.random(hours.size) * 3599) * 1e6).astype(np.int64)
    wind = generator.normal(0, 1, hours.size) + (0.0 if moved_from is None else (hours >= moved_from) * 0.8)
    return pa.table(
        {
            "at": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "wind": wind,
            "carrier": pa.array(generator.choice(["AA", "UA"], hours.size)),
            "late": pa.array(generator.integers(0, 2, hours.size), pa.int8()),
        }
    )


def replay(rows: pa.Table, **changes: Any) -> Replay:
    before = make_rows(100)
    encoding = Encoding.fit(before, COLUMNS)
    settings = dict(
        time_column="at",
        score_column=None,
        encoding=encoding,
        profile=build_profile(encoding.encode_table(before), encoding),
        reference="the rows before",
        tick_s=3600.0,
        budgets_days=(1.0, 30.0, 365.0),
        margin=0.01,
        decays=(0.5, 0.9, 0.98),
    )
    return replay_rows(rows, **cast(Any, settings | changes))


def test_history_without_a_shift_raises_no_alarm_at_any_budget_and_a_shift_raises_one_soon() -> None:
    assert [run.alarms for run in replay(make_rows(72)).runs] == [[], [], []]
    moved = replay(make_rows(72, moved_from=48))
    assert (moved.num_ticks, moved.num_rows) == (72, 72 * 200)
    firsts = [run.alarms[0].tick for run in moved.runs]
    assert firsts == sorted(firsts)
    assert 49 <= firsts[0] <= firsts[-1] <= 54
    alarm = moved.runs[1].alarms[0]
    assert alarm.culprits[0] == "wind"
    assert alarm.at == START + alarm.tick * 3600
    shown = text_of(render_monitor.replay_tables(moved))
    assert "30 days" in shown
    assert "wind" in shown


def test_a_replay_reads_a_version_of_a_table_against_the_rows_before(tmp_path: Path) -> None:
    session = _session(tmp_path, make_rows(72, moved_from=48))
    found = replay_history(session, "trips@2026-01-06..2026-01-08", budgets_days=[30.0])
    assert found.reference == "the 4,800 rows before 2026-01-06"
    assert found.num_ticks == 48
    assert [run.alarms[0].culprits[0] for run in found.runs] == ["wind"]
    with pytest.raises(UsageError, match="a replay needs SINCE"):
        replay_history(session, "trips")
    with pytest.raises(NotFoundError, match=r"no rows within 'trips@2030-01-01\.\.'"):
        replay_history(session, "trips@2030-01-01..")
    with pytest.raises(NotFoundError, match=r"no model to compare with and no rows of 'trips' before"):
        replay_history(session, "trips@2020-01-01..")
    with pytest.raises(UsageError, match="--tick must be above 0"):
        replay_history(session, "trips@2026-01-06..", tick_s=0)


def _session(tmp_path: Path, rows: pa.Table) -> Any:
    """What `replay_history` asks of a session, over a real Delta table."""
    from dataclasses import dataclass, replace

    config = example_config(tmp_path)
    config = replace(config, data=replace(config.data, columns=COLUMNS))
    uri = table_uri(config.paths.warehouse, "trips")
    append(uri, rows)

    @dataclass
    class Version:
        uri: str
        version: int = 0

    class Store:
        def data_version(self, table: str) -> Version:
            assert table == "trips"
            return Version(uri=uri)

        def alias(self, name: str, alias: str) -> None:
            return None

    @dataclass
    class Session:
        config: Any
        store: Store

    return Session(config=config, store=Store())


def test_a_replay_of_the_payload_log_leaves_out_what_is_never_logged(tmp_path: Path) -> None:
    from types import SimpleNamespace

    model = example_model_version(tmp_path / "bundle", version=3)
    table = PayloadTable(example_columns(), slot="blue", model_name="example", model_version=3, data_version="d")
    answers = [
        Answer(
            prediction_id=f"p{index}",
            at_ns=int((START + index * 60) * 1e9),
            started_ns=0,
            generation=1,
            request_id="",
            rows=[example_row(index) | {"carrier": "ZZ" if index > 400 else "AA"}],
            scores=[0.3],
            latency_ms=1.0,
        )
        for index in range(600)
    ]
    config = example_config(tmp_path)
    append(payload_uri(config.paths.payload, "example"), table.build(answers))
    session: Any = SimpleNamespace(config=config, registry=SimpleNamespace(resolve=lambda reference: model))
    found = replay_history(session, "example", model="example:3", tick_s=3600, budgets_days=[7.0], is_payload=True)
    assert (found.num_rows, found.reference) == (600, "the training rows of example:3")
    assert "passport" not in {name for run in found.runs for alarm in run.alarms for name in alarm.culprits}
    assert found.runs[0].alarms[0].culprits[0] in ("carrier", "score")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trips", ("trips", None, None)),
        ("trips@..", ("trips", None, None)),
        ("trips@2026-01-06..", ("trips", datetime(2026, 1, 6, tzinfo=UTC), None)),
        ("trips@..2026-01-06T12:00", ("trips", None, datetime(2026, 1, 6, 12, tzinfo=UTC))),
    ],
)
def test_stretches(text: str, expected: Any) -> None:
    assert parse_stretch(text) == expected


@pytest.mark.parametrize("text", ["", "@2026-01-01..", "trips@2026-01-01"])
def test_what_is_no_stretch(text: str) -> None:
    with pytest.raises(UsageError, match="must look like TABLE@"):
        parse_stretch(text)
    with pytest.raises(UsageError, match="ends before it begins"):
        parse_stretch("trips@2026-01-02..2026-01-01")


def test_ticks_too_short_for_the_stretch_are_refused() -> None:
    with pytest.raises(UsageError, match="more than 1,000,000 ticks"):
        replay(make_rows(300, per_hour=1), tick_s=0.5)


@pytest.fixture
def drifted(tmp_path: Path) -> Site:
    site = Site(tmp_path / "monitor")
    site.run(40)
    site.run(10, shift=0.7)
    site.run(5, slot="green", version=2)
    return site


def test_the_terminal_shows_evidence_culprits_and_that_psi_is_no_test(drifted: Site) -> None:
    reports, state = drifted.monitor.report(), drifted.monitor.status()
    shown = text_of(render_monitor.drift_report(reports, state))
    assert "drift flights: ALARM since" in shown
    assert "first wind in blue" in shown
    assert "PSI is an effect size, not a test" in shown
    assert "blue flights:1 is compared with training rows" in shown
    assert "scores of the slots, hour: PSI" in shown
    calm = Site(drifted.path.parent / "calm")
    calm.run(3)
    assert "one false alarm in 30 days at most" in text_of(render_monitor.monitor_tables(calm.monitor.status()))


def test_the_page_stands_alone_and_shows_the_heat_map_the_ridges_and_the_culprits(drifted: Site) -> None:
    drifted.wait(10)
    reports = drifted.monitor.report()
    history = {"flights": drifted.monitor.history("flights", level="minutes", number=50)}
    page = render_drift_page(json.loads(json.dumps(reports)), json.loads(json.dumps(history)))
    assert "Drift of flights" in page
    assert "wind" in page
    assert "not tests" in page
    assert page.count("<svg") >= 5
    assert "<script" not in page
    assert "http" not in page
    assert "<path" in page
    assert render_drift_page([], {}).count("counted nothing yet") == 1


def test_the_command_asks_the_monitor_and_writes_the_page(
    drifted: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(config: Any, endpoint: str | None) -> list[dict[str, Any]]:
        return drifted.monitor.report(endpoint)

    def history(config: Any, endpoint: str, *, level: str, number: int) -> list[dict[str, Any]]:
        return drifted.monitor.history(endpoint, level=level, number=number)

    monkeypatch.setattr("runtime.monitoring.actor.monitor_report", report)
    monkeypatch.setattr("runtime.monitoring.actor.monitor_history", history)
    monkeypatch.setattr("runtime.pipeline.drift_report.monitor_status", lambda session: drifted.monitor.status())
    session: Any = _session(tmp_path, make_rows(1))
    found = read_drift(session, "flights", level="minutes", with_history=True)
    assert [entry["slot"] for entry in found.state["entries"]] == ["blue", "green"]
    write_drift_page(found, tmp_path / "drift.html")
    assert "Drift of flights" in (tmp_path / "drift.html").read_text()
    assert read_drift(session).histories == {}
    with pytest.raises(NotFoundError, match="no endpoint 'trains'"):
        read_drift(session, "trains")
    with pytest.raises(UsageError, match="--by must be one of minutes, hours but got 'days'"):
        read_drift(session, level="days")


def test_names_are_escaped_on_the_page(drifted: Site) -> None:
    report = drifted.monitor.report()[0] | {"endpoint": "<b>evil</b>"}
    assert "<b>evil" not in render_drift_page([report], {})
