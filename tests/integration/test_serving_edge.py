"""What the edge does to a request: the split, the headers, the refusals."""

import socket
from collections import Counter

import pytest
from scipy import stats

from tests.serving_edge import SECRET, Edge, Ingress
from tests.waiting import wait_until


def test_a_share_is_kept_and_sticky_and_only_grows(edge: Edge) -> None:
    num_keys, share = 2000, 1000
    edge.give(share)
    at_ten = edge.split(num_keys)
    num_green = Counter(at_ten.values())["green"]
    low, high = stats.binom.interval(0.999, num_keys, share / 10_000)
    assert low <= num_green <= high
    assert edge.split(num_keys) == at_ten
    edge.give(5000)
    at_fifty = edge.split(num_keys)
    assert {key for key, slot in at_ten.items() if slot == "green"} <= {
        key for key, slot in at_fifty.items() if slot == "green"
    }
    edge.give(10_000)
    assert set(edge.split(100).values()) == {"green"}
    edge.give(0)
    assert set(edge.split(100).values()) == {"blue"}


def test_requests_without_a_key_are_split_too(edge: Edge) -> None:
    edge.give(5000)
    connection = edge.connect()
    slots = Counter(edge.send(on=connection)[1]["x-slot"] for _ in range(400))
    connection.close()
    low, high = stats.binom.interval(0.999, 400, 0.5)
    assert low <= slots["green"] <= high


def test_headers_are_the_edges_and_not_the_callers(edge: Edge) -> None:
    state = edge.give(0)
    status, headers, seen = edge.send(
        x_slot="green", x_generation="99", x_teal_edge="guess", x_request_id="my-id", x_request_timeout_seconds="0.001"
    )
    assert (status, seen["path"]) == (200, "/e-blue/v1/models/e:predict")
    given = seen["headers"]
    assert (given["x-slot"], given["x-generation"], given["x-teal-edge"]) == ("blue", str(state.generation), SECRET)
    assert "x-request-timeout-seconds" not in given
    assert given["x-request-id"] == headers["x-request-id"] == "my-id"
    assert (headers["x-slot"], headers["x-generation"]) == ("blue", str(state.generation))
    assert "x-teal-edge" not in headers


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, 'quote"', "ü"])
def test_a_strange_request_id_is_replaced(edge: Edge, request_id: str) -> None:
    _, headers, seen = edge.send(x_request_id=request_id)
    assert headers["x-request-id"] == seen["headers"]["x-request-id"] != request_id
    assert len(headers["x-request-id"]) == 36


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/v1/models/unknown:predict", "POST", 404, "not_found"),
        ("/v1/models/e:drop", "POST", 404, "not_found"),
        ("/v1/models/e/../e:predict", "POST", 404, "not_found"),
        ("/e-green/v1/models/e:predict", "POST", 404, "not_found"),
        ("/-/routes", "GET", 404, "not_found"),
        ("/", "GET", 404, "not_found"),
        ("/v1/models/e:predict", "GET", 405, "method_not_allowed"),
        ("/v1/models/e", "POST", 405, "method_not_allowed"),
    ],
)
def test_refusals_are_json(edge: Edge, path: str, method: str, status: int, code: str) -> None:
    found, headers, answer = edge.send(path, method=method)
    assert (found, answer["error"]["code"]) == (status, code)
    assert set(answer["error"]) == {"code", "message", "field"}
    assert headers["x-request-id"]


def test_a_body_above_the_limit_is_refused_unread(edge: Edge) -> None:
    assert edge.send(body=b"x" * 100_000)[2]["size"] == 100_000
    # Announced only: an answer to a body that nobody sent is one to a body that nobody read.
    with socket.create_connection((edge.cluster.host, edge.cluster.ports.edge), timeout=10) as connection:
        head = "POST /v1/models/e:predict HTTP/1.1\r\nhost: e\r\ncontent-length: 100000001\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 1000)
        answer = connection.recv(65536)
    assert b"413" in answer.splitlines()[0]
    assert b'"code": "too_large"' in answer


def test_what_is_no_http_is_refused_and_ends_only_itself(edge: Edge) -> None:
    with socket.create_connection((edge.cluster.host, edge.cluster.ports.edge), timeout=10) as connection:
        connection.sendall(b"no http at all\r\n\r\n")
        assert b"400" in connection.recv(65536).splitlines()[0]
    assert edge.send()[0] == 200


@pytest.mark.parametrize(("given", "shown"), [(500, 503), (503, 503), (404, 503), (408, 503), (429, 429)])
def test_rays_own_refusals_become_json(edge: Edge, ingress: Ingress, given: int, shown: int) -> None:
    ingress.status, ingress.is_ours = given, False
    status, headers, answer = edge.send()
    assert (status, headers["retry-after"]) == (shown, "1")
    assert answer["error"]["code"] in ("unavailable", "too_many_requests")


@pytest.mark.parametrize("status", [422, 500])
def test_a_replicas_answer_passes_untouched(edge: Edge, ingress: Ingress, status: int) -> None:
    ingress.status = status
    assert edge.send()[0] == status
    assert "path" in edge.send()[2]


def test_without_any_ingress_there_is_a_json_answer(lonely_edge: Edge) -> None:
    status, _, answer = lonely_edge.send()
    assert (status, answer["error"]["code"]) == (503, "unavailable")


def test_health_follows_the_checks(lonely_edge: Edge) -> None:
    assert lonely_edge.send("/v2/health/live", method="GET")[::2] == (200, {"live": True})
    wait_until(lambda: lonely_edge.send()[0] == 503, timeout_s=20)
    ingress = Ingress(lonely_edge.cluster)
    wait_until(lambda: lonely_edge.send()[0] == 200, timeout_s=20)
    # Ray's ingress would hold a request, and is no replica that can answer one.
    assert lonely_edge.send("/v2/health/ready", method="GET")[0] == 503
    ingress.close()


def test_metrics_are_there_for_this_machine(lonely_edge: Edge) -> None:
    status, _, text = lonely_edge.send("/-/metrics", method="GET")
    assert status == 200
    assert b'haproxy_backend_http_responses_total{proxy="e-blue"' in text
