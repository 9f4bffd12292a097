"""Replicas follow the load on a real platform: from one to two by calls over gRPC alone, to none, and back by one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from runtime.cluster.token import read_token
from runtime.config.schema import Config, ModelConfig
from runtime.models.bundle import Bundle, load_bundle, save_bundle
from runtime.models.tabular import build_model
from runtime.serving.reconcile import reconcile
from runtime.store.control import ControlStore
from tests.integration.test_serving_protocols import tensors
from tests.serving_example import example_model_version, example_row, save_example_bundle
from tests.waiting import wait_until

ENDPOINT = "scaling-test"
NUM_CALLERS = 8
MODEL_DELAY_MS = 40.0


def save_slow_bundle(directory: Path) -> None:
    """Of a model that keeps a replica busy without keeping the machine busy."""
    save_example_bundle(directory / "fast")
    fast = load_bundle(directory / "fast")
    config = ModelConfig(
        name="slow",
        class_path="runtime.pipeline.slow_model:SlowMLP",
        arguments={"delay_ms": MODEL_DELAY_MS},
        allowed_modules=["runtime.models", "runtime.pipeline.slow_model"],
    )
    model = build_model(config, fast.columns, fast.encoding)
    model.load_state_dict(fast.model.state_dict())
    save_bundle(
        directory / "slow",
        model=model,
        model_config=config,
        columns=fast.columns,
        encoding=fast.encoding,
        profile=fast.profile,
        lineage={},
    )


@dataclass(frozen=True, kw_only=True)
class Site:
    config: Config
    store: ControlStore
    bundle: Bundle

    def num_ready(self) -> int:
        return sum(replica.state == "ready" for replica in self.store.replicas(ENDPOINT))

    def ask(self, client: triton.InferenceServerClient) -> str:
        """Empty where it was answered, else why a slot without replicas did not."""
        try:
            client.infer(ENDPOINT, tensors(triton, [example_row(1)], self.bundle), client_timeout=60)
        except InferenceServerException as error:
            if error.status() != "StatusCode.UNAVAILABLE":
                raise
            return str(error.message())
        return ""

    def connect(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(f"127.0.0.1:{self.config.cluster.ports.edge_grpc}")


@pytest.fixture
def site(platform: Config, tmp_path: Path) -> Site:
    serving = replace(
        platform.serving,
        endpoint=ENDPOINT,
        min_replicas=0,
        idle_replicas=0,
        max_replicas=2,
        target_ongoing_requests=2.0,
        upscale_delay_s=0.0,
        downscale_delay_s=1.0,
    )
    config = replace(platform, serving=serving)
    save_slow_bundle(tmp_path)
    model = replace(example_model_version(tmp_path / "slow"), name="scaling-test-model")
    store = ControlStore(config.paths.control)
    store.record_model_version(model)
    store.assign_slot(ENDPOINT, None, model, actor="test")
    reconcile(store, config, token=read_token(config.paths.run))
    return Site(config=config, store=store, bundle=load_bundle(tmp_path / "fast"))


def test_replicas_follow_the_load_and_a_call_wakes_a_slot_that_sleeps(site: Site) -> None:
    stop = threading.Event()

    def keep_asking() -> int:
        client = site.connect()
        num_answers = 0
        while not stop.is_set():
            num_answers += not site.ask(client)
        client.close()
        return num_answers

    with ThreadPoolExecutor(NUM_CALLERS) as pool:
        callers = [pool.submit(keep_asking) for _ in range(NUM_CALLERS)]
        try:
            wait_until(lambda: site.num_ready() == 2, timeout_s=60)
        finally:
            stop.set()
        assert all(caller.result(60) for caller in callers)
    wait_until(lambda: not site.store.replicas(ENDPOINT), timeout_s=60)

    client = site.connect()
    refusals = []
    while refusal := site.ask(client):
        refusals.append(refusal)
    assert site.num_ready() == 1
    assert "unavailable: this slot had no replica and was woken; repeat the request" in refusals
    client.close()
