"""What goes out is checked where only the caller can know better; what comes in is checked before it is believed."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.client import calls
from runtime.client.answers import read_accepted, read_description, read_prediction
from runtime.client.errors import InvalidAnswer
from runtime.client.exchange import ARROW, RawAnswer, Request
from runtime.client.origin import parse_origin
from runtime.client.session import Session
from runtime.core.errors import UsageError


def sent(rows: Any) -> Any:
    body = calls.predict("e", rows, routing_key=None, explain=False).request.body
    assert body is not None
    return json.loads(body)


def answered(body: Any, **headers: str) -> RawAnswer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RawAnswer(
        status=200, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=content
    )


def good(*scores: float) -> dict[str, Any]:
    return {"prediction_id": "p", "model_version": "m:1", "predictions": [{"score": score} for score in scores]}


JSON_VALUE = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text())


@given(st.lists(st.dictionaries(st.text(), JSON_VALUE), max_size=5))
def test_rows_arrive_as_they_were(rows: list[dict[str, Any]]) -> None:
    assert sent(rows) == {"instances": json.loads(json.dumps(rows))}


def test_numpy_values_dates_and_other_mappings_have_a_json_form() -> None:
    row = {"a": np.float32(0.5), "b": np.int64(7), "c": np.bool_(True), "d": datetime(2026, 1, 2, tzinfo=UTC), "e": "x"}
    expected = {"a": 0.5, "b": 7, "c": True, "d": "2026-01-02T00:00:00+00:00", "e": "x"}
    assert sent([MappingProxyType(row)]) == {"instances": [expected]}


def test_not_a_number_is_not_silently_missing() -> None:
    assert calls.predict("e", [{"a": float("nan")}], routing_key=None, explain=False).request.body == (
        b'{"instances":[{"a":NaN}]}'
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"a": 1}, "but got dict"),
        ("rows", "but got str"),
        (iter([]), "but got list_iterator"),
        ([{"a": object()}], "a object has no JSON form"),
        ([{"a": np.zeros(3)}], "a ndarray has no JSON form"),
        ([{(1, 2): 3}], "keys must be"),
    ],
)
def test_rows_that_are_none_are_refused(rows: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        sent(rows)


def test_a_table_travels_as_arrow() -> None:
    table = pa.table({"x": [1.0, 2.0], "carrier": ["AA", None]})
    for rows in (table, table.to_batches()[0]):
        request = calls.predict("e", rows, routing_key="k", explain=False).request
        assert request.headers == {"x-routing-key": "k", "content-type": ARROW, "accept": ARROW}
        assert pa.ipc.open_stream(request.body).read_all().equals(table)


def test_categories_of_a_table_travel_as_their_values() -> None:
    """Dictionaries are refused by the server, and what pandas makes of a category."""
    table = pa.table({"carrier": pa.array(["AA", "B6", None]).dictionary_encode(), "x": [1, 2, 3]})
    body = calls.predict("e", table, routing_key=None, explain=False).request.body
    assert pa.ipc.open_stream(body).read_all().equals(pa.table({"carrier": ["AA", "B6", None], "x": [1, 2, 3]}))


def test_the_path_names_endpoint_and_wish() -> None:
    assert (
        calls.predict("e-1", [], routing_key=None, explain=True).request.path == "/v1/models/e-1:predict?explain=true"
    )
    assert calls.describe("e-1").request.path == "/v1/models/e-1"
    for name in ("", "a/b", "a:predict", "é", "a b", "a?b", "a\r\nx: y"):
        with pytest.raises(UsageError, match="endpoint must match"):
            calls.describe(name)


@pytest.mark.parametrize("key", ["", " a", "a\r\nx-slot: green", "a\x00", 5])
def test_a_routing_key_that_no_header_can_hold_is_refused(key: Any) -> None:
    with pytest.raises(UsageError, match="routing_key"):
        calls.predict("e", [], routing_key=key, explain=False)


def test_trace_headers_are_checked() -> None:
    request = Request(method="GET", path="/")
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    traced = calls.with_trace(request, request_id="a.b", traceparent=traceparent)
    assert traced.headers == {"x-request-id": "a.b", "traceparent": traceparent}
    with pytest.raises(UsageError, match="request_id must match"):
        calls.with_trace(request, request_id="a b", traceparent=None)
    with pytest.raises(UsageError, match="traceparent must match"):
        calls.with_trace(request, request_id="a", traceparent="00-00")


def test_labels_are_values_or_mappings() -> None:
    labels: list[Any] = [calls.Label(prediction_id="p", label=1), {"prediction_id": "q", "row": 2, "label": 0}]
    body = calls.feedback("e", labels).request.body
    assert body is not None
    assert json.loads(body) == {
        "labels": [{"prediction_id": "p", "label": 1, "row": 0}, {"prediction_id": "q", "row": 2, "label": 0}]
    }
    with pytest.raises(UsageError, match="got a single one"):
        calls.feedback("e", calls.Label(prediction_id="p", label=1))  # type: ignore[arg-type]


def test_an_answer_becomes_a_prediction() -> None:
    headers = {"x_slot": "green", "x_generation": "7", "x_data_version": "d@1", "x_request_id": "r"}
    prediction = read_prediction(answered(good(0.25, 0.5), **headers), 2)
    assert prediction.scores.tolist() == [0.25, 0.5]
    assert prediction.scores.dtype == np.float64
    assert (prediction.prediction_id, prediction.model_version) == ("p", "m:1")
    assert (prediction.slot, prediction.generation, prediction.data_version) == ("green", 7, "d@1")
    assert prediction.attributions is None


def stream(**columns: Any) -> bytes:
    table = pa.table(columns).replace_schema_metadata(
        {"prediction_id": "p", "model_version": "m:1", "baseline_score": "0.125"}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_an_arrow_answer_becomes_a_prediction(kind: pa.DataType) -> None:
    body = stream(score=pa.array([0.25, 0.5], kind))
    prediction = read_prediction(answered(body, content_type=ARROW), 2)
    assert (prediction.scores.tolist(), prediction.prediction_id) == ([0.25, 0.5], "p")
    assert prediction.scores.dtype == np.float64
    assert (prediction.attributions, prediction.baseline_score) == (None, None)
    for wrong in (body[:50], b"", b"{}", stream(other=[1.0, 2.0]), stream(score=["a", "b"])):
        with pytest.raises(InvalidAnswer, match="no Arrow stream of scores"):
            read_prediction(answered(wrong, content_type=ARROW), 2)
    with pytest.raises(InvalidAnswer, match="not finite"):
        read_prediction(answered(stream(score=[None, 0.5]), content_type=ARROW), 2)


def test_an_explanation_reads_the_same_from_either_form() -> None:
    rows = [{"score": 0.25, "attributions": {"x": 0.5, "hour": -0.375}}]
    explained = good(0.25) | {"predictions": rows, "baseline_score": 0.125}
    body = stream(score=[0.25], attribution_x=[0.5], attribution_hour=[-0.375])
    for answer in (answered(explained), answered(body, content_type=ARROW)):
        prediction = read_prediction(answer, 1)
        assert prediction.attributions == ({"x": 0.5, "hour": -0.375},)
        assert prediction.baseline_score == 0.125
    with pytest.raises(InvalidAnswer, match="not scores"):
        read_prediction(answered(good(0.25) | {"baseline_score": 0.125}), 1)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b'{"predictions": [{"sco', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([], "not a JSON object"),
        (good(0.5) | {"predictions": 5}, "not scores"),
        (good(0.5) | {"predictions": [{}]}, "not scores"),
        (good(0.5) | {"predictions": [{"score": "high"}]}, "not scores"),
        (good(0.5) | {"predictions": None}, "1 rows were sent but 0"),
        (good(0.5, 0.5), "1 rows were sent but 2"),
        (good(float("nan")), "score of row 0 is not finite"),
        ({"predictions": [{"score": 1}]}, "lacks prediction_id"),
        (good(0.5) | {"model_version": 1}, "lacks model_version"),
    ],
)
def test_an_answer_that_is_none_is_not_believed(body: Any, words: str) -> None:
    with pytest.raises(InvalidAnswer, match=words):
        read_prediction(answered(body), 1)


@given(st.recursive(JSON_VALUE, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_no_json_at_all_does_worse_than_an_invalid_answer(document: Any) -> None:
    for body in (document, {"predictions": document}, good() | {"predictions": document}):
        with pytest.raises(InvalidAnswer):
            read_prediction(answered(body), 1)
    for body in (document, {"columns": document}, dict.fromkeys(("endpoint", "slot", "columns"), document)):
        with pytest.raises(InvalidAnswer):
            read_description(answered(body))
    with pytest.raises(InvalidAnswer):
        read_accepted(answered({"accepted": [document]}))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://edge/", "http://edge:80"),
        ("https://edge", "https://edge:443"),
        ("https://edge:8443/models/", "https://edge:8443/models"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_base_url_is_taken_apart(url: str, expected: str) -> None:
    assert str(parse_origin(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "edge:8080",
        "ftp://edge",
        "http://",
        "http://edge:port",
        "http://edge:99999",
        "http://e?x=1",
        "http://e/#f",
        "http://e/\r\nx",
        "http://é/",
        "http://user:secret@e",
    ],
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="base URL") as caught:
        parse_origin(url)
    assert "secret" not in str(caught.value)


def session(url: str = "http://127.0.0.1:1", **change: Any) -> Session:
    arguments = {"token": None, "timeout_s": 1, "connect_timeout_s": 1, "retries": None, "ca_file": None}
    return Session(url, **({"max_connections": 1} | arguments | change))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://edge"])
def test_a_token_goes_where_nobody_listens_in(url: str) -> None:
    assert session(url, token="secret").headers["authorization"] == "Bearer secret"


def test_a_token_is_not_sent_in_the_clear() -> None:
    with pytest.raises(UsageError, match="in the clear") as caught:
        session("http://edge", token="secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token": "a\nb"}, "token must be printable"),
        ({"token": ""}, "token must be printable"),
        ({"connect_timeout_s": 0}, "connect_timeout_s must be above 0"),
        ({"max_connections": 0}, "max_connections must be above 0"),
        ({"ca_file": "/nowhere"}, "ca_file is for https"),
        ({"url": "https://edge", "ca_file": "/nowhere"}, "no certificate that can be read"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        session(**change)


def test_importing_the_client_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "pyarrow", "numpy", "aiohttp", "pydantic", "mlflow")
    code = f"import sys, runtime.client; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
