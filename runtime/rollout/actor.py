"""The controller as a detached Ray actor, so that Ray restarts it. What it knows is in the store.

Ray is imported where it is used: its environment must be set before that.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from runtime.cluster.nodes import ON_HEAD
from runtime.cluster.token import read_token
from runtime.config.schema import Config
from runtime.core.errors import TealError, UnreachableError
from runtime.core.ids import new_id
from runtime.registry.mlflow_registry import Registry
from runtime.rollout.aliases import AliasProjection
from runtime.rollout.capacity import Capacity, capacity_of_endpoints
from runtime.rollout.certificate import write_certificate
from runtime.rollout.controller import Controller
from runtime.rollout.labels import Labelled, LossReader
from runtime.rollout.world import PlatformWorld, Totals
from runtime.serving.edge_fleet import read_all_lives
from runtime.serving.reconcile import read_settings, reconcile
from runtime.store.rollouts import RolloutStore
from runtime.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

ACTOR_NAME = "teal-rollout"
NAMESPACE = "teal"
LOOK_INTERVAL_S = 0.5
IDLE_INTERVAL_S = 1.0
ALIAS_INTERVAL_S = 1.0
MONITOR_TIMEOUT_S = 5.0


class RolloutActor:
    """Holds the controller and looks on from a thread of its own. Its constructor never raises."""

    def __init__(self, config: Config, read_labelled: Callable[[Config, str, float], Labelled | None] | None) -> None:
        configure_logging()
        self._config = config
        self._store = RolloutStore.of(config.paths)
        self._capacity = Capacity(
            self._store,
            lambda endpoint, shares: tell_serve(self._store, config, endpoint, shares),
            lambda endpoint: read_settings(config, endpoint),
        )
        self._controller = Controller(
            self._store,
            PlatformWorld(
                config,
                lambda endpoint: read_totals(endpoint, config.monitoring.num_shards),
                capacity=self._capacity,
                labels=None if read_labelled is None else LossReader(partial(read_labelled, config)),
                read_lives=partial(read_all_lives, config),
            ),
            holder=f"{os.getpid()}-{new_id()}",
            certify=lambda rollout: write_certificate(self._store, config.paths, rollout),
        )
        self._error: str | None = None
        self._stopping = threading.Event()
        self._aliases = AliasProjection(self._store, Registry(config.paths, self._store).show_alias)
        self._alias_error: str | None = None
        self._thread = threading.Thread(target=self._run, name=ACTOR_NAME, daemon=True)
        self._thread.start()
        # A thread of its own: importing MLflow takes seconds, and its database may be locked for as long.
        threading.Thread(target=self._show_aliases, name=f"{ACTOR_NAME}-aliases", daemon=True).start()

    def status(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "error": self._error, "alias_error": self._alias_error}

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
                self._settle_capacity()
                interval_s = LOOK_INTERVAL_S if self._store.rollouts(is_active=True) else IDLE_INTERVAL_S
                self._error = None
            except Exception as error:
                # A database that is away for a minute must not end the rollout: it holds, and goes on after.
                if str(error) != self._error:
                    logger.exception("the rollout controller waits")
                self._error = str(error)
                interval_s = IDLE_INTERVAL_S

    def _settle_capacity(self) -> None:
        """Serve follows shares that somebody moved by hand: the slot that lost them keeps its replicas for a while."""
        wanted = capacity_of_endpoints(self._store, self._config.rollout.rollback_window_s, time.time())
        in_rollouts = {rollout.endpoint for rollout in self._store.rollouts(is_active=True)}
        self._capacity.settle([one for one in self._store.endpoints() if one.name not in in_rollouts], wanted)

    def _show_aliases(self) -> None:
        is_subscribed = False
        while not self._stopping.wait(ALIAS_INTERVAL_S if is_subscribed else 0.0):
            try:
                if not is_subscribed:
                    self._aliases.subscribe()
                    is_subscribed = True
                self._aliases.deliver_due(time.time())
                self._alias_error = None
            except TealError as error:
                # The store is away or contended: the outbox keeps what is due, and the next round takes it.
                self._alias_error = str(error)
                self._stopping.wait(ALIAS_INTERVAL_S)


def start_rollouts(
    config: Config, read_labelled: Callable[[Config, str, float], Labelled | None] | None = None
) -> None:
    """Start the actor unless there is one. Ray must be connected. Does not wait: the store holds what it is to do.

    `read_labelled`: an endpoint's labelled rows since a time, for plans with feedback.
    """
    import ray

    remote: Any = ray.remote(RolloutActor)
    remote.options(
        name=ACTOR_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0.05,
        resources=ON_HEAD,
        max_restarts=-1,
        max_concurrency=2,
    ).remote(config, read_labelled)


def tell_serve(store: RolloutStore, config: Config, endpoint: str, shares: Mapping[str, int]) -> None:
    """Have Serve run what these applications of the endpoint, and those of all other rollouts, must carry.

    Does not wait for replicas: who asks counts them, and may want something else before they are there.
    """
    own = replace(config, serving=read_settings(config, endpoint))
    capacity = {**capacity_of_endpoints(store, config.rollout.rollback_window_s, time.time()), **shares}
    token = read_token(config.paths.run)
    reconcile(store, own, token=token, capacity=capacity, keeps_settings=True, is_awaited=False)


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
