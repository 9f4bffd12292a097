"""A teal with everything on, for benchmarks: token, contract, payload log, counts; some peers on the same Ray."""

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.wrk import JSON, Contestant
from runtime.config.schema import Config
from runtime.config.serving import EdgeConfig
from runtime.core.errors import TealError
from runtime.store.records import ModelVersion

CANARY_SHARE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTeal:
    """A teal with everything on."""

    config: Config
    headers: Mapping[str, str]
    """With the token that every request needs."""

    def url(self, endpoint: str) -> str:
        return f"http://{self.config.cluster.host}:{self.config.cluster.ports.edge}/v1/models/{endpoint}:predict"

    def infer_url(self, endpoint: str) -> str:
        return f"http://{self.config.cluster.host}:{self.config.cluster.ports.edge}/v2/models/{endpoint}/infer"

    def ray_url(self, app: str) -> str:
        return f"http://{self.config.cluster.host}:{self.config.cluster.ports.serve}/{app}"

    def logged(self, endpoint: str) -> dict[str, int]:
        """Rows that the endpoint's replicas have logged, hold to be logged, and dropped, since they started."""
        from runtime.serving.edge_files import read_secret
        from runtime.serving.reconcile import probe
        from runtime.store.control import ControlStore

        secret = read_secret(self.config.paths.run)
        logs = [
            probe(f"http://{replica.host}:{replica.port}/v2/health/ready", secret)["payload"]
            for replica in ControlStore.of(self.config.paths).replicas(endpoint)
        ]
        return {name: sum(log[name] for log in logs) for name in ("written_rows", "buffered_rows", "dropped_rows")}

    def kept(self, endpoint: str) -> dict[str, int]:
        """Rows logged, and counted by the monitor. TealError if either was not done."""
        from runtime.monitoring.actor import monitor_status

        entries = monitor_status(self.config)["entries"]
        counted = sum(entry["rows"] for entry in entries if entry["endpoint"] == endpoint)
        kept = {"counted_rows": counted, **self.logged(endpoint)}
        if not (counted and kept["written_rows"]):
            raise TealError(f"teal was to count and to log what it answered, but kept {kept}")
        return kept


@dataclass(frozen=True, kw_only=True, slots=True)
class RayPeer:
    """A peer that runs on teal's own Ray."""

    app: str
    builder: str
    bundle_dir: Path


@contextlib.contextmanager
def teal_cluster(
    config: Config, endpoints: Mapping[str, ModelVersion], peers: Sequence[RayPeer]
) -> Iterator[RunningTeal]:
    """teal with both slots of each endpoint filled and a canary share, and beside it, on the same Ray, some peers."""
    from runtime.cluster import ray_process

    config = replace(config, serving=replace(config.serving, payload_flush_s=2.0), edge=EdgeConfig(require_token=True))
    ray_process.apply_environment(config)
    from runtime.cluster.token import read_token
    from runtime.governance.principals import issue_token
    from runtime.monitoring.actor import start_monitor
    from runtime.serving.edge_actor import start_edge
    from runtime.serving.reconcile import ServeClient, reconcile
    from runtime.store.control import ControlStore

    store = ControlStore.of(config.paths)
    store.create_schema()
    secret = issue_token(store, "caller", actor="benchmark", roles=["predict"]).secret
    try:
        ray_process.start(config)
        ray_process.connect(config)
        start_monitor(config)
        start_edge(config)
        for endpoint, model in endpoints.items():
            store.record_model_version(model)
            for _ in range(2):
                store.assign_slot(endpoint, None, model, actor="benchmark")
            store.set_share(endpoint, CANARY_SHARE, actor="benchmark")
        token = read_token(config.paths.run)
        reconcile(store, config, token=token)
        client = ServeClient(config.cluster, token)
        applications = [details["deployed_app_config"] for details in client.details()["applications"].values()]
        applications += [
            {
                "name": peer.app,
                "route_prefix": f"/{peer.app}",
                "import_path": f"benchmarks.serving_peers:build_{peer.builder}",
                "args": {"bundle_dir": str(peer.bundle_dir), "is_tuned": True},
            }
            for peer in peers
        ]
        client.apply(
            {
                "proxy_location": "EveryNode",
                "http_options": {"host": config.cluster.host, "port": config.cluster.ports.serve},
                "applications": applications,
            }
        )
        yield RunningTeal(config=config, headers=JSON | {"authorization": f"Bearer {secret}"})
    finally:
        ray_process.disconnect()
        ray_process.stop(config)


def wait_answer(contestant: Contestant, timeout_s: float = 120.0) -> None:
    """Until it gives a prediction. The peers with environments of their own have been waited for and compared."""
    deadline = time.monotonic() + timeout_s
    while True:
        request = urllib.request.Request(contestant.url, data=contestant.body, headers=dict(contestant.headers))
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                if json.load(response).keys() & {"predictions", "outputs"}:
                    return
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise TealError(f"{contestant.name} does not answer at {contestant.url}: {error}") from error
        time.sleep(0.2)


def check_refuses_strangers(contestant: Contestant) -> None:
    """TealError if a request without the token is answered."""
    request = urllib.request.Request(contestant.url, data=contestant.body, headers=dict(JSON))
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10).close()
        raise TealError(f"{contestant.name} answered without a token, so what it checks was not measured")
