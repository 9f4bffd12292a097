"""How fast a change of traffic is everywhere: commit to acknowledged by every edge, and a rollback under load.

Real HAProxy edges on one machine, each with its own directory and ports, against one SQLite store; behind them a server
that answers at once and notes when each request reached which slot. Edges poll, as on other machines: no hint.
Measured with one edge and with eight, 100 rollbacks each, in five to six minutes; with --quick in half of one.

    python benchmarks/rollout.py [--quick] [--json FILE]
"""

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.result import Figure, report
from runtime.cluster.free_ports import free_ports
from runtime.config.cluster import ClusterConfig
from runtime.config.compose import compose
from runtime.config.schema import Config
from runtime.rollout import traffic
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_loop import EdgeLoop
from runtime.store.records import ModelVersion
from runtime.store.rollouts import RolloutStore

ENDPOINT = "bench"
RATE = 200
SECRET = "secret-of-the-benchmark-edges"
NUM_EDGES = 8
WATCHED_S = 1.1
"""How long after a rollback's commit the bad slot is watched for late requests; longer than may pass."""
BUDGET_S = 170.0
"""For the shifts and rollbacks with one number of edges; what is not done then is left out, and the table says so."""


class Server:
    """Answers for both slots; `arrivals` are (seconds since 1970, slot)."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self.arrivals: list[tuple[float, str]] = []
        self._cluster = cluster
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        app = web.Application()
        app.router.add_get("/-/{name}", self._system)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, self._cluster.host, self._cluster.ports.serve).start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _system(self, _request: web.Request) -> web.Response:
        return web.json_response({f"/{ENDPOINT}-{slot}": slot for slot in ("blue", "green")})

    async def _answer(self, request: web.Request) -> web.Response:
        self.arrivals.append((time.time(), "green" if request.path.startswith(f"/{ENDPOINT}-green") else "blue"))
        return web.json_response({"ok": True}, headers={"x-model-version": "m:1"})


class Load:
    """`RATE` requests a second over all edges in turn, each on time whether the last was answered or not."""

    def __init__(self, urls: list[str]) -> None:
        self.num_answered = 0
        self.failures: list[str] = []
        self._urls = urls
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(30)

    async def _run(self) -> None:
        started, number = time.monotonic(), 0
        async with aiohttp.ClientSession() as session:
            calls: set[asyncio.Task[None]] = set()
            while not self._stopping.is_set():
                await asyncio.sleep(max(0.0, started + number / RATE - time.monotonic()))
                call = asyncio.create_task(self._call(session, self._urls[number % len(self._urls)]))
                calls.add(call)
                call.add_done_callback(calls.discard)
                number += 1
            await asyncio.gather(*calls)

    async def _call(self, session: aiohttp.ClientSession, url: str) -> None:
        try:
            async with session.post(url, data=b"{}") as response:
                await response.read()
                if response.status != 200:
                    self.failures.append(str(response.status))
        except aiohttp.ClientError as error:
            self.failures.append(repr(error))
        self.num_answered += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer shifts and rollbacks")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    arguments = parser.parse_args()
    num_shifts, num_rollbacks = (20, 6) if arguments.quick else (100, 100)
    measured = {}
    with tempfile.TemporaryDirectory(prefix="teal-rollout-") as home:
        for number in (1, NUM_EDGES):
            measured[number] = measure(Path(home) / str(number), number, num_shifts, num_rollbacks)
    print_table(measured)
    one, many = measured[1], measured[NUM_EDGES]
    figures = [
        Figure(name="ack_p99_s", value=_p99(many.ack_s), unit="s", target=1.0, op="<="),
        Figure(name="ack_one_edge_p99_s", value=_p99(one.ack_s), unit="s", target=1.0, op="<="),
        Figure(name="rollback_last_answer_p99_s", value=_p99(many.last_s), unit="s", target=1.0, op="<="),
        Figure(name="rollback_one_edge_last_answer_p99_s", value=_p99(one.last_s), unit="s", target=1.0, op="<="),
        Figure(
            name="failed_requests",
            value=len(one.failures) + len(many.failures),
            unit="requests",
            target=0,
            op="<=",
        ),
    ]
    raw = {f"edges_{number}": asdict(found) for number, found in measured.items()}
    return report("rollout", figures, raw, arguments.json)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """With one number of edges."""

    ack_s: list[float]
    """From each shift's commit until every edge acknowledged it."""
    last_s: list[float]
    """From each rollback's commit until the last request that reached the bad slot; 0 where none did."""
    failures: list[str]
    requests: int


