"""A real edge in front of a real replica, each a process, without Ray: for tests and benchmarks of what callers see."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import Request, urlopen

from runtime.models.bundle import Bundle, load_bundle
from runtime.serving.edge_files import EdgeFiles, ensure_secret
from runtime.serving.edge_loop import EdgeLoop
from runtime.store.control import ControlStore
from tests.serving_example import example_config, example_model_version
from tests.slot_process import ENDPOINT
from tests.waiting import wait_until

PREDICT = f"/v1/models/{ENDPOINT}:predict"
FEEDBACK = f"/v1/models/{ENDPOINT}:feedback"
INFER = f"/v2/models/{ENDPOINT}/infer"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Where to ask, and who answers."""

    host: str
    port: int
    grpc_port: int
    bundle: Bundle
    store: ControlStore
    loop: EdgeLoop
    replica: "subprocess.Popen[str]"
    log: Path
    """What the replica's process said."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def pids(self) -> dict[str, int | None]:
        """Of every process that a request passes; None for a replica that is dead."""
        (worker,), _ = self.loop._process.workers()
        alive = self.replica.poll() is None
        return {"master": self.loop._process.find(), "edge": worker, "replica": self.replica.pid if alive else None}


@contextmanager
def running_slot(home: Path, *, max_rows: int = 64, max_body_bytes: int = 64 * 1024) -> Iterator[Slot]:
    """Endpoint `example` with one replica in slot blue, which gets everything."""
    config = example_config(home)
    config = replace(
        config,
        serving=replace(config.serving, max_body_bytes=max_body_bytes, max_rows_per_request=max_rows),
        cluster=replace(config.cluster, edge_poll_s=0.05),
    )
    model = example_model_version(home / "bundle")
    store = ControlStore(config.paths.control)
    store.create_schema()
    store.record_model_version(model)
    store.assign_slot(ENDPOINT, None, model, actor="test")
    Path(config.paths.run).mkdir(parents=True, exist_ok=True)
    secret = ensure_secret(config.paths)
    loop = EdgeLoop(
        store,
        config.cluster,
        files=EdgeFiles.of(config.paths),
        secret=secret,
        serving=config.serving,
        edge=config.edge,
    )
    ports = config.cluster.ports
    command = [sys.executable, "-m", "tests.slot_process", str(home)]
    command += [str(number) for number in (max_rows, max_body_bytes, ports.listener_min, ports.listener_max)]
    log = home / "replica.log"
    with log.open("w") as messages:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, text=True, cwd=Path.cwd()
        )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the replica did not start: {log.read_text()[-2000:]}")
        loop.start()
        if (error := loop.status()["process_error"]) is not None:
            raise RuntimeError(f"the edge did not start: {error}")
        slot = Slot(
            host=config.cluster.host,
            port=ports.edge,
            grpc_port=ports.edge_grpc,
            bundle=load_bundle(home / "bundle"),
            store=store,
            loop=loop,
            replica=process,
            log=log,
        )
        wait_until(lambda: _is_ready(slot), timeout_s=START_TIMEOUT_S)
        yield slot
    finally:
        loop.stop()
        process.communicate(timeout=STOP_TIMEOUT_S) if process.poll() is None else process.wait()


def _is_ready(slot: Slot) -> bool:
    try:
        with urlopen(Request(f"{slot.url}/v2/models/{ENDPOINT}/ready"), timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
