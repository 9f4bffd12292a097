"""A control store for a monitor under test, and a replica's way to it."""

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runtime.monitoring.monitor import Monitor
from runtime.store.control import ControlStore


@cache
def _empty_store() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        store = ControlStore(f"sqlite:///{directory}/control.db")
        store.create_schema()
        store.close()
        return Path(directory, "control.db").read_bytes()


def monitor_store(directory: Path) -> ControlStore:
    """The store in a directory, made at its first use; copied, as its migrations take a tenth of a second."""
    path = directory / "control.db"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_empty_store())
    return ControlStore(f"sqlite:///{path}")


def ingest(monitor: Monitor, message: Mapping[str, Any]) -> bool:
    """What a replica is told: it was offered, it is written, and whether it was new."""
    is_new = monitor.offer(message)
    monitor.write()
    return is_new
