"""A whole node lost under load: two Ray nodes, each in a network namespace of its own, an edge and replicas on both.

Needs root. The second node is started by the very command of cluster.yaml, in a namespace of processes, and ended by
SIGKILL of its init, which takes everything on it along in one moment. `python -m benchmarks.nodes --out nodes.json`.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from runtime.config.cluster import ClusterConfig
from runtime.config.schema import Config
from runtime.core.errors import TealError
from tests.namespaces import Machine, two_machines
from tests.serving_example import example_config, example_model_version, example_row
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
ENDPOINT = "example"
BODY = json.dumps({"instances": [example_row()]}).encode()
MOUNTS = "mount -t proc proc /proc && mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /dev/shm"
INIT = f"{MOUNTS} && {{start}} && exec sleep 600"
"""What a host has of its own beside its network; `{start}` is the command that joins."""


class Load:
    """An open loop of predictions on one machine's edge."""

    def __init__(self, machine: Machine, port: int, *, per_s: int, callers: int = 8) -> None:
        self.answers: list[tuple[float, int | str, float]] = []
        """When it was asked, status or error, seconds until the answer."""
        self._port, self._interval_s, self._callers = port, callers / per_s, callers
        self._stop = threading.Event()
        self._begin = time.monotonic()
        self._running = [machine.start(lambda number=number: self._call(number)) for number in range(callers)]  # type: ignore[misc]

    def _call(self, number: int) -> None:
        due = self._begin + number * self._interval_s / self._callers
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            asked = time.monotonic()
            try:
                headers = {"content-type": "application/json"}
                connection.request("POST", f"/v1/models/{ENDPOINT}:predict", BODY, headers)
                response = connection.getresponse()
                response.read()
                status: int | str = response.status
            except (OSError, http.client.HTTPException) as error:
                status = repr(error)
                connection.close()
            self.answers.append((asked, status, time.monotonic() - due))
            due += self._interval_s

    def stop(self) -> list[tuple[float, int | str, float]]:
        self._stop.set()
        for caller in self._running:
            caller.result(30)
        return self.answers


def config_of(home: Path, head: Machine) -> Config:
    config = example_config(home)
    serving = replace(
        config.serving, min_replicas=2, max_replicas=2, least_replicas=2, idle_replicas=2, ready_timeout_s=180.0
    )
    return replace(config, serving=serving, cluster=ClusterConfig(address=head.address, num_cpus=4))


