"""An endpoint of its own on the shared platform: Serve, Ray's HAProxy, the edge, real bundles, real faults."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runtime.cluster.ray_process import connect
from runtime.cluster.token import read_token
from runtime.config.schema import Config
from runtime.core.errors import NotFoundError, TealError
from runtime.data.delta import newest_version, read_table
from runtime.serving.edge_actor import edge_status, find_edge
from runtime.serving.edge_files import read_secret, touch_hint
from runtime.serving.payload import feedback_uri, find_prediction, payload_uri, read_feedback
from runtime.serving.reconcile import Reconciled, probe, reconcile
from runtime.serving.shadow import shadow_uri
from runtime.store.control import ControlStore
from runtime.store.records import SLOTS, EndpointState, ModelVersion, Slot
from tests.integration.test_serving_protocols import tensors
from tests.serving_example import example_model_version, example_row
from tests.waiting import wait_until

ENDPOINT = "serving-test"
PREDICT = f"/v1/models/{ENDPOINT}:predict"
JSON = {"content-type": "application/json"}
Answer = tuple[int, dict[str, str], Any]


@dataclass(kw_only=True)
class Site:
    config: Config
    store: ControlStore
    models: list[ModelVersion]

    def reconcile(self) -> Reconciled:
        return reconcile(self.store, self.config, token=read_token(self.config.paths.run))

    def send(
        self,
        path: str = PREDICT,
        body: bytes | None = None,
        *,
        method: str = "POST",
        port: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.config.cluster.ports.edge, timeout=60)
        if body is None and method == "POST":
            body = rows_body(1)
        connection.request(method, path, body, JSON | (headers or {}))
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.status, dict(response.headers), json.loads(text) if is_json else text

    def state(self, slot: Slot) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.config.cluster.ports.serve}/{ENDPOINT}-{slot}/v2/health/ready"
        return probe(url, read_secret(self.config.paths.run))

    def shift(self, share: int) -> EndpointState:
        state = self.store.set_share(ENDPOINT, share, actor="test")
        touch_hint(self.config.paths)
        self.wait_applied(state)
        return state

    def wait_applied(self, state: EndpointState) -> None:
        wait_until(
            lambda: state.generation in self.store.acknowledged(ENDPOINT, alive_since=time.time() - 5).values(),
            timeout_s=20,
        )


def rows_body(num_rows: int, **change: Any) -> bytes:
    return json.dumps({"instances": [example_row(index) | change for index in range(num_rows)]}).encode()


@pytest.fixture(scope="module")
def site(platform: Config, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Version 1 in blue as primary, version 2 in green without traffic."""
    directory = tmp_path_factory.mktemp("bundles")
    serving = replace(
        platform.serving, endpoint=ENDPOINT, payload_flush_s=0.3, ready_timeout_s=120, shadow_fraction=1.0
    )
    config = replace(platform, serving=serving)
    store = ControlStore(config.paths.control)
    models = [
        replace(example_model_version(directory / f"v{version}", version=version), name="serving-test-model")
        for version in (1, 2)
    ]
    site = Site(config=config, store=store, models=models)
    for model in models:
        store.record_model_version(model)
        store.assign_slot(ENDPOINT, None, model, actor="test")
    first = site.reconcile()
    assert (first.is_changed, set(first.ready)) == (True, {f"{ENDPOINT}-blue", f"{ENDPOINT}-green"})
    site.wait_applied(store.endpoint(ENDPOINT))
    return site


@pytest.fixture
def connected(site: Site) -> None:
    connect(site.config)


