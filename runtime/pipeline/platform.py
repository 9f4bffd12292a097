"""The platform as one thing: `teal up`, `down` and `status`. Composes Ray, store, registry, edge and monitor."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runtime.config.schema import Config
from runtime.core.errors import TealError, UnreachableError
from runtime.pipeline.notifications import start_notifier
from runtime.pipeline.progress import Progress
from runtime.pipeline.steps import Session
from runtime.serving.registration import count_ready
from runtime.store.control import ControlStore
from runtime.store.records import SLOTS, EndpointState, Replica, Slot
from runtime.store.rollouts import RolloutStore

FLUSH_MARGIN_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformStatus:
    is_running: bool
    is_new: bool
    """True if this call started it."""
    is_changed: bool
    """True if this call started it or gave it something new."""
    edge_url: str
    dashboard_url: str
    metrics_url: str
    endpoints: list[EndpointState]
    ready: dict[str, dict[Slot, int]]
    """Endpoint to its filled slots to how many replicas of each say that they can answer."""
    edge: dict[str, Any] | None
    """What the actor of the head's edge says of itself, None if nothing runs."""
    edges: list[dict[str, Any]]
    """Of every node's edge, those that are gone but not forgotten included."""
    monitor: dict[str, Any] | None


def start_platform(
    config: Config, progress: Progress, *, on_running: Callable[[], None] = lambda: None
) -> PlatformStatus:
    """Start what does not run yet; every part is idempotent. What ends halfway stops what it has started itself.

    `on_running` is called once the platform runs, before the deployed models are waited for: one that does not come up
    is an error, and the others serve.
    """
    from runtime.cluster.ray_process import start
    from runtime.monitoring.actor import start_monitor
    from runtime.pipeline.quality_actor import start_alerts
    from runtime.pipeline.rollout_labels import read_labelled
    from runtime.rollout.actor import start_rollouts
    from runtime.serving.edge_actor import start_edge

    store = RolloutStore.of(config.paths)
    store.create_schema()
    # MLflow imports it in that thread while Ray Serve does in this one, and each may find what the other has half done.
    import fastapi  # noqa: F401

    database = _Background(lambda: _create_registry(config, store))
    progress.update("starting Ray")
    is_new = start(config, on_progress=progress.update).is_new
    with Session.open(config, progress) as session:
        with _stopped_if_it_fails(config, is_new=is_new):
            session.connect()
            progress.update("starting the monitor and the edge")
            start_monitor(config)
            start_alerts(config)
            start_edge(config)
            start_notifier(config, session.store)
            start_rollouts(config, read_labelled)
            progress.update("opening the model registry")
            database.join()
            on_running()
        is_changed = bool(session.store.endpoints()) and _start_models(config, session)
        return _status(config, session, is_new=is_new, is_changed=is_new or is_changed)


@contextmanager
def _stopped_if_it_fails(config: Config, *, is_new: bool) -> Iterator[None]:
    """A platform that ran before is left as it is."""
    from runtime.cluster.ray_process import stop
    from runtime.serving.edge_actor import stop_edge

    try:
        yield
    except BaseException as error:
        if not is_new:
            raise
        try:
            stop_edge(config)
        except TealError as problem:
            # Ray's processes are ended all the same, and why it failed is what is told.
            logging.getLogger(__name__).warning("stopping the edge: %s", problem)
        finally:
            stop(config)
        if isinstance(error, TealError):
            raise type(error)(f"{error}\nwhat had been started is stopped again; `teal up` begins anew") from error
        raise


def _start_models(config: Config, session: Session) -> bool:
    """Whether Serve was given something new."""
    from runtime.cluster.token import read_token
    from runtime.rollout.capacity import capacity_of_endpoints
    from runtime.serving.reconcile import reconcile

    session.progress.update("starting the deployed models")
    try:
        return reconcile(
            session.store,
            config,
            token=read_token(config.paths.run),
            capacity=capacity_of_endpoints(session.store, config.rollout.rollback_window_s, time.time()),
            on_progress=session.progress.update,
        ).is_changed
    except TealError as error:
        raise type(error)(
            f"the platform runs, but not each of its models: {error}\n`teal up` tries again, `teal deploy` replaces one"
        ) from error


def stop_platform(config: Config) -> bool:
    """Stop every process that this home started. False if there was none.

    The edge goes first, and replicas get the time of one flush: what was answered is in the payload log then.
    """
    from runtime.cluster.ray_process import connect, disconnect, read_state, stop
    from runtime.serving.edge_actor import stop_edge

    if read_state(config.paths.run) is not None:
        try:
            connect(config)
            has_served = bool(ControlStore.of(config.paths).endpoints())
            stop_edge(config)
            if has_served:
                time.sleep(config.serving.payload_flush_s + FLUSH_MARGIN_S)
        except TealError as error:
            # What does not answer any more cannot be drained; it is stopped all the same.
            logging.getLogger(__name__).warning("stopping without draining: %s", error)
        finally:
            disconnect()
    return stop(config)


def read_status(config: Config) -> PlatformStatus:
    """What is running and what is desired; says so if nothing runs."""
    from runtime.cluster.ray_process import read_state

    with Session.open(config) as session:
        if read_state(config.paths.run) is None:
            return _status(config, session, is_new=False, is_running=False)
        session.connect()
        return _status(config, session, is_new=False)


def _status(
    config: Config, session: Session, *, is_new: bool, is_changed: bool = False, is_running: bool = True
) -> PlatformStatus:
    from runtime.serving.edge_actor import edge_status
    from runtime.serving.edge_fleet import edges_status

    ports = config.cluster.ports
    session.store.create_schema()
    endpoints = session.store.endpoints()
    return PlatformStatus(
        is_running=is_running,
        is_new=is_new,
        is_changed=is_changed,
        edge_url=f"{'https' if config.edge.tls else 'http'}://{config.edge.host or config.cluster.host}:{ports.edge}",
        dashboard_url=f"http://{config.cluster.host}:{ports.dashboard}",
        metrics_url=f"http://{config.cluster.host}:{ports.monitor_metrics}/metrics",
        endpoints=endpoints,
        ready=_ready_by_slot(endpoints, session.store.replicas() if is_running else []),
        edge=edge_status() if is_running else None,
        edges=edges_status(config, session.store.edge_signs(), time.time()) if is_running else [],
        monitor=_monitor_status(config) if is_running else None,
    )


def _ready_by_slot(endpoints: Sequence[EndpointState], replicas: Sequence[Replica]) -> dict[str, dict[Slot, int]]:
    now = time.time()
    return {
        endpoint.name: {
            slot: count_ready(replicas, endpoint, slot, now) for slot in SLOTS if endpoint.slot(slot).model is not None
        }
        for endpoint in endpoints
    }


def _monitor_status(config: Config) -> dict[str, Any] | None:
    """None while Ray restarts the monitor: serving does not wait for it, and neither does `status`."""
    from runtime.monitoring.actor import monitor_status

    try:
        return monitor_status(config)
    except UnreachableError:
        return None


def _create_registry(config: Config, store: ControlStore) -> None:
    from runtime.registry.mlflow_registry import Registry

    Registry(config.paths, store).create_database()


class _Background:
    """A call in a thread whose error is raised where it is joined."""

    def __init__(self, call: Any) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Any) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  (raised again in join)
            self._error = error

    def join(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise TealError(f"cannot open the model registry: {self._error}") from self._error
