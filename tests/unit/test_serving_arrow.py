"""Arrow streams: what is taken, what is refused before it is read, and that an answer is one."""

import contextlib
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.models.bundle import Bundle
from runtime.serving.arrow import parse_table
from runtime.serving.codec import RequestFault
from tests.serving_caller import Caller
from tests.serving_example import example_columns, example_row
from tests.serving_protocols import arrow_scores, arrow_stream, as_table, row_json

PREDICT = "/v1/models/example:predict"
ARROW = "application/vnd.apache.arrow.stream"
TABLE = as_table([example_row(index) for index in range(5)], example_columns())
STREAM = arrow_stream(TABLE)


class Tagged(pa.ExtensionType):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(pa.float64(), "tagged")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, _storage: pa.DataType, _serialized: bytes) -> "Tagged":
        return cls()


@pytest.fixture
def call(bundle: Bundle, tmp_path: Path) -> Caller:
    return Caller(bundle, tmp_path, max_rows=200, max_body=1 << 20)


def test_a_stream_is_answered_with_one(call: Caller) -> None:
    status, headers, body = call.ask(PREDICT, STREAM, content_type=ARROW)
    assert (status, headers["content-type"]) == (200, ARROW)
    answer = pa.ipc.open_stream(body).read_all()
    assert answer.schema.metadata[b"prediction_id"].decode() == headers["x-prediction-id"]
    assert answer.schema.metadata[b"model_version"] == b"m:3"
    rows = orjson.loads(call.ask(PREDICT, row_json([example_row(index) for index in range(5)])).body)
    assert arrow_scores(body) == [row["score"] for row in rows["predictions"]]


def test_narrow_numbers_large_text_and_several_batches_are_taken(call: Caller) -> None:
    types = {"hour": pa.int16(), "x0": pa.float32(), "carrier": pa.large_string()}
    schema = pa.schema([(field.name, types.get(field.name, field.type)) for field in TABLE.schema])
    split = pa.Table.from_batches(TABLE.cast(schema).to_batches(max_chunksize=2))
    assert call.ask(PREDICT, arrow_stream(split), content_type=ARROW).status == 200


def test_null_and_nan_are_missing_where_the_contract_allows_it(call: Caller) -> None:
    position = TABLE.column_names.index("hour")
    scores = []
    for missing in (pa.nulls(5, pa.int64()), pa.nulls(5), pa.array([float("nan")] * 5)):
        table = TABLE.set_column(position, "hour", missing)
        status, _, body = call.ask(PREDICT, arrow_stream(table), content_type=ARROW)
        assert status == 200
        scores.append(arrow_scores(body))
    scores.append(arrow_scores(call.ask(PREDICT, arrow_stream(TABLE.drop_columns(["hour"])), content_type=ARROW).body))
    assert scores[0] == scores[1] == scores[2] == scores[3]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("distance", [1.0, 2.0, -3.0, 4.0, -5.0], "row 2, column 'distance': must be at least 0 but got -3.0"),
        ("x0", [1.0, None, 2.0, 3.0, 4.0], "row 1, column 'x0': must not be null"),
        ("x0", [1.0, 2.0, float("nan"), 3.0, 4.0], "row 2, column 'x0': must be a finite"),
        ("hour", [1.0, 2.5, 3.0, 4.0, 5.0], "row 1, column 'hour': must be an integer"),
        ("x0", ["1", "2", "3", "4", "5"], "column 'x0' must hold numbers"),
        ("carrier", [1, 2, 3, 4, 5], "column 'carrier' must hold text"),
        ("x0", [True, False, True, True, True], "column 'x0' must hold numbers"),
        ("unknown", [1, 2, 3, 4, 5], "column 'unknown': is not in the contract"),
        ("late", [1, 0, 1, 0, 1], "is the label"),
    ],
)
def test_a_broken_contract_names_column_and_value(call: Caller, name: str, values: list[object], words: str) -> None:
    column = pa.array(values)
    has = name in TABLE.column_names
    table = TABLE.set_column(TABLE.column_names.index(name), name, column) if has else TABLE.append_column(name, column)
    status, _, body = call.ask(PREDICT, arrow_stream(table), content_type=ARROW)
    assert status == 422
    assert words in orjson.loads(body)["error"]["message"]


def test_a_required_column_that_is_absent_is_named(call: Caller) -> None:
    status, _, body = call.ask(PREDICT, arrow_stream(TABLE.drop_columns(["x3"])), content_type=ARROW)
    assert (status, orjson.loads(body)["error"]["field"]) == (422, "x3")


def test_what_is_not_plain_is_refused_unread() -> None:
    extension = pa.table({"x": pa.ExtensionArray.from_storage(Tagged(), pa.array([1.0]))})
    refused = {
        "extension": arrow_stream(extension),
        "nested": arrow_stream(pa.table({"x": [[1.0], [2.0]]})),
        "struct": arrow_stream(pa.table({"x": [{"a": 1}]})),
        "dictionary": arrow_stream(pa.table({"x": pa.array(["a", "b"]).dictionary_encode()})),
        "binary": arrow_stream(pa.table({"x": pa.array([b"a"])})),
        "lz4": arrow_stream(TABLE, compression="lz4"),
        "zstd": arrow_stream(TABLE, compression="zstd"),
    }
    for name, body in refused.items():
        with pytest.raises(RequestFault) as caught:
            parse_table(body, max_rows=100)
        assert caught.value.status == 415, name


@pytest.mark.parametrize(
    "body", [b"", b"x", STREAM[:100], STREAM[:-40], b"\xff" * 64, b"\xff\xff\xff\xff" + b"\0" * 60]
)
def test_what_does_not_parse_is_malformed(body: bytes) -> None:
    with pytest.raises(RequestFault) as caught:
        parse_table(body, max_rows=100)
    assert caught.value.status in (400, 422)


def test_more_rows_than_allowed_are_refused() -> None:
    with pytest.raises(RequestFault) as caught:
        parse_table(STREAM, max_rows=4)
    assert caught.value.status == 413
    with pytest.raises(RequestFault, match="no rows"):
        parse_table(arrow_stream(TABLE.slice(0, 0)), max_rows=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(STREAM) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_stream_with_changed_bytes_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    body = bytearray(STREAM)
    for at, value in changes:
        body[at] = value
    with contextlib.suppress(RequestFault):
        assert parse_table(bytes(body), max_rows=100).num_rows <= 100
