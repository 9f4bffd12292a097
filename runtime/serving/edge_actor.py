"""The edge as a detached Ray actor, so that Ray restarts its controller. HAProxy itself outlives the actor.

Ray is imported where it is used: its environment must be set before that.
"""

import sys
from typing import Any

from runtime.config.schema import Config
from runtime.core.errors import TealError, UnreachableError
from runtime.serving.edge_files import EdgeFiles, ensure_secret, read_secret
from runtime.serving.edge_loop import EdgeLoop
from runtime.serving.edge_process import EdgeProcess
from runtime.store.control import ControlStore

EDGE_NAME = "teal-edge"
NAMESPACE = "teal"
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 10.0


class EdgeActor:
    """Holds the loop. Its constructor never raises: Ray would only repeat it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop = EdgeLoop(
            ControlStore.of(config.paths),
            config.cluster,
            files=EdgeFiles.of(config.paths),
            secret=read_secret(config.paths.run),
            serving=config.serving,
            edge=config.edge,
        )
        self._loop.start()

    def status(self) -> dict[str, Any]:
        return self._loop.status()

    def poll_now(self) -> dict[str, Any]:
        self._loop.poll_now()
        return self._loop.status()

    def settings(self) -> tuple[Any, ...]:
        return _settings(self._config)

    def stop(self) -> None:
        self._loop.stop()

    def detach(self) -> None:
        self._loop.detach()


def start_edge(config: Config) -> dict[str, Any]:
    """Start the edge, unless it runs with the same settings, and return its status. Ray must be connected.

    TealError with HAProxy's own reason if it does not come up; nothing is left running then.
    """
    import ray

    ensure_secret(config.paths)
    actor = find_edge()
    if actor is not None and ray.get(actor.settings.remote(), timeout=CALL_TIMEOUT_S) != _settings(config):
        # The next one takes the running HAProxy over, and reloads it.
        ray.get(actor.detach.remote(), timeout=CALL_TIMEOUT_S)
        ray.kill(actor)
        actor = None
    is_new = actor is None
    if actor is None:
        remote: Any = ray.remote(EdgeActor)
        actor = remote.options(
            name=EDGE_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0.05,
            max_restarts=-1,
            max_concurrency=4,
        ).remote(config)
    status: dict[str, Any] = ray.get(actor.poll_now.remote(), timeout=START_TIMEOUT_S)
    problem = status["process_error"] or (None if status["pid"] else status["store_error"])
    if problem is not None:
        if is_new:
            stop_edge(config)
        raise TealError(f"the edge did not start: {problem}")
    return status


def edge_status() -> dict[str, Any] | None:
    """The running edge's status, None if there is none. Ray must be connected."""
    import ray

    actor = find_edge()
    if actor is None:
        return None
    status: dict[str, Any] = ray.get(actor.status.remote(), timeout=CALL_TIMEOUT_S)
    return status


def stop_edge(config: Config) -> bool:
    """End the actor and every HAProxy of this edge. False if there was nothing. Works without Ray too."""
    ray = sys.modules.get("ray")
    was_there = False
    actor = find_edge() if ray is not None and ray.is_initialized() else None
    if ray is not None and actor is not None:
        was_there = True
        ray.kill(actor)
    address = (config.edge.host or config.cluster.host, config.cluster.ports.edge)
    process = EdgeProcess(EdgeFiles.of(config.paths), address=address)
    was_there = was_there or process.find() is not None
    process.stop()
    return was_there


def find_edge() -> Any | None:
    """The actor's handle, None if there is none. UnreachableError without a connection to Ray."""
    import ray

    if not ray.is_initialized():
        # Ray would start a cluster of its own to look in.
        raise UnreachableError("not connected to Ray; run `teal up` first")
    try:
        return ray.get_actor(EDGE_NAME, namespace=NAMESPACE)
    except ValueError:
        return None


def _settings(config: Config) -> tuple[Any, ...]:
    """What the edge depends on; a change of any takes a new actor."""
    serving = config.serving
    limits = (serving.max_body_bytes, serving.max_ongoing_requests, serving.max_waiting_requests)
    return (config.cluster, config.paths.control, config.paths.run, config.edge, limits)
