"""A slot as a Serve application: what runs in each replica process.

Arguments are plain JSON because the Serve configuration carries them; a change of any replaces the slot's replicas.
"""

import asyncio
import contextlib
import logging
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from ray import serve
from ray.serve.config import BackpressureConfig

from runtime.serving.counters import Delta, Pusher
from runtime.serving.delta_log import DeltaLog
from runtime.serving.edge_files import read_secret
from runtime.serving.payload import Answer, Feedback, PayloadTable, build_feedback, feedback_uri, payload_uri
from runtime.serving.service import Limits, SlotIdentity, SlotService

logger = logging.getLogger(__name__)

MONITOR_NAME = "teal-monitor"
NAMESPACE = "teal"
SWITCH_INTERVAL_S = 0.0005
SEND_TIMEOUT_S = 5.0
TAKE_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class ReplicaArguments:
    """Everything a replica is built from."""

    endpoint: str
    slot: str
    app: str
    model_name: str
    model_version: int
    bundle_dir: str
    bundle_sha256: str
    data_version: str
    payload: str
    run: str
    """Directory that holds the edge's secret."""
    min_replicas: int
    max_replicas: int
    cpus_per_replica: float
    gpus_per_replica: float
    max_ongoing_requests: int
    max_queued_requests: int
    num_threads: int
    max_body_bytes: int
    max_rows_per_request: int
    payload_flush_s: float
    push_interval_s: float

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = _ARGUMENTS.dump_python(self)
        return values


_ARGUMENTS = TypeAdapter(ReplicaArguments)


@serve.ingress()
class SlotReplica:
    """Built once a process: the bundle verified and warmed up, then its ASGI application."""

    def __init__(self, values: dict[str, Any]) -> None:
        import torch

        from runtime.models.bundle import load_bundle

        arguments = _ARGUMENTS.validate_python(values)
        torch.set_num_threads(arguments.num_threads)
        # While a thread writes the log, the event loop waits this long for each turn; by default it is 5 ms.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        with contextlib.suppress(RuntimeError):  # only the first call in a process counts; it has been made
            torch.set_num_interop_threads(1)
        secret = read_secret(arguments.run)
        bundle = load_bundle(Path(arguments.bundle_dir), expected_sha256=arguments.bundle_sha256)
        table = PayloadTable(
            bundle.columns,
            slot=arguments.slot,
            model_name=arguments.model_name,
            model_version=arguments.model_version,
            data_version=arguments.data_version,
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
            on_shutdown=self._close,
        )
        self._service.warm_up()
        self._logs = (payload, feedback)
        self._pusher = Pusher(
            _on_loop(asyncio.get_running_loop(), self._service.take),
            _send_to_monitor,
            identity={
                "endpoint": identity.endpoint,
                "slot": identity.slot,
                "model_version": identity.model_label,
                "replica": uuid.uuid4().hex,
            },
            interval_s=arguments.push_interval_s,
        )
        self._pusher.start()

    def __serve_build_asgi_app__(self) -> SlotService:
        return self._service

    def _close(self) -> None:
        self._pusher.finish()
        for log in self._logs:
            log.close()


def build_app(values: dict[str, Any]) -> serve.Application:
    """Serve's builder: one deployment of `SlotReplica` for these arguments (the fields of ReplicaArguments)."""
    arguments = _ARGUMENTS.validate_python(values)
    scaling: dict[str, Any] = {"num_replicas": arguments.min_replicas}
    if arguments.max_replicas > arguments.min_replicas:
        scaling = {
            "autoscaling_config": {"min_replicas": arguments.min_replicas, "max_replicas": arguments.max_replicas}
        }
    deployment: Any = serve.deployment(
        SlotReplica,
        name="SlotReplica",
        max_ongoing_requests=arguments.max_ongoing_requests,
        max_queued_requests=arguments.max_queued_requests,
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
        **scaling,
    )
    application: serve.Application = deployment.bind(arguments.to_json())
    return application


def _on_loop(loop: asyncio.AbstractEventLoop, take: Callable[[], Delta]) -> Callable[[], Delta]:
    """Run `take` on the replica's event loop, where what it takes is written, and wait for it in this thread."""

    async def taken() -> Delta:
        return take()

    return lambda: asyncio.run_coroutine_threadsafe(taken(), loop).result(TAKE_TIMEOUT_S)


def _send_to_monitor(message: dict[str, Any]) -> None:
    monitor = ray.get_actor(MONITOR_NAME, namespace=NAMESPACE)
    ray.get(monitor.ingest.remote(message), timeout=SEND_TIMEOUT_S)
