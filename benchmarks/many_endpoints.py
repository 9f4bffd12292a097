"""An edge with many endpoints and nothing slow behind it: a store, its edge in a process of its own, and stand-ins.

The configuration that HAProxy holds is the true one, with both slots of each endpoint, a principal for each and limits
of its own. Behind it HAProxies answer at once for Ray's ingress and for every replica, each of which has an address of
its own in 127/8: so replicas cost what they cost the edge, and hardly anything else.
"""

import contextlib
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.process_memory import read_memory
from runtime.config.schema import Config
from runtime.config.serving import EdgeConfig
from runtime.core.errors import TealError
from runtime.governance.principals import issue_token
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_limits import limits_of
from runtime.serving.edge_loop import EdgeLoop
from runtime.serving.edge_process import EdgeProcess, haproxy_binary
from runtime.serving.edge_shares import app_name
from runtime.store.records import SLOTS, ModelVersion, Replica
from runtime.store.rollouts import RolloutStore
from tests.serving_example import example_config
from tests.waiting import wait_until

SECRET = "secret-of-the-benchmark-edges"
SHARE = 1000
ANSWER = '{"predictions":[{"score":0.5}]}'
FAR_S = 86400.0
"""The replicas' signs of life are so far ahead that nobody must repeat them."""
START_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ManyEndpoints:
    """One edge that runs, and its store."""

    config: Config
    store: RolloutStore
    token: str
    """Of somebody who may ask the first endpoint, so many times a second."""
    loop_pid: int

    @property
    def files(self) -> EdgeFiles:
        return EdgeFiles.of(self.config.paths)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config.cluster.ports.edge}/v1/models/{endpoint_name(0)}:predict"

    def process(self) -> EdgeProcess:
        return EdgeProcess(self.files, address=("127.0.0.1", self.config.cluster.ports.edge))

    def worker(self) -> int:
        """Pid of HAProxy's worker."""
        return self.process().workers()[0][0]

    def memory_bytes(self) -> int:
        memory = read_memory(self.worker())
        if memory is None:
            raise TealError("the edge's HAProxy is gone")
        return memory.rss


def endpoint_name(number: int) -> str:
    return f"e{number:03d}"


def replica_host(number: int, slot: int) -> str:
    """An address of this machine's own that no other replica has."""
    return f"127.{20 + slot}.{number // 200}.{1 + number % 200}"


