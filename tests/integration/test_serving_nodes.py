"""Several nodes: real edges and replica processes on two machines that are network namespaces. No Ray."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cluster.nodes import Node
from runtime.config.schema import Config
from runtime.rollout import traffic
from runtime.rollout.readings import counts_between
from runtime.rollout.world import PlatformWorld
from runtime.serving.edge_counters import EdgeLife, read_lives
from runtime.serving.edge_nodes import Keeper, edge_id_of, files_on
from runtime.serving.edge_process import EdgeProcess
from runtime.store.records import EndpointState
from runtime.store.rollouts import RolloutStore
from tests.edge_node import HEAD, MODEL, config_of, node_at
from tests.namespaces import Machine, two_machines
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SHARE = 3000
PATH = "/v1/models/e:predict"


class Cluster:
    """A store, and on each machine an edge and a replica of each slot."""

    def __init__(self, home: Path, head: Machine, worker: Machine) -> None:
        self.home, self.head, self.worker = home, head, worker
        self.config: Config = config_of(home)
        self.store = RolloutStore(self.config.paths.control)
        self.store.create_schema()
        self.store.record_model_version(MODEL)
        for _ in range(2):
            self.store.assign_slot("e", None, MODEL, actor="test")
        self.store.set_share("e", SHARE, actor="test")

    def start(self, machine: Machine) -> None:
        command = machine.command(sys.executable, "-m", "tests.edge_node", str(self.home), machine.address)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "'process_error': None" in line, line

    def connect(self) -> http.client.HTTPConnection:
        """To the edge of the machine on which it is called."""
        return http.client.HTTPConnection("127.0.0.1", self.config.cluster.ports.edge, timeout=20)

    def ask(self, keys: list[str]) -> Callable[[], list[tuple[str, str]]]:
        """For a machine: the slot of each key's answer, and the node that gave it."""

        def asked() -> list[tuple[str, str]]:
            connection = self.connect()
            answers = []
            for key in keys:
                connection.request("POST", PATH, b"{}", {"x-routing-key": key})
                response = connection.getresponse()
                body = json.loads(response.read())
                assert response.status == 200, body
                answers.append((response.headers["x-slot"], body.get("by", "ingress")))
            connection.close()
            return answers

        return asked

    def edge_id(self, machine: Machine) -> str:
        return edge_id_of(self.config.cluster, machine.address)

    def acknowledged(self) -> dict[str, int]:
        return self.store.acknowledged("e", alive_since=time.time() - traffic.EDGE_ALIVE_S)

    def read_lives(self, live: Sequence[str], apps: Sequence[str]) -> list[EdgeLife]:
        lives: list[EdgeLife] = []
        for machine in (self.head, self.worker):
            if self.edge_id(machine) in live:
                process = EdgeProcess(files_on(self.config.paths, node_at(machine.address)), address=("", 0))
                lives += read_lives(process, self.edge_id(machine), apps)
        return lives


class Load:
    """Callers of one machine's edge, who note what they get."""

    def __init__(self, cluster: Cluster, machine: Machine, *, callers: int = 3, pause_s: float = 0.004) -> None:
        self.statuses: list[int | str] = []
        self._cluster, self._pause_s = cluster, pause_s
        self._stop = threading.Event()
        self._running = [machine.start(self._call) for _ in range(callers)]

    def _call(self) -> None:
        connection = self._cluster.connect()
        while not self._stop.wait(self._pause_s):
            try:
                connection.request("POST", PATH, b"{}")
                response = connection.getresponse()
                response.read()
                self.statuses.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                self.statuses.append(repr(error))
                connection.close()
                connection = self._cluster.connect()

    def wait_for(self, num_more: int) -> None:
        goal = len(self.statuses) + num_more
        wait_until(lambda: len(self.statuses) >= goal, timeout_s=30)

    def stop(self) -> list[int | str]:
        self._stop.set()
        for caller in self._running:
            caller.result(30)
        return self.statuses


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    try:
        with two_machines(f"teal{os.getpid()}") as (head, worker):
            cluster = Cluster(tmp_path, head, worker)
            for machine in (head, worker):
                cluster.start(machine)
            for machine in (head, worker):
                wait_for_nodes(cluster, machine, {HEAD, worker.address})
            yield cluster
            cluster.store.close()
    except PermissionError as error:
        pytest.skip(f"network namespaces are not permitted here: {error}")


def nodes_behind(cluster: Cluster, machine: Machine) -> set[str]:
    """Who answers, of 20 keys."""
    return {node for _, node in machine.call(cluster.ask([f"key-{index}" for index in range(20)]))}


def wait_for_nodes(cluster: Cluster, machine: Machine, expected: set[str]) -> None:
    wait_until(lambda: nodes_behind(cluster, machine) == expected, timeout_s=20)


