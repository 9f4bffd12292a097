"""What is known of the running cluster: `run/cluster.json`, and the lock under which it changes."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from runtime.cluster.places import ClusterPlaces
from runtime.cluster.processes import Process, is_alive
from runtime.core.errors import ConflictError, TealError
from runtime.core.files import write_atomic

VITAL_COMMANDS = ("gcs_server", "raylet")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterState:
    address: str
    """host:port of Ray's control service, for `ray.init`."""
    dashboard_url: str
    """Base of the Jobs API and of the Serve REST API."""
    serve_url: str
    session_dir: str
    """Ray's logs are in `logs/` below it."""
    temp_dir: str
    ports: dict[str, int]
    vital: list[Process]
    """The processes without which there is no cluster."""
    started_at: str
    start_duration_s: float
    is_new: bool = True
    """False if it was running before."""

    @property
    def is_alive(self) -> bool:
        return bool(self.vital) and all(is_alive(process) for process in self.vital)

    def known(self) -> "ClusterState":
        return replace(self, is_new=False)


def read_state(run_dir: str | Path) -> ClusterState | None:
    """The cluster that this home runs; None if there is none or if it has died."""
    path = Path(run_dir) / "cluster.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TealError(f"{path} is not JSON ({error}); run `teal down` and `teal up`") from error
    state = _parse_state(path, values)
    return state if state.is_alive else None


def _parse_state(path: Path, values: Any) -> ClusterState:
    names = {field.name for field in fields(ClusterState)}
    if not isinstance(values, dict) or set(values) != names:
        raise TealError(f"{path} was written by another version of teal; run `teal down` and `teal up`")
    vital = [Process(**process) for process in values.pop("vital")]
    return ClusterState(**values, vital=vital).known()


def write_state(path: Path, state: ClusterState) -> None:
    write_atomic(path, json.dumps(asdict(state), indent=2), mode=0o600)


@contextmanager
def cluster_lock(places: ClusterPlaces, timeout_s: float) -> Iterator[None]:
    """Hold this home's lock, which dies with the process. ConflictError if another keeps it for `timeout_s`.

    The file is removed at the end, so whoever gets the lock checks that the file is still the one in its place.
    """
    places.run.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    while True:
        handle = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _try_lock(handle, places.lock):
            break
        os.close(handle)
        if time.monotonic() > deadline:
            raise ConflictError(
                f"another `teal up` or `teal down` of this home has been running for {timeout_s:g} s "
                f"(it holds {places.lock}); wait for it to end"
            )
        time.sleep(0.1)
    try:
        yield
    finally:
        places.lock.unlink(missing_ok=True)
        os.close(handle)


def _try_lock(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
