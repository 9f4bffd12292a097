"""The commands over quality, alerts and continuous training, as a user types them; no platform runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from runtime.cli import quality_commands
from runtime.cli.main import app
from runtime.config.compose import save_config
from runtime.core.errors import NotFoundError, UsageError
from tests.quality_example import World, draw, moment

Teal = Callable[..., Result]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.at(tmp_path)


@pytest.fixture
def teal(world: World, monkeypatch: pytest.MonkeyPatch) -> Teal:
    monkeypatch.setenv("TEAL_HOME", world.config.paths.home)
    monkeypatch.setenv("TEAL_ACTOR", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    save_config(world.config, Path(world.config.paths.run) / "config.json")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run


def test_all_monitor_commands_are_in_one_group(teal: Teal) -> None:
    text = teal("monitor", "--help").stdout
    for name in ("status", "drift", "quality", "alerts", "ack", "rules"):
        assert f"\n  {name} " in text
    names = [group.name for group in app.registered_groups]
    assert len(names) == len(set(names))
    assert quality_commands._group(app, "monitor", "") is quality_commands._group(app, "monitor", "")


def test_quality_as_table_json_and_page(world: World, teal: Teal, tmp_path: Path) -> None:
    for day in (0, 1):
        scores, labels = draw(day, 300)
        world.label(world.log(scores, day=day), labels, day=day + 0.5)
    page = tmp_path / "quality.html"
    shown = teal("monitor", "quality", "--by", "day", "--slice", "carrier", "--html", str(page))
    assert shown.exit_code == 0, shown.output
    assert "AUC over time, blue flights:1: " in shown.stdout
    assert "carrier=AA" in shown.stdout
    assert page.read_text().startswith("<!doctype html>")
    found = json.loads(teal("monitor", "quality", "--by", "all", "--json").stdout)
    assert (found["counts"]["labelled"], found["qualities"][0]["measured"]["num_labelled"]) == (600, 600)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("monitor", "quality", "--by", "fortnight"), UsageError, "--by must be one of hour, day"),
        (("monitor", "quality"), NotFoundError, "has not answered yet"),
        (("monitor", "ack", "nothing"), NotFoundError, "no alert 'nothing'; firing: none fires"),
        (("feedback", "missing.csv"), NotFoundError, "no file 'missing.csv'"),
    ],
)
def test_what_is_wrong_is_said(teal: Teal, arguments: tuple[str, ...], error: Any, words: str) -> None:
    found = teal(*arguments).exception
    assert isinstance(found, error)
    assert words in str(found)


def test_alerts_are_shown_and_acknowledged(world: World, teal: Teal) -> None:
    from runtime.pipeline.quality_watch import QualityWatch

    assert "no alerts" in teal("monitor", "alerts").stdout
    scores, labels = draw(1, 1500, noise=0.9)
    world.label(world.log(scores), labels)
    watch = QualityWatch(config=world.config, store=world.store, read_monitor=lambda _: None)
    for seconds in (0, 400):
        watch.look(moment(2) + seconds)
    shown = json.loads(teal("monitor", "alerts", "--json").stdout)["alerts"]
    (decay,) = [alert for alert in shown if alert["rule"] == "quality_decay"]
    assert (decay["severity"], decay["phase"]) == ("page", "firing")
    assert "acknowledged by ann" in teal("monitor", "ack", decay["id"], "--reason", "on it").stdout
    everything = " ".join(teal("monitor", "alerts", "--all").stdout.split())
    assert "acknowledged by ann" in everything
    assert "roll back if a canary did it" in everything
    assert world.store.transitions()[-1].detail["reason"] == "on it"


def test_the_rules_are_a_file_for_prometheus(teal: Teal) -> None:
    assert [group["name"] for group in yaml.safe_load(teal("monitor", "rules").stdout)["groups"]] == ["teal"]


def test_continuous_status_says_what_would_start_and_why(world: World, teal: Teal) -> None:
    world.store.start_training("flights", {"trigger": "q", "kind": "quality", "id": "alert a"}, actor="t", at=1.0)
    shown = teal("continuous", "status")
    assert shown.exit_code == 0, shown.output
    assert "a training is running" in shown.stdout
    assert "1970-01-01 00:00:01 because of q, alert a" in shown.stdout
    assert "data: under way" in shown.stdout
    assert "nobody carries it on: `teal continuous run` does" in shown.stdout
    assert "q, alert a" in teal("continuous", "history").stdout
    assert json.loads(teal("continuous", "status", "--json").stdout)["would_start"] is False


def test_a_look_without_a_reason_does_nothing(teal: Teal) -> None:
    shown = teal("continuous", "run", "--once")
    assert shown.exit_code == 0, shown.output
    assert "nothing to do: no trigger has a reason" in shown.stdout
