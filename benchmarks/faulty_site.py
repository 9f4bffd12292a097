"""A running teal as faults see it: its processes, found by what they carry, and the states that say all is well.

Processes are sought below the one teal that the caller started, so that nobody else's can be hit.
"""

import http.client
import re
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.running_teal import RunningTeal
from runtime.cluster.places import ClusterPlaces
from runtime.cluster.processes import Process, find_processes
from runtime.cluster.token import read_token
from runtime.config.schema import Config
from runtime.core.errors import TealError
from runtime.serving.edge_files import EdgeFiles, read_secret
from runtime.serving.edge_process import EdgeProcess
from runtime.serving.edge_servers import PLACE
from runtime.serving.edge_shares import app_name
from runtime.serving.reconcile import ServeClient, probe
from runtime.store.records import SLOTS, ModelVersion, Slot
from runtime.store.rollouts import RolloutStore

ONE = "example"
"""The endpoint with one replica a slot, whose canary has a tenth of the traffic."""
PAIR = "pair"
"""The endpoint with two replicas in its only slot."""
BACK_TIMEOUT_S = 90.0
LOOK_S = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What the faults act on."""

    teal: RunningTeal
    store: RolloutStore
    models: tuple[ModelVersion, ...]
    """For the idle slot of `ONE`, in turn."""
    body: bytes

    @property
    def config(self) -> Config:
        return self.teal.config

    def serve(self) -> ServeClient:
        return ServeClient(self.config.cluster, read_token(self.config.paths.run))

    def processes(self, title: str) -> list[Process]:
        """Those of the cluster whose command begins so."""
        found = find_processes(ClusterPlaces.of(self.config).temp)
        return [process for process in found if process.command.startswith(title)]

    def serve_proxies(self) -> list[Process]:
        """Ray's HAProxy. The edge's has its configuration elsewhere."""
        return [
            process
            for process in self.processes("")
            if f"-f {ClusterPlaces.of(self.config).haproxy}/" in process.command
        ]

    def edge_process(self) -> EdgeProcess:
        cluster = self.config.cluster
        return EdgeProcess(EdgeFiles.of(self.config.paths), address=(cluster.host, cluster.ports.edge))

    def replicas(self, endpoint: str, slot: Slot) -> dict[str, int]:
        """Address to pid of those that run what the slot should, registered and answering."""
        model = self.store.endpoint(endpoint).slot(slot).model
        secret = read_secret(self.config.paths.run)
        found = {}
        for row in self.store.replicas(endpoint):
            if model is not None and (row.slot, row.bundle_sha256, row.state) == (slot, model.bundle_sha256, "ready"):
                state = probe(f"http://{row.host}:{row.port}/v2/health/ready", secret)
                if state.get("bundle_sha256") == row.bundle_sha256:
                    found[f"{row.host}:{row.port}"] = int(state["pid"])
        return found

    def num_up(self, app: str) -> int:
        """Replicas of the slot that the edge sends to."""
        cluster = self.config.cluster
        url = f"http://{cluster.host}:{cluster.ports.edge}/-/metrics?scope=server&no-maint"
        with urllib.request.urlopen(url, timeout=5) as response:
            text = response.read().decode()
        is_up = rf'haproxy_server_status{{proxy="{app}",server="{PLACE}\d+",state="UP"}} 1'
        return len(re.findall(is_up, text))

    def answers(self) -> bool:
        """Whether a prediction is answered, over a connection of its own."""
        parts = urlsplit(self.teal.url(ONE))
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
        try:
            connection.request("POST", parts.path, self.body, dict(self.teal.headers))
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def is_whole(self) -> bool:
        """Whether all that serves is there, and the edge sends to it."""
        slots: list[tuple[str, Slot, int]] = [(ONE, slot, 1) for slot in SLOTS]
        slots.append((PAIR, "blue", 2))
        return (
            self.are_applications_running()
            and self.routes() >= {app_name(endpoint, slot) for endpoint, slot, _ in slots}
            and all(
                len(self.replicas(endpoint, slot)) == number == self.num_up(app_name(endpoint, slot))
                for endpoint, slot, number in slots
            )
        )

    def are_applications_running(self) -> bool:
        try:
            applications = self.serve().details().get("applications", {})
        except TealError:
            return False
        return bool(applications) and all(one["status"] == "RUNNING" for one in applications.values())

    def routes(self) -> set[str]:
        """The applications to which Ray's HAProxy has a way."""
        cluster = self.config.cluster
        found = probe(f"http://{cluster.host}:{cluster.ports.serve}/-/routes", read_secret(self.config.paths.run))
        return {str(app) for app in found.values()}


def await_state(is_reached: Callable[[], bool], what: str) -> None:
    """TealError if it takes too long."""
    deadline = time.monotonic() + BACK_TIMEOUT_S
    while not is_reached():
        if time.monotonic() > deadline:
            raise TealError(f"{what}: not after {BACK_TIMEOUT_S:g} s")
        time.sleep(LOOK_S)
