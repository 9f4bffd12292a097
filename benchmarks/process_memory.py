"""What each process of a platform holds: memory, descriptors and threads, from /proc (Linux), and how it grows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.cluster.places import ClusterPlaces
from runtime.cluster.processes import PROC, Process, find_processes
from runtime.config.schema import Config

KIB = 1024
PROGRAMS = re.compile(r"(gcs_server|raylet)(?=\s|$)")
SCRIPTS = re.compile(r"/(dashboard|agent|runtime_env/agent/main|log_monitor|autoscaler/_private/monitor)\.py\b")
SCRIPT_NAMES = {
    "dashboard": "ray dashboard",
    "agent": "ray dashboard agent",
    "runtime_env/agent/main": "ray runtime env agent",
    "log_monitor": "ray log monitor",
    "autoscaler/_private/monitor": "ray autoscaler",
}
ACTORS = {
    "EdgeActor": "teal edge's actor",
    "AlertsActor": "teal alerts",
    "NotifierActor": "teal notifier",
    "RolloutActor": "teal rollouts",
    "ServeController": "serve controller",
    "HAProxyManager": "serve haproxy's manager",
    "ProxyActor": "serve fallback proxy",
    "DashboardAgent": "ray dashboard agent",
    "RuntimeEnvAgent": "ray runtime env agent",
    "MonitorActor": "teal monitor",
}
"""Title that Ray gives the process of an actor, or of a helper of its own, to who it is."""
GROUPS = (
    ("replica ", "replicas"),
    ("edge haproxy", "edge"),
    ("teal edge", "edge"),
    ("teal ", "monitor, alerts, rollouts"),
    ("serve controller", "Serve controller"),
    ("serve ", "Serve proxies"),
    ("ray worker", "Ray's spare workers"),
    ("ray ", "Ray's head processes"),
)
"""How a name begins to what its memory is added to."""


class Memory(NamedTuple):
    """In bytes, and numbers of open descriptors and threads."""

    rss: int
    pss: int
    """Its share of what it shares with others included."""
    private_dirty: int
    num_fds: int
    num_threads: int


def read_memory(pid: int, proc: Path = PROC) -> Memory | None:
    """None if the process is gone."""
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
        status = (proc / str(pid) / "status").read_text()
        num_fds = sum(1 for _ in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    threads = re.search(r"^Threads:\s+(\d+)$", status, re.MULTILINE)
    if not {"Rss", "Pss", "Private_Dirty"} <= kib.keys() or threads is None:
        return None
    return Memory(
        rss=kib["Rss"] * KIB,
        pss=kib["Pss"] * KIB,
        private_dirty=kib["Private_Dirty"] * KIB,
        num_fds=num_fds,
        num_threads=int(threads[1]),
    )


def platform_processes(config: Config) -> dict[str, Process]:
    """Name, the same from look to look, to each living process of this home's platform, edge included."""
    found = find_processes(ClusterPlaces.of(config).temp)
    edge = f"{Path(config.paths.run).absolute()}/edge/"
    return unique_names(found, edge=edge)


def unique_names(processes: Sequence[Process], *, edge: str) -> dict[str, Process]:
    """Each process by `name_of`; those of one name are numbered from the oldest."""
    named: dict[str, Process] = {}
    masters = {process.pid for process in processes if edge in process.command}
    for process in sorted(processes, key=lambda process: (process.start_ticks, process.pid)):
        name = name_of(process, edge=edge, masters=masters)
        number = 2
        unique = name
        while unique in named:
            unique, number = f"{name} {number}", number + 1
        named[unique] = process
    return named


def name_of(process: Process, *, edge: str = "\0", masters: set[int] = frozenset()) -> str:  # type: ignore[assignment]
    """Who a process is. `edge`: the directory of the edge's HAProxy; `masters`: pids of those that have it."""
    command = process.command
    if edge in command:
        return "edge haproxy" if process.parent in masters else "edge haproxy's master"
    if found := re.match(r"ray::ServeReplica:([^:]+):", command):
        return f"replica {found[1]}"
    if command.startswith("ray::"):
        title = re.split(r"[.(:\s]", command.removeprefix("ray::"), maxsplit=1)[0]
        return ACTORS.get(title, f"ray worker {title}" if title == "IDLE" else f"teal {title}")
    if found := PROGRAMS.search(command.split(" ", 1)[0]):
        return f"ray {found[1]}"
    if found := SCRIPTS.search(command):
        return SCRIPT_NAMES[found[1]]
    if "haproxy" in command.split(" ", 1)[0]:
        return "serve haproxy"
    if found := re.match(r"ray-dashboard-(\w+)-\d+", command):
        return f"ray dashboard's {found[1]}"
    if found := re.search(r" (?:-m |-c from )?(ray\.[\w.]+|multiprocessing\.\w+)", command):
        return f"ray {found[1].removeprefix('ray.')}"
    return f"ray {command[:40]}"


def group_of(name: str) -> str:
    return next((group for beginning, group in GROUPS if name.startswith(beginning)), "other")


def by_group(named: Mapping[str, Memory]) -> dict[str, int]:
    """Bytes of PSS of each group, largest first: shared pages are counted once."""
    sums: dict[str, int] = {}
    for name, memory in named.items():
        sums[group_of(name)] = sums.get(group_of(name), 0) + memory.pss
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """The median of the slopes of all pairs of points: a fifth of them may lie anywhere. Needs two different times."""
    at, of = np.asarray(times, dtype=float), np.asarray(values, dtype=float)
    first, second = np.triu_indices(len(at), k=1)
    spans = at[second] - at[first]
    is_apart = spans != 0
    if not is_apart.any():
        raise ValueError(f"a slope needs two different times but got {len(at)} points")
    return float(np.median((of[second] - of[first])[is_apart] / spans[is_apart]))


def growth_percent(times_s: Sequence[float], values: Sequence[float], *, per_s: float = 600.0) -> float:
    """Growth in `per_s` seconds, in percent of the median value."""
    middle = float(np.median(values))
    return 100.0 * theil_sen(times_s, values) * per_s / middle if middle else 0.0
