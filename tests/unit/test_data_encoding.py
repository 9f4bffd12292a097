import json
import math
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError
from runtime.data import encoding as encoding_module
from runtime.data.contract import arrow_schema, split_valid
from runtime.data.encoding import Encoding
from runtime.data.rows import FLOAT32_MAX, RowError

COLUMNS = {
    "id": ColumnConfig(type="string", role="key"),
    "x": ColumnConfig(type="number", nullable=True, minimum=-1e30),
    "kind": ColumnConfig(type="category", nullable=True),
    "n": ColumnConfig(type="integer", maximum=2**60),
    "flag": ColumnConfig(type="binary"),
    "size": ColumnConfig(type="category", allowed=["s", "m", "l"]),
    "late": ColumnConfig(type="binary", role="label"),
}
FEATURES = ("x", "kind", "n", "flag", "size")
ENCODING = Encoding(
    numeric=("x", "n", "flag"),
    categorical=("kind", "size"),
    vocabularies={"kind": ("", "a", "b"), "size": ("l", "m", "s")},
)
GOOD = {"x": 1.5, "kind": "a", "n": 3, "flag": 1, "size": "m"}

rows = st.fixed_dictionaries(
    {
        "x": st.none() | st.floats(min_value=-1e30, max_value=FLOAT32_MAX, allow_nan=False),
        "kind": st.none() | st.sampled_from(["a", "b", ""]) | st.text(max_size=3),
        "n": st.integers(-(2**63), 2**60),
        "flag": st.integers(0, 1),
        "size": st.sampled_from(["s", "m", "l"]),
    }
)


