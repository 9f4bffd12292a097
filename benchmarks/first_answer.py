"""From `teal up` to the first answer of a model, step by step, and what the platform holds in memory when idle.

By the real commands, in processes of their own, watched from outside: which files, ports and processes are there by
when. First a new home without a model, then a model is trained and deployed, then the platform is started again with
the model deployed. That last start is the time to the first answer.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.process_memory import by_group, platform_processes, read_memory
from benchmarks.result import Figure
from benchmarks.wrk import JSON
from runtime.cluster.free_ports import free_ports
from runtime.config.compose import compose
from runtime.config.schema import Config
from runtime.core.errors import TealError
from runtime.store.control import ControlStore

COMMAND_TIMEOUT_S = 180.0
LOOK_S = 0.02
PROCESSES_LOOK_S = 0.5
"""Each look reads the environment and the open files of every process."""
SETTLE_S = 10.0
"""From the last command until the memory is read."""
WINDOW = ("training.train_until=2013-02-15", "training.validation_since=2013-02-15")
ROW = {
    "carrier": "UA", "origin": "EWR", "dest": "IAH", "hour": 5, "minute": 15, "weekday": "tue", "distance": 1400,
    "scheduled_minutes": 227, "temp": 39.0, "dewp": 28.0, "humid": 64.4, "wind_dir": 260, "wind_speed": 12.7,
    "wind_gust": None, "precip": 0.0, "pressure": 1011.9, "visib": 10.0,
}  # fmt: skip
MIB = 1024 * 1024


@dataclass(kw_only=True, slots=True)
class Start:
    """When each thing was there, in seconds from the command's start."""

    at_s: dict[str, float] = field(default_factory=dict)

    def steps(self) -> dict[str, float]:
        """Each thing to the seconds since the one before."""
        ordered = sorted(self.at_s.items(), key=lambda item: item[1])
        before = [0.0, *(at for _, at in ordered)]
        return {name: at - earlier for (name, at), earlier in zip(ordered, before, strict=False)}


class Home:
    """One home and its commands."""

    def __init__(self, directory: Path) -> None:
        self._environment = os.environ | {"TEAL_HOME": str(directory), "TEAL_ACTOR": "benchmark", "COLUMNS": "200"}
        os.environ["TEAL_HOME"] = str(directory)
        config = compose([])
        self.config: Config = replace(config, cluster=replace(config.cluster, ports=free_ports()))
        self._ports = [f"cluster.ports.{name}={port}" for name, port in asdict(self.config.cluster.ports).items()]

    def teal(self, *arguments: str) -> None:
        command = self._command(arguments)
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
        if done.returncode:
            raise TealError(f"teal {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")

    def watch(self, *arguments: str, until: Mapping[str, Callable[[], bool]]) -> Start:
        """Run a command and note when each of these is true first, and when the command has ended."""
        found = Start()
        with tempfile.TemporaryFile() as output:
            started = time.monotonic()
            process = subprocess.Popen(self._command(arguments), env=self._environment, stdout=output, stderr=output)
            missing, is_over = dict(until), False
            while missing or not is_over:
                for name, is_there in list(missing.items()):
                    if is_there():
                        found.at_s[name] = time.monotonic() - started
                        del missing[name]
                if not is_over and process.poll() is not None:
                    found.at_s["command over"], is_over = time.monotonic() - started, True
                if process.returncode or time.monotonic() - started > COMMAND_TIMEOUT_S:
                    output.seek(0)
                    said = output.read().decode(errors="replace").strip()[-1000:]
                    process.kill()
                    raise TealError(f"teal {arguments[0]}: no {', '.join(missing) or 'end'}: {said}")
                time.sleep(LOOK_S)
        return found

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        ports = self._ports if arguments[0] == "up" else []
        return [sys.executable, "-m", "runtime.cli", *arguments, *ports]

    # -- what can be seen from outside -----------------------------------------------------------------------------

    def platform_parts(self) -> dict[str, Callable[[], bool]]:
        run, ports = Path(self.config.paths.run), self.config.cluster.ports
        return {
            "Ray is begun": written_since(run / "ray_start.log", time.time()),
            "Ray is up": lambda: (run / "cluster.json").exists(),
            "Serve's controller is up": self._has_process("serve controller"),
            "Serve's ingress listens": lambda: is_listening(ports.serve),
            "monitor listens": lambda: is_listening(ports.monitor_metrics),
            "edge listens": lambda: is_listening(ports.edge),
        }

    def model_parts(self) -> dict[str, Callable[[], bool]]:
        return {
            "replica's process is there": self._has_process("replica "),
            "replica is registered": self._has_replica(time.time()),
            "first answer": self._answers,
        }

    def _has_process(self, beginning: str) -> Callable[[], bool]:
        looked_at = 0.0

        def look() -> bool:
            nonlocal looked_at
            if time.monotonic() < looked_at + PROCESSES_LOOK_S:
                return False
            looked_at = time.monotonic()
            return any(name.startswith(beginning) for name in platform_processes(self.config))

        return look

    def _has_replica(self, since: float) -> Callable[[], bool]:
        def look() -> bool:
            with contextlib.suppress(TealError):
                store = ControlStore(self.config.paths.control)
                try:
                    return any(replica.at > since for replica in store.replicas())
                finally:
                    store.close()
            return False

        return look

    def _answers(self) -> bool:
        url = f"http://127.0.0.1:{self.config.cluster.ports.edge}/v1/models/flights:predict"
        request = urllib.request.Request(url, data=json.dumps({"instances": [ROW]}).encode(), headers=dict(JSON))
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=1) as response:
            return bool(response.status == 200)
        return False


