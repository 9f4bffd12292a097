"""The demo, whole, as `make demo` runs it: what it must hold is read from what it wrote, not from what it printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cluster.places import ClusterPlaces
from runtime.cluster.processes import find_processes
from runtime.config.compose import load_config
from runtime.pipeline.summary import DemoSummary


@pytest.mark.timeout(600)
def test_the_loop_goes_round_and_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runtime.cli", "demo", "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"TEAL_CONFIGS": ""})
    assert done.returncode == 0, done.stderr
    summary = DemoSummary.from_json(json.loads((tmp_path / "summary.json").read_text()))
    assert summary.requests_failed == 0
    assert summary.requests_sent > 2000
    assert [phase.split_target for phase in summary.phases] == [0.1, 0.5, 1.0, 0.1, 0.0]
    assert all(phase.ok for phase in summary.phases), summary.phases
    assert [(gate.verdict, gate.is_forced) for gate in summary.gates] == [
        ("Passed", False),
        ("Passed", False),
        ("Rejected", False),
        ("Rejected", True),
    ]
    assert summary.champion == "flights:2"
    assert summary.data_versions == ["flights@0", "flights@1"]
    june, july = summary.quality_by_month
    assert (june.month, july.month, june.model) == ("June", "July", "flights:1")
    assert min(june.n, july.n) > 25_000
    assert june.auc is not None
    assert july.auc is not None
    assert july.auc < june.auc
    assert set(summary.drift_by_feature) == {"June", "July"}
    report = (tmp_path / "report.html").read_text()
    assert "flights:2" in report
    assert "http://" not in report.replace("http://www.w3.org", "")
    config = load_config(tmp_path / "home" / "run" / "config.json")
    assert find_processes(ClusterPlaces.of(config).temp) == []
