"""Who may ask a real edge, in what form and how often; over HTTP and TLS."""

import http.client
import json
import socket
import ssl
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.config.serving import EdgeConfig
from runtime.governance.principals import allow, issue_token
from runtime.serving.edge_files import touch_hint
from runtime.serving.edge_tls import ensure_development_certificate, read_certificate
from tests.serving_edge import MODEL, SECRET, Edge, Ingress
from tests.serving_edge_grpc import GrpcClient, message
from tests.waiting import wait_until

KNOWN_TOKEN = "teal_0_known-to-nobody"


def restart(edge: Edge, **settings: Any) -> None:
    """Another loop with these settings takes the running HAProxy over."""
    edge.loop.detach()
    edge.config = replace(edge.config, edge=EdgeConfig(**settings))
    edge.loop = edge.new_loop()
    edge.loop.start()
    assert edge.loop.status()["process_error"] is None


def token(edge: Edge, name: str, **rights: Any) -> str:
    issued = issue_token(edge.store, name, actor="test", **rights)
    assert edge.loop.poll_now()
    return issued.secret


def bearer(secret: str) -> str:
    return f"Bearer {secret}"


def send_raw(edge: Edge, data: bytes) -> bytes:
    """What comes back until the edge closes."""
    with socket.create_connection((edge.cluster.host, edge.cluster.ports.edge), timeout=20) as connection:
        connection.sendall(data)
        chunks = []
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks)


# -- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_from_now_on_and_no_longer_without_a_reload(edge: Edge) -> None:
    process = edge.loop.status()["pid"]
    workers = edge.loop._process.workers()
    assert edge.send()[0] == 200
    restart(edge, require_token=True)
    status, headers, answer = edge.send()
    assert (status, headers["www-authenticate"], answer["error"]["code"]) == (401, "Bearer", "unauthorized")
    assert edge.send("/v1/models", method="GET")[0] == 401
    assert edge.send("/v2/health/live", method="GET")[0] == 200
    secret = token(edge, "acme")
    status, _, seen = edge.send(authorization=bearer(secret))
    assert (status, seen["headers"]["x-principal"]) == (200, "acme")
    assert "authorization" not in seen["headers"]
    restart(edge)
    status, _, seen = edge.send()
    assert (status, seen["headers"]["x-principal"]) == (200, "anonymous")
    assert (edge.loop.status()["pid"], edge.loop._process.workers()) == (process, workers)


@pytest.mark.parametrize(
    "authorization", [f"Bearer {KNOWN_TOKEN}", "Bearer", "Bearer anonymous", "Basic YTpi", "", "x"]
)
def test_a_wrong_token_is_refused_even_where_none_is_asked_for(edge: Edge, authorization: str) -> None:
    status, headers, _ = edge.send(authorization=authorization)
    assert (status, headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


def test_a_revoked_token_is_refused_within_a_second_on_connections_that_are_open(edge: Edge) -> None:
    secret = token(edge, "acme")
    connection = edge.connect()
    assert edge.send(on=connection, authorization=bearer(secret))[0] == 200
    edge.store.revoke_tokens([edge.store.tokens("acme")[0].id], actor="test")
    started = time.monotonic()
    touch_hint(edge.config.paths)
    wait_until(lambda: edge.send(on=connection, authorization=bearer(secret))[0] == 401, timeout_s=5)
    assert time.monotonic() - started < 1
    connection.close()


def test_rights_are_those_of_the_role_on_the_endpoint(edge: Edge) -> None:
    edge.store.assign_slot("other", None, MODEL, actor="test")
    secret = token(edge, "acme", endpoints=["e"])
    asked = {
        "predict": ("POST", "/v1/models/{}:predict"),
        "infer": ("POST", "/v2/models/{}/infer"),
        "feedback": ("POST", "/v1/models/{}:feedback"),
        "read": ("GET", "/v2/models/{}"),
    }

    def statuses(endpoint: str) -> dict[str, int]:
        return {
            name: edge.send(
                path.format(endpoint),
                method=method,
                body=b"{}" if method == "POST" else None,
                authorization=bearer(secret),
            )[0]
            for name, (method, path) in asked.items()
        }

    assert statuses("e") == {"predict": 200, "infer": 200, "feedback": 403, "read": 200}
    assert set(statuses("other").values()) == {403}
    allow(edge.store, "acme", actor="test", roles=["feedback"], endpoints=["all"])
    assert edge.loop.poll_now()
    assert statuses("e") == {"predict": 403, "infer": 403, "feedback": 200, "read": 200}
    assert statuses("other")["feedback"] != 403
    _, _, answer = edge.send(authorization=bearer(secret))
    assert answer["error"]["message"] == "acme has no right to predict on this endpoint"


def test_only_an_operator_chooses_the_slot(edge: Edge) -> None:
    edge.give(0)
    operator, other = token(edge, "ops", roles=["operator"]), token(edge, "acme")
    _, headers, seen = edge.send(x_slot="green", authorization=bearer(operator))
    assert (headers["x-slot"], seen["path"], seen["headers"]["x-slot"]) == (
        "green",
        "/e-green/v1/models/e:predict",
        "green",
    )
    assert edge.send(x_slot="green")[1]["x-slot"] == "blue"
    assert edge.send(x_slot="green", authorization=bearer(other))[1]["x-slot"] == "blue"
    assert edge.send(x_slot="purple", authorization=bearer(operator))[0] == 400
    edge.store.assign_slot("other", None, MODEL, actor="test")
    assert edge.loop.poll_now()
    status, _, answer = edge.send("/v1/models/other:predict", x_slot="green", authorization=bearer(operator))
    assert (status, answer["error"]["message"]) == (404, "slot green of this endpoint holds no model")


JUNK = st.lists(
    st.tuples(
        st.sampled_from(
            ["x-slot", "X-Slot", "x-teal-edge", "X-GENERATION", "x-principal", "x-request-id", "traceparent"]
        ),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40),
    ),
    max_size=12,
)