def as_table(values: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([arrow_schema(COLUMNS).field(name) for name in FEATURES])
    return pa.Table.from_pylist(values, schema=schema)


@given(st.lists(rows, max_size=8))
def test_rows_and_tables_encode_alike(values: list[dict[str, Any]]) -> None:
    from_rows, from_table = ENCODING.encode_rows(values, COLUMNS), ENCODING.encode_table(as_table(values))
    np.testing.assert_array_equal(from_rows.numeric, from_table.numeric)
    np.testing.assert_array_equal(from_rows.categorical, from_table.categorical)
    assert from_rows.numeric.dtype == from_table.numeric.dtype == np.float32
    assert from_rows.categorical.dtype == from_table.categorical.dtype == np.int64
    assert from_rows.numeric.shape == (len(values), 3)
    assert from_rows.categorical.shape == (len(values), 2)


@given(
    st.dictionaries(st.sampled_from(FEATURES), st.none() | st.floats() | st.integers(-9, 9) | st.sampled_from("smlz")),
)
def test_rows_are_refused_exactly_where_the_table_contract_refuses(changes: dict[str, Any]) -> None:
    row: dict[str, Any] = GOOD | changes
    features = {name: COLUMNS[name] for name in FEATURES}
    try:
        table = as_table([row])
        is_valid = bool(split_valid(table, features)[2].all())
        # Arrow cuts a fraction where an integer is asked for; a request's fraction is a fault.
        is_valid = is_valid and all(float(row[name]).is_integer() for name in ("n", "flag"))
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        is_valid = False
    try:
        ENCODING.encode_rows([row], COLUMNS)
        assert is_valid
    except RowError:
        assert not is_valid


def test_indices_tell_missing_other_and_known() -> None:
    values = [GOOD | {"kind": kind} for kind in (None, "zz", "", "a", "b")]
    assert ENCODING.encode_rows(values, COLUMNS).categorical[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert ENCODING.cardinalities == [5, 5]


def test_absent_means_null_where_nullable() -> None:
    row = {name: value for name, value in GOOD.items() if name not in ("x", "kind")}
    encoded = ENCODING.encode_rows([row], COLUMNS)
    assert math.isnan(encoded.numeric[0, 0])
    assert encoded.categorical[0, 0] == 0


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        ({"x": "12"}, "x", "must be a number"),
        ({"x": True}, "x", "must be a number"),
        ({"x": [1]}, "x", "must be a number"),
        ({"x": math.nan}, "x", "must be a finite 32-bit number"),
        ({"x": math.inf}, "x", "must be a finite 32-bit number"),
        ({"x": -math.inf}, "x", "must be a finite 32-bit number"),
        ({"x": 1e300}, "x", "must be a finite 32-bit number"),
        ({"x": 10**400}, "x", "must be a finite 32-bit number"),
        ({"x": -1e31}, "x", "must be at least -1e+30"),
        ({"n": 1.5}, "n", "must be an integer of 64 bits"),
        ({"n": math.nan}, "n", "must be an integer of 64 bits"),
        ({"n": None}, "n", "must not be null"),
        ({"n": 2**63}, "n", "must be an integer of 64 bits"),
        ({"n": 10**400}, "n", "must be an integer of 64 bits"),
        ({"n": math.inf}, "n", "must be an integer of 64 bits"),
        ({"n": 2**61}, "n", "must be at most 1.15292e+18"),
        ({"n": False}, "n", "must be an integer"),
        ({"flag": 2}, "flag", "must be 0 or 1"),
        ({"flag": True}, "flag", "must be 0 or 1"),
        ({"kind": 3}, "kind", "must be text"),
        ({"size": "xl"}, "size", "must be one of ['s', 'm', 'l']"),
        ({"size": None}, "size", "must not be null"),
        ({"colour": "red"}, "colour", "is not in the contract"),
        ({"late": 1}, "late", "is the label"),
    ],
)
def test_faults_name_row_column_and_value(change: dict[str, Any], column: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        ENCODING.encode_rows([GOOD, GOOD | change], COLUMNS)
    error = caught.value
    assert (error.row, error.column) == (1, column)
    assert error.value is change[column]
    assert error.reason.startswith(reason)
    assert str(error).startswith(f"row 1, column '{column}': ")
    assert isinstance(error, ContractError)


def test_missing_column_is_required() -> None:
    with pytest.raises(RowError, match="row 0, column 'n': is required"):
        ENCODING.encode_rows([{name: value for name, value in GOOD.items() if name != "n"}], COLUMNS)


@pytest.mark.parametrize("row", [None, 3, [1], "row"])
def test_a_row_must_be_an_object(row: Any) -> None:
    with pytest.raises(RowError, match="row 0: must be an object") as caught:
        ENCODING.encode_rows([row], COLUMNS)
    assert caught.value.column is None


def test_declared_columns_without_a_feature_role_may_come_along() -> None:
    assert len(ENCODING.encode_rows([GOOD | {"id": "r1"}], COLUMNS)) == 1


def test_a_row_error_survives_pickling_and_cuts_long_values() -> None:
    error = RowError(row=2, column="x", value="y" * 500, reason="must be a number")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.row, again.column) == (str(error), 2, "x")
    assert len(str(error)) < 200


def test_fit_sorts_values_and_takes_closed_sets_from_the_contract() -> None:
    fitted = Encoding.fit(as_table([GOOD | {"kind": kind} for kind in ("b", "a", None, "b")]), COLUMNS)
    assert fitted.vocabularies == {"kind": ("a", "b"), "size": ("l", "m", "s")}
    assert fitted.numeric == ("x", "n", "flag")


def test_fit_keeps_the_most_frequent_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_module, "MAX_VOCABULARY", 2)
    fitted = Encoding.fit(as_table([GOOD | {"kind": kind} for kind in "cabcb"]), COLUMNS)
    assert fitted.vocabularies["kind"] == ("b", "c")


def test_json_round_trip() -> None:
    assert Encoding.from_json(json.loads(json.dumps(ENCODING.to_json()))) == ENCODING
    with pytest.raises(ContractError, match="not an encoding"):
        Encoding.from_json({"numeric": []})


def test_a_table_without_a_feature_is_an_error() -> None:
    with pytest.raises(ContractError, match="feature 'n' is missing"):
        ENCODING.encode_table(as_table([GOOD]).drop_columns(["n"]))


def test_two_contracts_with_one_encoding() -> None:
    loose = COLUMNS | {"n": ColumnConfig(type="integer", nullable=True)}
    assert math.isnan(ENCODING.encode_rows([GOOD | {"n": None}], loose).numeric[0, 1])
    with pytest.raises(RowError):
        ENCODING.encode_rows([GOOD | {"n": None}], COLUMNS)