@contextlib.contextmanager
def joined(config: Config, head: Machine, worker: Machine) -> Iterator[Callable[[], None]]:
    """The second node; gives what kills it. It has what cluster.yaml gives a worker."""
    content = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    (line,) = (line for line in content["worker_start_ray_commands"] if "ray start" in line)
    run = Path(config.paths.run).absolute()
    line = line.replace("/home/teal/.teal/run", str(run)).replace("/home/teal/.teal", config.paths.home)
    start = f"{line} --node-ip-address={worker.address} --num-cpus=4 --object-store-memory={128 << 20}"
    environment = os.environ | {
        "RAY_HEAD_IP": head.address,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    host = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c", INIT.format(start=start)]
    with (Path(config.paths.home) / "worker.log").open("wb") as log:
        process = subprocess.Popen(worker.command(*host), env=environment, stdout=log, stderr=log)

    def kill() -> None:
        process.send_signal(signal.SIGKILL)
        process.wait(20)

    try:
        yield kill
    finally:
        kill()


def measure(config: Config, head: Machine, worker: Machine, *, per_s: int, seconds: float) -> dict[str, Any]:
    from runtime.cluster import ray_process

    ray_process.apply_environment(config)
    from runtime.cluster.ray_nodes import list_nodes
    from runtime.cluster.token import read_token
    from runtime.data.delta import read_table
    from runtime.monitoring.actor import start_monitor
    from runtime.rollout import traffic
    from runtime.rollout.actor import read_totals
    from runtime.serving.edge_actor import start_edge
    from runtime.serving.edge_fleet import edges_status, read_all_lives
    from runtime.serving.edge_nodes import edge_id_of
    from runtime.serving.payload import payload_uri
    from runtime.serving.reconcile import reconcile
    from runtime.store.rollouts import RolloutStore

    figures: dict[str, Any] = {}
    store = RolloutStore.of(config.paths)
    store.create_schema()
    ray_process.start(config)
    ray_process.connect(config)
    start_monitor(config)
    start_edge(config)
    for version in (1, 2):
        model = replace(example_model_version(Path(config.paths.home) / f"v{version}", version=version), name="example")
        store.record_model_version(model)
        store.assign_slot(ENDPOINT, None, model, actor="benchmark")
    store.set_share(ENDPOINT, 3000, actor="benchmark")
    began = time.monotonic()
    with joined(config, head, worker) as kill:
        wait_until(lambda: len([node for node in list_nodes() if node.is_alive]) == 2, timeout_s=60)
        figures["node_joined_s"] = time.monotonic() - began
        ids = [edge_id_of(config.cluster, machine.address) for machine in (head, worker)]

        def live() -> dict[str, int]:
            return store.acknowledged(ENDPOINT, alive_since=time.time() - traffic.EDGE_ALIVE_S)

        wait_until(lambda: live().keys() == set(ids), timeout_s=60)
        figures["edge_on_it_s"] = time.monotonic() - began
        reconcile(store, config, token=read_token(config.paths.run))
        figures["replicas"] = {
            slot: sorted(replica.host for replica in store.replicas(ENDPOINT) if replica.slot == slot)
            for slot in ("blue", "green")
        }
        loads = [Load(machine, config.cluster.ports.edge, per_s=per_s) for machine in (head, worker)]
        wait_until(lambda: all(len(load.answers) > per_s * seconds / 2 for load in loads), timeout_s=60)
        acknowledged = []
        for share in (1000, 5000, 3000):
            moved, _ = traffic.shift(store, ENDPOINT, share, actor="benchmark")
            acknowledged.append(traffic.wait_acknowledged(store, moved))
        figures["both_acknowledged_s"] = max(acknowledged)
        apps = [f"{ENDPOINT}-{slot}" for slot in ("blue", "green")]
        lives = read_all_lives(config, ids, apps)
        figures["counted"] = {life.name: sum(life.apps[app]["requests"][0] for app in apps) for life in lives}
        figures["status_before"] = edges_status(config, store.edge_signs(), time.time())
        killed_at = time.monotonic()
        kill()
        moved, _ = traffic.shift(store, ENDPOINT, 2000, actor="benchmark")
        with contextlib.suppress(TealError):
            traffic.wait_acknowledged(store, moved, timeout_s=30)
        figures["acknowledged_after_loss_s"] = time.monotonic() - killed_at
        end = killed_at + seconds
        wait_until(lambda: time.monotonic() > end, timeout_s=seconds + 10)
        figures["status_after"] = edges_status(config, store.edge_signs(), time.time())
        answers, lost = loads[0].stop(), loads[1].stop()
    answered = sum(status == 200 for _, status, _ in (*answers, *lost))
    # What living replicas still hold is pushed and written by then.
    pushed_s = config.monitoring.push_interval_s + config.serving.payload_flush_s + 3.0
    threading.Event().wait(pushed_s)
    counted = sum(entry["requests"] for entry in read_totals(ENDPOINT, config.monitoring.num_shards))
    rows = read_table(payload_uri(config.paths.payload, ENDPOINT), None).num_rows
    figures |= {"answered": answered, "monitor_lost": answered - counted, "payload_lost": answered - rows}
    after = [answer for answer in answers if answer[0] >= killed_at - 0.5]
    figures |= {
        "requests": len(answers),
        "failed": sum(status != 200 for _, status, _ in answers),
        "requests_after_loss": len(after),
        "slowest_after_loss_s": max(taken for _, _, taken in after),
        "failed_at_the_lost_edge_before": sum(
            status != 200 for asked, status, taken in lost if asked + taken < killed_at - 0.1
        ),
        "statuses": {str(status): sum(s == status for _, s, _ in answers) for status in {s for _, s, _ in answers}},
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--per-s", type=int, default=100, help="requests a second at each edge")
    parser.add_argument("--seconds", type=float, default=20, help="of load after the loss, and half as long before")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="teal-nodes-", dir="/var/tmp"))
    with two_machines(f"bench{os.getpid()}") as (head, worker):
        head.enter()
        config = config_of(home, head)
        from runtime.cluster import ray_process
        from runtime.serving.edge_actor import stop_edge

        try:
            figures = measure(config, head, worker, per_s=arguments.per_s, seconds=arguments.seconds)
        finally:
            stop_edge(config)
            ray_process.disconnect()
            ray_process.stop(config)
    text = json.dumps(figures, indent=2, sort_keys=True)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
