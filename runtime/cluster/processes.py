"""The processes of one cluster, told apart by what they carry, and ended so that no other process can be hit.

Reads /proc (Linux). A process is known by pid and start time together, as pids are reused.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime.cluster.places import MARKER
from runtime.core.errors import TealError

PROC = Path("/proc")
POLL_S = 0.03
PROGRAMS = ("python", "gcs_server", "raylet", "haproxy")
DRIVER_LOG_PREFIX = "python-core-driver"


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    pid: int
    start_ticks: int
    """Clock ticks from the machine's boot to the process's start."""
    parent: int
    command: str


def read_process(pid: int, proc: Path = PROC) -> Process | None:
    """The living process with this pid; None if there is none, or only its unreaped rest."""
    try:
        # The name stands in parentheses and may itself hold spaces and parentheses.
        fields = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        command = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    words = command.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return Process(pid=pid, start_ticks=int(fields[19]), parent=int(fields[1]), command=words)


def is_alive(process: Process) -> bool:
    now = read_process(process.pid)
    return now is not None and now.start_ticks == process.start_ticks


def find_processes(temp: Path, proc: Path = PROC) -> list[Process]:
    """Living processes of the cluster whose temporary directory is `temp`, never this process or its parents.

    Known by the marker in the environment they started with, by `temp` in their command, by a file that they have
    open below `temp` (a process title overwrites both), or by a parent that is. Drivers, which write one file there
    too, are not of the cluster.
    """
    everything = {int(entry.name): entry for entry in proc.iterdir() if entry.name.isdigit()}
    living = {pid: process for pid in everything if (process := read_process(pid, proc)) is not None}
    found = {pid for pid, process in living.items() if _carries(everything[pid], process, temp)}
    while more := {pid for pid, process in living.items() if process.parent in found and pid not in found}:
        found |= more
    own = os.getpid()
    while own in living:
        found.discard(own)
        own = living[own].parent
    return [living[pid] for pid in sorted(found)]


def _carries(entry: Path, process: Process, temp: Path) -> bool:
    try:
        environment = (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    if f"{MARKER}={temp}".encode() in environment:
        return True
    if not _is_program_of_ray(entry):
        return False
    if re.search(rf"(^|[\s=]){re.escape(str(temp))}/", process.command):
        return True
    files = [file for file in open_files(entry) if file.is_relative_to(temp)]
    return bool(files) and not any(file.name.startswith(DRIVER_LOG_PREFIX) for file in files)


def _is_program_of_ray(entry: Path) -> bool:
    """Whether it could be one at all: a `tail` or an editor that looks into the session is not."""
    try:
        return (entry / "exe").readlink().name.startswith(PROGRAMS)
    except OSError:
        return False


def open_files(entry: Path) -> list[Path]:
    """What the descriptors of the process at `/proc/PID` lead to; empty where this user may not read them."""
    files = []
    with contextlib.suppress(OSError):
        for link in (entry / "fd").iterdir():
            with contextlib.suppress(OSError):
                files.append(link.readlink())
    return files


def send_signal(process: Process, number: signal.Signals) -> None:
    """Signal this very process; nothing happens if it is gone, even if its pid was given to another."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(process):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def end_processes(find: Callable[[], Iterable[Process]], *, grace_s: float, kill_s: float = 10.0) -> list[Process]:
    """SIGTERM, then SIGKILL after `grace_s`, to all that `find` finds, until it finds none. Returns what was ended."""
    ended: dict[tuple[int, int], Process] = {}
    started = time.monotonic()
    while remaining := list(find()):
        elapsed_s = time.monotonic() - started
        if elapsed_s > grace_s + kill_s:
            names = ", ".join(f"{process.pid} ({process.command[:60]})" for process in remaining)
            raise TealError(f"processes do not end after SIGKILL: {names}; see `dmesg`, then run `teal down` again")
        is_late = elapsed_s >= grace_s
        for process in remaining:
            key = (process.pid, process.start_ticks)
            if is_late or key not in ended:
                send_signal(process, signal.SIGKILL if is_late else signal.SIGTERM)
            ended[key] = process
        time.sleep(POLL_S)
    return list(ended.values())
