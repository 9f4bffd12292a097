"""Requests that once were a server's fault, each found by benchmarks/conformance.py or schemathesis."""

from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest

from runtime.models.bundle import Bundle
from runtime.serving import arrow
from runtime.serving.codec import RequestFault, parse_labels
from runtime.serving.openapi import build_openapi
from runtime.serving.scoring import Limits
from tests.serving_caller import IDENTITY, Caller
from tests.serving_example import example_columns, example_row
from tests.serving_protocols import arrow_stream, oip_json, row_json

PREDICT = "/v1/models/example:predict"
INFER = "/v2/models/example/infer"
ARROW = arrow.CONTENT_TYPE.decode()
SOME_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
LARGEST = float(np.finfo(np.float32).max)


@pytest.fixture
def call(bundle: Bundle, tmp_path: Path) -> Caller:
    return Caller(bundle, tmp_path)


def scores(answer: bytes) -> list[float]:
    return [row["score"] for row in orjson.loads(answer)["predictions"]]


def test_a_value_that_the_contract_allows_is_scored_however_large(call: Caller) -> None:
    usual = [example_row(0), example_row(1)]
    huge = example_row(2) | {"x0": LARGEST, "x1": -LARGEST, "x2": LARGEST, "x3": -LARGEST}
    encoded = call.service.scorer.bundle.encoding.encode_rows([huge], example_columns())
    assert not np.isfinite(call.service.scorer.predictor.predict(encoded.numeric, encoded.categorical)).all()
    alone = scores(call.ask(PREDICT, row_json([huge])).body)
    assert 0 <= alone[0] <= 1
    together = scores(call.ask(PREDICT, row_json([usual[0], huge, usual[1]])).body)
    assert together == [
        *scores(call.ask(PREDICT, row_json(usual[:1])).body),
        *alone,
        *scores(call.ask(PREDICT, row_json(usual[1:])).body),
    ]


def test_a_model_that_is_broken_is_still_found_out(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call.service.scorer.predictor, "predict", lambda numeric, _: np.full(len(numeric), np.nan))
    assert call.ask(PREDICT, row_json([example_row(0)])).status == 500


def test_a_stream_of_rows_without_columns_breaks_the_contract(call: Caller) -> None:
    table = pa.table({"x0": [1.0, 2.0]}).select([])
    assert table.num_rows == 2
    answered = call.ask(PREDICT, arrow_stream(table), content_type=ARROW)
    assert (answered.status, orjson.loads(answered.body)["error"]["code"]) == (422, "contract")


@pytest.mark.parametrize("value", ["maybe", "", "2", "yes", "true&explain=no"])
def test_explain_is_yes_or_no(call: Caller, value: str) -> None:
    answered = call.ask(f"{PREDICT}?explain={value}", row_json([example_row(0)]))
    assert (answered.status, orjson.loads(answered.body)["error"]["field"]) == (400, "explain")
    assert call.ask(f"{PREDICT}?explain=FALSE&other=1", row_json([example_row(0)])).status == 200


def test_whether_an_output_is_binary_is_yes_or_no(call: Caller) -> None:
    document = orjson.loads(oip_json([example_row(0)], example_columns()))
    for value, status in ((True, 200), (False, 200), ("yes", 400), (1, 400), (None, 400)):
        document["outputs"] = [{"name": "score", "parameters": {"binary_data": value}}]
        assert call.ask(INFER, orjson.dumps(document)).status == status, value


def test_a_label_may_be_written_as_any_json_number() -> None:
    body = orjson.dumps({"labels": [{"prediction_id": SOME_ID, "row": 3.0, "label": 1.0}]})
    (label,) = parse_labels(body, None, max_rows=8)
    assert (label.row, label.label) == (3, 1)
    assert type(label.row) is type(label.label) is int


@pytest.mark.parametrize(
    "change",
    [
        {"row": 0.5},
        {"row": 1e300},
        {"row": True},
        {"label": 0.5},
        {"label": True},
        {"prediction_id": SOME_ID.upper()},
        {"prediction_id": SOME_ID[:-4] + "zzzz"},
        {"prediction_id": SOME_ID.replace("-b", "-1")},
        {"prediction_id": SOME_ID + "\n"},
    ],
)
def test_a_label_that_can_join_nothing_is_refused(change: dict[str, object]) -> None:
    body = orjson.dumps({"labels": [{"prediction_id": SOME_ID, "row": 0, "label": 1} | change]})
    with pytest.raises(RequestFault, match=next(iter(change))):
        parse_labels(body, None, max_rows=8)


def test_the_examples_of_the_openapi_document_are_answered(call: Caller, bundle: Bundle) -> None:
    document = build_openapi(IDENTITY, bundle.columns, Limits(max_body_bytes=4096, max_rows=8))
    num_examples = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "post":
                example = operation["requestBody"]["content"]["application/json"]["example"]
                answered = call.ask(path.replace("{version}", "3"), orjson.dumps(example))
                assert answered.status == 200, (path, answered)
                num_examples += 1
    assert num_examples == 4
