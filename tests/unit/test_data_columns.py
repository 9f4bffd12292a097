"""Many rows encoded by column are what they are row by row: arrays and faults."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError
from runtime.data import columns
from runtime.data.contract import ARROW_TYPES
from runtime.data.encoding import Encoding
from runtime.data.rows import RowError

COLUMNS = {
    "speed": ColumnConfig(type="number", minimum=-10, maximum=1e6),
    "wind": ColumnConfig(type="number", nullable=True),
    "hour": ColumnConfig(type="integer", nullable=True),
    "wet": ColumnConfig(type="binary"),
    "carrier": ColumnConfig(type="category"),
    "kind": ColumnConfig(type="category", allowed=["a", "b"], nullable=True),
    "key": ColumnConfig(type="string", role="key"),
    "late": ColumnConfig(type="binary", role="label"),
}
ENCODING = Encoding(
    numeric=("speed", "wind", "hour", "wet"),
    categorical=("carrier", "kind"),
    vocabularies={"carrier": ("AA", "UA"), "kind": ("a", "b")},
)
_, ROWS, MANY = ENCODING._encoders_for(COLUMNS)

numbers = st.one_of(
    st.integers(-5, 30),
    st.floats(-5, 30, width=32),
    st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**70, 0.5, 1e39]),
)
odd: st.SearchStrategy[Any] = st.sampled_from([None, True, "x", float("nan"), float("inf"), [], {}, -11, 10**400])
legal = st.fixed_dictionaries(
    {
        "speed": st.floats(-10, 1e6),
        "wind": st.one_of(st.none(), numbers),
        "hour": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "wet": st.sampled_from([0, 1, 1.0]),
        "carrier": st.sampled_from(["AA", "UA", "never seen", ""]),
        "kind": st.sampled_from(["a", "b", None]),
    },
    optional={"key": st.just("k")},
)
change = st.dictionaries(
    st.sampled_from([*COLUMNS, "unknown"]), st.one_of(odd, numbers, st.sampled_from(["a", "AA"])), max_size=2
)


def outcome(encode: Any, rows: Any) -> Any:
    try:
        return encode(rows)
    except RowError as error:
        return str(error), error.row, error.column


@pytest.fixture(autouse=True, params=["by row", "by column"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables are read row by row unless the threshold is taken away."""
    if request.param == "by column":
        monkeypatch.setattr(columns, "FEW_ROWS", 0)


def same(first: Any, second: Any) -> bool:
    if isinstance(first[0], str) or isinstance(second[0], str):
        return bool(first == second)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(first, second, strict=True))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(legal, min_size=1, max_size=6), st.integers(0, 5), change, st.sets(st.sampled_from([*COLUMNS]), max_size=2)
)
def test_json_rows_by_column_are_json_rows_by_row(
    rows: list[dict[str, Any]], at: int, changed: dict[str, Any], absent: set[str]
) -> None:
    rows[at % len(rows)].update(changed)
    for name in absent:
        rows[(at + 1) % len(rows)].pop(name, None)
    assert same(outcome(MANY.encode_rows, rows), outcome(ROWS.encode, rows))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(legal, min_size=1, max_size=6), st.integers(0, 5), st.sampled_from(["speed", "wind", "hour"]), numbers)
def test_tables_are_the_rows_they_hold(rows: list[dict[str, Any]], at: int, name: str, value: float) -> None:
    rows = [{k: row.get(k) for k in (*ENCODING.numeric, *ENCODING.categorical)} for row in rows]
    rows[at % len(rows)][name] = value
    types = {name: ARROW_TYPES[COLUMNS[name].type] for name in rows[0]} | {"hour": pa.float64()}
    try:
        table = pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))
    except (pa.ArrowInvalid, OverflowError):
        return  # no Arrow number: only JSON can say it
    assert same(outcome(MANY.encode_table, table), outcome(ROWS.encode, table.to_pylist()))


def test_rows_that_are_no_objects_are_named() -> None:
    with pytest.raises(RowError, match="row 1: must be an object"):
        MANY.encode_rows([{"speed": 1, "wet": 1, "carrier": "AA"}, 5])


def test_a_column_twice_or_of_another_type_is_refused() -> None:
    with pytest.raises(ContractError, match="twice"):
        MANY.encode_table(pa.Table.from_arrays([pa.array([1.0])] * 2, names=["speed", "speed"]))
    for values in (pa.array(["1"]), pa.array([b"1"]), pa.array([1.0], pa.float16())):
        with pytest.raises(ContractError, match="column 'speed' must hold numbers"):
            MANY.encode_table(pa.table({"speed": values}))


def test_booleans_are_the_numbers_of_a_binary_column() -> None:
    row = {"speed": [1.0], "wind": [None], "hour": [1], "carrier": ["AA"], "kind": ["a"]}
    encoded = [MANY.encode_table(pa.table(row | {"wet": wet})) for wet in ([True], [1], [1.0])]
    assert same(encoded[0], encoded[1])
    assert same(encoded[0], encoded[2])
