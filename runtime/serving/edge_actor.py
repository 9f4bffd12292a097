"""Each edge as a detached Ray actor on its node, so that Ray restarts its controller. HAProxy outlives the actor.

The head's one also keeps those of nodes that join. Ray is imported where it is used: its environment must be set
before that.
"""

import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

from runtime.cluster.nodes import ON_HEAD, Node
from runtime.cluster.ray_nodes import list_nodes, stays_on
from runtime.config.schema import Config
from runtime.core.errors import TealError, UnreachableError
from runtime.serving.edge_counters import EdgeLife
from runtime.serving.edge_files import EdgeFiles, ensure_secret, read_secret
from runtime.serving.edge_loop import EdgeLoop
from runtime.serving.edge_nodes import LOOK_S, Keeper, edge_id_of, edge_on, files_on, serve_hosts_on
from runtime.serving.edge_process import EdgeProcess
from runtime.store.control import ControlStore
from runtime.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

EDGE_NAME = "teal-edge"
"""Of the head's actor. Another node's has the node's id behind it."""
NAMESPACE = "teal"
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 10.0


class EdgeActor:
    """Holds the loop. The head's constructor never raises: Ray would only repeat it."""

    def __init__(self, config: Config, node: Node | None = None) -> None:
        """`node`: where it runs, None for the head."""
        configure_logging()
        self._config = config
        store = ControlStore.of(config.paths)
        address = config.cluster.address if node is None else node.address
        self._loop = EdgeLoop(
            store,
            config.cluster,
            files=EdgeFiles.of(config.paths) if node is None else files_on(config.paths, node),
            secret=read_secret(config.paths.run),
            serving=config.serving,
            edge=config.edge if node is None else edge_on(config.edge, node),
            edge_id=edge_id_of(config.cluster, address),
            serve_hosts=() if node is None else serve_hosts_on(config.cluster, node),
        )
        self._stopping = threading.Event()
        self._keeper: Keeper | None = None
        self._loop.start()
        if node is None and config.cluster.address is not None:
            self._keeper = Keeper(RayFleet(config), store.forget_edge, config.cluster, config.edge)
            threading.Thread(target=self._keep, name="keeper of the nodes' edges", daemon=True).start()

    def status(self) -> dict[str, Any]:
        problems = {} if self._keeper is None else dict(self._keeper.problems)
        return {**self._loop.status(), "node_problems": problems}

    def poll_now(self) -> dict[str, Any]:
        self._loop.poll_now()
        return self.status()

    def read_lives(self, apps: Sequence[str]) -> list[EdgeLife]:
        return self._loop.read_lives(apps)

    def settings(self) -> tuple[Any, ...]:
        return _settings(self._config)

    def stop(self) -> None:
        self._stopping.set()
        self._loop.stop()

    def detach(self) -> None:
        self._stopping.set()
        self._loop.detach()

    def _keep(self) -> None:
        assert self._keeper is not None
        problem = ""
        while not self._stopping.wait(LOOK_S):
            try:
                self._keeper.look()
                problem = ""
            except TealError as error:
                if str(error) != problem:
                    logger.warning("the nodes' edges are not looked after: %s", error)
                problem = str(error)