def print_table(measured: dict[int, Measured]) -> None:
    heads = ("edges", "shifts", "ack p50", "ack p99", "rollbacks", "last p50", "last p99", "failed")
    print("  ".join(f"{head:>9}" for head in heads))
    for number, found in measured.items():
        seconds = [f"{value:.3f} s" for values in (found.ack_s, found.last_s) for value in (_p50(values), _p99(values))]
        failed = f"{len(found.failures)} of {found.requests}"
        cells = (number, len(found.ack_s), *seconds[:2], len(found.last_s), *seconds[2:], failed)
        print("  ".join(f"{cell:>9}" for cell in cells))


def measure(home: Path, num_edges: int, num_shifts: int, num_rollbacks: int) -> Measured:
    with edges(home, num_edges) as (store, urls, server):
        load = Load(urls)
        ends_at = time.monotonic() + BUDGET_S
        try:
            waited = measure_shifts(store, num_shifts)
            last = list(measure_rollbacks(store, server, num_rollbacks, ends_at))
        finally:
            load.close()
        return Measured(ack_s=waited, last_s=last, failures=load.failures, requests=load.num_answered)


def measure_shifts(store: RolloutStore, num_shifts: int) -> list[float]:
    """Seconds from each commit until every edge acknowledged it."""
    waited = []
    for number in range(num_shifts):
        state, _ = traffic.shift(store, ENDPOINT, 1000 + number % 2 * 1000, actor="bench")
        waited.append(traffic.wait_acknowledged(store, state, timeout_s=30))
    return waited


def measure_rollbacks(store: RolloutStore, server: Server, num_rollbacks: int, ends_at: float) -> Iterator[float]:
    for _ in range(num_rollbacks):
        if time.monotonic() > ends_at:
            return
        state, _ = traffic.shift(store, ENDPOINT, 5000, actor="bench")
        traffic.wait_acknowledged(store, state, timeout_s=30)
        time.sleep(0.1)
        state, _ = traffic.rollback(store, ENDPOINT, actor="bench")
        committed = time.time()
        traffic.wait_acknowledged(store, state, timeout_s=30)
        time.sleep(max(0.0, committed + WATCHED_S - time.time()))
        yield max([0.0, *(at - committed for at, slot in server.arrivals if slot == "green")])
        server.arrivals.clear()


@contextmanager
def edges(home: Path, number: int) -> Iterator[tuple[RolloutStore, list[str], Server]]:
    home.mkdir()
    os.environ["TEAL_HOME"] = str(home)
    config = compose([])
    ports = free_ports()
    config = replace(config, cluster=replace(config.cluster, ports=ports))
    store = RolloutStore(config.paths.control)
    store.create_schema()
    for version in (1, 2):
        model = ModelVersion(
            name="m",
            version=version,
            run_id="",
            bundle_uri="",
            bundle_sha256=f"sha{version}",
            lineage={},
            created_at="",
        )
        store.record_model_version(model)
        store.assign_slot(ENDPOINT, None, model, actor="bench")
    server = Server(config.cluster)
    clusters = [config.cluster] + [
        replace(config.cluster, ports=replace(free_ports(), serve=ports.serve)) for _ in range(number - 1)
    ]
    loops = [start_edge(config, cluster, home / f"edge{index}") for index, cluster in enumerate(clusters)]
    urls = [f"http://{cluster.host}:{cluster.ports.edge}/v1/models/{ENDPOINT}:predict" for cluster in clusters]
    try:
        asyncio.run(wait_answering(urls))
        yield store, urls, server
    finally:
        for loop in loops:
            loop.stop()
        server.close()
        store.close()


def start_edge(config: Config, cluster: ClusterConfig, directory: Path) -> EdgeLoop:
    loop = EdgeLoop(
        RolloutStore(config.paths.control),
        cluster,
        files=EdgeFiles(directory=directory / "edge"),
        secret=SECRET,
        serving=config.serving,
        edge=config.edge,
    )
    loop.start()
    problem = loop.status()["process_error"]
    if problem:
        raise SystemExit(f"an edge did not start: {problem}")
    return loop


async def wait_answering(urls: list[str]) -> None:
    """Until every edge has seen its backends healthy."""
    async with aiohttp.ClientSession() as session:
        for url in urls:
            while True:
                async with session.post(url, data=b"{}") as response:
                    if response.status == 200:
                        break
                await asyncio.sleep(0.1)


def _p50(values: list[float]) -> float:
    return float(np.median(values))


def _p99(values: list[float]) -> float:
    return float(np.quantile(values, 0.99))


if __name__ == "__main__":
    sys.exit(main())
