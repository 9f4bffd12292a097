"""One edge for tests: real HAProxy, real store, and a stand-in for Ray's ingress behind it. No Ray."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from runtime.config.cluster import ClusterConfig
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_loop import EdgeLoop
from runtime.serving.edge_process import EdgeProcess
from runtime.store.control import ControlStore
from runtime.store.records import EndpointState, ModelVersion
from tests.serving_example import example_config

SECRET = "secret-of-the-edge-in-this-test"
MODEL = ModelVersion(name="m", version=1, run_id="", bundle_uri="", bundle_sha256="x", lineage={}, created_at="")
Answer = tuple[int, dict[str, str], Any]


class Ingress:
    """Answers as Ray's HAProxy with healthy replicas would, and echoes what reached it."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self.status = 200
        self.num_requests = 0
        self.last: dict[str, Any] = {}
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
        self.num_requests += 1
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        seen = {"path": request.path, "headers": dict(headers), "num_headers": len(headers), "size": len(body)}
        self.last = seen
        own = {"x-model-version": "m:1"} if self.is_ours else {}
        return web.json_response(seen, status=self.status, headers=own)


class Edge:
    """One edge with its store, and a client for it."""

    def __init__(self, home: Path) -> None:
        config = example_config(home)
        self.config = replace(config, serving=replace(config.serving, max_body_bytes=100_000))
        self.cluster = replace(self.config.cluster, edge_poll_s=0.05)
        self.files = EdgeFiles.of(self.config.paths)
        self.store = ControlStore(self.config.paths.control)
        self.store.create_schema()
        self.store.record_model_version(MODEL)
        self.loop = self.new_loop()

    def new_loop(self, store: Any = None) -> EdgeLoop:
        return EdgeLoop(
            store or self.store,
            self.cluster,
            files=self.files,
            secret=SECRET,
            serving=self.config.serving,
            edge=self.config.edge,
        )

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
