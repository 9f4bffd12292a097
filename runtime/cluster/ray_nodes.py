"""Asking the Ray that this process is connected to for its nodes.

Ray is imported where it is used: its environment must be set before that.
"""

from typing import Any

from runtime.cluster.nodes import HEAD_RESOURCE, Node
from runtime.core.errors import UnreachableError


def list_nodes() -> list[Node]:
    """All that have ever joined, the dead ones included. UnreachableError if Ray does not tell."""
    import ray
    from ray.exceptions import RayError

    try:
        rows: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    except (RayError, RuntimeError, ConnectionError) as error:
        raise UnreachableError(f"Ray does not name its nodes: {error}") from error
    return [
        Node(
            node_id=row["NodeID"],
            address=row["NodeManagerAddress"],
            is_head=HEAD_RESOURCE in row["Resources"],
            is_alive=row["Alive"],
        )
        for row in rows
    ]


def stays_on(node: Node) -> dict[str, Any]:
    """Options of an actor that runs on this node or not at all."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=False)}
