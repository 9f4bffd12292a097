"""The ASGI application with a real bundle, called as a server calls it. No server, no Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from runtime.core.ids import new_id, timestamp_ms
from runtime.data import json_rows
from runtime.models.bundle import Bundle
from runtime.serving import asgi
from runtime.serving.delta_log import ROW_BYTES
from runtime.serving.payload import PayloadTable
from runtime.telemetry.logs import JsonFormatter
from tests import serving_caller
from tests.serving_example import example_row

PREDICT = "/example-blue/v1/models/example:predict"


class Caller(serving_caller.Caller):
    """Answers are JSON."""

    def __call__(self, path: str, body: bytes | list[bytes] = b"", **given: str) -> tuple[int, dict[str, str], Any]:
        status, headers, answer = self.ask(path, body, **given)
        return status, headers, orjson.loads(answer)


@pytest.fixture
def call(bundle: Bundle, tmp_path: Path) -> Caller:
    return Caller(bundle, tmp_path)


def rows_body(num_rows: int) -> bytes:
    return orjson.dumps({"instances": [example_row(index) for index in range(num_rows)]})


def test_an_answer_is_the_models_and_names_its_versions(call: Caller, bundle: Bundle) -> None:
    status, headers, answer = call(PREDICT, rows_body(3), x_generation="9", x_request_id="r1")
    encoded = bundle.encoding.encode_rows([example_row(index) for index in range(3)], bundle.columns)
    expected = bundle.model.predict(encoded.numeric, encoded.categorical)
    assert status == 200
    assert [row["score"] for row in answer["predictions"]] == expected.tolist()
    assert answer["model_version"] == headers["x-model-version"] == "m:3"
    assert headers["x-data-version"] == "example@0"
    assert answer["prediction_id"] == headers["x-prediction-id"]
    assert timestamp_ms(answer["prediction_id"]) > 0


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", None])
@pytest.mark.parametrize("change", [{}, {"x0": "1"}, {"unknown": 1}, {"x1": None}, {"carrier": "\u00e9\n"}])
def test_many_rows_are_answered_alike_whether_native_code_reads_them_or_not(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    content_type: str | None,
) -> None:
    call = Caller(bundle, tmp_path, max_rows=100, max_body=100_000)
    rows = [example_row(index) for index in range(100)]
    rows[70] |= change
    headers = {} if content_type is None else {"content_type": content_type}
    asked = [call(PREDICT, orjson.dumps({"instances": rows}), **headers)]
    monkeypatch.setattr(json_rows, "_json_rows", None)
    asked.append(call(PREDICT, orjson.dumps({"instances": rows}), **headers))
    (status, _, answer), (plain_status, _, plain) = asked
    assert status == plain_status == (422 if change and "carrier" not in change else 200)
    assert answer.get("predictions") == plain.get("predictions")
    assert answer.get("error") == plain.get("error")
    assert call.payload.status()["buffered_rows"] == (200 if status == 200 else 0)


def test_an_answer_is_logged_and_counted(call: Caller) -> None:
    call(PREDICT, rows_body(3), x_generation="9")
    call(PREDICT, b"{")
    assert call.payload.status()["buffered_rows"] == 3
    taken = call.service.take()
    assert (taken.requests, taken.rows, taken.errors, taken.refused, taken.counts.rows) == (2, 3, 0, 1, 3)
    assert taken.latency_ms_counts.sum() == 2
    assert call.service.take().requests == 0


@pytest.mark.parametrize("secret", ["", "the edge's secre", "the edge's secret2", "Ä"])
def test_without_the_edges_secret_nothing_is_answered(call: Caller, secret: str) -> None:
    for path, method in ((PREDICT, "POST"), ("/v2/health/ready", "GET"), ("/anything", "GET")):
        status, _, answer = call(path, rows_body(1), method=method, x_teal_edge=secret)
        assert (status, (answer if "code" in answer else answer["error"])["code"]) == (403, "forbidden")
    assert call.payload.status()["buffered_rows"] == 0


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"x0": "1"}, "x0", "must be a number but got '1'"),
        ({"x0": True}, "x0", "must be a number but got True"),
        ({"x0": None}, "x0", "must not be null"),
        ({"distance": -1}, "distance", "at least 0 but got -1"),
        ({"distance": 1e300}, "distance", "finite 32-bit"),
        ({"hour": 24}, "hour", "at most 23 but got 24"),
        ({"hour": 1.5}, "hour", "integer"),
        ({"carrier": 5}, "carrier", "must be text but got 5"),
        ({"extra": 1}, "extra", "not in the contract"),
        ({"late": 1}, "late", "label"),
    ],
)
def test_a_broken_contract_names_column_value_and_row(
    call: Caller, change: dict[str, Any], field: str, words: str
) -> None:
    body = orjson.dumps({"instances": [example_row(), example_row() | change]})
    status, _, answer = call(PREDICT, body)
    assert (status, answer["error"]["field"]) == (422, field)
    assert "row 1" in answer["error"]["message"]
    assert words in answer["error"]["message"]


def test_an_unseen_category_and_an_absent_nullable_value_are_legal(call: Caller) -> None:
    row = example_row() | {"carrier": "never seen"}
    del row["hour"]
    assert call(PREDICT, orjson.dumps({"instances": [row]}))[0] == 200


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        (PREDICT, "GET", 405),
        ("/v1/models/example", "POST", 405),
        ("/v1/models/other:predict", "POST", 404),
        ("/example-green/v1/models/example:predict", "POST", 404),
        ("/", "GET", 404),
    ],
)
def test_unknown_paths_and_methods(call: Caller, path: str, method: str, status: int) -> None:
    found, headers, _ = call(path, method=method)
    assert found == status
    assert ("allow" in headers) == (status == 405)


def test_a_body_is_read_no_further_than_its_limit(call: Caller) -> None:
    endless = [b"x" * 1000] * 5 + [b""] * 1000
    assert call(PREDICT, endless)[0] == 413
    assert call(PREDICT, b"x", content_length="4097")[0] == 413
    assert call(PREDICT, rows_body(9))[0] == 413
    whole = rows_body(2)
    assert call(PREDICT, [whole[:10], whole[10:200], whole[200:]])[0] == 200


def test_a_model_that_fails_is_no_fault_of_the_request(
    call: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(call.service.scorer.predictor, "predict", lambda *_: np.array([np.nan]))
    status, headers, answer = call(PREDICT, rows_body(1), x_request_id="r-18")
    assert (status, answer["error"]["code"]) == (500, "model_failed")
    (logged,) = (orjson.loads(JsonFormatter().format(record)) for record in caplog.records)
    assert (logged["code"], logged["request_id"]) == ("model_failed", "r-18")
    assert "not finite" in logged["error"]
    assert headers["x-model-version"] == "m:3"
    assert call.service.take().errors == 1
    assert call.payload.status()["buffered_rows"] == 0


def test_a_fault_of_the_log_is_counted_and_never_seen(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_batch: object, _num_rows: int) -> bool:
        raise RuntimeError("disk")

    monkeypatch.setattr(call.payload, "add", fail)
    assert call(PREDICT, rows_body(1))[0] == 200
    assert call("/v2/health/ready", method="GET")[2]["background_failures"] == 1


def test_labels_are_accepted_until_the_buffer_is_full(bundle: Bundle, tmp_path: Path) -> None:
    call = Caller(bundle, tmp_path)
    body = orjson.dumps({"labels": [{"prediction_id": new_id(), "label": 1}]})
    assert call("/v1/models/example:feedback", body)[2] == {"accepted": 1}
    assert call.feedback.status()["buffered_rows"] == 1
    call.feedback._max_bytes = ROW_BYTES
    assert call("/v1/models/example:feedback", body)[0] == 503


def test_the_description_shows_the_contracts_features(call: Caller, bundle: Bundle) -> None:
    status, _, answer = call("/v1/models/example", method="GET")
    assert status == 200
    assert answer["model_version"] == "m:3"
    assert list(answer["columns"]) == [name for name, column in bundle.columns.items() if column.role == "feature"]


def test_readiness_names_the_bundle(call: Caller) -> None:
    _, _, answer = call("/example-blue/v2/health/ready", method="GET")
    assert (answer["ready"], answer["bundle_sha256"]) == (True, "abc")


def test_a_personal_column_is_scored_and_never_logged(call: Caller, bundle: Bundle) -> None:
    assert bundle.columns["passport"].pii
    table = PayloadTable(bundle.columns, slot="blue", model_name="m", model_version=3, data_version="d")
    assert "passport" not in table.schema.names
    columns = bundle.columns | {"score": replace(bundle.columns["x0"])}
    clashing = PayloadTable(columns, slot="blue", model_name="m", model_version=3, data_version="d")
    assert "feature_score" in clashing.schema.names


def test_a_sampled_log_holds_its_fraction_chosen_by_id(bundle: Bundle, tmp_path: Path) -> None:
    for fraction, low, high in ((0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)):
        call = Caller(bundle, tmp_path / str(fraction), payload_fraction=fraction)
        for _ in range(200):
            call(PREDICT, rows_body(1))
        assert low <= call.payload.status()["buffered_rows"] <= high
        assert call.service.take().counts.rows == 200


def test_rows_that_the_log_lost_are_counted_once(call: Caller) -> None:
    call.payload._max_bytes = 2 * ROW_BYTES
    call(PREDICT, rows_body(2))
    call(PREDICT, rows_body(2))
    assert call.service.take().dropped_rows == 2
    assert call.service.take().dropped_rows == 0


def test_a_deadline_that_has_passed_is_told_before_the_model_is_asked(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(PREDICT, rows_body(1), x_timeout_ms="60000")[0] == 200
    for timeout in ("0", "x", "-5", "1.5", "99999999999"):
        assert call(PREDICT, rows_body(1), x_timeout_ms=timeout)[0] == 400
    monkeypatch.setattr(asgi, "deadline_ns", lambda *_: 1)
    status, _, answer = call(PREDICT, rows_body(1), x_timeout_ms="1")
    assert (status, answer["error"]["code"]) == (408, "deadline")
    assert call.service.status()["expired"] == 1


def test_a_compressed_body_is_refused(call: Caller) -> None:
    assert call(PREDICT, rows_body(1), content_encoding="gzip")[0] == 415


def test_a_failure_is_logged_with_the_requests_id(
    call: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(call.service.scorer, "encode_rows", lambda _: 1 / 0)
    status, _, answer = call(PREDICT, rows_body(1), x_request_id="r-17", traceparent="00-1-2-01")
    assert (status, answer["error"]["code"]) == (500, "internal")
    fields = orjson.loads(JsonFormatter().format(caplog.records[-1]))
    assert (fields["level"], fields["message"], fields["endpoint"]) == ("error", "a request failed", "example")
    assert "ZeroDivisionError" in fields["error"]
    assert (fields["request_id"], fields["traceparent"], fields["code"]) == ("r-17", "00-1-2-01", "internal")


def test_the_openapi_document_has_the_contracts_columns(call: Caller) -> None:
    status, _, document = call("/v1/openapi.json", method="GET")
    assert status == 200
    assert "/v1/models/example:predict" in document["paths"]
    row = document["components"]["schemas"]["Row"]
    assert row["properties"]["distance"] == {"type": "number", "minimum": 0, "maximum": 5000}
    assert row["properties"]["hour"]["type"] == ["integer", "null"]
    assert row["properties"]["passport"]["x-pii"] is True
    assert "hour" not in row["required"]
    assert "late" not in row["properties"]


def test_a_batched_slot_answers_as_one_that_is_not(bundle: Bundle, tmp_path: Path, call: Caller) -> None:
    batched = Caller(bundle, tmp_path / "batched", max_batch_rows=16)
    assert batched(PREDICT, rows_body(3))[2]["predictions"] == call(PREDICT, rows_body(3))[2]["predictions"]
    assert batched.service.status()["batcher"]["batches"] == 1
