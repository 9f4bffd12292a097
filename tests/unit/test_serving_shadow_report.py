"""`teal monitor shadow`: the recorded differences, for people and programs."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from runtime.cli.main import app
from runtime.config.compose import save_config
from runtime.core.errors import NotFoundError
from runtime.core.ids import new_id
from runtime.serving.delta_log import DeltaLog
from runtime.serving.shadow import Difference, build_differences, shadow_uri
from tests.cluster_config import cluster_config
from tests.rollout_world import ENDPOINT, open_store

HOUR_NS = 3600 * 10**9


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEAL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    save_config(cluster_config(tmp_path), tmp_path / "run" / "config.json")
    open_store(tmp_path).close()
    return tmp_path


def record(home: Path, *scores: tuple[str, float, float], at_ns: int) -> None:
    log = DeltaLog[Difference](shadow_uri(str(home / "payload"), ENDPOINT), build_differences, flush_s=0.1)
    for shadow_version, score, shadow_score in scores:
        difference = Difference(
            new_id(), at_ns, "flights:1", shadow_version, np.array([score, 0.5]), np.array([shadow_score, 0.5])
        )
        assert log.add(difference, 2)
    log.close()


def shown(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["monitor", "shadow", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_differences_are_told_by_pair_of_versions_and_the_largest_by_id(home: Path) -> None:
    now_ns = time.time_ns()
    record(home, *[("flights:2", 0.2, 0.2 + 0.01 * step) for step in range(10)], at_ns=now_ns)
    record(home, ("flights:3", 0.9, 0.1), at_ns=now_ns - 30 * HOUR_NS)
    (found,) = shown()
    assert (found["model_version"], found["shadow_model_version"]) == ("flights:1", "flights:2")
    assert (found["rows"], found["equal_rows"]) == (20, 11)
    assert found["mean_difference"] == pytest.approx(0.0225)
    assert [one["shadow_score"] for one in found["largest"]] == pytest.approx([0.29, 0.28, 0.27, 0.26, 0.25])
    assert {pair["shadow_model_version"] for pair in shown("--hours", "48")} == {"flights:2", "flights:3"}
    drawn = CliRunner().invoke(app, ["monitor", "shadow"]).stdout
    assert found["largest"][0]["prediction_id"] in drawn
    assert "+0.0225" in drawn
    assert "nothing was compared in this time" in CliRunner().invoke(app, ["monitor", "shadow", "--hours", "0"]).stdout


def test_a_shadow_that_never_was_says_how_to_begin_one(home: Path) -> None:
    error = CliRunner().invoke(app, ["monitor", "shadow", "-e", ENDPOINT]).exception
    assert isinstance(error, NotFoundError)
    assert "serving.shadow_fraction" in str(error)