def cpu_s(pid: int) -> float:
    """What all threads of a process have computed since it began."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


@contextlib.contextmanager
def many_endpoints(home: Path, number: int) -> Iterator[ManyEndpoints]:
    """Everything up, and every replica known to the edge as one that answers."""
    home.mkdir(parents=True)
    config = replace(example_config(home, endpoint=endpoint_name(0)), edge=EdgeConfig(require_token=True))
    config = replace(config, serving=replace(config.serving, max_replicas=1))
    store = RolloutStore.of(config.paths)
    store.create_schema()
    token = fill(store, config, number)
    context = multiprocessing.get_context("spawn")
    loop = context.Process(target=run_edge, args=(config,), daemon=True)
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        stack.enter_context(stand_ins(home / "stand-ins", config, number + 1))
        loop.start()
        stack.callback(EdgeProcess(EdgeFiles.of(config.paths), address=("", 0)).stop)
        stack.callback(end, loop)
        assert loop.pid is not None
        up = ManyEndpoints(config=config, store=store, token=token, loop_pid=loop.pid)
        wait_until(lambda: num_up(up) >= 4 * number, timeout_s=START_TIMEOUT_S)
        yield up


def fill(store: RolloutStore, config: Config, number: int) -> str:
    """So many endpoints, each with two versions, a share, limits and a principal who may ask it and nothing else."""
    with store.transaction():
        tokens = [add_endpoint(store, config, index) for index in range(number)]
    return tokens[0]


def add_endpoint(store: RolloutStore, config: Config, index: int) -> str:
    """The token of its principal."""
    name, ports = endpoint_name(index), config.cluster.ports
    for version, slot in enumerate(SLOTS, start=1):
        model = ModelVersion(
            name=name,
            version=version,
            run_id="",
            bundle_uri="",
            bundle_sha256=f"sha-{name}-{version}",
            lineage={},
            created_at="",
        )
        store.record_model_version(model)
        store.assign_slot(name, slot, model, actor="benchmark")
        replica = Replica(
            replica_id=app_name(name, slot),
            endpoint=name,
            slot=slot,
            host=replica_host(index, version),
            port=ports.listener_min,
            grpc_port=ports.listener_min + 1,
            bundle_sha256=model.bundle_sha256,
            state="ready",
            at=time.time() + FAR_S,
        )
        store.register_replica(replica)
    store.set_share(name, SHARE, actor="benchmark")
    store.set_edge_limits([limits_of(name, replace(config.serving, endpoint=name))])
    return issue_token(
        store, f"caller-{name}", actor="benchmark", roles=["predict"], endpoints=[name], rate=100_000
    ).secret


def run_edge(config: Config) -> None:
    """The edge's loop until SIGTERM, as its actor runs it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Blocked before there is another thread, which it would end the process by.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    loop = EdgeLoop(
        RolloutStore(config.paths.control),
        config.cluster,
        files=EdgeFiles.of(config.paths),
        secret=SECRET,
        serving=config.serving,
        edge=config.edge,
    )
    loop.start()
    problem = loop.status()["process_error"]
    if problem:
        print(f"an edge did not start: {problem}", file=sys.stderr)
    signal.sigwait([signal.SIGTERM])
    loop.stop()


def end(loop: Any) -> None:
    loop.terminate()
    loop.join(30)
    if loop.is_alive():
        loop.kill()


def num_up(edge: ManyEndpoints) -> int:
    """Replicas that answer checks, by HTTP and gRPC each."""
    with contextlib.suppress(OSError, IndexError):
        text = edge.process().command(f"@!{edge.worker()} show stat -1 4 -1")
        rows = (line.split(",") for line in text.splitlines())
        return sum(row[1].startswith("replica") and row[17] == "UP" for row in rows if len(row) > 17)
    return 0


@contextlib.contextmanager
def stand_ins(directory: Path, config: Config, number: int) -> Iterator[None]:
    """Two HAProxies: one for the replicas of the endpoint that is asked, one for Ray's ingress and all other replicas.

    Apart, as checks of other endpoints' replicas do not keep this one's busy.
    """
    directory.mkdir()
    ports = config.cluster.ports
    body = directory / "routes.json"
    routes = (f'"/{app_name(endpoint_name(index), slot)}":"x"' for index in range(number) for slot in SLOTS)
    body.write_text("{" + ",".join(routes) + "}")
    ingress = f"""frontend ingress
    bind 127.0.0.1:{ports.serve},127.0.0.1:{ports.serve_fallback}
    http-request return status 200 content-type application/json file {body}
"""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_haproxy(directory / "asked", _render_replicas(config, range(1))))
        rest = _render_replicas(config, range(1, number))
        stack.enter_context(_haproxy(directory / "rest", ingress + rest))
        yield


def _render_replicas(config: Config, numbers: range) -> str:
    port = config.cluster.ports.listener_min
    hosts = [replica_host(index, slot) for index in numbers for slot in (1, 2)]
    http, grpc = (",".join(f"{host}:{port + offset}" for host in hosts) for offset in (0, 1))
    return f"""frontend replicas
    bind {http}
    bind {grpc} proto h2
    http-request return status 200 content-type application/json hdr x-model-version m:1 string '{ANSWER}'
"""


@contextlib.contextmanager
def _haproxy(path: Path, frontends: str) -> Iterator[None]:
    path.write_text(f"""global
    maxconn 4000
    nbthread 1
    tune.bufsize 131072
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 1s
{frontends}""")
    with path.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [haproxy_binary(), "-db", "-f", str(path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
