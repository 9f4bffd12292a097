"""Requests that come while a slot has no replica: they wait at the edge, and the first replica takes them all."""

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import pytest
from aiohttp import web

from runtime.config.cluster import ClusterConfig
from runtime.serving.edge_backend import INGRESS_REQUESTS
from tests.integration.test_serving_edge_replicas import StandIn, answered_by
from tests.integration.test_serving_edge_slots import replica_processes, servers_up
from tests.replica_process import BODY
from tests.serving_edge import Answer, Edge, Ingress
from tests.waiting import wait_until

NUM_ASKED = 250
"""So many that more than may wait are left once a replica has as many as it is given."""
NUM_LATER = 20
NUM_CALLS = 40


class HoldingIngress(Ingress):
    """Holds every request, as Ray's ingress does while Serve starts a replica."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self.num_held = 0
        self.release = threading.Event()
        super().__init__(cluster)

    async def _echo(self, request: web.Request) -> web.Response:
        self.num_held += 1
        await asyncio.to_thread(self.release.wait, 20)
        return await super()._echo(request)


@pytest.fixture
def holding(home: Edge) -> Iterator[HoldingIngress]:
    ingress = HoldingIngress(home.cluster)
    yield ingress
    ingress.release.set()
    ingress.close()


def num_waiting(edge: Edge, backend: str = "e-blue") -> int:
    text, metric = edge.send("/-/metrics", method="GET", body=None)[2].decode(), "haproxy_backend_current_queue"
    (line,) = (line for line in text.splitlines() if line.startswith(f'{metric}{{proxy="{backend}"}}'))
    return int(line.rpartition(" ")[2])


def test_requests_wait_at_the_edge_until_there_is_a_replica(holding: HoldingIngress, lonely_edge: Edge) -> None:
    edge = lonely_edge
    edge.give(0)
    serving = edge.config.serving
    assert serving.max_waiting_requests + serving.max_ongoing_requests + 2 * INGRESS_REQUESTS < NUM_ASKED
    one = StandIn(edge, "one", "blue")
    one.hold.clear()
    try:
        with ThreadPoolExecutor(NUM_ASKED + NUM_LATER) as pool:
            asked: list[Future[Answer]] = [pool.submit(edge.send) for _ in range(NUM_ASKED)]
            wait_until(lambda: num_waiting(edge) + holding.num_held == NUM_ASKED, timeout_s=20)
            num_held = holding.num_held
            one.register()
            # Behind a line that is as long as that because there was no replica, none are refused.
            wait_until(lambda: num_waiting(edge) < NUM_ASKED - num_held, timeout_s=20)
            asked += [pool.submit(edge.send) for _ in range(NUM_LATER)]
            wait_until(lambda: num_waiting(edge) > NUM_ASKED - num_held - serving.max_ongoing_requests, timeout_s=20)
            one.hold.set()
            # The ingress still holds what it has.
            wait_until(lambda: sum(call.done() for call in asked) == len(asked) - num_held, timeout_s=20)
            holding.release.set()
            by = Counter(answered_by(call.result()) for call in asked)
    finally:
        one.close()
    assert 1 <= num_held <= 2 * INGRESS_REQUESTS
    assert by == {"one": NUM_ASKED + NUM_LATER - num_held, "ingress": num_held}
    assert holding.num_held == num_held


def test_an_ingress_that_fails_its_checks_is_tried_all_the_same(edge: Edge, ingress: Ingress) -> None:
    edge.give(0)
    ingress.routes.clear()

    def are_all_down() -> bool:
        text = edge.send("/-/metrics", method="GET", body=None)[2].decode()
        return all(f'server="{name}",state="DOWN"}} 1' in text for name in ("ray0", "fallback"))

    wait_until(are_all_down, timeout_s=20)
    assert [answered_by(edge.send()) for _ in range(8)] == ["ingress"] * 8


def test_grpc_calls_wait_for_the_next_replica_and_questions_of_readiness_do_not(edge: Edge) -> None:
    edge.give(0)
    service = "/inference.GRPCInferenceService/"
    message = b"\n\x01e"
    with (
        grpc.insecure_channel(f"127.0.0.1:{edge.cluster.ports.edge_grpc}") as channel,
        ThreadPoolExecutor(NUM_CALLS) as pool,
        replica_processes(edge, "blue") as (first,),
    ):
        call = channel.unary_unary(service + "ModelInfer")
        wait_until(lambda: servers_up(edge, "e-blue-grpc") == 1, timeout_s=10)
        assert call(message, timeout=10) == BODY
        os.kill(first.pid, signal.SIGKILL)
        asked = [pool.submit(call, message, timeout=25) for _ in range(NUM_CALLS)]
        wait_until(lambda: servers_up(edge, "e-blue-grpc") == 0, timeout_s=10)
        wait_until(lambda: num_waiting(edge, "e-blue-grpc") == NUM_CALLS - 1, timeout_s=10)
        for name in ("ModelReady", "ServerReady"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(service + name)(message, timeout=10)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE, caught.value
        assert edge.send("/v2/models/e/ready", method="GET", body=None)[0] == 503
        assert edge.send("/v2/health/ready", method="GET", body=None)[0] == 503
        with replica_processes(edge, "blue"):
            assert [one.result() for one in asked] == [BODY] * NUM_CALLS
            assert edge.send("/v2/health/ready", method="GET", body=None)[0] == 200