def written_since(path: Path, since: float) -> Callable[[], bool]:
    return lambda: path.exists() and path.stat().st_mtime >= since


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstAnswer:
    fresh: Start
    """`teal up` of a new home."""
    deploy: Start
    """`teal deploy` on the running platform."""
    again: Start
    """`teal up` of the home with a deployed model."""
    idle_bytes: dict[str, int]
    """Group of processes to PSS, with one model deployed."""
    empty_bytes: dict[str, int]
    """The same of a platform without a model."""
    inside_s: dict[str, float]
    """What a replica's process does until it can answer."""


def measure_first_answer() -> FirstAnswer:
    before = os.environ.get("TEAL_HOME")
    with tempfile.TemporaryDirectory(prefix="tf-") as directory:
        home = Home(Path(directory))
        try:
            fresh = home.watch("up", until=home.platform_parts())
            tell("teal up, new home", fresh)
            time.sleep(SETTLE_S)
            empty = idle_bytes(home.config)
            home.teal("prepare", "data.until=2013-03-01")
            home.teal("train", *WINDOW)
            home.teal("register", *WINDOW)
            deploy = home.watch("deploy", until=home.model_parts())
            tell("teal deploy", deploy)
            home.teal("down")
            again = home.watch("up", until={**home.platform_parts(), **home.model_parts()})
            tell("teal up, model deployed", again)
            time.sleep(SETTLE_S)
            idle = idle_bytes(home.config)
            bundles = [model.bundle_uri for state in read_endpoints(home.config) if (model := state.blue.model)]
            inside = measure_inside(bundles[0])
        finally:
            home.teal("down")
            os.environ.pop("TEAL_HOME", None) if before is None else os.environ.__setitem__("TEAL_HOME", before)
    return FirstAnswer(fresh=fresh, deploy=deploy, again=again, idle_bytes=idle, empty_bytes=empty, inside_s=inside)


def read_endpoints(config: Config) -> list[Any]:
    store = ControlStore(config.paths.control)
    try:
        return store.endpoints()
    finally:
        store.close()


def idle_bytes(config: Config) -> dict[str, int]:
    named = {name: read_memory(process.pid) for name, process in platform_processes(config).items()}
    return by_group({name: memory for name, memory in named.items() if memory is not None})


INSIDE = """
import sys, time, json
at = [time.perf_counter()]
def done():
    at.append(time.perf_counter())
    return at[-1] - at[-2]
found = {}
import ray.serve
found["import ray"] = done()
import torch
found["import torch"] = done()
import runtime.serving.replica
found["import replica"] = done()
from pathlib import Path
from runtime.models.bundle import load_bundle
from runtime.models.predictor import Predictor
bundle = load_bundle(Path(sys.argv[1]))
found["load bundle"] = done()
Predictor.for_serving(bundle.model, bundle.encoding.cardinalities)
found["warm up"] = done()
print(json.dumps(found))
"""


def measure_inside(bundle_uri: str) -> dict[str, float]:
    """The imports and the bundle, as a replica's process meets them, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", INSIDE, bundle_uri], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise TealError(f"loading a bundle failed: {done.stderr.strip()[-500:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def tell(what: str, start: Start) -> None:
    steps = ", ".join(f"{name} +{taken:.1f}" for name, taken in start.steps().items())
    print(f"{what}: {max(start.at_s.values()):.1f} s: {steps}", file=sys.stderr, flush=True)


def build_figures(found: FirstAnswer) -> list[Figure]:
    def figure(name: str, value: float, unit: str) -> Figure:
        return Figure(name=name, value=value, unit=unit, target=None, op="<=")

    figures = [
        figure("first_answer", found.again.at_s["first answer"], "s"),
        figure("up_new_home", found.fresh.at_s["command over"], "s"),
        figure("deploy_first_answer", found.deploy.at_s["first answer"], "s"),
        figure("idle_memory", sum(found.idle_bytes.values()) / MIB, "MiB"),
        figure("idle_memory_no_model", sum(found.empty_bytes.values()) / MIB, "MiB"),
    ]
    figures += [figure(f"idle {group}", held / MIB, "MiB") for group, held in found.idle_bytes.items()]
    figures += [figure(f"first answer: {name}", taken, "s") for name, taken in found.again.steps().items()]
    figures += [figure(f"in a replica: {name}", taken, "s") for name, taken in found.inside_s.items()]
    return figures


def describe(found: FirstAnswer) -> dict[str, Any]:
    return {
        "up_new_home_s": found.fresh.at_s,
        "deploy_s": found.deploy.at_s,
        "up_with_model_s": found.again.at_s,
        "in_a_replica_s": found.inside_s,
        "idle_bytes": found.idle_bytes,
        "idle_bytes_no_model": found.empty_bytes,
    }
