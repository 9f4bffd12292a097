"""Raw columns as the contract's types, or an error that names the column and the first value that does not fit."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError
from runtime.data.contract import ARROW_TYPES

NULL_SPELLINGS = pa.array(["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"])
"""Texts that stand for no value where a number or a moment is expected."""


def conform(table: pa.Table, columns: Mapping[str, ColumnConfig]) -> tuple[pa.Table, list[str]]:
    """The declared columns in the contract's order and types, and the names of the columns left out.

    ContractError if a column is missing or has a value that cannot be cast without loss.
    """
    for name in columns:
        if name not in table.column_names:
            raise ContractError(
                f"column {name!r} is missing; the source has {table.column_names}; "
                "add it there or take it out of data.columns"
            )
    arrays = [_cast_column(name, table.column(name), column) for name, column in columns.items()]
    conformed = pa.table(arrays, names=list(columns))
    return conformed, [name for name in table.column_names if name not in columns]


def _cast_column(name: str, array: pa.ChunkedArray, column: ColumnConfig) -> pa.ChunkedArray:
    target = ARROW_TYPES[column.type]
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if array.type == target:
        return array
    if pa.types.is_string(target):
        if not (pa.types.is_large_string(array.type) or pa.types.is_integer(array.type) or _is_null(array)):
            raise ContractError(f"column {name!r} must be text ({column.type}) but is {array.type}")
        return array.cast(target)
    if _is_text(array.type):
        array = pc.utf8_trim_whitespace(array)
        array = pc.if_else(pc.is_in(array, value_set=NULL_SPELLINGS), pa.scalar(None, array.type), array)
    try:
        return _cast(array, target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        value = _first_uncastable(array, target)
        raise ContractError(f"column {name!r} must be {column.type}, but {value!r} is not one") from None


def _cast(array: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_timestamp(target) and _is_text(array.type):
        try:
            return array.cast(target)
        except pa.ArrowInvalid:
            # Without an offset a moment is taken as UTC.
            return array.cast(pa.timestamp("us")).cast(target)
    if pa.types.is_int8(target) and _is_text(array.type):
        try:
            return array.cast(target)
        except pa.ArrowInvalid:
            return array.cast(pa.bool_()).cast(target)
    return array.cast(target)


def _first_uncastable(array: pa.ChunkedArray, target: pa.DataType) -> object:
    """Found by halving: casting is vectorised, a loop over values is not."""
    while len(array) > 1:
        half = len(array) // 2
        try:
            _cast(array.slice(0, half), target)
            array = array.slice(half)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            array = array.slice(0, half)
    return array[0].as_py() if len(array) else str(array.type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_null(array: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_null(array.type))
