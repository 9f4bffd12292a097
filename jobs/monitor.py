"""Print what the monitor has counted: `python jobs/monitor.py`."""

from rich.console import Console

from runtime.cli.render_monitor import monitor_tables
from runtime.config.compose import run_job
from runtime.config.schema import Config
from runtime.pipeline.steps import Session, monitor_status


def main(config: Config) -> None:
    with Session.open(config) as session:
        Console().print(*monitor_tables(monitor_status(session)))


if __name__ == "__main__":
    run_job(main)