@settings(
    max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(junk=JUNK)
def test_no_header_of_a_client_becomes_one_of_the_edges(edge: Edge, junk: list[tuple[str, str]]) -> None:
    connection = edge.connect()
    connection.putrequest("POST", "/v1/models/e:predict")
    for name, value in [*junk, ("content-length", "2")]:
        connection.putheader(name, value)
    connection.endheaders(b"{}")
    response = connection.getresponse()
    seen = json.loads(response.read())
    connection.close()
    assert response.status == 200
    given = seen["headers"]
    assert given["x-teal-edge"] == SECRET
    assert given["x-principal"] == "anonymous"
    assert given["x-slot"] == response.headers["x-slot"] in ("blue", "green")
    assert given["x-generation"] == str(edge.loop.status()["generations"]["e"])
    assert len(given["traceparent"].split("-")) == 4
    assert seen["num_headers"] == len(given)


# -- limits ----------------------------------------------------------------------------------------------------------


def test_a_principal_gets_its_rate_and_not_more(edge: Edge) -> None:
    limited, other = token(edge, "acme", rate=20), token(edge, "free")
    connection = edge.connect()
    started = time.monotonic()
    answers = [edge.send(on=connection, authorization=bearer(limited)) for _ in range(60)]
    seconds = time.monotonic() - started
    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) == {200, 429}
    assert 20 <= statuses[200] <= 20 * (seconds + 1)
    refused = next(answer for answer in answers if answer[0] == 429)
    assert refused[1]["retry-after"] == "1"
    assert refused[2]["error"]["message"] == "more than 20 requests a second from acme; repeat later"
    assert edge.send(on=connection, authorization=bearer(other))[0] == 200
    assert edge.send(on=connection)[0] == 200
    # Whoever goes on asking too often still gets the rate.
    wait_until(lambda: edge.send(on=connection, authorization=bearer(limited))[0] == 200, timeout_s=5)
    connection.close()


def test_who_sends_no_token_is_limited_by_address(edge: Edge) -> None:
    restart(edge, anonymous_rate=5)
    secret = token(edge, "acme")
    assert Counter(edge.send()[0] for _ in range(15))[429] > 0
    assert edge.send(authorization=bearer(secret))[0] == 200


def test_long_urls_and_heads_are_refused(edge: Edge) -> None:
    restart(edge, max_url_bytes=200, max_header_bytes=2000, max_headers=20)
    assert edge.send(f"/v1/models/e:predict?{'x' * 100}")[0] == 200
    assert edge.send(f"/v1/models/e:predict?{'x' * 200}")[::2][0] == 414
    assert edge.send(x_long="x" * 2000)[2]["error"]["code"] == "headers_too_large"
    many: dict[str, Any] = {f"x_{index}": "" for index in range(20)}
    assert edge.send(**many)[0] == 431
    assert edge.send(x_long="x" * 1500)[0] == 200


@pytest.mark.parametrize(
    "begun",
    [
        b"POST /v1/models/e:predict HTTP/1.1\r\nhost: e\r\n",
        b"POST /v1/models/e:predict HTTP/1.1\r\nhost: e\r\ncontent-length: 100\r\n\r\n{",
    ],
    ids=["head", "body"],
)
def test_who_sends_slowly_is_let_go_and_no_replica_has_waited(edge: Edge, ingress: Ingress, begun: bytes) -> None:
    restart(edge, header_timeout_s=0.3, body_timeout_s=0.3)
    before = ingress.num_requests
    answer = send_raw(edge, begun)
    assert b"408" in answer.splitlines()[0]
    assert ingress.num_requests == before


