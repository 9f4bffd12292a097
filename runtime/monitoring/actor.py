"""The detached Ray actor "teal-monitor": replicas push to it, commands ask it, Prometheus scrapes it.

Killed at any point, Ray starts it again, and it goes on from the directory `monitor` of paths.run. A replica that gets
no answer sends the same delta again.
"""

import logging
import os
import threading
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from runtime.config.schema import Config
from runtime.core.errors import ContractError, UnreachableError
from runtime.monitoring.monitor import Monitor, StoreProfiles
from runtime.store.control import ControlStore
from runtime.telemetry.logs import configure_logging
from runtime.telemetry.metrics import MetricsServer, serve_metrics

logger = logging.getLogger(__name__)

ACTOR_NAME = "teal-monitor"
NAMESPACE = "teal"
ANSWER_TIMEOUT_S = 30.0


class MonitorActor:
    """One thread takes calls in order, one closes ticks, one answers scrapes."""

    def __init__(self, config: Config) -> None:
        configure_logging()
        self._config = config
        self._monitor = Monitor(
            Path(config.paths.run) / "monitor", config.monitoring, StoreProfiles(ControlStore(config.paths.control))
        )
        self._metrics_error: str | None = None
        self._metrics: MetricsServer | None = self._serve()
        self._stopped = threading.Event()
        self._ticker = threading.Thread(target=self._tick_on, name="teal-monitor-ticks", daemon=True)
        self._ticker.start()

    def ready(self) -> bool:
        return True

    def ingest(self, message: dict[str, Any]) -> bool:
        """True once the delta is on disk, False if it was there already or is malformed: sending it again is no use."""
        try:
            return self._monitor.ingest(message)
        except ContractError as error:
            logger.error("a delta is refused", extra={"reason": str(error), "replica": message.get("replica")})
            return False

    def status(self) -> dict[str, Any]:
        port = None if self._metrics is None else self._metrics.port
        process = {"pid": os.getpid(), "metrics_port": port, "metrics_error": self._metrics_error}
        return self._monitor.status() | process

    def drift(self, endpoint: str | None, since: float | None, until: float | None) -> list[dict[str, Any]]:
        return self._monitor.drift(endpoint, since=since, until=until)

    def tick(self) -> float:
        return self._monitor.tick()

    def _serve(self) -> MetricsServer | None:
        # A taken port must not stop the counting: it is told in status, and the actor lives.
        cluster = self._config.cluster
        try:
            return serve_metrics(cluster.ports.monitor_metrics, cluster.host, self._monitor.samples)
        except UnreachableError as error:
            self._metrics_error = str(error)
            logger.error("metrics are not served", extra={"reason": str(error)})
            return None

    def _tick_on(self) -> None:
        while not self._stopped.wait(self._config.monitoring.tick_s):
            try:
                self._monitor.tick()
            except OSError as error:
                # The journal still has what the tick could not write; the next tick tries again.
                logger.error("cannot write the monitor's state", extra={"reason": str(error)})


def start_monitor(config: Config) -> bool:
    """Start the actor on the joined cluster, or find it. True if this call started it. Returns when it answers."""
    existing = _find()
    if existing is None:
        actor = ray.remote(MonitorActor).options(
            name=ACTOR_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0.05,
            max_restarts=-1,
        )
        handle: Any = actor.remote(config)
    else:
        handle = existing
    _ask(handle.ready.remote(), config.cluster.start_timeout_s)
    return existing is None


def monitor_status(config: Config) -> dict[str, Any]:
    """What the actor counted, as Monitor.status. UnreachableError if it does not run or answer."""
    status: dict[str, Any] = _ask(_handle().status.remote())
    return status


def monitor_drift(
    config: Config, endpoint: str, *, since: float | None = None, until: float | None = None
) -> list[dict[str, Any]]:
    """Drift over the ticks between two marks; one entry a slot and model version, as in `monitor_status`."""
    entries: list[dict[str, Any]] = _ask(_handle().drift.remote(endpoint, since, until))
    return entries


def mark_period(config: Config) -> float:
    """End the open tick now: a boundary to ask `monitor_drift` by, in seconds since 1970.

    Replicas push every push_interval_s, so wait until `monitor_status` shows the rows of the period that ends.
    """
    boundary: float = _ask(_handle().tick.remote())
    return boundary


def _find() -> Any:
    if not ray.is_initialized():  # get_actor would start a Ray of its own
        raise UnreachableError("not joined to a cluster; `teal up` starts one")
    try:
        return ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)
    except ValueError:
        return None


def _handle() -> Any:
    handle = _find()
    if handle is None:
        raise UnreachableError("the monitor does not run; `teal up` starts it")
    return handle


def _ask(reference: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as error:
        raise UnreachableError(f"the monitor did not answer within {timeout_s:g} s") from error
    except RayActorError as error:
        raise UnreachableError(f"the monitor died: {error}; Ray restarts it, try again") from error
