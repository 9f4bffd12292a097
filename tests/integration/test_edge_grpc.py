"""A real edge over gRPC: whose endpoint it is, the split, and refusals as statuses."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from runtime.store.records import SLOTS, Replica
from tests.integration.test_edge_policy import KNOWN_TOKEN, bearer, token
from tests.serving_edge import MODEL, SECRET, Edge, Ingress
from tests.serving_edge_grpc import INFER, Echo, GrpcClient, message
from tests.waiting import wait_until


@pytest.fixture
def grpc_edge(edge: Edge) -> Iterator[GrpcClient]:
    """A client of the running edge, with one gRPC server behind the replicas of both slots."""
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Echo(),))
    grpc_ports = {slot: server.add_insecure_port("127.0.0.1:0") for slot in SLOTS}
    server.start()
    ports = dict(zip(SLOTS, (edge.cluster.ports.serve, edge.cluster.ports.serve_fallback), strict=True))
    other = Ingress(replace(edge.cluster, ports=replace(edge.cluster.ports, serve=ports["green"])))
    for slot in SLOTS:
        edge.store.register_replica(
            Replica(
                replica_id=slot,
                endpoint="e",
                slot=slot,
                host="127.0.0.1",
                port=ports[slot],
                grpc_port=grpc_ports[slot],
                bundle_sha256=MODEL.bundle_sha256,
                state="ready",
                at=time.time(),
            )
        )
    assert edge.loop.poll_now()
    client = GrpcClient(edge)
    wait_until(lambda: client.call(message("e"))[0] == grpc.StatusCode.OK, timeout_s=10)
    yield client
    client.close()
    other.close()
    server.stop(0)


@pytest.mark.parametrize("size", [0, 100, 100_000, 3_000_000])
def test_the_message_itself_names_the_endpoint(grpc_edge: GrpcClient, size: int) -> None:
    status, seen = grpc_edge.call(message("e", size), x_slot="green", x_teal_edge="guess", authorization="")
    assert status == grpc.StatusCode.UNAUTHENTICATED
    status, seen = grpc_edge.call(message("e", size), x_slot="green", x_teal_edge="guess", x_principal="root")
    assert (status, seen["method"], seen["size"]) == (grpc.StatusCode.OK, INFER, len(message("e", size)))
    told = seen["metadata"]
    assert (told["x-teal-edge"], told["x-principal"]) == (SECRET, "anonymous")
    assert told["application"] == f"e-{told['x-slot']}"


def test_both_protocols_split_alike(edge: Edge, grpc_edge: GrpcClient) -> None:
    edge.give(3000)
    over_http = edge.split(100)
    over_grpc = {key: grpc_edge.call(message("e"), x_routing_key=key)[1]["metadata"]["x-slot"] for key in over_http}
    assert over_grpc == over_http
    assert set(over_http.values()) == {"blue", "green"}


def test_metadata_names_the_endpoint_of_what_cannot_be_read(grpc_edge: GrpcClient) -> None:
    assert grpc_edge.call(message("e", 1000), gzip=True)[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert grpc_edge.call(message("e", 1000), gzip=True, x_endpoint="e")[0] == grpc.StatusCode.OK
    assert grpc_edge.call(b"", method="/inference.GRPCInferenceService/ServerLive")[0] == grpc.StatusCode.OK


def test_a_refusal_over_grpc_has_its_status(edge: Edge, grpc_edge: GrpcClient) -> None:
    assert grpc_edge.call(message("un known%")) == (grpc.StatusCode.NOT_FOUND, "not_found: no endpoint un known%")
    assert grpc_edge.call(b"", method="/a.B/C")[0] == grpc.StatusCode.NOT_FOUND
    secret = token(edge, "acme", roles=["feedback"])
    assert grpc_edge.call(message("e"), authorization=bearer(secret))[0] == grpc.StatusCode.PERMISSION_DENIED
    assert grpc_edge.call(message("e"), authorization=bearer(KNOWN_TOKEN))[0] == grpc.StatusCode.UNAUTHENTICATED
    limited = token(edge, "few", rate=3)
    statuses = {grpc_edge.call(message("e"), authorization=bearer(limited))[0] for _ in range(10)}
    assert statuses == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_without_a_replica_a_question_over_grpc_is_unavailable(edge: Edge) -> None:
    client = GrpcClient(edge)
    status, details = client.call(message("e"), method=INFER.replace("ModelInfer", "ModelReady"))
    assert (status, details) == (
        grpc.StatusCode.UNAVAILABLE,
        "unavailable: no replica can be reached; repeat the request",
    )
    client.close()