class Load:
    """Callers in threads that keep asking until told to stop, each over its own connection."""

    def __init__(self, site: Site, num_callers: int = 4) -> None:
        self._site = site
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(num_callers)
        self.statuses: list[int | str] = []
        self._calls = [self._pool.submit(self._call, index) for index in range(num_callers)]

    def __enter__(self) -> "Load":
        self.wait_for(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for call in self._calls:
            call.result(90)
        self._pool.shutdown()

    @property
    def failures(self) -> list[int | str]:
        return [status for status in self.statuses if status != 200]

    def wait_for(self, num_more: int) -> None:
        goal = len(self.statuses) + num_more
        wait_until(lambda: len(self.statuses) >= goal or self.failures, timeout_s=60)

    def _call(self, index: int) -> None:
        while not self._stop.is_set():
            try:
                self.statuses.append(self._site.send(headers={"x-routing-key": f"caller-{index}"})[0])
            except (OSError, http.client.HTTPException) as error:
                self.statuses.append(repr(error))
            self._stop.wait(0.01)


def test_an_answer_comes_from_the_primary_and_is_logged(site: Site) -> None:
    status, headers, answer = site.send(body=rows_body(3), headers={"x-request-id": "one"})
    assert status == 200
    assert headers["x-slot"] == "blue"
    assert headers["x-model-version"] == answer["model_version"] == "serving-test-model:1"
    assert headers["x-data-version"] == "example@0"
    assert headers["x-request-id"] == "one"
    prediction_id = headers["x-prediction-id"]

    def logged() -> list[dict[str, Any]]:
        try:
            rows = find_prediction(payload_uri(site.config.paths.payload, ENDPOINT), prediction_id).to_pylist()
        except NotFoundError:
            return []
        return list(rows)

    rows = wait_until(logged, timeout_s=30)
    assert [row["score"] for row in rows] == [row["score"] for row in answer["predictions"]]
    assert {row["generation"] for row in rows} == {int(headers["x-generation"])}
    assert rows[1]["carrier"] == example_row(1)["carrier"]
    assert "passport" not in rows[0]


def test_the_edge_asks_the_replicas_themselves(site: Site, connected: None) -> None:
    status = edge_status()
    assert status is not None
    ports = site.config.cluster.ports
    known = {replica.slot: replica for replica in site.store.replicas(ENDPOINT)}
    for slot in SLOTS:
        replica = known[slot]
        assert status["replicas"][f"{ENDPOINT}-{slot}"] == [f"127.0.0.1:{replica.port}"]
        assert status["replicas"][f"{ENDPOINT}-{slot}-grpc"] == [f"127.0.0.1:{replica.grpc_port}"]
        assert ports.listener_min <= replica.port <= ports.listener_max


def test_stock_tritonclient_gets_the_same_through_the_edge(site: Site) -> None:
    from tritonclient import grpc as triton_grpc
    from tritonclient import http as triton_http

    from runtime.models.bundle import load_bundle

    row = example_row(3)
    score = site.send(body=json.dumps({"instances": [row]}).encode())[2]["predictions"][0]["score"]
    bundle = load_bundle(Path(site.models[0].bundle_uri))
    ports = site.config.cluster.ports
    for kit, port in ((triton_http, ports.edge), (triton_grpc, ports.edge_grpc)):
        client = kit.InferenceServerClient(f"127.0.0.1:{port}")
        answer = client.infer(ENDPOINT, tensors(kit, [row], bundle))
        assert answer.as_numpy("score").tolist() == [score]
        client.close()


def test_the_other_slot_is_asked_in_the_shadow(site: Site) -> None:
    uri = shadow_uri(site.config.paths.payload, ENDPOINT)

    def compared() -> list[dict[str, Any]]:
        site.send()
        return read_table(uri, None).to_pylist() if newest_version(uri) is not None else []

    row = wait_until(compared, timeout_s=30)[0]
    assert (row["model_version"], row["shadow_model_version"]) == ("serving-test-model:1", "serving-test-model:2")
    assert row["score"] != row["shadow_score"]


def test_labels_come_back(site: Site) -> None:
    prediction_id = site.send()[1]["x-prediction-id"]
    labels = {"labels": [{"prediction_id": prediction_id, "row": 0, "label": 1}]}
    assert site.send(f"/v1/models/{ENDPOINT}:feedback", json.dumps(labels).encode())[2] == {"accepted": 1}
    uri = feedback_uri(site.config.paths.payload, ENDPOINT)
    wait_until(lambda: prediction_id in read_feedback(uri)["prediction_id"].to_pylist(), timeout_s=30)


@pytest.mark.usefixtures("connected")
def test_the_monitor_counts_both_slots(site: Site) -> None:
    import ray

    monitor: Any = ray.get_actor("teal-monitor", namespace="teal")
    site.shift(5000)
    for index in range(40):
        site.send(headers={"x-routing-key": f"key-{index}"})
    site.shift(0)

    def counted() -> bool:
        text = json.dumps(ray.get(monitor.status.remote()), default=str)
        return "serving-test-model:1" in text and "serving-test-model:2" in text

    assert wait_until(counted, timeout_s=30)


def test_a_second_reconcile_changes_nothing(site: Site) -> None:
    before = [site.state("blue")["pid"], site.state("green")["pid"]]
    assert not site.reconcile().is_changed
    assert [site.state("blue")["pid"], site.state("green")["pid"]] == before


def test_nothing_is_answered_past_the_edge(site: Site) -> None:
    port = site.config.cluster.ports.serve
    assert site.send(f"/{ENDPOINT}-blue{PREDICT}", port=port)[0] == 403
    status, _, answer = site.send(f"/{ENDPOINT}-blue{PREDICT}", port=port, headers={"x-teal-edge": "0" * 64})
    assert (status, answer["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b'{"instances": []}', 422, "at least one row"),
        (rows_body(1, x0="text"), 422, "'x0': must be a number but got 'text'"),
        (rows_body(1, x0=float("nan")), 422, "'x0': must be a finite 32-bit number but got nan"),
        (rows_body(1, hour=24), 422, "'hour': must be at most 23 but got 24"),
        (rows_body(1, unknown=1), 422, "'unknown': is not in the contract"),
        (b'{"instances": [{}]}', 422, "is required"),
        (b'{"instances": [[]]}', 422, "must be an object"),
        (rows_body(5000), 413, "at most 4096"),
    ],
)
def test_bad_input_is_named_and_harms_nothing(site: Site, body: bytes, status: int, words: str) -> None:
    found, headers, answer = site.send(body=body)
    assert found == status
    assert words in answer["error"]["message"]
    assert headers["x-model-version"]
    assert site.send()[0] == 200


def test_an_unseen_category_is_answered(site: Site) -> None:
    assert site.send(body=rows_body(1, carrier="XX"))[0] == 200


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_100_megabytes_is_refused_and_the_server_goes_on(
    site: Site, tmp_path: Path, *, is_chunked: bool
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(100_000_000)
    options = ["-H", "transfer-encoding: chunked"] if is_chunked else []
    url = f"http://127.0.0.1:{site.config.cluster.ports.edge}{PREDICT}"
    command = ["curl", "-s", "-w", "\n%{http_code}", "-H", "content-type: application/json", *options]
    done = subprocess.run(
        [*command, "--data-binary", f"@{big}", url], capture_output=True, text=True, check=False, timeout=60
    )
    text, _, code = done.stdout.rpartition("\n")
    assert code == "413"
    assert json.loads(text)["error"]["code"] == "too_large"
    assert site.send()[0] == 200


def test_the_death_of_the_only_replica_loses_nothing(site: Site) -> None:
    before = site.state("blue")["pid"]
    with Load(site) as load:
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: site.state("blue").get("pid") not in (None, before), timeout_s=60)
        load.wait_for(40)
    assert load.failures == []


@pytest.mark.usefixtures("connected")
def test_the_death_of_the_edges_actor_loses_nothing(site: Site) -> None:
    import ray

    before = edge_status()
    assert before is not None
    with Load(site) as load:
        actor = find_edge()
        assert actor is not None
        ray.kill(actor, no_restart=False)
        state = site.shift(5000)
        load.wait_for(40)
        site.shift(0)
    after = edge_status()
    assert load.failures == []
    assert after is not None
    assert after["pid"] == before["pid"]
    assert after["generations"][ENDPOINT] > state.generation - 1


def test_a_rollback_ends_the_canarys_traffic(site: Site) -> None:
    site.shift(10_000)
    assert site.send()[1]["x-slot"] == "green"
    state = site.store.set_share(ENDPOINT, 0, actor="test", action="rollback")
    touch_hint(site.config.paths)
    wait_until(lambda: site.send()[1]["x-generation"] == str(state.generation), timeout_s=5)
    assert {site.send()[1]["x-slot"] for _ in range(20)} == {"blue"}


@pytest.fixture
def broken(site: Site, tmp_path: Path) -> Iterator[ModelVersion]:
    """Version 3 whose weights were changed after it was registered; version 2 is put back afterwards."""
    model = replace(example_model_version(tmp_path / "v3", version=3), name="serving-test-model")
    (tmp_path / "v3" / "model.safetensors").write_bytes(b"other bytes")
    site.store.record_model_version(model)
    yield model
    site.store.assign_slot(ENDPOINT, "green", site.models[1], actor="test")
    site.reconcile()
    assert site.state("green")["bundle_sha256"] == site.models[1].bundle_sha256


def test_a_bundle_that_was_changed_does_not_come_up_and_harms_nobody(site: Site, broken: ModelVersion) -> None:
    blue = site.state("blue")["pid"]
    with Load(site) as load:
        site.store.assign_slot(ENDPOINT, "green", broken, actor="test")
        with pytest.raises(TealError, match=r"serving-test-model:3 does not come up.*model\.safetensors.*was changed"):
            site.reconcile()
    assert load.failures == []
    assert site.state("blue")["pid"] == blue
