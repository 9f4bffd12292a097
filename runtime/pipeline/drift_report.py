"""An endpoint's drift as the monitor tells it, and as one HTML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.core.errors import UsageError
from runtime.core.files import write_atomic
from runtime.pipeline.drift_page import render_drift_page
from runtime.pipeline.steps import Session, monitor_status

COLUMNS = {"minutes": 144, "hours": 168}
"""Width of the heat map's columns to how many are drawn: half a day, a week."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftFindings:
    """Plain values, as Monitor gives them."""

    state: dict[str, Any]
    reports: list[dict[str, Any]]
    histories: dict[str, list[dict[str, Any]]]
    """Endpoint to its last stretches, oldest first; empty unless asked for."""


def read_drift(
    session: Session, endpoint: str | None = None, *, level: str = "hours", with_history: bool = False
) -> DriftFindings:
    """Ask the monitor. NotFoundError for an endpoint that it has not counted."""
    from runtime.monitoring.actor import monitor_history, monitor_report

    if level not in COLUMNS:
        raise UsageError(f"--by must be one of {', '.join(COLUMNS)} but got {level!r}")
    state = monitor_status(session)
    reports = monitor_report(session.config, endpoint)
    names = [report["endpoint"] for report in reports] if with_history else []
    return DriftFindings(
        state=state | {"entries": [one for one in state["entries"] if endpoint in (None, one["endpoint"])]},
        reports=reports,
        histories={name: monitor_history(session.config, name, level=level, number=COLUMNS[level]) for name in names},
    )


def write_drift_page(found: DriftFindings, path: Path) -> None:
    write_atomic(path, render_drift_page(found.reports, found.histories))
