"""Rows of JSON that become a table on their way are what they are row by row, whatever stands in them."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.config.schema import ColumnConfig
from runtime.data import json_rows
from runtime.data.encoding import Encoding
from runtime.data.rows import RowError

COLUMNS = {
    "speed": ColumnConfig(type="number", minimum=-10, maximum=1e6),
    "hour": ColumnConfig(type="integer", nullable=True),
    "wet": ColumnConfig(type="binary"),
    "carrier": ColumnConfig(type="category"),
    "kind": ColumnConfig(type="category", allowed=["a", "b"], nullable=True),
    "key": ColumnConfig(type="string", role="key"),
    "late": ColumnConfig(type="binary", role="label"),
}
ENCODING = Encoding(
    numeric=("speed", "hour", "wet"),
    categorical=("carrier", "kind"),
    vocabularies={"carrier": ("AA", "UA"), "kind": ("a", "b")},
)
MANY = ENCODING._encoders_for(COLUMNS)[2]
FEATURES = (*ENCODING.numeric, *ENCODING.categorical)
NUM_ROWS = 40

odd = st.one_of(
    st.sampled_from([None, True, False, 0, 1, 1.0, "x", "12", float("nan"), float("inf"), -0.0, [], {}, 1e39]),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400, "\ud800", "é", ""]),
)


def rows_of(seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "speed": float(random.uniform(-10, 30)),
            "hour": int(random.integers(0, 24)),
            "wet": int(random.integers(0, 2)),
            "carrier": str(random.choice(["AA", "UA", "never seen"])),
            "kind": str(random.choice(["a", "b"])),
        }
        for _ in range(NUM_ROWS)
    ]


def by_row(rows: Sequence[Any]) -> Any:
    """As bytes, or as the fault is told."""
    try:
        return tuple(array.tobytes() for array in ENCODING._encoders_for(COLUMNS)[1].encode(rows))
    except RowError as error:
        return str(error), error.row, error.column


def by_column(rows: Sequence[Any]) -> tuple[Any, pa.Table | None]:
    try:
        encoded, table = ENCODING.encode_listed(rows, COLUMNS)
    except RowError as error:
        return (str(error), error.row, error.column), None
    return (encoded.numeric.tobytes(), encoded.categorical.tobytes()), table


@settings(max_examples=250, deadline=None)
@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, NUM_ROWS - 1), st.sampled_from([*COLUMNS, "unknown"]), odd), max_size=3),
    st.sets(st.sampled_from([*COLUMNS]), max_size=2),
    st.sampled_from(["as they are", "in other orders", "with their keys"]),
)
def test_whatever_stands_in_a_row_the_outcome_is_the_row_encoders(
    seed: int, changes: list[tuple[int, str, Any]], absent: set[str], how: str
) -> None:
    rows = rows_of(seed)
    if how == "with their keys":
        rows = [row | {"key": f"k{index}"} for index, row in enumerate(rows)]
    if how == "in other orders":
        rows[1::2] = [dict(reversed(row.items())) for row in rows[1::2]]
    for at, name, value in changes:
        rows[at][name] = value
    for name in absent:
        for row in rows:
            row.pop(name, None)
    outcome, table = by_column(rows)
    assert outcome == by_row(rows)
    document = json.dumps({"instances": rows}).encode()
    found = MANY.encode_document(document, min_rows=1, max_rows=NUM_ROWS)
    if found is not None:
        (numeric, categorical), read = found
        assert (numeric.tobytes(), categorical.tobytes()) == outcome
        assert read.equals(table)
    if table is not None:
        assert set(table.column_names) <= set(FEATURES)
        for name in table.column_names:
            assert table[name].to_pylist() == [row[name] for row in rows]


@pytest.mark.parametrize("value", [None, 3, 3.0])
def test_alike_rows_become_a_table_without_what_is_no_feature(value: Any) -> None:
    rows = [row | {"hour": value, "key": "k"} for row in rows_of(0)]
    outcome, table = by_column(rows)
    assert outcome == by_row(rows)
    assert table is not None
    assert set(table.column_names) == set(FEATURES)


@pytest.mark.parametrize(
    ("at", "change"),
    [
        (7, {"wet": True}),
        (7, {"speed": True}),
        (0, {"hour": False}),
        (39, {"hour": 2**53 + 1}),
        (3, {"carrier": None}),
        (3, {"key": "k"}),
        (3, {"late": 1}),
    ],
)
def test_an_odd_row_among_many_sends_all_to_the_row_encoder(at: int, change: dict[str, Any]) -> None:
    rows = rows_of(1)
    rows[at] |= change
    outcome, table = by_column(rows)
    assert table is None
    assert outcome == by_row(rows)


@pytest.mark.skipif(not json_rows.IS_COMPILED, reason="no compiler where teal was installed")
def test_a_document_of_alike_rows_is_read_without_objects() -> None:
    rows = [row | {"key": "k", "hour": None if index % 3 else 5} for index, row in enumerate(rows_of(4))]
    document = json.dumps({"instances": rows}).encode()
    found = MANY.encode_document(document, min_rows=NUM_ROWS, max_rows=NUM_ROWS)
    assert found is not None
    (numeric, categorical), table = found
    outcome, expected = by_column(rows)
    assert (numeric.tobytes(), categorical.tobytes()) == outcome
    assert table.equals(expected)
    rows[20]["speed"] = 1e7
    assert MANY.encode_document(json.dumps({"instances": rows}).encode(), min_rows=1, max_rows=NUM_ROWS) is None


def test_rows_that_lack_a_column_only_together_are_still_alike() -> None:
    rows = [{name: value for name, value in row.items() if name != "hour"} for row in rows_of(2)]
    outcome, table = by_column(rows)
    assert outcome == by_row(rows)
    assert table is not None
    rows[5]["hour"] = 1
    assert by_column(rows) == (by_row(rows), None)


def test_columns_that_repeat_in_another_order_and_type_are_found_anew() -> None:
    """The places of columns are remembered by schema."""
    rows = rows_of(3)
    table = pa.Table.from_pylist(rows)
    integers = table.set_column(0, "speed", pa.array([5] * NUM_ROWS))
    turned = table.select(table.column_names[::-1])
    for _ in range(2):
        for asked in (table, integers, turned):
            encoded = ENCODING.encode_request_table(asked, COLUMNS)
            assert (encoded.numeric.tobytes(), encoded.categorical.tobytes()) == by_row(asked.to_pylist())
