"""The clients against the real thing: edge, replica, bundle. How they meet failures is in tests/unit/test_client.py."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from runtime.client import AsyncClient, BadRequest, Client, ContractViolated, Label, NotFound, Prediction
from runtime.cluster.token import read_token
from runtime.config.schema import Config
from runtime.models.bundle import Bundle, load_bundle
from runtime.serving.reconcile import reconcile
from runtime.store.control import ControlStore
from tests.serving_example import example_model_version, example_row
from tests.waiting import wait_until

ENDPOINT = "client-test"
ROWS = [example_row(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def bundle(platform: Config, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Served in the blue slot of an endpoint of its own."""
    directory: Path = tmp_path_factory.mktemp("bundles") / "v1"
    serving = replace(platform.serving, endpoint=ENDPOINT, payload_flush_s=0.3, ready_timeout_s=120)
    store = ControlStore(platform.paths.control)
    model = replace(example_model_version(directory), name="client-test-model")
    store.record_model_version(model)
    store.assign_slot(ENDPOINT, None, model, actor="test")
    reconcile(store, replace(platform, serving=serving), token=read_token(platform.paths.run))
    return load_bundle(directory)


@pytest.fixture(scope="module")
def url(platform: Config) -> str:
    return f"http://127.0.0.1:{platform.cluster.ports.edge}"


@pytest.fixture(scope="module")
def client(bundle: Bundle, url: str) -> Iterator[Client]:
    with Client(url) as client:
        # The edge hears of the new endpoint a moment after the store.
        wait_until(lambda: _is_known(client), timeout_s=20)
        yield client


def _is_known(client: Client) -> bool:
    try:
        return client.describe(ENDPOINT).endpoint == ENDPOINT
    except NotFound:
        return False


def _is_of(prediction: Prediction, bundle: Bundle) -> bool:
    encoded = bundle.encoding.encode_rows(ROWS, bundle.columns)
    return np.allclose(prediction.scores, bundle.model.predict(encoded.numeric, encoded.categorical), rtol=0, atol=1e-6)


def test_rows_and_tables_get_the_models_scores(client: Client, bundle: Bundle) -> None:
    prediction = client.predict(ENDPOINT, ROWS, routing_key="klé", request_id="client-test-1")
    assert _is_of(prediction, bundle)
    assert (prediction.slot, prediction.model_version) == ("blue", "client-test-model:1")
    assert (prediction.data_version, prediction.request_id) == ("example@0", "client-test-1")
    assert prediction.generation >= 1
    by_table = client.predict(ENDPOINT, pa.Table.from_pylist(ROWS))
    assert by_table.scores.tolist() == prediction.scores.tolist()
    assert by_table.prediction_id != prediction.prediction_id


def test_an_explanation_adds_up(client: Client) -> None:
    prediction = client.predict(ENDPOINT, ROWS, explain=True)
    assert prediction.attributions is not None
    assert prediction.baseline_score is not None
    sums = [prediction.baseline_score + sum(of_row.values()) for of_row in prediction.attributions]
    assert sums == pytest.approx(prediction.scores.tolist(), abs=1e-9)


def test_labels_are_taken(client: Client) -> None:
    prediction = client.predict(ENDPOINT, ROWS)
    labels = [Label(prediction_id=prediction.prediction_id, row=row, label=row % 2) for row in range(len(ROWS))]
    assert client.feedback(ENDPOINT, labels) == len(ROWS)


def test_the_description_is_the_contract(client: Client) -> None:
    described = client.describe(ENDPOINT)
    assert described.model_version == "client-test-model:1"
    assert set(described.columns) == set(ROWS[0])


def test_what_is_wrong_is_said(client: Client) -> None:
    with pytest.raises(ContractViolated, match="'hour': must be at most 23 but got 24") as caught:
        client.predict(ENDPOINT, [ROWS[0] | {"hour": 24}])
    assert (caught.value.column, caught.value.value, caught.value.status) == ("hour", 24, 422)
    assert caught.value.request_id
    with pytest.raises(ContractViolated, match="finite"):
        client.predict(ENDPOINT, [ROWS[0] | {"x0": float("nan")}])
    with pytest.raises(NotFound, match="no endpoint"):
        client.predict("nowhere", ROWS)
    with pytest.raises(BadRequest, match="at most"):
        client.predict(ENDPOINT, [ROWS[0]] * 5000)


def test_many_calls_on_one_loop(client: Client, bundle: Bundle, url: str) -> None:
    async def ask_all() -> list[Prediction]:
        async with AsyncClient(url) as other:
            assert (await other.describe(ENDPOINT)) == client.describe(ENDPOINT)
            return await asyncio.gather(*(other.predict(ENDPOINT, ROWS) for _ in range(20)))

    predictions = asyncio.run(ask_all())
    assert all(_is_of(prediction, bundle) for prediction in predictions)
    assert len({prediction.prediction_id for prediction in predictions}) == 20
