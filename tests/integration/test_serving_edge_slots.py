"""The edge and the state of its slots: whom it refuses in whose words, who is ready, who hangs, who sleeps."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from runtime.config.serving import EdgeConfig
from runtime.governance.principals import issue_token
from runtime.serving.edge_limits import limits_of
from runtime.store.records import EdgeLimits, Replica, Slot
from tests.serving_edge import MODEL, Edge, Ingress
from tests.waiting import wait_until

INFER = "/v2/models/e/infer"
PREDICT = "/v1/models/e:predict"
ANSWER_TIMEOUT_S = 1.0


def tell_limits(edge: Edge, endpoint: str = "e", **limits: Any) -> EdgeLimits:
    told = replace(limits_of(endpoint, edge.config.serving), **limits)
    edge.store.set_edge_limits([told])
    assert edge.loop.poll_now()
    assert edge.loop.status()["process_error"] is None
    return told


def token(edge: Edge, name: str, **rights: Any) -> str:
    secret = issue_token(edge.store, name, actor="test", **rights).secret
    assert edge.loop.poll_now()
    return f"Bearer {secret}"


class ReplicaProcess:
    """A process that listens as a replica does, known to the store."""

    def __init__(self, edge: Edge, process: "subprocess.Popen[str]", name: str, slot: Slot) -> None:
        assert process.stdout is not None
        self.pid = process.pid
        self.port, self.grpc_port = (int(port) for port in process.stdout.readline().split())
        edge.store.register_replica(
            Replica(
                replica_id=name,
                endpoint="e",
                slot=slot,
                host="127.0.0.1",
                port=self.port,
                grpc_port=self.grpc_port,
                bundle_sha256=MODEL.bundle_sha256,
                state="ready",
                at=time.time(),
            )
        )
        assert edge.loop.poll_now()


@contextmanager
def replica_processes(edge: Edge, *slots: Slot) -> Iterator[list[ReplicaProcess]]:
    ports = edge.cluster.ports
    command = [sys.executable, "-m", "tests.replica_process", str(ports.listener_min), str(ports.listener_max)]
    with ExitStack() as stack:
        begun = []
        for _ in slots:
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            begun.append(process)
        yield [
            ReplicaProcess(edge, process, f"{slot}-{number}", slot)
            for number, (process, slot) in enumerate(zip(begun, slots, strict=True))
        ]


def servers_up(edge: Edge, backend: str) -> int:
    """How many of a backend's replicas HAProxy sends to."""
    (worker,), _ = edge.loop._process.workers()
    rows = [line.split(",") for line in edge.loop._process.command(f"@!{worker} show stat").splitlines()]
    found = [row for row in rows if len(row) > 17 and row[0] == backend and row[1].startswith("replica")]
    assert found
    return sum(row[17].startswith(("UP", "no check")) for row in found)


# -- refusals under /v2 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/v2/models/unknown/infer", "POST", 404, "not_found"),
        ("/v2/models/e/generate", "POST", 404, "not_found"),
        ("/v2/health/nonsense", "GET", 404, "not_found"),
        (INFER, "GET", 405, "method_not_allowed"),
        ("/v2/models/e/ready", "GET", 503, "unavailable"),
    ],
)
def test_under_v2_an_error_is_text(lonely_edge: Edge, path: str, method: str, status: int, code: str) -> None:
    found, headers, answer = lonely_edge.send(path, method=method)
    assert (found, answer["code"], answer["field"]) == (status, code, None)
    assert answer["error"]
    assert type(answer["error"]) is str
    assert headers["x-request-id"]


def test_each_request_of_a_connection_has_its_own_form(edge: Edge) -> None:
    connection = edge.connect()
    forms = [type(edge.send(path, on=connection, authorization="x")[2]["error"]) for path in (INFER, PREDICT, INFER)]
    assert forms == [str, dict, str]
    connection.close()


def test_stock_tritonclient_understands_each_refusal(edge: Edge, ingress: Ingress) -> None:
    operator, silent = token(edge, "acme", rate=2), token(edge, "silent", roles=["feedback"])
    tensor = triton_http.InferInput("x", [1], "FP64").set_data_from_numpy(np.zeros(1))
    many = triton_http.InferInput("x", [50_000], "FP64").set_data_from_numpy(np.zeros(50_000))
    client = triton_http.InferenceServerClient(f"127.0.0.1:{edge.cluster.ports.edge}")

    def refusal(endpoint: str = "e", tensors: Any = None, **headers: str) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(endpoint, tensors or [tensor], headers=headers)
        return caught.value.status(), caught.value.message()

    assert refusal(authorization="Bearer nobody") == (
        "401",
        "the token is unknown, expired or revoked; `teal token create` makes one",
    )
    assert refusal(authorization=silent) == ("403", "silent has no right to predict on this endpoint")
    assert refusal("unknown") == ("404", "no endpoint unknown; `teal status` lists them")
    assert refusal(tensors=[many]) == ("413", "the request body is larger than 100000 bytes")
    refused = wait_until(lambda: [one for one in [_status(edge, operator)] if one[0] == 429], timeout_s=10)
    assert refused[0][1] == "more than 2 requests a second from acme; repeat later"
    ingress.status, ingress.is_ours = 500, False
    assert refusal()[0] == "503"
    ingress.status = 429
    assert refusal() == ("429", "too many requests are waiting; repeat later")
    client.close()


