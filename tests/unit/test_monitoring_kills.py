"""The monitor's memory on SQLite: kills, a lost store, another process."""

from pathlib import Path

import pytest

from tests.monitor_conformance import MonitorConformance


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/control.db"


class TestMonitor(MonitorConformance):
    pass
