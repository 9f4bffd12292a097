"""The edge in front of replicas' own ports: asked directly, dropped at their first error, replaced by Ray's ingress."""

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runtime.serving.edge_servers import FEW_PLACES
from runtime.serving.listener import Listener, bind_in_range
from runtime.store.records import Replica, ReplicaState, Slot
from tests.serving_edge import MODEL, Answer, Edge
from tests.waiting import wait_until


def register(
    edge: Edge,
    name: str,
    port: int,
    *,
    slot: Slot = "blue",
    state: ReplicaState = "ready",
    bundle: str = MODEL.bundle_sha256,
) -> None:
    edge.store.register_replica(
        Replica(
            replica_id=name,
            endpoint="e",
            slot=slot,
            host="127.0.0.1",
            port=port,
            grpc_port=None,
            bundle_sha256=bundle,
            state=state,
            at=time.time(),
        )
    )
    assert edge.loop.poll_now()


class StandIn:
    """A replica's port with nothing behind it but its own name."""

    def __init__(self, edge: Edge, name: str, slot: Slot) -> None:
        self.name = name
        self.hold = threading.Event()
        self.hold.set()
        self._slot = slot
        self._edge = edge
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        ports = edge.cluster.ports
        self.listener = Listener(self._answer, bind_in_range("127.0.0.1", ports.listener_min, ports.listener_max))
        self._call(self.listener.start())

    def register(self, state: ReplicaState = "ready", bundle: str = MODEL.bundle_sha256) -> None:
        register(self._edge, self.name, self.listener.port, slot=self._slot, state=state, bundle=bundle)

    def close(self) -> None:
        self.hold.set()
        self._call(self.listener.stop(grace_s=5))

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.to_thread(self.hold.wait, 20)
        body = json.dumps({"by": self.name, "path": scope["path"]}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-model-version", b"m:1"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def replicas(edge: Edge) -> Iterator[tuple[StandIn, StandIn]]:
    pair = (StandIn(edge, "one", "blue"), StandIn(edge, "two", "blue"))
    yield pair
    for replica in pair:
        replica.close()


def answered_by(answer: Answer) -> str:
    status, _, body = answer
    assert status == 200, body
    return str(body.get("by", "ingress"))


def ask(edge: Edge, times: int = 8) -> set[str]:
    return {answered_by(edge.send()) for _ in range(times)}


def test_ready_replicas_are_asked_and_others_are_not(edge: Edge, replicas: tuple[StandIn, StandIn]) -> None:
    one, two = replicas
    assert ask(edge) == {"ingress"}
    one.register()
    assert ask(edge) == {"one"}
    two.register(bundle="another")
    assert ask(edge) == {"one"}
    two.register()
    assert ask(edge) == {"one", "two"}
    one.register("draining")
    assert ask(edge) == {"two"}
    edge.store.remove_replica("two")
    assert edge.loop.poll_now()
    assert ask(edge) == {"ingress"}


def test_a_replica_that_dies_without_a_word_costs_no_request(edge: Edge, replicas: tuple[StandIn, StandIn]) -> None:
    one, two = replicas
    one.register()
    two.register()
    one.close()
    assert ask(edge, times=20) == {"two"}
    two.close()
    assert ask(edge) == {"ingress"}


def test_a_reload_keeps_the_replicas(edge: Edge, replicas: tuple[StandIn, StandIn]) -> None:
    one, _ = replicas
    one.register()
    edge.store.assign_slot("other", None, MODEL, actor="test")
    assert edge.loop.poll_now()
    wait_until(lambda: ask(edge, times=1) == {"one"}, timeout_s=5)
    assert edge.loop.status()["replicas"]["e-blue"] == [f"127.0.0.1:{one.listener.port}"]


def test_more_replicas_than_places_are_all_asked(edge: Edge) -> None:
    """The slot gets more places by a reload, and nobody who asks meanwhile is refused."""
    many = [StandIn(edge, f"r{number}", "blue") for number in range(FEW_PLACES + 2)]
    try:
        for replica in many[:-2]:
            replica.register()
        assert ask(edge, times=12) == {replica.name for replica in many[:-2]}
        for replica in many[-2:]:
            replica.register()
        assert {"r0"} <= ask(edge, times=60) <= {"ingress", *(replica.name for replica in many)}
        wait_until(lambda: ask(edge, times=30) == {replica.name for replica in many}, timeout_s=10)
        assert len(edge.loop.status()["replicas"]["e-blue"]) == len(many)
    finally:
        for replica in many:
            replica.close()


def test_what_waits_too_long_in_line_is_refused_at_once(edge: Edge, replicas: tuple[StandIn, StandIn]) -> None:
    serving = edge.config.serving
    num_taken = serving.max_ongoing_requests + serving.max_waiting_requests + 1
    one, _ = replicas
    one.register()
    one.hold.clear()
    with ThreadPoolExecutor(num_taken + 5) as pool:
        asked = [pool.submit(edge.send) for _ in range(num_taken + 5)]
        refused = wait_until(lambda: [a for a in asked if a.done() and a.result()[0] == 429], timeout_s=20)
        assert refused[0].result()[1]["retry-after"] == "1"
        assert refused[0].result()[2]["error"]["code"] == "too_many_requests"
        one.hold.set()
        statuses = [a.result()[0] for a in asked]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= num_taken - 1


def test_killed_replicas_cut_no_answer_off(edge: Edge) -> None:
    statuses: list[int | str] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                statuses.append(edge.send()[0])
            except (OSError, http.client.HTTPException) as error:
                statuses.append(repr(error))

    def wait_for(num_more: int) -> None:
        goal = len(statuses) + num_more
        wait_until(lambda: len(statuses) >= goal, timeout_s=30)

    ports = edge.cluster.ports
    command = [sys.executable, "-m", "tests.replica_process", str(ports.listener_min), str(ports.listener_max)]
    with ThreadPoolExecutor(6) as pool:
        callers = [pool.submit(keep_asking) for _ in range(6)]
        try:
            for number in range(8):
                with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replica:
                    assert replica.stdout is not None
                    register(edge, str(number), int(replica.stdout.readline().split()[0]))
                    wait_for(150)
                    replica.kill()
                wait_for(50)
                edge.store.remove_replica(str(number))
        finally:
            stop.set()
            for caller in callers:
                caller.result(60)
    assert [status for status in statuses if status != 200] == []
