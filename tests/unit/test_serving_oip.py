"""The Open Inference Protocol over HTTP: what it takes, what it answers, what it says of a fault."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from runtime.models.bundle import Bundle
from tests.serving_caller import Caller
from tests.serving_example import example_row
from tests.serving_protocols import oip_binary, oip_binary_scores, oip_json, row_json

INFER = "/v2/models/example/infer"


@pytest.fixture
def call(bundle: Bundle, tmp_path: Path) -> Caller:
    return Caller(bundle, tmp_path, max_rows=200, max_body=1 << 20)


def rows(number: int) -> list[dict[str, Any]]:
    return [example_row(index) for index in range(number)]


def scores_of_rows(call: Caller, asked: list[dict[str, Any]]) -> list[float]:
    answer = orjson.loads(call.ask("/v1/models/example:predict", row_json(asked)).body)
    return [row["score"] for row in answer["predictions"]]


def change_input(document: bytes, of: str, members: dict[str, Any]) -> bytes:
    changed = orjson.loads(document)
    for entry in changed["inputs"]:
        if entry["name"] == of:
            entry.update(members)
    return orjson.dumps(changed)


@pytest.mark.parametrize("path", [INFER, "/v2/models/example/versions/3/infer", "/example-blue" + INFER])
def test_json_tensors_are_answered_as_rows_are(call: Caller, bundle: Bundle, path: str) -> None:
    status, headers, body = call.ask(path, oip_json(rows(3), bundle.columns))
    answer = orjson.loads(body)
    assert status == 200
    assert (answer["model_name"], answer["model_version"]) == ("example", "3")
    assert answer["parameters"]["prediction_id"] == headers["x-prediction-id"]
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP64", [3])
    assert output["data"] == scores_of_rows(call, rows(3))
    assert call.payload.status()["buffered_rows"] == 6


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"hour": None},
        {"hour": 7.0},
        {"x0": 2**53 + 1},
        {"x0": None},
        {"carrier": None},
        {"hour": 2.5},
        {"distance": 1e9},
    ],
)
def test_many_listed_values_are_answered_as_rows_are(call: Caller, bundle: Bundle, change: dict[str, Any]) -> None:
    asked = rows(100)
    asked[70] |= change
    by_column = call.ask(INFER, oip_json(asked, bundle.columns))
    by_row = call.ask("/v1/models/example:predict", row_json(asked))
    assert by_column.status == by_row.status
    found, expected = orjson.loads(by_column.body), orjson.loads(by_row.body)
    if by_row.status == 200:
        assert found["outputs"][0]["data"] == [row["score"] for row in expected["predictions"]]
    else:
        assert found["error"] == expected["error"]["message"]


@pytest.mark.parametrize("number", [1, 3, 100])
def test_binary_tensors_come_and_go(call: Caller, bundle: Bundle, number: int) -> None:
    body, given = oip_binary(rows(number), bundle.columns)
    status, headers, answer = call.ask(INFER, body, content_type="application/octet-stream", **given)
    assert status == 200
    assert headers["content-type"] == "application/octet-stream"
    assert oip_binary_scores(answer, headers) == scores_of_rows(call, rows(number))
    assert orjson.loads(answer[: int(headers["inference-header-content-length"])])["id"] == "q"


def test_the_model_describes_its_tensors(call: Caller) -> None:
    described = orjson.loads(call.ask("/v2/models/example", method="GET").body)
    datatypes = {entry["name"]: entry["datatype"] for entry in described["inputs"]}
    assert described["versions"] == ["3"]
    assert (datatypes["x0"], datatypes["hour"], datatypes["carrier"]) == ("FP64", "FP64", "BYTES")
    assert described["outputs"] == [{"name": "score", "datatype": "FP64", "shape": [-1]}]
    assert "binary_tensor_data" in orjson.loads(call.ask("/v2", method="GET").body)["extensions"]
    assert orjson.loads(call.ask("/v2/models/example/ready", method="GET").body)["ready"] is True
    assert call.ask("/v2/models/example/versions/4/infer").status == 404


def test_missing_is_null_or_nan_where_the_contract_allows_it(call: Caller, bundle: Bundle) -> None:
    asked = [row | {"hour": None} for row in rows(3)]
    expected = scores_of_rows(call, asked)
    assert orjson.loads(call.ask(INFER, oip_json(asked, bundle.columns)).body)["outputs"][0]["data"] == expected
    body, given = oip_binary([row | {"hour": np.nan} for row in asked], bundle.columns)
    _, headers, answer = call.ask(INFER, body, **given)
    assert oip_binary_scores(answer, headers) == expected
    body, given = oip_binary([row | {"x0": np.nan} for row in asked], bundle.columns)
    assert call.ask(INFER, body, **given).status == 422


@pytest.mark.parametrize("number", [2, 100])
def test_a_broken_contract_names_column_and_value(call: Caller, bundle: Bundle, number: int) -> None:
    asked = rows(number)
    asked[1]["distance"] = -5.0
    body, given = oip_binary(asked, bundle.columns)
    for status, _, answer in (
        call.ask(INFER, body, **given),
        call.ask(INFER, oip_json(asked, bundle.columns)),
        call.ask("/v1/models/example:predict", row_json(asked)),
    ):
        error = orjson.loads(answer)
        message = error["error"] if isinstance(error["error"], str) else error["error"]["message"]
        assert status == 422
        assert message == "instances: row 1, column 'distance': must be at least 0 but got -5.0"


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"shape": [2]}, 400, "3 values for shape"),
        ({"shape": [3, 2]}, 400, "must be of shape"),
        ({"shape": ["3"]}, 400, "must be of shape"),
        ({"shape": [-1]}, 400, "must be of shape"),
        ({"datatype": "FP8"}, 400, "datatype"),
        ({"datatype": "INT64"}, 400, "is INT64 but holds"),
        ({"data": [1.0, 2.0]}, 400, "has 2 values"),
        ({"data": [1.0, "2", 3.0]}, 400, "is FP64 but holds '2'"),
        ({"data": [[1.0], [2.0, 3.0], [4.0]]}, 400, "lists of one"),
        ({"data": None}, 400, "lacks the list"),
        ({"name": "nobody"}, 422, "column 'x0': is required"),
        ({"name": "x1"}, 400, "occurs twice"),
        ({"parameters": {"binary_data_size": 24}}, 400, "bytes are left"),
        ({"parameters": [1]}, 400, "must be an object"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    call: Caller, bundle: Bundle, change: dict[str, Any], status: int, words: str
) -> None:
    body = change_input(oip_json(rows(3), bundle.columns), "x0", change)
    found, _, answer = call.ask(INFER, body)
    assert found == status
    assert words in orjson.loads(answer)["error"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"id": 5}, "id must be text"),
        ({"outputs": [{"name": "other"}]}, "no output 'other'"),
        ({"outputs": [{"name": "attributions"}]}, "needs parameter explain"),
        ({"outputs": {}}, "must be a list"),
        ({"inputs": []}, "no inputs"),
        ({"inputs": None}, "lacks the list"),
        ({"inputs": [5]}, "must be an object"),
        ({"parameters": {"explain": "yes"}}, "must be true or false"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    call: Caller, bundle: Bundle, members: dict[str, Any], words: str
) -> None:
    status, _, answer = call.ask(INFER, orjson.dumps(orjson.loads(oip_json(rows(3), bundle.columns)) | members))
    assert status == 400
    assert words in orjson.loads(answer)["error"]


@pytest.mark.parametrize("length", ["0", "-1", "x", "99999999", "9" * 30])
def test_a_header_length_that_is_none_is_refused(call: Caller, bundle: Bundle, length: str) -> None:
    body, _ = oip_binary(rows(1), bundle.columns)
    assert call.ask(INFER, body, inference_header_content_length=length).status == 400


def test_texts_of_a_binary_tensor_are_read_to_their_end(call: Caller, bundle: Bundle) -> None:
    body, given = oip_binary(rows(2), bundle.columns)
    for broken in (body[:-1], body + b"\0", body.replace(b"P123", b"P\xff23")):
        status, _, answer = call.ask(INFER, broken, **given)
        assert (status, type(orjson.loads(answer)["error"])) == (400, str)


def test_a_named_output_may_be_bytes(call: Caller, bundle: Bundle) -> None:
    asked = orjson.loads(oip_json(rows(2), bundle.columns))
    asked["outputs"] = [{"name": "score", "parameters": {"binary_data": True}}]
    _, headers, body = call.ask(INFER, orjson.dumps(asked))
    assert oip_binary_scores(body, headers) == scores_of_rows(call, rows(2))


def test_attributions_add_up_to_the_score(call: Caller, bundle: Bundle) -> None:
    asked = orjson.loads(oip_json(rows(2), bundle.columns)) | {"parameters": {"explain": True}}
    answer = orjson.loads(call.ask(INFER, orjson.dumps(asked)).body)
    score, attributions = answer["outputs"]
    features = answer["parameters"]["features"].split(",")
    assert attributions["shape"] == [2, len(features)]
    sums = np.array(attributions["data"]).reshape(2, -1).sum(axis=1) + answer["parameters"]["baseline_score"]
    np.testing.assert_allclose(sums, score["data"], rtol=0, atol=1e-12)
