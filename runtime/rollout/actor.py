"""The controller as a detached Ray actor, so that Ray restarts it. What it knows is in the store.

Ray is imported where it is used: its environment must be set before that.
"""

import logging
import os
import threading
from typing import Any

from runtime.config.schema import Config
from runtime.core.errors import UnreachableError
from runtime.core.ids import new_id
from runtime.rollout.certificate import write_certificate
from runtime.rollout.controller import Controller
from runtime.rollout.world import PlatformWorld, Totals
from runtime.store.rollouts import RolloutStore
from runtime.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

ACTOR_NAME = "teal-rollout"
NAMESPACE = "teal"
LOOK_INTERVAL_S = 0.5
IDLE_INTERVAL_S = 1.0
MONITOR_TIMEOUT_S = 5.0


class RolloutActor:
    """Holds the controller and looks on from a thread of its own. Its constructor never raises."""

    def __init__(self, config: Config) -> None:
        configure_logging()
        self._store = RolloutStore.of(config.paths)
        self._controller = Controller(
            self._store,
            PlatformWorld(config, lambda endpoint: read_totals(endpoint, config.monitoring.num_shards)),
            holder=f"{os.getpid()}-{new_id()}",
            certify=lambda rollout: write_certificate(self._store, config.paths, rollout),
        )
        self._error: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=ACTOR_NAME, daemon=True)
        self._thread.start()

    def status(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "error": self._error}

    def stop(self) -> None:
        """Look no more, and let another controller begin at once."""
        self._stopping.set()
        self._thread.join()
        self._controller.release()

    def _run(self) -> None:
        interval_s = 0.0
        while not self._stopping.wait(interval_s):
            try:
                self._controller.advance()
                interval_s = LOOK_INTERVAL_S if self._store.rollouts(is_active=True) else IDLE_INTERVAL_S
                self._error = None
            except Exception as error:
                # A database that is away for a minute must not end the rollout: it holds, and goes on after.
                if str(error) != self._error:
                    logger.exception("the rollout controller waits")
                self._error = str(error)
                interval_s = IDLE_INTERVAL_S


def start_rollouts(config: Config) -> None:
    """Start the actor unless there is one. Ray must be connected. Does not wait: the store holds what it is to do."""
    import ray

    remote: Any = ray.remote(RolloutActor)
    remote.options(
        name=ACTOR_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0.05,
        max_restarts=-1,
        max_concurrency=2,
    ).remote(config)


def read_totals(endpoint: str, num_shards: int) -> Totals:
    """What the monitor has counted of an endpoint since it began. UnreachableError if it does not answer."""
    import ray
    from ray.exceptions import RayError

    from runtime.monitoring.actor import actor_name, shard_of

    name = actor_name(shard_of(endpoint, num_shards))
    try:
        monitor: Any = ray.get_actor(name, namespace=NAMESPACE)
        totals: Totals = ray.get(monitor.counters.remote(endpoint), timeout=MONITOR_TIMEOUT_S)
    except (ValueError, RayError) as error:
        raise UnreachableError(f"the monitor {name!r} does not answer: {error}") from error
    return totals
