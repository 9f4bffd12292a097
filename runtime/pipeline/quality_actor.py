"""The detached Ray actor "teal-alerts": looks every few seconds, told of by Prometheus and in the control store.

It is a process of its own, so that what it reads from disk never holds up the monitor's counting. Killed at any point,
Ray starts it again, and it goes on from the store.
"""

import logging
import os
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayError

from runtime.cluster.nodes import ON_HEAD
from runtime.config.schema import Config
from runtime.core.errors import UnreachableError
from runtime.core.memory import give_memory_back
from runtime.monitoring.actor import monitor_drift, monitor_status
from runtime.pipeline.quality_signals import RECENT_S
from runtime.pipeline.quality_watch import MonitorView, QualityWatch
from runtime.store.control import ControlStore
from runtime.telemetry.logs import configure_logging
from runtime.telemetry.metrics import MetricsServer, serve_metrics

logger = logging.getLogger(__name__)

ACTOR_NAME = "teal-alerts"
NAMESPACE = "teal"
ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Arrow's own allocator keeps what a look needed, glibc's gives it back. `pyarrow.set_memory_pool` reaches only half of
Arrow, so it must be known when Arrow is loaded."""


class AlertsActor:
    """One thread looks, one answers scrapes."""

    def __init__(self, config: Config) -> None:
        configure_logging()
        self._config = config
        self._watch = QualityWatch(config=config, store=ControlStore.of(config.paths), read_monitor=self._read_monitor)
        self._error: str | None = None
        self._metrics = self._serve()
        self._looking = threading.Lock()
        self._stopped = threading.Event()
        threading.Thread(target=self._look_on, name="teal-alerts-looks", daemon=True).start()

    def look(self) -> list[str]:
        """Look now; what changed, as texts."""
        with self._looking:
            return [f"{event.kind} {event.alert.key}" for event in self._watch.look(time.time())]

    def status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "last_look_at": self._watch.last_look_at,
            "error": self._error,
            "faults": dict(self._watch.faults),
            "metrics_port": None if self._metrics is None else self._metrics.port,
        }

    def _look_on(self) -> None:
        while not self._stopped.wait(self._config.alerts.interval_s):
            try:
                self.look()
                self._error = None
            except Exception as error:
                # Whatever is wrong now may be right in the next look; `status` says so, and the metric's age.
                logger.exception("a look failed")
                self._error = repr(error)
            give_memory_back()

    def _read_monitor(self, now: float) -> MonitorView | None:
        try:
            status = monitor_status(self._config)
            endpoints = sorted({str(entry["endpoint"]) for entry in status["entries"]})
            since = now - RECENT_S
            recent = [entry for name in endpoints for entry in monitor_drift(self._config, name, since=since)]
        except (UnreachableError, RayError):
            return None
        return MonitorView(status=status, recent=recent)

    def _serve(self) -> MetricsServer | None:
        cluster = self._config.cluster
        try:
            return serve_metrics(cluster.ports.alerts_metrics, cluster.host, self._watch.samples)
        except UnreachableError as error:
            logger.error("metrics are not served", extra={"reason": str(error)})
            return None


def start_alerts(config: Config) -> None:
    """Start the actor on the joined cluster, or find it. Does not wait for it: nothing else depends on it."""
    actor: Any = ray.remote(AlertsActor).options(
        name=ACTOR_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0.05,
        resources=ON_HEAD,
        max_restarts=-1,
        max_concurrency=2,
        runtime_env={"env_vars": ENVIRONMENT},
    )
    actor.remote(config)
