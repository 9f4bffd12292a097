"""Which nodes have an edge, and what becomes of those of nodes that die. No Ray: a `Fleet` stands for it.

The keeper runs beside the head's own edge. It is asked nothing and keeps nothing that it could not find again.
"""

import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from runtime.cluster.nodes import Node
from runtime.config.cluster import ClusterConfig
from runtime.config.schema import PathsConfig
from runtime.config.serving import EdgeConfig, is_loopback
from runtime.core.errors import TealError
from runtime.serving.edge_files import EdgeFiles

logger = logging.getLogger(__name__)

LOOK_S = 1.0
START_AGAIN_S = 20.0
"""From one start on a node until the next, if the edge did not stay."""


class Fleet(Protocol):
    """The edges on nodes that have joined; each call may raise TealError."""

    def nodes(self) -> Sequence[Node]: ...

    def edges(self) -> set[str]:
        """Ids of the nodes, living or dead, for which there is an edge's actor."""

    def start(self, node: Node) -> None:
        """TealError with the reason if it does not come up."""

    def end(self, node_id: str) -> None:
        """Let go of the actor of a node that is no more."""


def ingress_nodes(nodes: Sequence[Node], named: Sequence[str]) -> list[Node]:
    """Living nodes beside the head that are to have an edge: those `named` by address, or all."""
    return [node for node in nodes if node.is_alive and not node.is_head and (not named or node.address in named)]


def edge_id_of(cluster: ClusterConfig, address: str | None) -> str:
    """How edges sign what they acknowledge: one that comes back on the same node takes its own place again."""
    return f"{address or socket.gethostname()}:{cluster.ports.edge}"


def files_on(paths: PathsConfig, node: Node) -> EdgeFiles:
    """Apart from other nodes', as the run directory may be one that they share."""
    if node.is_head:
        return EdgeFiles.of(paths)
    return EdgeFiles(directory=Path(paths.run).absolute() / f"edge-{node.address.replace(':', '-')}")


def edge_on(edge: EdgeConfig, node: Node) -> EdgeConfig:
    """One address is one machine's: where the head listens on its own, another node listens on its own too."""
    if node.is_head or edge.host is None or is_loopback(edge.host) or _is_wildcard(edge.host):
        return edge
    return replace(edge, host=node.address)


def serve_hosts_on(cluster: ClusterConfig, node: Node) -> list[str]:
    """Where Ray's ingress is asked from this node: the head first, as its fallback is there alone."""
    return [cluster.host] if node.is_head else [cluster.address or cluster.host, cluster.host]


class Keeper:
    """Starts edges on nodes that join, and forgets those of nodes that are gone."""

    def __init__(
        self,
        fleet: Fleet,
        forget: Callable[[str], None],
        cluster: ClusterConfig,
        edge: EdgeConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`forget` removes what an edge has acknowledged; by its id."""
        self._fleet = fleet
        self._forget = forget
        self._cluster = cluster
        self._edge = edge
        self._clock = clock
        self._started_at: dict[str, float] = {}
        self._forgotten: set[str] = set()
        self.problems: dict[str, str] = {}
        """Address of a node to why it has no edge."""

    def look(self) -> None:
        """Compare what is with what should be, and act on it. TealError if Ray or the store is away."""
        nodes = self._fleet.nodes()
        wanted = {node.node_id: node for node in ingress_nodes(nodes, self._edge.nodes)}
        found = self._fleet.edges()
        for node_id in found - wanted.keys():
            self._fleet.end(node_id)
        self._forget_dead(nodes)
        for node_id, node in wanted.items():
            if node_id in found:
                self.problems.pop(node.address, None)
            elif self._clock() - self._started_at.get(node_id, float("-inf")) >= START_AGAIN_S:
                self._started_at[node_id] = self._clock()
                self._start(node)
        gone = self.problems.keys() - {node.address for node in wanted.values()}
        for address in gone:
            del self.problems[address]

    def _start(self, node: Node) -> None:
        try:
            self._fleet.start(node)
        except TealError as error:
            logger.warning("no edge on node %s: %s", node.address, error)
            self.problems[node.address] = str(error)

    def _forget_dead(self, nodes: Sequence[Node]) -> None:
        """An edge that nobody supervises any more must not be waited for."""
        living = {node.address for node in nodes if node.is_alive}
        for node in nodes:
            if not node.is_alive and node.address not in living and node.node_id not in self._forgotten:
                self._forget(edge_id_of(self._cluster, node.address))
                self._forgotten.add(node.node_id)


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
