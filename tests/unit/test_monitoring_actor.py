"""What the monitor's commands say where there is no cluster, and what its actor does before it counts."""

import logging
from pathlib import Path
from typing import cast

import pytest
import ray

from runtime.config.compose import compose
from runtime.core.errors import UnreachableError
from runtime.monitoring.actor import (
    _once_the_store_answers,
    _set_old_files_aside,
    mark_period,
    monitor_report,
    monitor_status,
)
from runtime.monitoring.monitor import Monitor


def test_asking_without_a_cluster_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        pytest.fail("get_actor starts a Ray of its own where this process has joined none")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "get_actor", start)
    config = compose([])
    for ask in (monitor_status, monitor_report, mark_period):
        with pytest.raises(UnreachableError, match="teal up"):
            ask(config)


def test_files_of_earlier_releases_are_set_aside_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = tmp_path / "monitor"
    old.mkdir()
    (old / "totals.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        _set_old_files_aside(old)
    assert (tmp_path / "monitor-set-aside" / "totals.json").exists()
    assert not old.exists()
    assert "counts are kept in the control store now" in caplog.text
    caplog.clear()
    _set_old_files_aside(old)
    assert caplog.text == ""


def test_files_that_cannot_be_moved_do_not_keep_the_monitor_from_counting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("monitor", "monitor-set-aside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "totals.json").write_text("{}")
    _set_old_files_aside(tmp_path / "monitor")
    assert "cannot be set aside" in caplog.text
    assert (tmp_path / "monitor" / "totals.json").exists()


def test_a_monitor_that_begins_while_the_store_is_away_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    monitor = cast(Monitor, object())
    answers: list[Monitor | UnreachableError] = [monitor, UnreachableError("no answer"), UnreachableError("no answer")]
    pauses: list[int] = []

    def build() -> Monitor:
        answer = answers.pop()
        if isinstance(answer, UnreachableError):
            raise answer
        return answer

    assert _once_the_store_answers(build, pause=lambda: pauses.append(1)) is monitor
    assert len(pauses) == caplog.text.count("the monitor waits for the control store") == 2
