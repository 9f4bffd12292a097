from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from runtime.config.schema import ColumnConfig, ColumnType
from runtime.core.errors import ContractError
from runtime.data.conform import conform


def cast(kind: ColumnType, array: pa.Array) -> list[Any]:
    table, _ = conform(pa.table({"x": array}), {"x": ColumnConfig(type=kind, role="ignored")})
    values: list[Any] = table["x"].to_pylist()
    return values


def test_columns_are_ordered_and_undeclared_ones_named() -> None:
    columns = {"b": ColumnConfig(type="number"), "a": ColumnConfig(type="integer")}
    table, dropped = conform(pa.table({"a": [1], "z": [1], "b": [2.0], "y": [0]}), columns)
    assert table.column_names == ["b", "a"]
    assert dropped == ["z", "y"]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ContractError, match=r"column 'b' is missing; the source has \['a'\]"):
        conform(pa.table({"a": [1]}), {"b": ColumnConfig(type="number")})


@pytest.mark.parametrize(
    ("kind", "array", "expected"),
    [
        ("number", pa.array(["1.5", " 2 ", "NA", "", None, "nan"]), [1.5, 2.0, None, None, None, None]),
        ("number", pa.array([1, 2], pa.int32()), [1.0, 2.0]),
        ("integer", pa.array(["3", None]), [3, None]),
        ("integer", pa.array([3.0, None]), [3, None]),
        ("binary", pa.array(["0", "1"]), [0, 1]),
        ("binary", pa.array(["True", "false"]), [1, 0]),
        ("binary", pa.array([True, False, None]), [1, 0, None]),
        ("category", pa.array(["a", ""]).dictionary_encode(), ["a", ""]),
        ("category", pa.array([10, 20]), ["10", "20"]),
        ("category", pa.array(["a"], pa.large_string()), ["a"]),
        ("category", pa.nulls(2), [None, None]),
        ("category", pa.array(["NA"]), ["NA"]),
        ("timestamp", pa.array(["2013-01-02T03:04:05Z"]), [datetime(2013, 1, 2, 3, 4, 5, tzinfo=UTC)]),
        ("timestamp", pa.array(["2013-01-02 03:04:05"]), [datetime(2013, 1, 2, 3, 4, 5, tzinfo=UTC)]),
        ("timestamp", pa.array(["2013-01-02T03:04:05+01:00"]), [datetime(2013, 1, 2, 2, 4, 5, tzinfo=UTC)]),
        ("timestamp", pa.array([0], pa.timestamp("ms")), [datetime(1970, 1, 1, tzinfo=UTC)]),
    ],
)
def test_casts_without_loss(kind: ColumnType, array: pa.Array, expected: list[Any]) -> None:
    assert cast(kind, array) == expected


@pytest.mark.parametrize(
    ("kind", "array", "message"),
    [
        ("number", pa.array(["1", "2", "many", "few"]), "'x' must be number, but 'many' is not one"),
        ("integer", pa.array([1.0, 2.5]), "'x' must be integer, but 2.5 is not one"),
        ("integer", pa.array(["1", "2.5"]), "'x' must be integer, but '2.5' is not one"),
        ("binary", pa.array(["1", "maybe"]), "'x' must be binary, but 'maybe' is not one"),
        ("binary", pa.array([1, 300]), "'x' must be binary, but 300 is not one"),
        ("timestamp", pa.array(["2013-01-01", "soon"]), "'x' must be timestamp, but 'soon' is not one"),
        ("category", pa.array([1.5]), r"'x' must be text \(category\) but is double"),
        ("number", pa.array([[1.0]]), r"'x' must be number, but \[1.0\] is not one"),
    ],
)
def test_the_first_value_that_does_not_fit_is_named(kind: ColumnType, array: pa.Array, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        cast(kind, array)
