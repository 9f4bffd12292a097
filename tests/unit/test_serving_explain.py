"""Attributions: they add up, and each is its feature's."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pytest
import torch

from runtime.config.schema import ModelConfig
from runtime.data.encoding import Encoded, Encoding
from runtime.models.bundle import Bundle
from runtime.models.linear import Linear
from runtime.models.tabular import build_model
from runtime.serving.codec import Explained
from tests.serving_caller import Caller
from tests.serving_example import example_columns, example_row
from tests.serving_protocols import arrow_stream, as_table, row_json

PREDICT = "/v1/models/example:predict"


def test_attributions_of_a_row_add_up_to_its_score(bundle: Bundle, tmp_path: Path) -> None:
    call = Caller(bundle, tmp_path)
    rows = [example_row(1), example_row(2) | {"hour": None, "carrier": "never seen"}]
    answer = orjson.loads(call.ask(f"{PREDICT}?explain=true", row_json(rows)).body)
    for prediction in answer["predictions"]:
        assert set(prediction["attributions"]) == {*bundle.encoding.numeric, *bundle.encoding.categorical}
        total = answer["baseline_score"] + sum(prediction["attributions"].values())
        assert total == pytest.approx(prediction["score"], abs=1e-12)
    plain = orjson.loads(call.ask(PREDICT, row_json(rows)).body)
    assert [row["score"] for row in plain["predictions"]] == [row["score"] for row in answer["predictions"]]
    assert "attributions" not in plain["predictions"][0]
    again = orjson.loads(call.ask(f"{PREDICT}?explain=true", row_json(rows)).body)
    assert again["predictions"] == answer["predictions"]


def test_arrow_answers_them_as_columns(bundle: Bundle, tmp_path: Path) -> None:
    import pyarrow as pa

    call = Caller(bundle, tmp_path)
    body = arrow_stream(as_table([example_row(1), example_row(2)], bundle.columns))
    answer = call.ask(f"{PREDICT}?explain=1", body, content_type="application/vnd.apache.arrow.stream")
    table = pa.ipc.open_stream(answer.body).read_all()
    baseline = float(table.schema.metadata[b"baseline_score"])
    parts = np.stack([column.to_numpy() for column in table.drop_columns(["score"]).columns])
    np.testing.assert_allclose(parts.sum(axis=0) + baseline, table["score"].to_numpy(), rtol=0, atol=1e-12)


def test_a_feature_at_its_baseline_or_unused_gets_nothing(bundle: Bundle, tmp_path: Path) -> None:
    """A logistic model of one number and one category: all others have no part in it."""
    columns = example_columns()
    encoding: Encoding = bundle.encoding
    model = build_model(ModelConfig(name="linear", class_path="runtime.models.linear:Linear"), columns, encoding)
    net = model.net
    assert isinstance(net, Linear)
    category = net.category_weights[0]
    assert isinstance(category, torch.nn.Embedding)
    with torch.no_grad():
        net.numeric_weight[encoding.numeric.index("x2")] = 1.5
        category.weight.copy_(torch.arange(encoding.cardinalities[0])[:, None])
    call = Caller(
        Bundle(model=model, manifest=bundle.manifest, columns=columns, encoding=encoding, profile=bundle.profile),
        tmp_path,
    )
    explainer = call.service.explainer
    encoded = encoding.encode_rows([example_row(5)], columns)
    explained = explainer.explain(encoded, call.service.scorer.compute(encoded))
    used = {name for name, value in zip(explained.features, explained.attributions[0], strict=True) if value != 0}
    assert used == {"x2", "carrier"}


def test_many_rows_are_not_explained_at_once(bundle: Bundle, tmp_path: Path) -> None:
    call = Caller(bundle, tmp_path, max_rows=100, max_body=1 << 20)
    status, _, body = call.ask(f"{PREDICT}?explain=true", row_json([example_row(0)] * 65))
    assert (status, orjson.loads(body)["error"]["code"]) == (413, "too_large")


def test_plain_answers_do_not_wait_for_an_explanation_and_there_is_one_at_a_time(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Caller(bundle, tmp_path)
    explainer = call.service.explainer
    is_begun, may_end = threading.Event(), threading.Event()
    explain = explainer.explain

    def held(encoded: Encoded, scores: npt.NDArray[np.float64]) -> Explained:
        is_begun.set()
        assert may_end.wait(20)
        return explain(encoded, scores)

    monkeypatch.setattr(explainer, "explain", held)
    body = row_json([example_row(1)])

    async def ask() -> None:
        explained = asyncio.create_task(call.answer(f"{PREDICT}?explain=true", body))
        assert await asyncio.to_thread(is_begun.wait, 20)
        assert (await call.answer(PREDICT, body)).status == 200
        second = await call.answer(f"{PREDICT}?explain=true", body)
        assert (second.status, second.headers["retry-after"]) == (429, "1")
        assert not explained.done()
        may_end.set()
        assert b"attributions" in (await explained).body
        assert (await call.answer(f"{PREDICT}?explain=true", body)).status == 200

    asyncio.run(ask())
    # What was refused was neither counted nor logged as an answer.
    assert call.payload.status()["buffered_rows"] == 3


def test_who_leaves_does_not_free_the_place_that_still_works(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Caller(bundle, tmp_path)
    explainer = call.service.explainer
    is_begun, may_end = threading.Event(), threading.Event()
    explain = explainer.explain

    def held(encoded: Encoded, scores: npt.NDArray[np.float64]) -> Explained:
        is_begun.set()
        assert may_end.wait(20)
        return explain(encoded, scores)

    monkeypatch.setattr(explainer, "explain", held)
    body = row_json([example_row(1)])

    async def ask() -> None:
        left = asyncio.create_task(call.answer(f"{PREDICT}?explain=true", body))
        assert await asyncio.to_thread(is_begun.wait, 20)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert (await call.answer(f"{PREDICT}?explain=true", body)).status == 429
        may_end.set()
        while (await call.answer(f"{PREDICT}?explain=true", body)).status == 429:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(ask(), 20))
