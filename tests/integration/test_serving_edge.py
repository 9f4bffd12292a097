"""A real HAProxy and a real store in front of a stand-in for Ray's ingress. No Ray."""

import asyncio
import http.client
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from scipy import stats

from runtime.config.schema import ClusterConfig
from runtime.core.errors import TealError, UnreachableError
from runtime.serving.edge_files import EdgeFiles, touch_hint
from runtime.serving.edge_loop import EdgeLoop
from runtime.serving.edge_process import EdgeProcess
from runtime.store.control import ControlStore
from runtime.store.records import EndpointState, ModelVersion
from tests.ports import free_ports_config
from tests.serving_example import example_config
from tests.waiting import wait_until

SECRET = "secret-of-the-edge-in-this-test"
MODEL = ModelVersion(name="m", version=1, run_id="", bundle_uri="", bundle_sha256="x", lineage={}, created_at="")
Answer = tuple[int, dict[str, str], Any]


class Ingress:
    """Answers as Ray's HAProxy with healthy replicas would, and echoes what reached it."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self.status = 200
        self.is_ours = True
        self.routes = {"/e-blue": "e-blue", "/e-green": "e-green"}
        self._cluster = cluster
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/-/{name}", self._system)
        app.router.add_route("*", "/{path:.*}", self._echo)
        runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, self._cluster.host, self._cluster.ports.serve)
        self._loop.run_until_complete(site.start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _system(self, _request: web.Request) -> web.Response:
        return web.json_response(self.routes)

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        seen = {"path": request.path, "headers": {k.lower(): v for k, v in request.headers.items()}, "size": len(body)}
        headers = {"x-model-version": "m:1"} if self.is_ours else {}
        return web.json_response(seen, status=self.status, headers=headers)


class Edge:
    """One edge with its store, and a client for it."""

    def __init__(self, home: Path) -> None:
        self.config = example_config(home)
        self.cluster = replace(self.config.cluster, edge_poll_s=0.05)
        self.files = EdgeFiles.of(self.config.paths)
        self.store = ControlStore(self.config.paths.control)
        self.store.create_schema()
        self.store.record_model_version(MODEL)
        self.loop = self.new_loop()

    def new_loop(self, store: Any = None) -> EdgeLoop:
        return EdgeLoop(store or self.store, self.cluster, files=self.files, secret=SECRET, max_body_bytes=100_000)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.cluster.host, self.cluster.ports.edge, timeout=20)

    def send(
        self,
        path: str = "/v1/models/e:predict",
        body: bytes | None = b"{}",
        *,
        method: str = "POST",
        on: http.client.HTTPConnection | None = None,
        **headers: str,
    ) -> Answer:
        connection = on or self.connect()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        text = response.read()
        if on is None:
            connection.close()
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.status, dict(response.headers), json.loads(text) if is_json else text

    def give(self, share: int) -> EndpointState:
        state = self.store.set_share("e", share, actor="test")
        assert self.loop.poll_now()
        assert self.loop.status()["generations"]["e"] == state.generation
        return state

    def split(self, num_keys: int) -> dict[str, str]:
        connection = self.connect()
        slots = {
            key: self.send(on=connection, x_routing_key=key)[1]["x-slot"]
            for key in (f"key-{index}" for index in range(num_keys))
        }
        connection.close()
        return slots


@pytest.fixture
def home(tmp_path: Path) -> Edge:
    """Both slots of endpoint "e" filled; nothing runs yet."""
    edge = Edge(tmp_path)
    for _ in range(2):
        edge.store.assign_slot("e", None, MODEL, actor="test")
    return edge


@pytest.fixture
def ingress(home: Edge) -> Iterator[Ingress]:
    ingress = Ingress(home.cluster)
    yield ingress
    ingress.close()


@pytest.fixture
def lonely_edge(home: Edge) -> Iterator[Edge]:
    """A running edge, with nothing behind it unless a test puts it there."""
    home.loop.start()
    assert home.loop.status()["process_error"] is None
    yield home
    home.loop.stop()
    assert EdgeProcess(home.files, address=("", 0)).find() is None


@pytest.fixture
def edge(ingress: Ingress, lonely_edge: Edge) -> Edge:
    """A running edge with a healthy ingress behind it."""
    assert ingress.routes
    return lonely_edge


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
        ("/v2/models/e/infer", "POST", 404, "not_found"),
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
    wait_until(lambda: lonely_edge.send("/v2/health/ready", method="GET")[0] == 503, timeout_s=20)
    ingress = Ingress(lonely_edge.cluster)
    wait_until(lambda: lonely_edge.send("/v2/health/ready", method="GET")[0] == 200, timeout_s=20)
    # A fresh HAProxy of Ray is healthy before it has routes.
    ingress.routes = {}
    wait_until(lambda: lonely_edge.send("/v2/health/ready", method="GET")[0] == 503, timeout_s=20)
    ingress.close()


def test_metrics_are_there_for_this_machine(lonely_edge: Edge) -> None:
    status, _, text = lonely_edge.send("/-/metrics", method="GET")
    assert status == 200
    assert b'haproxy_backend_http_responses_total{proxy="e-blue"' in text


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
        assert edge.loop.poll_now()
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

    def endpoints(self) -> list[EndpointState]:
        if self.is_away:
            raise UnreachableError("the database is away")
        return self.held

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
        process.apply("frontend x\n    bind nonsense\n", "")
    assert lonely_edge.files.config.read_text() == before
    assert lonely_edge.send("/v2/health/live", method="GET")[0] == 200


def test_two_edges_do_not_meet(lonely_edge: Edge, tmp_path: Path) -> None:
    other = Edge(tmp_path / "other")
    other.cluster = replace(other.cluster, ports=free_ports_config())
    other.loop = other.new_loop()
    other.loop.start()
    assert other.loop.status()["pid"] != lonely_edge.loop.status()["pid"]
    other.loop.stop()
    assert lonely_edge.send("/v2/health/live", method="GET")[0] == 200
