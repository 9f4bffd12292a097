"""How the edge lives: reloads, deaths, successors, a store that is away, a port that is taken."""

import http.client
import os
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cluster.free_ports import free_ports
from runtime.core.errors import TealError, UnreachableError
from runtime.serving.edge_files import touch_hint
from runtime.serving.edge_process import EdgeProcess
from runtime.store.principals import Grant
from runtime.store.records import EdgeLimits, EndpointState, Replica
from tests.serving_edge import MODEL, Edge
from tests.waiting import wait_until


def test_a_connection_from_before_a_reload_gets_the_new_share(edge: Edge) -> None:
    edge.give(0)
    connection = edge.connect()
    assert edge.send(on=connection)[1]["x-slot"] == "blue"
    edge.store.assign_slot("another", None, MODEL, actor="test")
    assert edge.loop.poll_now()
    assert edge.loop.status()["generations"].keys() == {"e", "another"}
    state = edge.give(10_000)
    _, headers, _ = edge.send(on=connection)
    assert (headers["x-slot"], headers["x-generation"]) == ("green", str(state.generation))
    connection.close()


def test_reloads_lose_no_request(edge: Edge) -> None:
    failures: list[str] = []
    num_answers = 0
    stop = threading.Event()

    def call() -> None:
        nonlocal num_answers
        connection = edge.connect()
        while not stop.is_set():
            try:
                status = edge.send(on=connection)[0]
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                return
            num_answers += 1
            if status != 200:
                failures.append(str(status))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for index in range(4):
        before = num_answers
        edge.store.assign_slot(f"new-{index}", None, MODEL, actor="test")
        assert edge.loop.poll_now(timeout_s=20)
        wait_until(lambda before=before: num_answers > before + 50 or failures, timeout_s=20)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failures == []


def test_a_hint_is_seen(edge: Edge) -> None:
    edge.loop.detach()
    edge.cluster = replace(edge.cluster, edge_poll_s=3600)
    edge.loop = edge.new_loop()
    edge.loop.start()
    state = edge.store.set_share("e", 2500, actor="test")
    touch_hint(edge.config.paths)
    wait_until(lambda: edge.loop.status()["generations"]["e"] == state.generation, timeout_s=10)
    assert edge.send()[1]["x-generation"] == str(state.generation)


def test_what_is_applied_is_acknowledged(lonely_edge: Edge) -> None:
    state = lonely_edge.give(4000)
    assert lonely_edge.store.acknowledged("e", alive_since=0) == {lonely_edge.loop.edge_id: state.generation}


def test_a_killed_haproxy_comes_back_with_the_same_split(edge: Edge) -> None:
    state = edge.give(10_000)
    for find in (lambda: edge.loop.status()["pid"], lambda: edge.loop._process.workers()[0][0]):
        os.kill(find(), signal.SIGKILL)
        starts = edge.loop.status()["num_starts"]
        wait_until(lambda starts=starts: edge.loop.status()["num_starts"] > starts, timeout_s=10)  # type: ignore[misc]
        _, headers, _ = edge.send()
        assert (headers["x-slot"], headers["x-generation"]) == ("green", str(state.generation))


def test_the_next_loop_takes_the_running_haproxy_over(edge: Edge) -> None:
    before = edge.loop.status()["pid"]
    edge.loop.detach()
    edge.store.set_share("e", 10_000, actor="test")
    edge.loop = edge.new_loop()
    edge.loop.start()
    assert edge.loop.status()["pid"] == before
    assert edge.send()[1]["x-slot"] == "green"


