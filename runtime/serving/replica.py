"""A slot as a Serve application: what runs in each replica process.

Arguments are plain JSON because the Serve configuration carries them; a change of any replaces the slot's replicas.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import ray
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from ray import serve
from ray.serve.config import BackpressureConfig

from runtime.core.memory import keep_memory
from runtime.serving.autoscaling import DEPLOYMENT, ONGOING
from runtime.serving.counters import Delta, Pusher
from runtime.serving.delta_log import DeltaLog
from runtime.serving.edge_files import read_pii_key, read_secret
from runtime.serving.grpc_listener import GrpcListener
from runtime.serving.interpreter import settle_garbage, share_turns
from runtime.serving.listener import Listener, bind_in_range
from runtime.serving.payload import Answer, Feedback, PayloadTable, build_feedback, feedback_uri, payload_uri
from runtime.serving.registration import Registration
from runtime.serving.service import Limits, SlotIdentity, SlotService
from runtime.serving.shadow import Asked, Difference, Shadow, build_differences, shadow_uri
from runtime.serving.shadow_target import ShadowTarget
from runtime.store.records import Replica, Slot
from runtime.store.rollouts import RolloutStore
from runtime.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

MONITOR_NAME = "teal-monitor"
NAMESPACE = "teal"
SEND_TIMEOUT_S = 5.0
TAKE_TIMEOUT_S = 5.0
DRAIN_S = 1.0
"""From the word that nothing new is wanted until the port closes: some polls of the edge."""
STOP_GRACE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class ReplicaArguments:
    """Everything a replica is built from."""

    endpoint: str
    slot: Slot
    app: str
    model_name: str
    model_version: int
    bundle_dir: str
    bundle_sha256: str
    data_version: str
    payload: str
    run: str
    """Directory that holds the edge's secret."""
    control: str
    """SQLAlchemy URL of the control store, where edges learn of the replica."""
    cluster_host: str
    listen_ports: tuple[int, int]
    """First and last of those that a replica may take for itself."""
    cpus_per_replica: float
    gpus_per_replica: float
    num_threads: int
    max_body_bytes: int
    max_rows_per_request: int
    payload_flush_s: float
    payload_fraction: float
    hash_pii: bool
    max_batch_rows: int
    max_waiting_rows: int
    shadow_fraction: float
    push_interval_s: float

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = _ARGUMENTS.dump_python(self, mode="json")
        return values


_ARGUMENTS = TypeAdapter(ReplicaArguments)


class ServeSide:
    """What Serve sees as the application: the way through Ray's ingress, and the replica's life."""

    def __init__(
        self,
        service: SlotService,
        *,
        on_startup: Callable[[], Awaitable[None]],
        on_shutdown: Callable[[], Awaitable[None]],
    ) -> None:
        self._service = service
        self._steps = {"lifespan.startup": on_startup, "lifespan.shutdown": on_shutdown}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self._service(scope, receive, send)
            return
        kind = ""
        while kind != "lifespan.shutdown":
            kind = (await receive())["type"]
            await self._steps[kind]()
            await send({"type": f"{kind}.complete"})