def test_each_edge_reaches_every_node_and_deals_a_key_the_same_slot(cluster: Cluster) -> None:
    keys = [f"user-{index}" for index in range(300)]
    of_head, of_worker = (machine.call(cluster.ask(keys)) for machine in (cluster.head, cluster.worker))
    assert [slot for slot, _ in of_head] == [slot for slot, _ in of_worker]
    assert 0.2 < sum(slot == "green" for slot, _ in of_head) / len(keys) < 0.4
    for answers in (of_head, of_worker):
        assert {(slot, node) for slot, node in answers} == {
            (slot, node) for slot in ("blue", "green") for node in (cluster.head.address, cluster.worker.address)
        }


def test_a_lost_node_costs_the_other_edge_nothing_and_is_waited_for_no_longer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "EDGE_ALIVE_S", 3.0)
    monkeypatch.setattr("runtime.rollout.world.EDGE_ALIVE_S", 3.0)
    both = {cluster.edge_id(cluster.head), cluster.edge_id(cluster.worker)}
    assert cluster.acknowledged().keys() == both
    moved, _ = traffic.shift(cluster.store, "e", 4000, actor="test")
    assert traffic.wait_acknowledged(cluster.store, moved) < 5
    assert set(cluster.acknowledged().values()) == {moved.generation}

    loads = [Load(cluster, machine) for machine in (cluster.head, cluster.worker)]
    for load in loads:
        load.wait_for(200)
    assert cluster.worker.kill()
    killed_at = time.monotonic()
    moved, _ = traffic.shift(cluster.store, "e", 10_000, actor="test")
    behind = cluster.acknowledged()
    assert behind[cluster.edge_id(cluster.worker)] < moved.generation
    loads[0].wait_for(300)
    assert traffic.wait_acknowledged(cluster.store, moved) + time.monotonic() - killed_at < 10
    assert cluster.acknowledged() == {cluster.edge_id(cluster.head): moved.generation}
    loads[0].wait_for(300)
    assert [status for status in loads[0].stop() if status != 200] == []
    assert 200 not in loads[1].stop()[-20:]
    assert nodes_behind(cluster, cluster.head) == {cluster.head.address}


def test_what_all_edges_clients_saw_is_counted_once_whoever_dies(cluster: Cluster) -> None:
    def read() -> EndpointState:
        return cluster.store.endpoint("e")

    keys = [f"user-{index}" for index in range(100)]
    world = PlatformWorld(cluster.config, lambda _endpoint: [], read_lives=cluster.read_lives)
    before = world.read("edge", read(), time.time())
    assert before is not None
    cluster.head.call(cluster.ask(keys))
    cluster.worker.call(cluster.ask(keys))
    after = world.read("edge", read(), time.time())
    assert after is not None
    counted = counts_between(before, after)
    assert counted is not None
    assert sum(counted[slot]["requests"][0] for slot in ("blue", "green")) == 200

    cluster.worker.kill()
    # It has acknowledged a moment ago, so it may be alive: nothing is known until it is known to be gone.
    assert world.read("edge", read(), time.time()) is None
    forgotten = Keeper(LostNode(cluster), cluster.store.forget_edge, cluster.config.cluster, cluster.config.edge)
    forgotten.look()
    assert cluster.acknowledged().keys() == {cluster.edge_id(cluster.head)}
    cluster.head.call(cluster.ask(keys))
    alone = world.read("edge", read(), time.time())
    assert alone is not None
    for start, expected in ((before, 300), (after, 100)):
        counted = counts_between(start, alone)
        assert counted is not None
        assert sum(counted[slot]["requests"][0] for slot in ("blue", "green")) == expected


def test_a_node_that_comes_back_has_the_split_of_now_before_its_first_answer(cluster: Cluster) -> None:
    machines = (cluster.head, cluster.worker)
    for machine in machines:
        machine.kill()
    moved = cluster.store.set_share("e", 10_000, actor="test")

    def first_answer() -> tuple[str, str]:
        """Asked from before the edge listens; without a replica it has no answer yet, whose slot would be known."""

        def asked() -> tuple[str, str] | None:
            connection = cluster.connect()
            try:
                connection.request("POST", PATH, b"{}")
                response = connection.getresponse()
                return response.headers["x-slot"], response.headers["x-generation"]
            except (OSError, http.client.HTTPException):
                return None
            finally:
                connection.close()

        found = wait_until(asked, timeout_s=30)
        assert found is not None
        return found

    asking = [machine.start(first_answer) for machine in machines]
    for machine in machines:
        cluster.start(machine)
    assert [first.result(30) for first in asking] == [("green", str(moved.generation))] * 2


class LostNode:
    """What Ray would say of this cluster once the worker is dead."""

    def __init__(self, cluster: Cluster) -> None:
        gone = replace(node_at(cluster.worker.address), is_alive=False)
        self._nodes = [node_at(cluster.head.address), gone]

    def nodes(self) -> Sequence[Node]:
        return self._nodes

    def edges(self) -> set[str]:
        return set()

    def start(self, node: Node) -> None:
        raise AssertionError(f"nothing is to be started, but {node} is")

    def end(self, node_id: str) -> None:
        raise AssertionError(node_id)