# -- paths -----------------------------------------------------------------------------------------------------------


def test_the_catalogue_and_the_server_are_told_by_the_edge(edge: Edge) -> None:
    edge.store.assign_slot("other", None, MODEL, actor="test")
    assert edge.loop.poll_now()
    assert edge.send("/v1/models", method="GET")[2] == {"models": [{"name": "e"}, {"name": "other"}]}
    assert edge.send("/v2", method="GET")[2]["name"] == "teal"
    assert edge.send("/v2/health/nonsense", method="GET")[0] == 404
    assert edge.send("/v1/openapi.json", method="GET")[2]["path"].endswith("/v1/openapi.json")


@pytest.mark.parametrize("path", ["/v2/models/e", "/v2/models/e/versions/3"])
def test_the_open_protocols_paths_reach_a_replica(edge: Edge, path: str) -> None:
    status, _, seen = edge.send(path, method="GET", body=None)
    assert (status, seen["path"][2:].partition("/")[2]) == (200, path[1:])
    assert edge.send(path)[0] == 405


def test_a_trace_is_passed_on_or_begun(edge: Edge) -> None:
    given = f"00-{'a' * 32}-{'b' * 16}-01"
    seen = edge.send(traceparent=given, tracestate="v=1")[2]["headers"]
    assert (seen["traceparent"], seen["tracestate"]) == (given, "v=1")
    seen = edge.send(traceparent="00-short-01", tracestate="v=1")[2]["headers"]
    version, trace, span, flags = seen["traceparent"].split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "00")
    int(trace + span, 16)
    assert "tracestate" not in seen


def test_a_logged_request_is_one_line_of_json(edge: Edge) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        restart(edge, access_log=f"127.0.0.1:{receiver.getsockname()[1]}", access_log_sample=1)
        edge.send('/v1/models/e:predict?a="secret"', x_request_id="mine")
        line = json.loads(receiver.recv(65536))
    assert (line["request_id"], line["principal"], line["endpoint"], line["status"]) == ("mine", "anonymous", "e", 200)
    assert (line["method"], line["path"]) == ("POST", "/v1/models/e:predict")
    assert line["slot"] in ("blue", "green")


# -- TLS -------------------------------------------------------------------------------------------------------------


def test_tls_with_a_certificate_of_its_own_and_a_new_one_without_a_restart(edge: Edge) -> None:
    restart(edge, tls=True)
    trusted = edge.files.tls / "development.crt"

    def shown() -> tuple[str, str | None]:
        context = ssl.create_default_context(cafile=str(trusted))
        context.set_alpn_protocols(["h2", "http/1.1"])
        address = (edge.cluster.host, edge.cluster.ports.edge)
        with (
            socket.create_connection(address, timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as tls,
        ):
            certificate = tls.getpeercert(binary_form=True)
            assert certificate is not None
            return ssl.DER_cert_to_PEM_cert(certificate), tls.selected_alpn_protocol()

    first, protocol = shown()
    assert (first.strip(), protocol) == (trusted.read_text().strip(), "h2")
    assert all(path.stat().st_mode & 0o077 == 0 for path in edge.files.tls.glob("*.pem"))
    assert read_certificate(trusted).signs_itself
    context = ssl.create_default_context(cafile=str(trusted))
    connection = http.client.HTTPSConnection("localhost", edge.cluster.ports.edge, context=context, timeout=10)
    assert edge.send(on=connection)[0] == 200
    connection.close()
    client = GrpcClient(edge, root_certificates=trusted.read_bytes())
    assert client.call(message("unknown"))[0] == grpc.StatusCode.NOT_FOUND
    client.close()

    pid = edge.loop.status()["pid"]
    (edge.files.tls / "development.pem").unlink()
    assert edge.loop.poll_now(timeout_s=20)
    second, _ = shown()
    assert second != first
    assert edge.loop.status()["pid"] == pid

    (edge.files.tls / "development.pem").write_text("broken")
    assert edge.loop.poll_now(timeout_s=20)
    assert "development.pem" in edge.loop.status()["certificate_error"]
    assert shown()[0] == second


def test_an_edge_without_its_certificate_says_so_and_starts_once_there_is_one(home: Edge, tmp_path: Path) -> None:
    path = tmp_path / "edge.pem"
    home.config = replace(home.config, edge=EdgeConfig(tls=True, certificate=str(path)))
    home.loop = home.new_loop()
    home.loop.start()
    status = home.loop.status()
    assert status["pid"] is None
    assert str(path) in status["process_error"]
    path.write_bytes(ensure_development_certificate(home.files, []).read_bytes())
    assert wait_until(lambda: home.loop.status()["pid"], timeout_s=10)
    assert home.loop.status()["process_error"] is None
    home.loop.stop()
