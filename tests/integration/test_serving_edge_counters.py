"""What an edge's clients saw, by HTTP and by gRPC, as the real HAProxy counts it."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from runtime.rollout.readings import Life, Reading, counts_between
from runtime.rollout.world import PlatformWorld
from runtime.serving.edge_counters import SlotCounts
from runtime.store.records import Replica
from tests.serving_edge import MODEL, Edge
from tests.waiting import wait_until

METRICS_PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"
INFER = "/inference.GRPCInferenceService/ModelInfer"
READY = "/inference.GRPCInferenceService/ModelReady"
STATUSES = {
    b"internal": grpc.StatusCode.INTERNAL,
    b"bad": grpc.StatusCode.INVALID_ARGUMENT,
    b"busy": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class _Obedient(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers, or fails as it is told to; any other call is unimplemented, as HAProxy's check wants it."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if call.method != INFER:
            return None

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if request in STATUSES:
                context.abort(STATUSES[request], "as it was told")
            return b"yes"

        return grpc.unary_unary_rpc_method_handler(answer)


def counted(edge: Edge) -> SlotCounts:
    """Of slot blue, over all lives of this edge's HAProxy."""
    lives = edge.loop.read_lives(["e-blue"])
    return {name: [sum(life.apps["e-blue"][name][0] for life in lives)] for name in ("requests", "errors", "refused")}


@pytest.fixture
def call(lonely_edge: Edge) -> Callable[[bytes], grpc.StatusCode]:
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Obedient(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    lonely_edge.store.register_replica(
        Replica(
            replica_id="blue",
            endpoint="e",
            slot="blue",
            host="127.0.0.1",
            port=1,
            grpc_port=port,
            bundle_sha256=MODEL.bundle_sha256,
            state="ready",
            at=time.time(),
        )
    )
    lonely_edge.give(0)
    channel = grpc.insecure_channel(f"localhost:{lonely_edge.cluster.ports.edge_grpc}")

    def call(request: bytes, method: str = INFER) -> grpc.StatusCode:
        try:
            channel.unary_unary(method)(request, metadata=(("x-endpoint", "e"),), timeout=10)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    wait_until(lambda: call(b"hello") == grpc.StatusCode.OK, timeout_s=10)
    lonely_edge.grpc_server = server  # type: ignore[attr-defined]
    return call


def test_grpc_answers_are_counted_by_whose_fault_they_are(
    lonely_edge: Edge, call: Callable[[bytes], grpc.StatusCode]
) -> None:
    before = counted(lonely_edge)
    requests = [b"one", b"internal", b"bad", b"two", b"internal", b"busy", b"three"]
    assert [call(request) for request in requests] == [STATUSES.get(r, grpc.StatusCode.OK) for r in requests]
    after = counted(lonely_edge)
    assert {name: after[name][0] - before[name][0] for name in after} == {"requests": 7, "errors": 2, "refused": 2}


def test_a_lost_grpc_replica_is_an_error_that_clients_saw(
    lonely_edge: Edge, call: Callable[..., grpc.StatusCode]
) -> None:
    lonely_edge.grpc_server.stop(0)  # type: ignore[attr-defined]
    wait_until(lambda: lonely_edge.send("/v2/health/ready", method="GET", body=None)[0] == 503, timeout_s=10)
    before = counted(lonely_edge)
    assert call(b"hello", READY) == grpc.StatusCode.UNAVAILABLE
    after = counted(lonely_edge)
    assert {name: after[name][0] - before[name][0] for name in after} == {"requests": 1, "errors": 1, "refused": 0}


def test_http_and_grpc_add_up_over_a_reload(edge: Edge, call: Callable[[bytes], grpc.StatusCode]) -> None:
    world = PlatformWorld(edge.config, lambda _endpoint: [])

    def read() -> Reading:
        reading = world.read("edge", edge.store.endpoint("e"), time.time())
        assert reading is not None
        return reading

    before = read()
    connection = edge.connect()
    assert edge.send(on=connection)[0] == 200
    assert call(b"hello") == grpc.StatusCode.OK
    between = read()
    edge.store.assign_slot("another", None, MODEL, actor="test")
    assert edge.loop.poll_now()
    assert edge.send()[0] == 200
    after = read()
    assert len(after.lives) > len(between.lives)
    # The new worker may have begun in the same second as the first reading; ages are told in whole seconds.
    counts = [
        counts_between(before, reading) for reading in (between, replace(after, lives=_begun_later(before, after)))
    ]
    assert [None if found is None else found["blue"]["requests"][0] for found in counts] == [2, 3]
    connection.close()


def _begun_later(before: Reading, after: Reading) -> dict[str, Life]:
    return {
        name: life if name in before.lives else replace(life, began_at=before.at + 1)
        for name, life in after.lives.items()
    }


def test_an_edge_exports_every_metric_that_is_documented_with_its_labels(edge: Edge) -> None:
    assert edge.send()[0] == 200
    text = edge.send("/-/metrics", None, method="GET")[2].decode()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    exported = {name: set(re.findall(r"(\w+)=", labels)) for name, labels in re.findall(r"^(\w+){(.*)} ", text, re.M)}
    documented = re.findall(r"^\| `(haproxy_\w+)` \| (\w+) \| ([\w, ]+) \| ", METRICS_PAGE.read_text(), re.MULTILINE)
    assert len(documented) > 10
    for name, kind, labels in documented:
        assert kinds[name] == kind
        assert exported[name] == set(re.findall(r"\w+", labels)), name
    assert re.search(r'^haproxy_backend_http_responses_total{proxy="e-blue",code="2xx"} 1$', text, re.MULTILINE)
