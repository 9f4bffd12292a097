"""Requests are checked down to the value; a fault names it."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.ids import new_id
from runtime.data.encoding import Encoding
from runtime.data.rows import RowError
from runtime.serving.codec import (
    Label,
    RequestFault,
    encode_fault,
    encode_predictions,
    parse_instances,
    parse_labels,
)
from tests.serving_example import CARRIERS, example_columns, example_row

JSON = b"application/json"


def fault_of(body: bytes, content_type: bytes | None = JSON, max_rows: int = 4) -> RequestFault:
    with pytest.raises(RequestFault) as caught:
        parse_instances(body, content_type, max_rows=max_rows)
    return caught.value


def test_rows_come_through_as_they_are() -> None:
    assert parse_instances(b'{"instances": [{"a": 1}, 5]}', JSON, max_rows=2) == [{"a": 1}, 5]
    assert parse_instances(b'{"instances": [1]}', b"Application/JSON; charset=utf-8", max_rows=2) == [1]
    assert parse_instances(b'{"instances": [1]}', None, max_rows=2) == [1]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b"", 400, "malformed", "not JSON"),
        (b"{", 400, "malformed", "not JSON"),
        (b"\xff\xfe", 400, "malformed", "not JSON"),
        (b'{"instances": [NaN}', 400, "malformed", "not JSON"),
        (b"[" * 100_000, 400, "malformed", "not JSON"),
        (b'{"NaN":' * 100_000, 400, "malformed", "not JSON"),
        (b"[]", 422, "contract", "is a list"),
        (b"3", 422, "contract", "is a number"),
        (b"null", 422, "contract", "is null"),
        (b"{}", 422, "contract", "lacks 'instances'"),
        (b'{"instances": {}}', 422, "contract", "must be a list"),
        (b'{"instances": []}', 422, "contract", "at least one row"),
        (b'{"instances": [1], "parameters": {}}', 422, "contract", "unknown member 'parameters'"),
        (b'{"instances": [1,2,3,4,5]}', 413, "too_large", "has 5 rows, at most 4"),
    ],
)
def test_a_faulty_body_is_named(body: bytes, status: int, code: str, words: str) -> None:
    fault = fault_of(body)
    assert (fault.status, fault.code) == (status, code)
    assert words in fault.message


def test_another_content_type_is_refused() -> None:
    fault = fault_of(b'{"instances": [1]}', b"text/csv")
    assert (fault.status, fault.field) == (415, "content-type")
    assert "'text/csv'" in fault.message


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_led_to_their_column(literal: str) -> None:
    columns = example_columns()
    encoding = Encoding(
        numeric=tuple(name for name, column in columns.items() if column.type in ("number", "integer")),
        categorical=("carrier", "passport"),
        vocabularies={"carrier": tuple(CARRIERS), "passport": ()},
    )
    row = orjson.dumps(example_row() | {"x2": 0}).replace(b'"x2":0', f'"x2":{literal}'.encode())
    rows = parse_instances(b'{"instances": [' + row + b"]}", JSON, max_rows=4)
    with pytest.raises(RowError) as caught:
        encoding.encode_rows(rows, columns)
    fault = RequestFault.of_row(caught.value)
    assert (fault.status, fault.field) == (422, "x2")
    assert "row 0" in fault.message


def test_a_fault_is_json_even_if_its_words_are_no_text() -> None:
    fault = RequestFault(422, "contract", "bad \ud800", "\udfff")
    assert orjson.loads(encode_fault(fault)) == {"error": {"code": "contract", "message": "bad ?", "field": "?"}}


@given(st.binary(max_size=200))
def test_no_body_is_more_than_a_fault(body: bytes) -> None:
    with pytest.raises(RequestFault) as caught:
        parse_labels(body, JSON, max_rows=4)
    assert 400 <= caught.value.status < 500
    assert set(orjson.loads(encode_fault(caught.value))["error"]) == {"code", "message", "field"}


def test_predictions_keep_the_order_and_the_bits() -> None:
    answer = orjson.loads(encode_predictions("id", "m:1", np.array([0.1, 1 / 3])))
    expected = [{"score": 0.1}, {"score": 1 / 3}]
    assert answer == {"prediction_id": "id", "model_version": "m:1", "predictions": expected}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_many_predictions_are_written_as_few_are(scores: list[float]) -> None:
    answer = {"prediction_id": "id", "model_version": 'm"\\:1', "predictions": [{"score": score} for score in scores]}
    assert encode_predictions("id", 'm"\\:1', np.array(scores)) == orjson.dumps(answer)


def test_labels_are_taken() -> None:
    prediction_id = new_id()
    entries = [{"prediction_id": prediction_id, "row": 3, "label": 1}, {"prediction_id": prediction_id, "label": 0}]
    assert parse_labels(orjson.dumps({"labels": entries}), JSON, max_rows=4) == [
        Label(prediction_id=prediction_id, row=3, label=1),
        Label(prediction_id=prediction_id, row=0, label=0),
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"label": 2}, "label"),
        ({"label": True}, "label"),
        ({"label": "1"}, "label"),
        ({"label": None}, "label"),
        ({"row": -1}, "row"),
        ({"row": 1.5}, "row"),
        ({"row": 2**31}, "row"),
        ({"prediction_id": "x"}, "prediction_id"),
        ({"prediction_id": 7}, "prediction_id"),
        ({"prediction_id": "00000000-0000-4000-8000-000000000000"}, "prediction_id"),
        ({"score": 1}, "score"),
    ],
)
def test_a_faulty_label_is_named(change: dict[str, object], field: str) -> None:
    good = {"prediction_id": new_id(), "row": 0, "label": 1}
    with pytest.raises(RequestFault) as caught:
        parse_labels(orjson.dumps({"labels": [good, good | change]}), JSON, max_rows=4)
    assert (caught.value.status, caught.value.field) == (422, field)
    assert "labels[1]" in caught.value.message
