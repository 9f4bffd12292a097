import numpy as np
import pyarrow as pa
import pytest

from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError
from runtime.data import contract
from runtime.data.contract import Violation, split_valid

COLUMNS = {
    "id": ColumnConfig(type="string", role="key"),
    "day": ColumnConfig(type="string", role="group"),
    "at": ColumnConfig(type="timestamp", role="time"),
    "x": ColumnConfig(type="number", nullable=True, minimum=0, maximum=10),
    "n": ColumnConfig(type="integer"),
    "flag": ColumnConfig(type="binary"),
    "kind": ColumnConfig(type="category", allowed=["a", "b"]),
    "late": ColumnConfig(type="binary", role="label"),
}


def table(**changes: list[object]) -> pa.Table:
    values: dict[str, list[object]] = {
        "id": ["r0", "r1"],
        "day": ["d", "d"],
        "at": [0, 1],
        "x": [1.0, None],
        "n": [1, 2],
        "flag": [0, 1],
        "kind": ["a", "b"],
        "late": [0, 1],
    }
    schema = contract.arrow_schema(COLUMNS)
    return pa.table([pa.array((values | changes)[name], schema.field(name).type) for name in schema.names], schema)


def test_names_follow_the_contract_order() -> None:
    assert contract.feature_names(COLUMNS) == ("x", "n", "flag", "kind")
    assert contract.numeric_names(COLUMNS) == ("x", "n", "flag")
    assert contract.categorical_names(COLUMNS) == ("kind",)
    assert contract.label_name(COLUMNS) == "late"
    assert (contract.key_name(COLUMNS), contract.group_name(COLUMNS), contract.time_name(COLUMNS)) == (
        "id",
        "day",
        "at",
    )


def test_roles_may_be_absent() -> None:
    columns = {"late": COLUMNS["late"]}
    assert (contract.key_name(columns), contract.group_name(columns), contract.time_name(columns)) == (None, None, None)
    with pytest.raises(ContractError, match="no column has role label"):
        contract.label_name({"x": COLUMNS["x"]})


def test_valid_rows_pass_unchanged() -> None:
    valid, violations, mask = split_valid(table(), COLUMNS)
    assert valid.equals(table())
    assert violations == []
    assert mask.all()


@pytest.mark.parametrize(
    ("changes", "column", "rule", "example"),
    [
        ({"x": [11.0, 1.0]}, "x", "must be at most 10", "11.0"),
        ({"x": [-0.5, 1.0]}, "x", "must be at least 0", "-0.5"),
        ({"x": [float("nan"), 1.0]}, "x", "must be a finite 32-bit number", "nan"),
        ({"n": [None, 1]}, "n", "must not be null", "None"),
        ({"flag": [2, 1]}, "flag", "must be 0 or 1", "2"),
        ({"late": [2, 1]}, "late", "must be 0 or 1", "2"),
        ({"kind": ["c", "a"]}, "kind", "must be one of ['a', 'b']", "'c'"),
        ({"at": [None, 1]}, "at", "must not be null", "None"),
    ],
)
def test_each_rule_names_column_count_and_example(
    changes: dict[str, list[object]], column: str, rule: str, example: str
) -> None:
    broken = table(**changes)
    valid, violations, mask = split_valid(broken, COLUMNS)
    assert violations == [Violation(column=column, rule=rule, count=1, example=example)]
    assert mask.tolist() == [False, True]
    assert valid.equals(broken.slice(1))
    assert contract.rejection_reasons(broken, COLUMNS) == [f"{column} {rule}", ""]


def test_infinity_breaks_one_rule_or_more_but_counts_once_in_the_mask() -> None:
    valid, violations, mask = split_valid(table(x=[float("inf"), 1.0]), COLUMNS)
    assert {violation.rule for violation in violations} == {"must be a finite 32-bit number", "must be at most 10"}
    assert mask.tolist() == [False, True]
    assert valid.num_rows == 1


def test_a_null_label_breaks_nothing() -> None:
    assert split_valid(table(late=[None, 1]), COLUMNS)[2].all()


def test_missing_column_and_wrong_type_are_errors() -> None:
    with pytest.raises(ContractError, match="column 'x' is missing"):
        split_valid(table().drop_columns(["x"]), COLUMNS)
    cast = table().set_column(4, "n", pa.array([1.0, 2.0]))
    with pytest.raises(ContractError, match="column 'n' must be int64 but is double"):
        split_valid(cast, COLUMNS)


def test_empty_and_chunked_tables() -> None:
    assert split_valid(table().slice(0, 0), COLUMNS)[1] == []
    chunked = pa.concat_tables([table(), table(n=[None, None]), table()])
    _, violations, mask = split_valid(chunked, COLUMNS)
    assert violations[0].count == 2
    assert np.flatnonzero(~mask).tolist() == [2, 3]


def test_merge_violations_adds_counts_and_keeps_the_first_example() -> None:
    one = Violation(column="x", rule="r", count=1, example="1")
    two = Violation(column="x", rule="r", count=2, example="2")
    other = Violation(column="y", rule="r", count=4, example="3")
    merged = contract.merge_violations([one, other, two])
    assert merged == [Violation(column="x", rule="r", count=3, example="1"), other]


def test_json_round_trip() -> None:
    value = contract.contract_to_json(COLUMNS)
    assert contract.contract_from_json(value) == COLUMNS
    assert list(contract.contract_from_json(value)) == list(COLUMNS)
    with pytest.raises(ContractError, match="not a contract"):
        contract.contract_from_json({"x": {"type": "colour"}})