class RayFleet:
    """`edge_nodes.Fleet` by Ray's named actors, so that a keeper that is started again finds what the last one did."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def nodes(self) -> list[Node]:
        return list_nodes()

    def edges(self) -> set[str]:
        import ray

        found = ray.util.list_named_actors(all_namespaces=True)
        prefix = f"{EDGE_NAME}-"
        return {row["name"].removeprefix(prefix) for row in found if row["name"].startswith(prefix)}

    def start(self, node: Node) -> None:
        _start(self._config, node)

    def end(self, node_id: str) -> None:
        import ray

        actor = find_edge(node_id)
        if actor is not None:
            ray.kill(actor)


def start_edge(config: Config) -> dict[str, Any]:
    """Start the head's edge, unless it runs with the same settings, and return its status. Ray must be connected.

    It starts those of other nodes by itself. TealError with HAProxy's own reason if it does not come up; nothing is
    left running then.
    """
    import ray

    ensure_secret(config.paths)
    actor = find_edge()
    if actor is not None and ray.get(actor.settings.remote(), timeout=CALL_TIMEOUT_S) != _settings(config):
        # The next ones take the running HAProxies over, and reload them.
        handles = [actor, *other_edges().values()]
        ray.wait([handle.detach.remote() for handle in handles], num_returns=len(handles), timeout=CALL_TIMEOUT_S)
        for handle in handles:
            ray.kill(handle)
        actor = None
    try:
        return _start(config, None)
    except TealError:
        if actor is None:
            stop_edge(config)
        raise


def _start(config: Config, node: Node | None) -> dict[str, Any]:
    import ray
    from ray.exceptions import RayError

    remote: Any = ray.remote(EdgeActor)
    where = {"resources": ON_HEAD} if node is None else stays_on(node)
    actor = remote.options(
        name=EDGE_NAME if node is None else f"{EDGE_NAME}-{node.node_id}",
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0.05,
        max_restarts=-1,
        max_concurrency=4,
        **where,
    ).remote(config, node)
    try:
        status: dict[str, Any] = ray.get(actor.poll_now.remote(), timeout=START_TIMEOUT_S)
    except RayError as error:
        raise TealError(f"the edge's actor did not start: {str(error).strip().splitlines()[-1]}") from error
    problem = status["process_error"] or (None if status["pid"] else status["store_error"])
    if problem is not None:
        raise TealError(f"the edge did not start: {problem}")
    return status


def edge_status() -> dict[str, Any] | None:
    """The status of the head's edge, None if there is none. Ray must be connected."""
    import ray

    actor = find_edge()
    if actor is None:
        return None
    status: dict[str, Any] = ray.get(actor.status.remote(), timeout=CALL_TIMEOUT_S)
    return status


def stop_edge(config: Config) -> bool:
    """End all edges' actors and HAProxies, those of this machine without Ray too. False if there was nothing."""
    ray = sys.modules.get("ray")
    was_there = False
    if ray is not None and ray.is_initialized():
        head = find_edge()
        if head is not None:
            was_there = True
            ray.kill(head)
        if config.cluster.address is not None:
            _stop_others()
    address = (config.edge.host or config.cluster.host, config.cluster.ports.edge)
    process = EdgeProcess(EdgeFiles.of(config.paths), address=address)
    was_there = was_there or process.find() is not None
    process.stop()
    return was_there


def _stop_others() -> None:
    import ray

    try:
        handles = list(other_edges().values())
    except UnreachableError as error:
        logger.warning("the edges of other nodes go on: %s", error)
        return
    calls = [handle.stop.remote() for handle in handles]
    if calls:
        ray.wait(calls, num_returns=len(calls), timeout=CALL_TIMEOUT_S)
    for handle in handles:
        ray.kill(handle)


def find_edge(node_id: str | None = None) -> Any | None:
    """The handle of the head's actor, or of another node's; None if there is none. UnreachableError without Ray."""
    import ray

    if not ray.is_initialized():
        # Ray would start a cluster of its own to look in.
        raise UnreachableError("not connected to Ray; run `teal up` first")
    try:
        return ray.get_actor(EDGE_NAME if node_id is None else f"{EDGE_NAME}-{node_id}", namespace=NAMESPACE)
    except ValueError:
        return None


def other_edges() -> dict[str, Any]:
    """Node to the handle of its edge's actor, of living nodes beside the head."""
    found = {node.node_id: find_edge(node.node_id) for node in list_nodes() if node.is_alive and not node.is_head}
    return {node_id: actor for node_id, actor in found.items() if actor is not None}


def _settings(config: Config) -> tuple[Any, ...]:
    """What the edge depends on; a change of any takes a new actor."""
    serving = config.serving
    limits = (serving.max_body_bytes, serving.max_ongoing_requests, serving.max_waiting_requests)
    return (config.cluster, config.paths.control, config.paths.run, config.edge, limits)
