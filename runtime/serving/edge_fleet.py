"""Asking all edges of the cluster: how they are, and what their clients saw. Ray must be connected.

Ray is imported where it is used: its environment must be set before that.
"""

import logging
from collections.abc import Sequence
from typing import Any

from runtime.cluster.nodes import Node
from runtime.cluster.ray_nodes import list_nodes
from runtime.config.schema import Config
from runtime.core.errors import UnreachableError
from runtime.serving.edge_actor import CALL_TIMEOUT_S, find_edge, other_edges
from runtime.serving.edge_counters import EdgeLife, read_lives
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_nodes import edge_id_of
from runtime.serving.edge_process import EdgeProcess

FORGOTTEN_S = 3600.0
"""An edge that is silent for so long is not told of any more."""

logger = logging.getLogger(__name__)


def edges_status(config: Config, signs: dict[str, float], now: float) -> list[dict[str, Any]]:
    """Of every edge `edge_id`, `node`, `seen_s` since its last sign of life, `generations` and `problem`, if any.

    `signs`: edge to its last sign of life, as the store has it. Ray must be connected.
    """
    nodes = {edge_id_of(config.cluster, _address(config, node)): node for node in list_nodes() if node.is_alive}
    told = _ask_all(config)
    rows = []
    recent = {edge_id for edge_id, at in signs.items() if now - at < FORGOTTEN_S}
    for edge_id in sorted(recent | told.keys()):
        status, node = told.get(edge_id), nodes.get(edge_id)
        problem = "its actor does not answer" if status is None else status["process_error"] or status["store_error"]
        rows.append(
            {
                "edge_id": edge_id,
                "node": None if node is None else node.node_id,
                "seen_s": round(now - signs[edge_id], 1) if edge_id in signs else None,
                "generations": {} if status is None else status["generations"],
                "problem": problem if node is not None else "its node is gone",
            }
        )
    head = told.get(edge_id_of(config.cluster, config.cluster.address))
    problems = {} if head is None else head["node_problems"]
    rows += [
        {"edge_id": edge_id, "node": None, "seen_s": None, "generations": {}, "problem": problem}
        for address, problem in problems.items()
        if (edge_id := edge_id_of(config.cluster, address)) not in told
    ]
    return rows


def read_all_lives(config: Config, live: Sequence[str], apps: Sequence[str]) -> list[EdgeLife]:
    """Counters of these edges. UnreachableError if one of them does not tell: part of the truth would be wrong.

    The head's HAProxy is asked itself, so that its actor may be away.
    """
    import ray
    from ray.exceptions import RayError

    own = edge_id_of(config.cluster, config.cluster.address)
    lives: list[EdgeLife] = []
    if own in live:
        process = EdgeProcess(EdgeFiles.of(config.paths), address=(config.cluster.host, config.cluster.ports.edge))
        lives += read_lives(process, own, apps)
    others = [edge_id for edge_id in live if edge_id != own]
    if not others:
        return lives
    nodes = {edge_id_of(config.cluster, node.address): node.node_id for node in list_nodes() if node.is_alive}
    actors = {edge_id: find_edge(nodes[edge_id]) for edge_id in others if edge_id in nodes}
    missing = [edge_id for edge_id in others if actors.get(edge_id) is None]
    if missing:
        raise UnreachableError(f"there is no actor of edge {', '.join(missing)}")
    try:
        calls = [actor.read_lives.remote(list(apps)) for actor in actors.values() if actor is not None]
        for found in ray.get(calls, timeout=CALL_TIMEOUT_S):
            lives += found
    except (RayError, OSError) as error:
        raise UnreachableError(f"an edge does not tell its counters: {error}") from error
    return lives


def _ask_all(config: Config) -> dict[str, dict[str, Any]]:
    """Edge to its status, of those that answer in time."""
    import ray
    from ray.exceptions import RayError

    handles = [handle for handle in (find_edge(), *other_edges().values()) if handle is not None]
    calls = [handle.status.remote() for handle in handles]
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=CALL_TIMEOUT_S) if calls else ([], [])
    told = {}
    for call in done:
        try:
            status: dict[str, Any] = ray.get(call)
        except RayError as error:
            logger.warning("an edge does not answer: %s", error)
            continue
        told[status["edge_id"]] = status
    return told


def _address(config: Config, node: Node) -> str | None:
    return config.cluster.address if node.is_head else node.address
