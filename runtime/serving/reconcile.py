"""Makes Serve run what the store says: one whole Serve configuration, applied through the dashboard's REST.

Whole, because Serve deletes the applications that a configuration leaves out. Serve keeps the replicas of every
application whose part did not change.
"""

import fcntl
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runtime.config.cluster import ClusterConfig
from runtime.config.schema import Config
from runtime.config.serving import ServingConfig
from runtime.core.errors import ConflictError, TealError, UnreachableError
from runtime.core.files import write_atomic
from runtime.serving.autoscaling import deployment_options, least_replicas
from runtime.serving.edge_files import read_secret
from runtime.serving.edge_limits import limits_of
from runtime.serving.edge_shares import app_name
from runtime.serving.registration import count_ready
from runtime.store.control import ControlStore
from runtime.store.records import SLOTS, EndpointState, ModelVersion, Slot

IMPORT_PATH = "runtime.serving.replica:build_app"
REPLICA_SETTINGS = (
    "cpus_per_replica",
    "gpus_per_replica",
    "num_threads",
    "max_body_bytes",
    "max_rows_per_request",
    "payload_flush_s",
    "payload_fraction",
    "hash_pii",
    "max_batch_rows",
    "max_waiting_rows",
    "shadow_fraction",
)
"""Serving settings whose change replaces replicas."""
REST_TIMEOUT_S = 30.0
PROBE_TIMEOUT_S = 2.0
PROBE_INTERVAL_S = 0.1
PROBES_NEEDED = 3
"""Answers in a row from the wanted bundle: a replica that is being replaced may still give one."""
FAILED_STATUSES = ("DEPLOY_FAILED", "UNHEALTHY")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciled:
    """What is running now."""

    is_changed: bool
    """Whether Serve was given something new."""
    ready: tuple[str, ...]
    """Applications that answered through Ray's ingress."""
    duration_s: float