def test_a_deaf_haproxy_is_replaced(lonely_edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.serving.edge_process.COMMAND_TIMEOUT_S", 0.2)
    monkeypatch.setattr("runtime.serving.edge_process.STOP_TIMEOUT_S", 0.5)
    lonely_edge.loop.detach()
    deaf = lonely_edge.loop.status()["pid"]
    os.kill(deaf, signal.SIGSTOP)
    lonely_edge.loop = lonely_edge.new_loop()
    lonely_edge.loop.start()
    assert lonely_edge.loop.status()["pid"] not in (None, deaf)
    assert lonely_edge.send("/v2/health/live", method="GET")[0] == 200


class AwayStore:
    """A control store that can be away, and that can hand out what it likes."""

    def __init__(self, endpoints: list[EndpointState]) -> None:
        self.is_away = False
        self.held = endpoints

    def generations(self) -> dict[str, int]:
        return {endpoint.name: endpoint.generation for endpoint in self.endpoints()}

    def endpoints(self) -> list[EndpointState]:
        if self.is_away:
            raise UnreachableError("the database is away")
        return self.held

    def replicas(self) -> list[Replica]:
        return []

    def grants(self) -> list[Grant]:
        return []

    def edge_limits(self) -> list[EdgeLimits]:
        return []

    def acknowledge(self, edge_id: str, generations: Mapping[str, int], at: float) -> None:
        if self.is_away:
            raise UnreachableError("the database is away")


def test_the_last_good_state_stays_while_the_store_is_away(edge: Edge) -> None:
    state = edge.give(10_000)
    store = AwayStore([state])
    edge.loop.detach()
    edge.loop = edge.new_loop(store)
    edge.loop.start()
    store.is_away = True
    assert edge.loop.poll_now()
    status = edge.loop.status()
    assert status["store_error"] == "the database is away"
    assert wait_until(lambda: edge.loop.status()["staleness_s"] > status["staleness_s"], timeout_s=10)
    assert edge.send()[1]["x-slot"] == "green"
    # HAProxy is kept alive meanwhile, with the same split.
    os.kill(status["pid"], signal.SIGKILL)
    wait_until(lambda: edge.loop.status()["num_starts"] > status["num_starts"], timeout_s=10)
    assert edge.send()[1]["x-slot"] == "green"


def test_an_edge_that_starts_without_the_store_serves_what_the_last_one_did(edge: Edge) -> None:
    state = edge.give(10_000)
    edge.loop.stop()
    store = AwayStore([])
    store.is_away = True
    edge.loop = edge.new_loop(store)
    edge.loop.start()
    _, headers, _ = edge.send()
    assert (headers["x-slot"], headers["x-generation"]) == ("green", str(state.generation))


def test_an_older_generation_changes_nothing(edge: Edge) -> None:
    state = edge.give(10_000)
    store = AwayStore([state])
    edge.loop.detach()
    edge.loop = edge.new_loop(store)
    edge.loop.start()
    store.held = [replace(state, generation=state.generation - 1, share=0)]
    assert edge.loop.poll_now()
    assert edge.send()[1]["x-generation"] == str(state.generation)
    store.held = []
    assert edge.loop.poll_now()
    assert edge.send()[0] == 200


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    with socket.socket() as other:
        # With SO_REUSEPORT both could bind, and would share the traffic.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((edge.cluster.host, edge.cluster.ports.edge))
        other.listen()
        edge.loop.start()
        assert f"cannot listen on {edge.cluster.host}:{edge.cluster.ports.edge}" in edge.loop.status()["process_error"]
        assert edge.store.acknowledged("e", alive_since=0) == {}
    wait_until(lambda: edge.loop.status()["pid"], timeout_s=10)
    assert edge.loop.status()["process_error"] is None
    edge.loop.stop()


def test_a_configuration_that_haproxy_refuses_replaces_nothing(lonely_edge: Edge) -> None:
    process = EdgeProcess(lonely_edge.files, address=(lonely_edge.cluster.host, lonely_edge.cluster.ports.edge))
    before = lonely_edge.files.config.read_text()
    with pytest.raises(TealError, match="does not accept"):
        process.apply("frontend x\n    bind nonsense\n", {})
    assert lonely_edge.files.config.read_text() == before
    assert lonely_edge.send("/v2/health/live", method="GET")[0] == 200


def test_two_edges_do_not_meet(lonely_edge: Edge, tmp_path: Path) -> None:
    other = Edge(tmp_path / "other")
    other.cluster = replace(other.cluster, ports=free_ports())
    other.loop = other.new_loop()
    other.loop.start()
    assert other.loop.status()["pid"] != lonely_edge.loop.status()["pid"]
    other.loop.stop()
    assert lonely_edge.send("/v2/health/live", method="GET")[0] == 200
