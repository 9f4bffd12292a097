"""Which nodes have an edge, how each is set up, and when one is waited for no longer. No Ray."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runtime.cli.render import edge_table
from runtime.cluster.doctor import examine_nodes
from runtime.cluster.nodes import Node
from runtime.config.cluster import ClusterConfig
from runtime.config.serving import EdgeConfig, ServingConfig
from runtime.core.errors import TealError
from runtime.rollout.readings import Counted, Life, Reading, counts_between
from runtime.serving.autoscaling import least_replicas
from runtime.serving.edge_counters import parse_table
from runtime.serving.edge_nodes import START_AGAIN_S, Keeper, edge_on, files_on, ingress_nodes, serve_hosts_on
from runtime.store.control import ControlStore
from tests.cluster_config import cluster_config

CLUSTER = ClusterConfig(address="10.0.0.1")
HEAD = Node(node_id="head", address="10.0.0.1", is_head=True, is_alive=True)
ONE = Node(node_id="one", address="10.0.0.2", is_head=False, is_alive=True)
TWO = Node(node_id="two", address="10.0.0.3", is_head=False, is_alive=True)


class FakeFleet:
    def __init__(self, *nodes: Node) -> None:
        self.held = list(nodes)
        self.running: set[str] = set()
        self.num_starts = 0
        self.fault: str | None = None

    def nodes(self) -> Sequence[Node]:
        return self.held

    def edges(self) -> set[str]:
        return set(self.running)

    def start(self, node: Node) -> None:
        self.num_starts += 1
        if self.fault is not None:
            raise TealError(self.fault)
        self.running.add(node.node_id)

    def end(self, node_id: str) -> None:
        self.running.remove(node_id)

    def lose(self, node: Node) -> None:
        self.held[self.held.index(node)] = replace(node, is_alive=False)


class Site:
    def __init__(self, *nodes: Node, edge: EdgeConfig | None = None) -> None:
        self.fleet = FakeFleet(*nodes)
        self.now = 0.0
        self.forgotten: list[str] = []
        self.keeper = self.new_keeper(edge or EdgeConfig())

    def new_keeper(self, edge: EdgeConfig) -> Keeper:
        return Keeper(self.fleet, self.forgotten.append, CLUSTER, edge, clock=lambda: self.now)


def test_a_node_that_joins_gets_an_edge_and_one_that_dies_is_forgotten_once() -> None:
    site = Site(HEAD)
    site.keeper.look()
    assert site.fleet.running == set()
    site.fleet.held += [ONE, TWO]
    site.keeper.look()
    site.keeper.look()
    assert (site.fleet.running, site.fleet.num_starts) == ({"one", "two"}, 2)
    site.fleet.lose(ONE)
    site.keeper.look()
    site.keeper.look()
    assert (site.fleet.running, site.forgotten) == ({"two"}, ["10.0.0.2:8080"])


def test_a_keeper_that_is_started_again_finds_what_is_there() -> None:
    site = Site(HEAD, ONE)
    site.keeper.look()
    site.fleet.lose(ONE)
    site.new_keeper(EdgeConfig()).look()
    assert (site.fleet.num_starts, site.fleet.running, site.forgotten) == (1, set(), ["10.0.0.2:8080"])


def test_a_node_that_came_back_under_its_address_is_not_forgotten() -> None:
    site = Site(HEAD, replace(ONE, is_alive=False), replace(ONE, node_id="again"))
    site.keeper.look()
    assert (site.fleet.running, site.forgotten) == ({"again"}, [])


def test_an_edge_that_does_not_start_is_told_and_tried_again_later() -> None:
    site = Site(HEAD, ONE)
    site.fleet.fault = "port 8080 is in use"
    site.keeper.look()
    site.keeper.look()
    assert (site.fleet.num_starts, site.keeper.problems) == (1, {"10.0.0.2": "port 8080 is in use"})
    site.fleet.fault, site.now = None, START_AGAIN_S
    site.keeper.look()
    site.keeper.look()
    assert (site.fleet.running, site.keeper.problems) == ({"one"}, {})


def test_only_named_nodes_have_one_where_some_are_named() -> None:
    assert ingress_nodes([HEAD, ONE, TWO], []) == [ONE, TWO]
    assert ingress_nodes([HEAD, ONE, replace(TWO, is_alive=False)], ["10.0.0.1", "10.0.0.3", "10.0.0.2"]) == [ONE]
    site = Site(HEAD, ONE, TWO, edge=EdgeConfig(nodes=["10.0.0.3"]))
    site.keeper.look()
    assert site.fleet.running == {"two"}


@pytest.mark.parametrize(
    ("host", "there"), [(None, None), ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("10.0.0.1", "10.0.0.2")]
)
def test_no_edge_listens_on_anothers_address(host: str | None, there: str | None) -> None:
    edge = EdgeConfig(host=host, require_token=True, tls=True)
    assert edge_on(edge, HEAD) == edge
    assert edge_on(edge, ONE).host == there


def test_edges_of_one_directory_have_files_of_their_own(tmp_path: Path) -> None:
    paths = cluster_config(tmp_path).paths
    directories = {files_on(paths, node).directory for node in (HEAD, ONE, TWO)}
    assert len(directories) == 3
    assert {files_on(paths, node).secret for node in (HEAD, ONE)} == {tmp_path / "run" / "edge_secret"}
    assert serve_hosts_on(CLUSTER, HEAD) == ["127.0.0.1"]
    assert serve_hosts_on(CLUSTER, ONE) == ["10.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "head.example.org", ""])
def test_an_address_that_nobody_reaches_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        ClusterConfig(address=address)


def test_one_machine_stays_on_loopback_and_several_do_not() -> None:
    assert (ClusterConfig().ray_address, ClusterConfig().serve_host) == ("127.0.0.1:6379", "127.0.0.1")
    assert (CLUSTER.ray_address, CLUSTER.serve_host) == ("10.0.0.1:6379", "0.0.0.0")


def test_a_slot_with_any_traffic_keeps_as_many_replicas_as_nodes_may_be_lost() -> None:
    serving = ServingConfig(endpoint="e", min_replicas=2, max_replicas=4, least_replicas=2, idle_replicas=1)
    assert [least_replicas(serving, share) for share in (0, 1, 3000, 10_000)] == [1, 2, 2, 2]
    with pytest.raises(ValueError, match=r"least_replicas must be within 0\.\.1 but got 2"):
        ServingConfig(endpoint="e", least_replicas=2)


def test_an_edge_is_known_by_its_last_sign_until_it_is_forgotten(tmp_path: Path) -> None:
    store = ControlStore(f"sqlite:///{tmp_path}/control.db")
    store.create_schema()
    store.acknowledge("a", {"x": 1, "y": 1}, 10.0)
    store.acknowledge("b", {"x": 1}, 11.0)
    store.acknowledge("a", {"x": 2}, 12.0)
    assert store.edge_signs() == {"a": 12.0, "b": 11.0}
    store.forget_edge("a")
    store.forget_edge("never was")
    assert store.edge_signs() == {"b": 11.0}
    assert store.acknowledged("x", alive_since=0) == {"b": 1}


def life(requests: int, *, began_at: float = 0.0, errors: int = 0) -> Life:
    def counted(number: int) -> Counted:
        return {"requests": [number], "errors": [errors], "refused": [0]}

    return Life(began_at=began_at, slots={"blue": counted(requests), "green": counted(requests)})


def reading(at: float, **lives: Life) -> Reading:
    return Reading(source="edge", at=at, generation=4, epoch="", slots={}, lives=lives)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": life(10), "b": life(5)}, {"a": life(15), "b": life(9)}, 9),
        # b was lost and a replaced by a reload: what was last read of them is not counted again.
        ({"a": life(10), "b": life(5)}, {"a": life(12), "b": life(5), "c": life(3, began_at=150.0)}, 5),
        # Its counters of the time before the first reading are of another share.
        ({"a": life(10)}, {"a": life(12), "d": life(1000, began_at=50.0)}, 2),
        ({"a": life(10)}, {"c": life(7, began_at=101.0)}, 7),
        ({"a": life(10), "b": life(1)}, {"a": life(3), "b": life(2)}, 1),
    ],
)
def test_counts_of_all_edges_add_up_and_nothing_counts_twice(
    before: dict[str, Life], after: dict[str, Life], expected: int
) -> None:
    counts = counts_between(reading(100.0, **before), reading(200.0, **after))
    assert counts is not None
    assert counts["blue"] == {"requests": [expected], "errors": [0], "refused": [0]}


def test_a_reading_of_lives_survives_json_and_meets_none_of_another_kind() -> None:
    original = reading(1.0, a=life(3, errors=1))
    assert Reading.from_json(original.to_json()) == original
    older = Reading(source="edge", at=0.0, generation=4, epoch="1", slots=life(1).slots)
    assert counts_between(older, original) is None


def test_answers_by_grpc_are_read_of_their_table() -> None:
    text = "# table: e-blue-grpc, type: string, size:1, used:1\n0x1: key=e-blue-grpc use=0 exp=0 gpc0=7 gpc1=4 gpc2=1\n"
    assert parse_table(text) == {"requests": [7], "errors": [4], "refused": [1]}
    assert parse_table("Unknown stick table\n") == {"requests": [0], "errors": [0], "refused": [0]}


def test_the_doctor_names_what_several_nodes_need() -> None:
    assert examine_nodes(ClusterConfig(), "sqlite:///control.db") == []
    (network,) = examine_nodes(CLUSTER, "postgresql://db/teal")
    assert (network.status, "10.0.0.1" in network.detail) == ("warning", True)
    assert [found.status for found in examine_nodes(CLUSTER, "sqlite:///control.db")] == ["warning", "error"]


def test_status_draws_a_row_for_each_edge_and_what_is_wrong_with_it() -> None:
    gone: dict[str, Any] = {
        "edge_id": "10.0.0.2:8080",
        "node": None,
        "seen_s": 7.0,
        "generations": {},
        "problem": "its node is gone",
    }
    well: dict[str, Any] = {
        "edge_id": "10.0.0.1:8080",
        "node": "a" * 56,
        "seen_s": 0.2,
        "generations": {"e": 4},
        "problem": None,
    }
    console = Console(file=io.StringIO(), width=120)
    console.print(edge_table([well, gone]))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert ["e 4" in line for line in lines] == [False, True, False]
    assert "7 s ago" in lines[2]
    assert "its node is gone" in lines[2]
