"""What a node of the Ray cluster is, for those who need not know Ray."""

from dataclasses import dataclass

HEAD_RESOURCE = "node:__internal_head__"
ON_HEAD = {HEAD_RESOURCE: 0.001}
"""Resources of an actor that needs this home's files: it must not be started on a node that has joined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    node_id: str
    """Of this life of the node: it has another one when it joins again."""
    address: str
    is_head: bool
    is_alive: bool