def reconcile(
    store: ControlStore,
    config: Config,
    *,
    token: str | None = None,
    capacity: Mapping[str, int] = MappingProxyType({}),
    keeps_settings: bool = False,
    is_awaited: bool = True,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> Reconciled:
    """Apply the store's desired state and wait until every filled slot of `config.serving.endpoint` answers.

    Where the store has no such endpoint, those of all endpoints are waited for.
    Idempotent; unchanged applications keep their replicas. TealError carries the replica's own reason if a slot does
    not come up; other applications are not touched by that. `token`: Ray's, where its authentication is on.
    `capacity`: application to the basis points that it must be able to carry beyond the share it has: raised before a
    share is, so that requests find replicas. `keeps_settings`: take the serving settings that each endpoint was last
    given, also that of `config`. `is_awaited`: False returns when Serve has the configuration.
    """
    started = time.monotonic()
    client = ServeClient(config.cluster, token)
    with _one_at_a_time(config):
        endpoints = store.endpoints()
        settings = _settings_of(config, endpoints, keeps=keeps_settings)
        store.set_edge_limits(limits_of(name, serving) for name, serving in settings.items())
        wanted = render_serve_config(endpoints, config, settings, capacity)
        before = client.details()
        is_changed = not _is_applied(wanted, before)
        if is_changed:
            on_progress("applying the Serve configuration")
            client.apply(wanted)
    awaited = [endpoint for endpoint in endpoints if endpoint.name == config.serving.endpoint] or endpoints
    ready = []
    for endpoint in awaited if is_awaited else ():
        for slot in SLOTS:
            model = endpoint.slot(slot).model
            if model is not None:
                app = app_name(endpoint.name, slot)
                deadline = started + config.serving.ready_timeout_s
                share = max(endpoint.slot_share(slot), capacity.get(app, 0))
                least = least_replicas(settings[endpoint.name], share)
                _wait_ready(client, config, app, model, deadline=deadline, on_progress=on_progress)
                _wait_registered(store, endpoint, slot, least=least, deadline=deadline)
                ready.append(app)
    return Reconciled(is_changed=is_changed, ready=tuple(ready), duration_s=time.monotonic() - started)


def render_serve_config(
    endpoints: Sequence[EndpointState],
    config: Config,
    settings: dict[str, ServingConfig],
    capacity: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Serve's declarative configuration: one application for every filled slot of every endpoint."""
    applications = []
    for endpoint in endpoints:
        for slot in SLOTS:
            model = endpoint.slot(slot).model
            if model is not None:
                share = max(endpoint.slot_share(slot), capacity.get(app_name(endpoint.name, slot), 0))
                serving = settings[endpoint.name]
                applications.append(_render_application(endpoint.name, slot, model, config, serving, share))
    return {
        "proxy_location": "EveryNode",
        "http_options": {
            "host": config.cluster.serve_host,
            "port": config.cluster.ports.serve,
            "keep_alive_timeout_s": 90,
        },
        "logging_config": {"enable_access_log": False},
        "applications": applications,
    }


def _render_application(
    endpoint: str, slot: Slot, model: ModelVersion, config: Config, serving: ServingConfig, share: int
) -> dict[str, Any]:
    app = app_name(endpoint, slot)
    values = {name: value for name, value in asdict(serving).items() if name in REPLICA_SETTINGS}
    return {
        "name": app,
        "route_prefix": f"/{app}",
        "import_path": IMPORT_PATH,
        "deployments": [deployment_options(serving, share)],
        "args": {
            **values,
            "endpoint": endpoint,
            "slot": slot,
            "app": app,
            "model_name": model.name,
            "model_version": model.version,
            "bundle_dir": model.bundle_uri,
            "bundle_sha256": model.bundle_sha256,
            "data_version": str(model.lineage.get("data_version", "")),
            "payload": config.paths.payload,
            "run": str(Path(config.paths.run).absolute()),
            "push_interval_s": config.monitoring.push_interval_s,
            "control": config.paths.control,
            "cluster_host": config.cluster.address or config.cluster.host,
            "listen_ports": [config.cluster.ports.listener_min, config.cluster.ports.listener_max],
        },
    }


def read_settings(config: Config, endpoint: str) -> ServingConfig:
    """The serving settings that this endpoint was last given."""
    path = _settings_path(config, endpoint)
    if path.exists():
        return ServingConfig(**json.loads(path.read_text()))
    return config.serving if config.serving.endpoint == endpoint else ServingConfig(endpoint=endpoint)


def _settings_of(
    config: Config, endpoints: Sequence[EndpointState], *, keeps: bool = False
) -> dict[str, ServingConfig]:
    """Each endpoint's serving settings: the given ones for its own endpoint, those last used for the others."""
    own = config.serving
    if keeps:
        own = read_settings(config, own.endpoint)
    write_atomic(_settings_path(config, own.endpoint), json.dumps(asdict(own)))
    settings = {own.endpoint: own}
    return settings | {one.name: read_settings(config, one.name) for one in endpoints if one.name not in settings}


def _settings_path(config: Config, endpoint: str) -> Path:
    return Path(config.paths.run) / "serving" / f"{endpoint}.json"


@contextmanager
def _one_at_a_time(config: Config) -> Iterator[None]:
    """Whoever renders a configuration applies it before another reads what the next one is rendered from."""
    path = Path(config.paths.run) / "serving" / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_applied(wanted: dict[str, Any], details: dict[str, Any]) -> bool:
    """Whether Serve already has exactly these applications, none of them failed."""
    running = details.get("applications", {})
    if running.keys() != {application["name"] for application in wanted["applications"]}:
        return False
    for application in wanted["applications"]:
        found = running[application["name"]]
        deployed = found.get("deployed_app_config") or {}
        if found.get("status") in FAILED_STATUSES:
            return False
        if any(deployed.get(key) != value for key, value in application.items()):
            return False
    return True


def _wait_ready(
    client: "ServeClient",
    config: Config,
    app: str,
    model: ModelVersion,
    *,
    deadline: float,
    on_progress: Callable[[str], None],
) -> None:
    secret = read_secret(config.paths.run)
    url = f"http://{config.cluster.host}:{config.cluster.ports.serve}/{app}/v2/health/ready"
    answered = 0
    status = None
    while True:
        state = probe(url, secret)
        answered = answered + 1 if state.get("bundle_sha256") == model.bundle_sha256 else 0
        found = client.details().get("applications", {}).get(app, {})
        if found.get("status") != status:
            status = found.get("status")
            on_progress(f"{app}: {status.lower() if status else 'waiting for Serve'}")
        if status in FAILED_STATUSES:
            raise TealError(f"{model.label} does not come up in {app}: {_reason(found)}")
        if answered >= PROBES_NEEDED and status == "RUNNING":
            return
        if time.monotonic() > deadline:
            raise TealError(
                f"{model.label} is not ready in {app} after {config.serving.ready_timeout_s:g} s (Serve says "
                f"{status}: {_reason(found)}); {_wants(found)}look at the replica's log or raise "
                "serving.ready_timeout_s"
            )
        time.sleep(PROBE_INTERVAL_S)


def _wants(application: dict[str, Any]) -> str:
    """What replicas need that do not even run yet: nobody has it, or it is taken."""
    for deployment in application.get("deployments", {}).values():
        waiting = [
            one for one in deployment.get("replicas", []) if one.get("state") == "STARTING" and not one.get("pid")
        ]
        if waiting:
            wanted = ", ".join(
                f"{amount:g} {name}" for name, amount in deployment["required_resources"].items() if amount
            )
            return f"{len(waiting)} replicas wait for a node with {wanted} free: see `ray status`, `teal doctor`; "
    return ""


def _wait_registered(store: ControlStore, endpoint: EndpointState, slot: Slot, *, least: int, deadline: float) -> None:
    """Until edges can send straight to as many replicas as the slot must have."""
    while (num_ready := count_ready(store.replicas(endpoint.name), endpoint, slot, time.time())) < least:
        if time.monotonic() > deadline:
            raise TealError(
                f"{num_ready} of {least} replicas are ready in {app_name(endpoint.name, slot)}; see `ray status` for "
                "what they wait for, or raise serving.ready_timeout_s"
            )
        time.sleep(PROBE_INTERVAL_S)


def probe(url: str, secret: str) -> dict[str, Any]:
    """What a replica says of itself, through Ray's ingress; empty if it does not answer."""
    request = urllib.request.Request(url, headers={"x-teal-edge": secret})
    try:
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S) as response:
            state = json.load(response)
    except (OSError, ValueError, HTTPException):
        # What answers may be no HTTP: a port that a replica has left may be another one's, for gRPC.
        return {}
    return state if isinstance(state, dict) else {}


def _reason(application: dict[str, Any]) -> str:
    """The last line of what the replica's failure says, which names the exception; else Serve's message."""
    messages = [deployment.get("message", "") for deployment in application.get("deployments", {}).values()] + [
        application.get("message", "")
    ]
    text = next((message for message in messages if message.strip()), "Serve gives no reason")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.partition(":")[0]]
    return errors[-1] if errors else " ".join(lines)[-500:]


class ServeClient:
    """The few calls of the dashboard's Serve REST that are needed."""

    def __init__(self, cluster: ClusterConfig, token: str | None) -> None:
        self._url = f"http://{cluster.host}:{cluster.ports.dashboard}/api/serve/applications/"
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    def details(self) -> dict[str, Any]:
        """Serve's applications with their status and configuration; empty where Serve is not running."""
        value: dict[str, Any] = json.loads(self._call("GET") or b"{}")
        return value

    def apply(self, serve_config: dict[str, Any]) -> None:
        self._call("PUT", json.dumps(serve_config).encode())

    def _call(self, method: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self._url, data=body, method=method, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=REST_TIMEOUT_S) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[-1000:]
            if error.code in (401, 403):
                raise UnreachableError(f"Ray at {self._url} refuses the token: {text}; run `teal up` again") from error
            if error.code == 409:
                raise ConflictError(f"Serve refuses the configuration: {text}") from error
            raise TealError(f"Serve answers {error.code} to {method} {self._url}: {text}") from error
        except OSError as error:
            raise UnreachableError(f"Ray's dashboard {self._url} does not answer: {error}; run `teal up`") from error
