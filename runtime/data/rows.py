"""Request rows as arrays: the contract checked value by value, fast for one row. Imports no Arrow."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError

FLOAT32_MAX = float(np.finfo(np.float32).max)
INT64_MAX = (1 << 63) - 1
OTHER = 1
NAN = math.nan
SHOWN_CHARACTERS = 80


class RowError(ContractError):
    """One value of one row breaks the contract."""

    def __init__(self, *, row: int, column: str | None, value: Any, reason: str) -> None:
        self.row = row
        self.column = column
        """None where the row as a whole is wrong."""
        self.value = value
        self.reason = reason
        shown = repr(value)
        if len(shown) > SHOWN_CHARACTERS:
            shown = shown[:SHOWN_CHARACTERS] + "…"
        where = f"row {row}" if column is None else f"row {row}, column {column!r}"
        super().__init__(f"{where}: {reason} but got {shown}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_row_error, (self.row, self.column, self.value, self.reason)


class RowEncoder:
    """The plan for one contract and one encoding: what each row is checked against, laid out for the loop."""

    def __init__(
        self,
        columns: Mapping[str, ColumnConfig],
        numeric: Sequence[str],
        categorical: Sequence[str],
        category_maps: Mapping[str, Mapping[str, int]],
    ) -> None:
        for name in (*numeric, *categorical):
            if name not in columns:
                raise ContractError(f"feature {name!r} of the encoding is not in the contract {list(columns)}")
        self._columns = columns
        self._features = frozenset((*numeric, *categorical))
        self._numeric = [(name, *bounds_of(columns[name]), columns[name].type == "number") for name in numeric]
        self._categorical = [
            (name, category_maps[name], _accepted(columns[name]), columns[name].nullable) for name in categorical
        ]

    def encode(self, rows: Sequence[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """[rows, numeric] with NaN for missing and [rows, categorical] indices. RowError names the first fault."""
        numbers: list[float] = []
        indices: list[int] = []
        for position, row in enumerate(rows):
            if type(row) is not dict:
                raise RowError(row=position, column=None, value=row, reason="must be an object of column to value")
            self._append_row(position, row, numbers, indices)
        count = len(rows)
        numeric = np.array(numbers, dtype=np.float32).reshape(count, len(self._numeric))
        categorical = np.array(indices, dtype=np.int64).reshape(count, len(self._categorical))
        return numeric, categorical

    def _append_row(self, position: int, row: dict[str, Any], numbers: list[float], indices: list[int]) -> None:
        num_found = 0
        for name, low, high, is_number in self._numeric:
            value: Any = row.get(name)
            kind = type(value)
            if kind is float:
                # One comparison refuses NaN, infinities and values out of range.
                if not low <= value <= high or not (is_number or value.is_integer()):
                    raise self._fault(position, name, value)
                numbers.append(value)
            elif kind is int:
                if not low <= value <= high:
                    raise self._fault(position, name, value)
                numbers.append(value)
            elif value is None and self._columns[name].nullable:
                numbers.append(NAN)
                if name not in row:
                    continue
            else:
                raise self._fault(position, name, value, is_absent=name not in row)
            num_found += 1
        for name, category_map, accepted, nullable in self._categorical:
            value = row.get(name)
            if type(value) is str:
                index = category_map.get(value)
                if index is None:
                    if accepted is not None and value not in accepted:
                        raise self._fault(position, name, value)
                    index = OTHER
                indices.append(index)
            elif value is None and nullable:
                indices.append(0)
                if name not in row:
                    continue
            else:
                raise self._fault(position, name, value, is_absent=name not in row)
            num_found += 1
        if num_found != len(row):
            self._check_names(position, row)

    def _check_names(self, position: int, row: dict[str, Any]) -> None:
        """Columns that are declared and no feature may come along unread; others, and the label, may not."""
        for name, value in row.items():
            if name in self._features:
                continue
            if name not in self._columns:
                reason = f"is not in the contract; its features are {sorted(self._features)}"
                raise RowError(row=position, column=str(name), value=value, reason=reason)
            if self._columns[name].role == "label":
                reason = "is the label, which a request must not hold,"
                raise RowError(row=position, column=name, value=value, reason=reason)

    def _fault(self, position: int, name: str, value: Any, *, is_absent: bool = False) -> RowError:
        column = self._columns[name]
        if is_absent:
            return RowError(row=position, column=name, value=None, reason="is required")
        return RowError(row=position, column=name, value=value, reason=_reason(column, value))


def _rebuild_row_error(row: int, column: str | None, value: Any, reason: str) -> RowError:
    return RowError(row=row, column=column, value=value, reason=reason)


def bounds_of(column: ColumnConfig) -> tuple[float, float]:
    """Lowest and highest number that the column takes."""
    low, high = (-FLOAT32_MAX, FLOAT32_MAX) if column.type == "number" else (-INT64_MAX - 1, INT64_MAX)
    if column.type == "binary":
        low, high = 0, 1
    return (
        low if column.minimum is None else max(low, column.minimum),
        high if column.maximum is None else min(high, column.maximum),
    )


def _accepted(column: ColumnConfig) -> frozenset[str] | None:
    return None if column.allowed is None else frozenset(column.allowed)


def _reason(column: ColumnConfig, value: Any) -> str:
    if value is None:
        return "must not be null"
    if column.type == "category":
        return "must be text" if type(value) is not str else f"must be one of {column.allowed}"
    if type(value) not in (int, float):
        return {"number": "must be a number", "integer": "must be an integer", "binary": "must be 0 or 1"}[column.type]
    if column.type == "number" and not abs(value) <= FLOAT32_MAX:
        return "must be a finite 32-bit number"
    if column.type == "binary" and value not in (0, 1):
        return "must be 0 or 1"
    if column.type == "integer" and (not -INT64_MAX - 1 <= value <= INT64_MAX or value != int(value)):
        return "must be an integer of 64 bits"
    if column.minimum is not None and value < column.minimum:
        return f"must be at least {column.minimum:g}"
    return f"must be at most {column.maximum:g}"
