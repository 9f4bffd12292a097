"""The configuration of quality, alerts and continuous training: what comes with teal, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runtime.config.alerting import ContinuousConfig, QualityConfig, TriggerConfig
from runtime.config.compose import compose
from runtime.core.errors import ConfigError


def test_what_comes_with_teal_is_whole_and_any_of_it_can_be_changed() -> None:
    config = compose(["alerts.rules.slow.above=300", "quality.conflicts=first", "continuous.max_runs_per_week=1"])
    assert config.alerts.rules["slow"].above == 300
    assert (config.quality.conflicts, config.continuous.max_runs_per_week) == ("first", 1)
    assert all(rule.runbook for rule in config.alerts.rules.values())


def test_a_key_that_is_wrong_is_named_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "monitoring").mkdir()
    (tmp_path / "monitoring" / "mine.yaml").write_text("interval_s: 5\nresolve: 3\n")
    monkeypatch.setenv("TEAL_CONFIGS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"unknown key 'alerts.resolve' in monitoring/mine.yaml"):
        compose(["monitoring@alerts=mine"])
    with pytest.raises(ConfigError, match=r"unknown key 'alerts.rules.slow.abve' on the command line"):
        compose(["alerts.rules.slow.abve=1"])


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (QualityConfig, {"wait_s": 0.0}, "wait_s must be above 0"),
        (QualityConfig, {"min_rows": 1}, "min_rows must be at least 2"),
        (QualityConfig, {"confidence": 0.5}, "confidence must be within"),
        (QualityConfig, {"conflicts": "best"}, "conflicts"),
        (TriggerConfig, {"kind": "schedule"}, "every_s is for kind schedule"),
        (TriggerConfig, {"kind": "data", "every_s": 3.0}, "every_s is for kind schedule"),
        (TriggerConfig, {"kind": "feedback"}, "min_labels is for kind feedback"),
        (TriggerConfig, {"kind": "schedule", "every_s": -1.0}, "every_s must be above 0"),
        (ContinuousConfig, {"cooldown_s": -1.0}, "cooldown_s must be at least 0"),
        (ContinuousConfig, {"max_runs_per_week": 0}, "max_runs_per_week must be at least 1"),
        (ContinuousConfig, {"train_s": 5.0}, "train_s needs validation_s"),
        (ContinuousConfig, {"validation_s": -5.0}, "validation_s must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        kind(**values)
