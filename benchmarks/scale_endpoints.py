"""What 200 configured endpoints cost the requests of one: the edge that has them against one that has a single one.

Both are up at once (`many_endpoints`) and take turns under an open loop of the same rate, each HAProxy on the first
core and everything else on the others: where the scheduler happens to put them makes a sixth of a latency this short.
Also what they cost when nobody asks, in memory, and when something changes.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.many_endpoints import ManyEndpoints, add_endpoint, cpu_s, endpoint_name, many_endpoints
from benchmarks.open_loop import run_open_loop
from benchmarks.result import Figure
from benchmarks.wrk import JSON
from runtime.core.errors import TealError
from runtime.rollout import traffic
from runtime.serving.edge_config import render_config
from runtime.serving.edge_limits import complete_limits
from runtime.serving.edge_process import haproxy_binary

NUM_ENDPOINTS = 200
RATE_PER_S = 300.0
IDLE_S = 5.0
MAX_RATIO = 1.10
BODY = b'{"instances":[{"x":1.0}]}'
MIB = 1024 * 1024


@dataclass(kw_only=True, slots=True)
class OfOne:
    """What was measured of one of the two edges."""

    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Of HAProxy for one request, less what it computes when nobody asks."""
    idle_cores: float = 0.0
    """Of HAProxy, which checks replicas, when nobody asks."""
    loop_cores: float = 0.0
    """Of the edge's loop, which polls the store."""
    memory_bytes: int = 0
    render_s: float = 0.0
    check_s: float = 0.0
    config_bytes: int = 0
    share_s: list[float] = field(default_factory=list)
    """From the commit of a share until the edge has acknowledged it."""
    endpoint_s: list[float] = field(default_factory=list)
    """From the commit of a new endpoint until the edge has acknowledged it: a reload."""


Measured = dict[str, OfOne]


def measure_endpoints(*, num_rounds: int, duration_s: float, num_shares: int) -> Measured:
    found = {"one": OfOne(), "many": OfOne()}
    with tempfile.TemporaryDirectory(prefix="te-") as temporary, cores_but_the_first() as first:
        directory = Path(temporary)
        with (
            many_endpoints(directory / "one", 1) as one,
            many_endpoints(directory / "many", NUM_ENDPOINTS) as many,
        ):
            edges = {"one": one, "many": many}
            for name, edge in edges.items():
                os.sched_setaffinity(edge.worker(), first)
                measure_idle(edge, found[name])
            for number in range(num_rounds + 1):
                for name in list(edges)[:: -1 if number % 2 else 1]:
                    measure_load(edges[name], found[name], duration_s, is_warm_up=number == 0)
                told = ", ".join(f"{name} p50 {of.p50_ms[-1]:.3f} ms" for name, of in found.items() if of.p50_ms)
                print(f"endpoints, round {number} of {num_rounds}: {told}", file=sys.stderr, flush=True)
            for name, edge in edges.items():
                measure_changes(edge, found[name], num_shares=num_shares)
    return found


@contextlib.contextmanager
def cores_but_the_first() -> Iterator[set[int]]:
    """Keep this process, and those it starts, off one core, if there is another; gives that one."""
    cores = os.sched_getaffinity(0)
    first = {min(cores)}
    os.sched_setaffinity(0, cores - first or cores)
    try:
        yield first
    finally:
        os.sched_setaffinity(0, cores)


def measure_idle(edge: ManyEndpoints, found: OfOne) -> None:
    worker = edge.worker()
    before = cpu_s(worker), cpu_s(edge.loop_pid)
    time.sleep(IDLE_S)
    after = cpu_s(worker), cpu_s(edge.loop_pid)
    found.idle_cores, found.loop_cores = ((end - start) / IDLE_S for start, end in zip(before, after, strict=True))
    found.memory_bytes = edge.memory_bytes()
    endpoints, limits = edge.store.endpoints(), edge.store.edge_limits()
    started = time.perf_counter()
    text = render_config(
        endpoints,
        edge.config.cluster,
        files=edge.files,
        secret="secret-of-the-benchmark",
        serving=edge.config.serving,
        limits=complete_limits(endpoints, limits, edge.config.serving),
        edge=edge.config.edge,
    )
    found.render_s, found.config_bytes = time.perf_counter() - started, len(text)
    started = time.perf_counter()
    subprocess.run([haproxy_binary(), "-c", "-f", str(edge.files.config)], check=True, capture_output=True)
    found.check_s = time.perf_counter() - started


def measure_load(edge: ManyEndpoints, found: OfOne, duration_s: float, *, is_warm_up: bool) -> None:
    worker = edge.worker()
    before = cpu_s(worker)
    headers = JSON | {"authorization": f"Bearer {edge.token}"}
    load = run_open_loop(edge.url, BODY, headers, rate_per_s=RATE_PER_S, duration_s=duration_s)
    if load.statuses.keys() != {200}:
        raise TealError(f"the edge lost requests: {dict(load.statuses)}")
    if not is_warm_up:
        found.p50_ms.append(load.percentile_ms(0.5))
        found.p99_ms.append(load.percentile_ms(0.99))
        used_s = cpu_s(worker) - before - found.idle_cores * duration_s
        found.cpu_us.append(used_s / len(load.asked) * 1e6)


def measure_changes(edge: ManyEndpoints, found: OfOne, *, num_shares: int) -> None:
    for number in range(num_shares):
        state, _ = traffic.shift(edge.store, endpoint_name(0), 2000 + number % 2 * 1000, actor="benchmark")
        found.share_s.append(traffic.wait_acknowledged(edge.store, state, timeout_s=30))
    number = len(edge.store.endpoints())
    started = time.perf_counter()
    with edge.store.transaction():
        add_endpoint(edge.store, edge.config, number)
    traffic.wait_acknowledged(edge.store, edge.store.endpoint(endpoint_name(number)), timeout_s=60)
    found.endpoint_s.append(time.perf_counter() - started)


def build_figures(found: Measured) -> list[Figure]:
    one, many = found["one"], found["many"]

    def ratio(name: str) -> float:
        pairs = zip(getattr(one, name), getattr(many, name), strict=True)
        return float(statistics.median(of_many / of_one for of_one, of_many in pairs))

    def figure(name: str, value: float, unit: str, target: float | None = None) -> Figure:
        return Figure(name=f"endpoints_{name}", value=value, unit=unit, target=target, op="<=")

    return [
        figure("200_p50", ratio("p50_ms"), "ratio", MAX_RATIO),
        figure("200_p99", ratio("p99_ms"), "ratio"),
        figure("200_cpu", statistics.median(many.cpu_us) / max(statistics.median(one.cpu_us), 1.0), "ratio"),
        figure("200_request_cpu", statistics.median(many.cpu_us), "µs"),
        figure("200_idle", many.idle_cores, "cores"),
        figure("200_loop", many.loop_cores, "cores"),
        figure("200_memory", many.memory_bytes / MIB, "MiB"),
        figure("1_memory", one.memory_bytes / MIB, "MiB"),
        figure("200_render", many.render_s, "s"),
        figure("200_check", many.check_s, "s"),
        figure("200_share_ack", statistics.median(many.share_s), "s"),
        figure("1_share_ack", statistics.median(one.share_s), "s"),
        figure("200_new_endpoint", statistics.median(many.endpoint_s), "s"),
        figure("1_new_endpoint", statistics.median(one.endpoint_s), "s"),
    ]


def describe(found: Measured) -> dict[str, Any]:
    return {name: {field: getattr(of, field) for field in of.__dataclass_fields__} for name, of in found.items()}
