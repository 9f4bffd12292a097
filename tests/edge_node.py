"""One node of several without Ray: its edge, and a replica of each slot that says who it is.

`python -m tests.edge_node HOME ADDRESS`; prints a line once both slots can be asked.
"""

import asyncio
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from runtime.cluster.nodes import Node
from runtime.config.cluster import ClusterConfig
from runtime.config.schema import Config
from runtime.serving.edge_loop import EdgeLoop
from runtime.serving.edge_nodes import edge_id_of, edge_on, files_on, serve_hosts_on
from runtime.serving.listener import Listener, bind_in_range
from runtime.serving.registration import Registration
from runtime.store.control import ControlStore
from runtime.store.records import SLOTS, ModelVersion, Replica
from tests.cluster_config import cluster_config

HEAD = "10.231.77.1"
SECRET = "secret-of-the-edges-in-this-test"
MODEL = ModelVersion(name="m", version=1, run_id="", bundle_uri="", bundle_sha256="x", lineage={}, created_at="")


def config_of(home: Path) -> Config:
    """The same on every node, as `teal up` on the head would give it. All ports are free in a new network."""
    return replace(cluster_config(home), cluster=ClusterConfig(address=HEAD, edge_poll_s=0.05))


def node_at(address: str) -> Node:
    return Node(node_id=f"node-{address}", address=address, is_head=address == HEAD, is_alive=True)


class Who:
    """A replica's application with nothing behind it but its name."""

    def __init__(self, name: str) -> None:
        self._body = json.dumps({"by": name}).encode()

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self._body)),
            (b"x-model-version", b"m:1"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


async def main(home: Path, address: str) -> None:
    config, node = config_of(home), node_at(address)
    store, ports = ControlStore(config.paths.control), config.cluster.ports
    registrations = []
    for slot in SLOTS:
        listener = Listener(Who(address), bind_in_range(address, ports.listener_min, ports.listener_max))
        await listener.start()
        replica = Replica(
            replica_id=f"{address} {slot}",
            endpoint="e",
            slot=slot,
            host=listener.host,
            port=listener.port,
            grpc_port=None,
            bundle_sha256=MODEL.bundle_sha256,
            state="ready",
            at=time.time(),
        )
        registrations.append(Registration(store, replica, beat_s=1.0))
        registrations[-1].start()
    loop = EdgeLoop(
        store,
        config.cluster,
        files=files_on(config.paths, node),
        secret=SECRET,
        serving=config.serving,
        edge=edge_on(config.edge, node),
        edge_id=edge_id_of(config.cluster, address),
        serve_hosts=serve_hosts_on(config.cluster, node),
    )
    await asyncio.to_thread(loop.start)
    print(loop.status(), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), sys.argv[2]))
