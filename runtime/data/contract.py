"""What a table's columns promise, and which rows break it. Knows nothing of files, Delta or Ray."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from runtime.config.schema import ColumnConfig, ColumnRole, ColumnType
from runtime.core.errors import ContractError

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Features are float32 in a model: a number beyond this would become infinite there."""

ARROW_TYPES: Mapping[ColumnType, pa.DataType] = {
    "number": pa.float64(),
    "integer": pa.int64(),
    "binary": pa.int8(),
    "category": pa.string(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}

_COLUMNS = TypeAdapter(dict[str, ColumnConfig])

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """Rows of one table that break one rule of one column."""

    column: str
    rule: str
    count: int
    example: str
    """The first offending value, as text."""

    def __str__(self) -> str:
        return f"column {self.column!r} {self.rule}: {self.count} rows do not, the first has {self.example}"


def feature_names(columns: Mapping[str, ColumnConfig]) -> tuple[str, ...]:
    """In the contract's order, which is the order of a model's inputs."""
    return tuple(name for name, column in columns.items() if column.role == "feature")


def numeric_names(columns: Mapping[str, ColumnConfig]) -> tuple[str, ...]:
    """Features that are number, integer or binary."""
    return tuple(name for name in feature_names(columns) if columns[name].type != "category")


def categorical_names(columns: Mapping[str, ColumnConfig]) -> tuple[str, ...]:
    return tuple(name for name in feature_names(columns) if columns[name].type == "category")


def label_name(columns: Mapping[str, ColumnConfig]) -> str:
    name = _first_with_role(columns, "label")
    if name is None:
        raise ContractError(f"no column has role label among {list(columns)}")
    return name


def time_name(columns: Mapping[str, ColumnConfig]) -> str | None:
    return _first_with_role(columns, "time")


def key_name(columns: Mapping[str, ColumnConfig]) -> str | None:
    return _first_with_role(columns, "key")


def group_name(columns: Mapping[str, ColumnConfig]) -> str | None:
    return _first_with_role(columns, "group")


def arrow_schema(columns: Mapping[str, ColumnConfig]) -> pa.Schema:
    """The stored table's schema: every declared column, plain types only.

    All fields are nullable in Arrow, since the contract's own check is the one that reports.
    """
    return pa.schema([pa.field(name, ARROW_TYPES[column.type]) for name, column in columns.items()])


def split_valid(table: pa.Table, columns: Mapping[str, ColumnConfig]) -> tuple[pa.Table, list[Violation], Mask]:
    """The rows that keep the contract, what the others break (one entry a column and rule), and the mask of the former.

    A null label breaks nothing here: whoever builds a training table decides what a row without an answer is worth.
    ContractError if a column is absent or its Arrow type is not the contract's.
    """
    valid = np.ones(table.num_rows, dtype=np.bool_)
    violations = []
    for name, rule, broken in _broken_rules(table, columns):
        valid &= ~broken
        example = table.column(name)[int(np.argmax(broken))].as_py()
        violations.append(Violation(column=name, rule=rule, count=int(broken.sum()), example=repr(example)))
    return (table if valid.all() else table.filter(pa.array(valid))), violations, valid


def rejection_reasons(table: pa.Table, columns: Mapping[str, ColumnConfig]) -> list[str]:
    """For each row the rules it breaks, as "column rule; column rule"; empty text for a valid row."""
    reasons: list[list[str]] = [[] for _ in range(table.num_rows)]
    for name, rule, broken in _broken_rules(table, columns):
        for row in np.flatnonzero(broken):
            reasons[row].append(f"{name} {rule}")
    return ["; ".join(row) for row in reasons]


def merge_violations(violations: list[Violation]) -> list[Violation]:
    """One entry a column and rule, counts summed, the first example kept."""
    merged: dict[tuple[str, str], Violation] = {}
    for violation in violations:
        before = merged.get((violation.column, violation.rule))
        merged[violation.column, violation.rule] = Violation(
            column=violation.column,
            rule=violation.rule,
            count=violation.count + (before.count if before else 0),
            example=before.example if before else violation.example,
        )
    return list(merged.values())


def contract_to_json(columns: Mapping[str, ColumnConfig]) -> dict[str, Any]:
    """Plain JSON, in the contract's order."""
    return {name: asdict(column) for name, column in columns.items()}


def contract_from_json(value: Any) -> dict[str, ColumnConfig]:
    """ContractError if the value is no contract."""
    try:
        return _COLUMNS.validate_python(value)
    except ValidationError as error:
        raise ContractError(f"not a contract: {error}") from error


def _first_with_role(columns: Mapping[str, ColumnConfig], role: ColumnRole) -> str | None:
    return next((name for name, column in columns.items() if column.role == role), None)


def _broken_rules(table: pa.Table, columns: Mapping[str, ColumnConfig]) -> Iterator[tuple[str, str, Mask]]:
    for name, column in columns.items():
        if name not in table.column_names:
            raise ContractError(f"column {name!r} is missing; the table has {table.column_names}")
        array = table.column(name)
        if array.type != ARROW_TYPES[column.type]:
            raise ContractError(f"column {name!r} must be {ARROW_TYPES[column.type]} but is {array.type}")
        for rule, broken in _broken_column_rules(array, column):
            if broken.any():
                yield name, rule, broken


def _broken_column_rules(array: pa.ChunkedArray, column: ColumnConfig) -> Iterator[tuple[str, Mask]]:
    if not column.nullable and column.role != "label" and array.null_count:
        yield "must not be null", _mask(pc.is_null(array))
    if column.type == "number":
        finite = pc.less_equal(pc.abs(array), FLOAT32_MAX)  # false for NaN and infinity
        yield "must be a finite 32-bit number", _mask(pc.invert(finite))
    if column.type == "binary":
        yield "must be 0 or 1", _mask(pc.invert(pc.is_in(array, value_set=pa.array([0, 1, None], array.type))))
    if column.type in ("number", "integer", "binary"):
        # Compared as floats: an integer column may have a fractional bound.
        values = array.cast(pa.float64(), safe=False)
        if column.minimum is not None:
            yield f"must be at least {column.minimum:g}", _mask(pc.less(values, column.minimum))
        if column.maximum is not None:
            yield f"must be at most {column.maximum:g}", _mask(pc.greater(values, column.maximum))
    if column.allowed is not None and column.type in ("category", "string"):
        known = pc.is_in(array, value_set=pa.array([*column.allowed, None], pa.string()))
        yield f"must be one of {column.allowed}", _mask(pc.invert(known))


def _mask(array: pa.ChunkedArray) -> Mask:
    filled: Mask = pc.fill_null(array, False).to_numpy().astype(np.bool_, copy=False)
    return filled