def _status(edge: Edge, authorization: str) -> tuple[int, str]:
    status, _, answer = edge.send(INFER, authorization=authorization)
    return status, answer.get("error", "")


def test_a_slow_senders_refusal_has_the_form_too(edge: Edge) -> None:
    edge.loop.detach()
    edge.config = replace(edge.config, edge=EdgeConfig(body_timeout_s=0.3))
    edge.loop = edge.new_loop()
    edge.loop.start()
    with socket.create_connection((edge.cluster.host, edge.cluster.ports.edge), timeout=20) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nhost: e\r\ncontent-length: 100\r\n\r\n{{".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert (response.status, json.loads(response.read())["error"]) == (408, "the request did not arrive in time")


def test_stock_tritonclient_gets_a_status_over_grpc(lonely_edge: Edge) -> None:
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{lonely_edge.cluster.ports.edge_grpc}")
    tensor = triton_grpc.InferInput("x", [1], "FP64").set_data_from_numpy(np.zeros(1))
    refusals = []
    for endpoint, headers in (("e", {"authorization": "Bearer nobody"}), ("unknown", {})):
        with pytest.raises(InferenceServerException) as caught:
            client.infer(endpoint, [tensor], headers=headers)
        refusals.append(caught.value.status())
    with pytest.raises(InferenceServerException) as caught:
        client.is_model_ready("e")
    refusals.append(caught.value.status())
    assert refusals == ["StatusCode.UNAUTHENTICATED", "StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE"]
    client.close()


# -- what a request is told ------------------------------------------------------------------------------------------


def test_the_answer_says_which_trace_it_belongs_to(edge: Edge) -> None:
    given = f"00-{'a' * 32}-{'b' * 16}-01"
    assert edge.send(traceparent=given)[1]["traceparent"] == given
    for wrong in (f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01", ""):
        _, headers, seen = edge.send(traceparent=wrong)
        assert headers["traceparent"] == seen["headers"]["traceparent"] != wrong


def test_only_the_edge_says_when_a_request_arrived(edge: Edge) -> None:
    assert "x-teal-arrived" not in edge.send(x_teal_arrived="me/1")[2]["headers"]
    before = time.time()
    host, _, at = edge.send(x_teal_arrived="me/1", x_timeout_ms="1000")[2]["headers"]["x-teal-arrived"].rpartition("/")
    assert host == socket.gethostname()
    assert before - 0.002 <= int(at) / 1000 <= time.time()


def test_each_endpoint_has_its_own_limit_of_bytes_and_a_new_one_at_once(edge: Edge) -> None:
    edge.store.assign_slot("other", None, MODEL, actor="test")
    tell_limits(edge, "other", max_body_bytes=50)
    workers = edge.loop._process.workers()

    def statuses(size: int) -> tuple[int, int]:
        body = b"x" * size
        return edge.send(body=body)[0], edge.send("/v1/models/other:predict", body)[0]

    assert statuses(51) == (200, 413)
    assert statuses(50)[1] != 413
    tell_limits(edge, "e", max_body_bytes=20)
    assert statuses(21) == (413, statuses(21)[1])
    assert edge.send(body=b"x" * 21)[2]["error"]["message"] == "the request body is larger than 20 bytes"
    tell_limits(edge, "other", max_body_bytes=1000)
    assert statuses(51)[1] != 413
    assert edge.loop._process.workers() == workers


# -- ready -----------------------------------------------------------------------------------------------------------


def test_ready_is_who_has_a_replica_and_alive_who_runs(edge: Edge) -> None:
    edge.give(0)

    def state() -> tuple[int, int, int]:
        paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/e/ready")
        live, ready, model = (edge.send(path, method="GET", body=None)[0] for path in paths)
        return live, ready, model

    assert state() == (200, 503, 503)
    assert edge.send("/v2/health/ready", method="GET")[2] == {"ready": False, "endpoint": "e"}
    with replica_processes(edge, "blue") as (blue,):
        wait_until(lambda: state() == (200, 200, 200), timeout_s=10)
        # The slot that gets traffic is the one that must be there.
        edge.give(5000)
        assert state()[:2] == (200, 503)
        edge.give(0)
        assert state()[:2] == (200, 200)
        os.kill(blue.pid, signal.SIGKILL)
        wait_until(lambda: state() == (200, 503, 503), timeout_s=10)
    tell_limits(edge, may_sleep=True)
    assert state()[:2] == (200, 200)


# -- replicas that hang ----------------------------------------------------------------------------------------------


def test_a_replica_that_hangs_costs_a_bounded_wait_and_no_request(edge: Edge) -> None:
    edge.give(0)
    tell_limits(edge, answer_timeout_s=ANSWER_TIMEOUT_S)
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
        wait_until(lambda: len(statuses) >= goal, timeout_s=20)

    with replica_processes(edge, "blue", "blue") as (one, _), ThreadPoolExecutor(4) as pool:
        wait_until(lambda: servers_up(edge, "e-blue") == 2, timeout_s=10)
        callers = [pool.submit(keep_asking) for _ in range(4)]
        try:
            wait_for(50)
            os.kill(one.pid, signal.SIGSTOP)
            # Nobody continues it: whoever it had got an answer elsewhere, or is still waiting below.
            wait_until(lambda: servers_up(edge, "e-blue") == 1, timeout_s=10)
            wait_for(50)
        finally:
            stop.set()
            for caller in callers:
                caller.result(20)
        assert [status for status in statuses if status != 200] == []
        os.kill(one.pid, signal.SIGCONT)
        wait_until(lambda: servers_up(edge, "e-blue") == 2, timeout_s=10)


def test_a_hanging_replica_is_left_by_grpc_too(edge: Edge) -> None:
    edge.give(0)
    tell_limits(edge, answer_timeout_s=ANSWER_TIMEOUT_S)
    with replica_processes(edge, "blue", "blue") as (one, _):
        wait_until(lambda: servers_up(edge, "e-blue-grpc") == 2, timeout_s=10)
        os.kill(one.pid, signal.SIGSTOP)
        with grpc.insecure_channel(f"127.0.0.1:{edge.cluster.ports.edge_grpc}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            answers = [call(b"\n\x01e", timeout=10) for _ in range(6)]
            assert answers == [b'{"by":"replica"}'] * 6
            wait_until(lambda: servers_up(edge, "e-blue-grpc") == 1, timeout_s=10)
            os.kill(one.pid, signal.SIGCONT)
            wait_until(lambda: servers_up(edge, "e-blue-grpc") == 2, timeout_s=10)


def test_the_edge_waits_no_longer_than_the_caller_does(edge: Edge) -> None:
    edge.give(0)
    tell_limits(edge, answer_timeout_s=30.0)
    with replica_processes(edge, "blue", "blue") as (one, two):
        wait_until(lambda: servers_up(edge, "e-blue") == 2, timeout_s=10)
        os.kill(one.pid, signal.SIGSTOP)
        try:
            # At 30 s a try, six tries of them would not end before this client gives up.
            assert [edge.send(x_timeout_ms="300")[0] for _ in range(6)] == [200] * 6
        finally:
            os.kill(one.pid, signal.SIGCONT)
        assert two.pid


# -- slots that sleep ------------------------------------------------------------------------------------------------


def test_a_grpc_call_wakes_a_slot_that_sleeps_and_is_told_so(edge: Edge, ingress: Ingress) -> None:
    edge.give(0)
    with grpc.insecure_channel(f"127.0.0.1:{edge.cluster.ports.edge_grpc}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def refusal(timeout_s: float = 10) -> tuple[grpc.StatusCode, str]:
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\n\x01e", timeout=timeout_s)
            return caught.value.code(), caught.value.details()

        before = ingress.num_requests
        assert refusal(0.5)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        assert ingress.num_requests == before
        tell_limits(edge, may_sleep=True)
        wait_until(lambda: edge.send()[0] == 200, timeout_s=10)
        before = ingress.num_requests
        message = "unavailable: this slot had no replica and was woken; repeat the request"
        assert refusal() == (grpc.StatusCode.UNAVAILABLE, message)
        assert ingress.num_requests == before + 1
        assert ingress.last["path"] == "/e-blue/v2/health/ready"
        ingress.status = 503
        message = "unavailable: this slot has no replica and none has come up yet; repeat the request"
        assert refusal() == (grpc.StatusCode.UNAVAILABLE, message)
        with replica_processes(edge, "blue"):
            wait_until(lambda: servers_up(edge, "e-blue-grpc") == 1, timeout_s=10)
            assert call(b"\n\x01e", timeout=10) == b'{"by":"replica"}'