@serve.ingress()
class SlotReplica:
    """Built once a process: the bundle verified and warmed up, then its ASGI application."""

    def __init__(self, values: dict[str, Any]) -> None:
        import torch

        from runtime.models.bundle import load_bundle
        from runtime.serving.device import place_model

        configure_logging()
        arguments = _ARGUMENTS.validate_python(values)
        torch.set_num_threads(arguments.num_threads)
        share_turns()
        keep_memory()
        with contextlib.suppress(RuntimeError):  # only the first call in a process counts; it has been made
            torch.set_num_interop_threads(1)
        secret = read_secret(arguments.run)
        bundle = load_bundle(Path(arguments.bundle_dir), expected_sha256=arguments.bundle_sha256)
        place_model(bundle.model, arguments.gpus_per_replica)
        table = PayloadTable(
            bundle.columns,
            slot=arguments.slot,
            model_name=arguments.model_name,
            model_version=arguments.model_version,
            data_version=arguments.data_version,
            pii_key=read_pii_key(arguments.run) if arguments.hash_pii else None,
        )
        table.build([])  # imports what Arrow imports late
        flush_s = arguments.payload_flush_s
        payload = DeltaLog[Answer](payload_uri(arguments.payload, arguments.endpoint), table.build, flush_s=flush_s)
        feedback = DeltaLog[Feedback](
            feedback_uri(arguments.payload, arguments.endpoint), build_feedback, flush_s=flush_s
        )
        identity = SlotIdentity(
            endpoint=arguments.endpoint,
            slot=arguments.slot,
            app=arguments.app,
            model_name=arguments.model_name,
            model_version=arguments.model_version,
            bundle_sha256=arguments.bundle_sha256,
            data_version=arguments.data_version,
        )
        self._service = SlotService(
            bundle,
            identity=identity,
            limits=Limits(max_body_bytes=arguments.max_body_bytes, max_rows=arguments.max_rows_per_request),
            secret=secret,
            payload=payload,
            feedback=feedback,
            payload_fraction=arguments.payload_fraction,
            max_batch_rows=arguments.max_batch_rows,
            max_waiting_rows=arguments.max_waiting_rows,
        )
        self._service.warm_up()
        self._logs: list[DeltaLog[Any]] = [payload, feedback]
        self._store = RolloutStore(arguments.control)
        self._arguments = arguments
        self._replica_id = uuid.uuid4().hex
        self._pusher = Pusher(
            _on_loop(asyncio.get_running_loop(), self._service.take),
            _send_to_monitor,
            identity={
                "endpoint": identity.endpoint,
                "slot": identity.slot,
                "model_version": identity.model_label,
                "replica": self._replica_id,
            },
            interval_s=arguments.push_interval_s,
        )
        self._pusher.start()
        host = _own_host(arguments)
        first, last = arguments.listen_ports
        self._listener = Listener(self._service, bind_in_range(host, first, last))
        self._grpc = GrpcListener(self._service, host=host, first=first, last=last)
        self._registration: Registration | None = None
        self._shadowing: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> "ServeSide":
        return ServeSide(self._service, on_startup=self._open, on_shutdown=self._close)

    async def _open(self) -> None:
        await self._listener.start()
        replica = Replica(
            replica_id=self._replica_id,
            endpoint=self._arguments.endpoint,
            slot=self._arguments.slot,
            host=self._listener.host,
            port=self._listener.port,
            grpc_port=await self._grpc.start(),
            bundle_sha256=self._arguments.bundle_sha256,
            state="ready",
            at=time.time(),
        )
        self._registration = Registration(self._store, replica)
        settle_garbage()
        await asyncio.to_thread(self._registration.start)
        self._shadowing = asyncio.create_task(self._shadow())

    async def _shadow(self) -> None:
        arguments = self._arguments
        log = DeltaLog[Difference](
            shadow_uri(arguments.payload, arguments.endpoint), build_differences, flush_s=arguments.payload_flush_s
        )
        self._logs.append(log)
        target = ShadowTarget(
            self._store,
            endpoint=arguments.endpoint,
            slot=arguments.slot,
            secret=read_secret(arguments.run),
            replica_id=self._replica_id,
            fraction=arguments.shadow_fraction,
        )
        shadow = Shadow(target.send, model_version=self._service.identity.model_label, fraction=0.0, log=log)

        begun: Asked | None = None

        def follow(asked: Asked | None) -> None:
            nonlocal begun
            # Whoever was away for a moment and failed meanwhile is not counted anew.
            if asked is not None and asked != begun:
                shadow.begin(asked.fraction)
                begun = asked
            self._service.follow(None if asked is None else shadow)

        await target.watch(follow, lambda: shadow.tally.to_json())

    async def _close(self) -> None:
        if self._registration is not None:
            await asyncio.to_thread(self._registration.drain)
            await asyncio.sleep(DRAIN_S)
        if self._shadowing is not None:
            self._service.follow(None)
            self._shadowing.cancel()
        await asyncio.gather(self._listener.stop(grace_s=STOP_GRACE_S), self._grpc.stop(grace_s=STOP_GRACE_S))
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        if self._registration is not None:
            self._registration.remove()
        for log in self._logs:
            log.close()
        if not self._pusher.finish(SEND_TIMEOUT_S):
            logger.warning("the last counts did not reach the monitor", extra=self._pusher.status())

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve: what `autoscaling.wanted_replicas` decides by."""
        return {ONGOING: self._listener.num_ongoing + self._service.grpc_load.take()}


def build_app(values: dict[str, Any]) -> serve.Application:
    """Serve's builder: one deployment of `SlotReplica` for these arguments (the fields of ReplicaArguments)."""
    arguments = _ARGUMENTS.validate_python(values)
    deployment: Any = serve.deployment(
        SlotReplica,
        name=DEPLOYMENT,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        # A bundle that does not load will not load the next time either.
        max_constructor_retry_count=1,
        # Without it a rolling update first stops the replica it replaces.
        max_surge_percent=100,
        ray_actor_options={
            "num_cpus": arguments.cpus_per_replica,
            "num_gpus": arguments.gpus_per_replica,
        },
        logging_config={"enable_access_log": False},
    )
    application: serve.Application = deployment.bind(arguments.to_json())
    return application


def _own_host(arguments: ReplicaArguments) -> str:
    """Loopback where the cluster is on it, else this node's own address."""
    is_loopback = ipaddress.ip_address(socket.gethostbyname(arguments.cluster_host)).is_loopback
    return arguments.cluster_host if is_loopback else str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _on_loop(loop: asyncio.AbstractEventLoop, take: Callable[[], Delta]) -> Callable[[], Delta]:
    """Run `take` on the replica's event loop, where what it takes is written, and wait for it in this thread."""

    async def taken() -> Delta:
        return take()

    return lambda: asyncio.run_coroutine_threadsafe(taken(), loop).result(TAKE_TIMEOUT_S)


def _send_to_monitor(message: dict[str, Any]) -> None:
    monitor = ray.get_actor(MONITOR_NAME, namespace=NAMESPACE)
    ray.get(monitor.ingest.remote(message), timeout=SEND_TIMEOUT_S)
