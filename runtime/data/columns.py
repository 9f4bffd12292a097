"""Many rows at once as arrays: a column at a time, and what that finds odd goes to the row encoder to be named.

So what is accepted, what it becomes and which fault is told first are the row encoder's to say, at whatever size.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError
from runtime.data.rows import OTHER, RowEncoder, RowError, bounds_of

EXACT = float(1 << 53)
"""Up to here a double holds every integer, and comparing it is comparing the integer."""
MISSING = 0
FEW_ROWS = 32
"""Below, columns cost more than they save."""
_NUMBERS = frozenset({float, int, type(None)})

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
Doubles = npt.NDArray[np.float64]


class ColumnEncoder:
    """The plan for one contract and one encoding, laid out for columns."""

    def __init__(
        self,
        columns: Mapping[str, ColumnConfig],
        numeric: Sequence[str],
        categorical: Sequence[str],
        category_maps: Mapping[str, Mapping[str, int]],
    ) -> None:
        self._rows = RowEncoder(columns, numeric, categorical, category_maps)
        self._columns = columns
        self._numeric = tuple(numeric)
        self._categorical = tuple(categorical)
        self._features = frozenset((*numeric, *categorical))
        bounds = [_exact_bounds(columns[name]) for name in numeric]
        limits = np.array(bounds, dtype=np.float64).reshape(-1, 2)
        self._low, self._high = limits[:, :1], limits[:, 1:]
        self._whole = np.flatnonzero([columns[name].type != "number" for name in numeric])
        self._nullable = np.flatnonzero([columns[name].nullable for name in numeric])
        self._maps: dict[str, dict[Any, int]] = {name: {**category_maps[name], None: MISSING} for name in categorical}
        self._accepted = {name: frozenset(columns[name].allowed or ()) for name in categorical}

    def encode_rows(self, rows: Sequence[Any]) -> Arrays:
        """As RowEncoder.encode, faster for many rows. RowError names the first fault."""
        encoded = self._encode_alike(rows)
        return self._rows.encode(rows) if encoded is None else encoded

    def encode_table(self, table: pa.Table) -> Arrays:
        """Columns of numbers (for `binary` also of booleans) and text; null and NaN are missing values.

        RowError names the first value that breaks the contract, ContractError a column of another type. Columns
        that are no feature are looked at by name only, as the row encoder does.
        """
        names = table.column_names
        present = set(names)
        if len(present) != len(names):
            raise ContractError(f"a column occurs twice: {sorted({name for name in names if names.count(name) > 1})}")
        for name in names:
            if name in self._features:
                self._check_type(name, table.column(name).type)
        if table.num_rows < FEW_ROWS:
            lists = [self._plain_values(name, table.column(name)) for name in names]
            return self._rows.encode([dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)])
        values = np.empty((len(self._numeric), table.num_rows))
        for position, name in enumerate(self._numeric):
            values[position] = self._numbers(table.column(name)) if name in present else np.nan
        odd: npt.NDArray[np.bool_] = np.logical_or.reduce(self._odd_numbers(values), axis=0)
        with np.errstate(over="ignore"):
            numeric = values.T.astype(np.float32, order="C")
        categorical = np.zeros((table.num_rows, len(self._categorical)), dtype=np.int64)
        for position, name in enumerate(self._categorical):
            if name in present:
                categorical[:, position], is_odd = self._indices(table.column(name), name)
                if is_odd is not None:
                    odd |= is_odd
        if any(not self._columns[name].nullable for name in self._features - present) or present - self._features:
            odd[:1] = True
        if odd.any():
            for row in np.flatnonzero(odd):
                self._confirm(table, int(row))
        return numeric, categorical

    def _encode_alike(self, rows: Sequence[Any]) -> Arrays | None:
        """Rows that all have the first one's keys, and nothing odd; else None."""
        if set(map(type, rows)) != {dict} or len(names := tuple(rows[0])) < 2 or set(map(len, rows)) != {len(names)}:
            return None
        if not self._features.issuperset(names):
            return None
        try:
            lists = dict(zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True))
        except KeyError:
            return None
        values = np.empty((len(self._numeric), len(rows)))
        num_missing = 0
        for position, name in enumerate(self._numeric):
            listed = lists.get(name)
            if listed is None:
                values[position] = np.nan
                num_missing += len(rows)
                continue
            kinds = set(map(type, listed))
            if not kinds <= _NUMBERS:
                return None
            if type(None) in kinds:
                num_missing += listed.count(None)
            try:
                values[position] = listed
            except OverflowError:
                return None
        # A NaN that is no None is no number.
        if np.isnan(values).sum() != num_missing or self._odd_numbers(values).any():
            return None
        numeric = values.T.astype(np.float32, order="C")
        categorical = np.empty((len(rows), len(self._categorical)), dtype=np.int64)
        for position, name in enumerate(self._categorical):
            column = self._columns[name]
            listed = lists.get(name, (None,) * len(rows))
            different = set(listed) if set(map(type, listed)) <= {str, type(None)} else {0}
            if not all(self._is_accepted(value, name, column) for value in different):
                return None
            mapped = self._maps[name]
            categorical[:, position] = [mapped.get(value, OTHER) for value in listed]
        return numeric, categorical

    def _is_accepted(self, value: Any, name: str, column: ColumnConfig) -> bool:
        if value is None:
            return column.nullable
        return type(value) is str and (column.allowed is None or value in self._accepted[name])

    def _check_type(self, name: str, kind: pa.DataType) -> None:
        if pa.types.is_null(kind):
            return
        if name in self._maps:
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ContractError(f"column {name!r} must hold text (string) but is of type {kind}")
            return
        is_binary = self._columns[name].type == "binary"
        if is_binary and pa.types.is_boolean(kind):
            return
        if not (pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)):
            wanted = "numbers or booleans" if is_binary else "numbers"
            raise ContractError(f"column {name!r} must hold {wanted} but is of type {kind}")

    def _plain_values(self, name: str, array: pa.ChunkedArray) -> list[Any]:
        """As JSON rows would hold them."""
        values: list[Any] = array.to_pylist()
        column = self._columns.get(name)
        if column is None:
            return values
        if pa.types.is_boolean(array.type) and column.type == "binary":
            return [None if value is None else int(value) for value in values]
        if pa.types.is_floating(array.type) and column.nullable:
            return [None if value != value else value for value in values]
        return values

    def _numbers(self, array: pa.ChunkedArray) -> Doubles:
        """[rows] with NaN for missing."""
        if pa.types.is_null(array.type):
            return np.full(len(array), np.nan)
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.int8())
        values: Doubles = array.to_numpy().astype(np.float64, copy=False)
        return values

    def _odd_numbers(self, values: Doubles) -> npt.NDArray[np.bool_]:
        """Which of the [numeric, rows] values the row encoder should look at."""
        odd: npt.NDArray[np.bool_] = ~((values >= self._low) & (values <= self._high))
        if len(self._whole):
            whole = values[self._whole]
            odd[self._whole] |= whole != np.floor(whole)
        if len(self._nullable):
            odd[self._nullable] &= ~np.isnan(values[self._nullable])
        return odd

    def _indices(self, array: pa.ChunkedArray, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
        """[rows] of indices, and which rows look odd (None: no row does)."""
        column = self._columns[name]
        kind = array.type
        if pa.types.is_null(kind):
            return np.zeros(len(array), dtype=np.int64), None if column.nullable else np.ones(len(array), np.bool_)
        encoded = array.combine_chunks().dictionary_encode()
        different = encoded.dictionary.to_pylist()
        mapped = self._maps[name]
        # Each different value is looked up once; the last place is for null.
        table = np.array([*(mapped.get(value, OTHER) for value in different), MISSING], dtype=np.int64)
        places = pc.fill_null(encoded.indices, len(different)).to_numpy()
        indices: npt.NDArray[np.int64] = table[places]
        odd = [not self._is_accepted(value, name, column) for value in different]
        odd.append(not column.nullable)
        if not (any(odd[:-1]) or (odd[-1] and array.null_count)):
            return indices, None
        return indices, np.array(odd)[places]

    def _confirm(self, table: pa.Table, row: int) -> None:
        """Let the row encoder say whether the row breaks the contract."""
        one = table.slice(row, 1)
        values = {name: self._plain_values(name, one.column(name))[0] for name in table.column_names}
        try:
            self._rows.encode([values])
        except RowError as error:
            raise RowError(row=row, column=error.column, value=error.value, reason=error.reason) from None


def _exact_bounds(column: ColumnConfig) -> tuple[float, float]:
    """Within what the double of a value surely tells enough."""
    low, high = bounds_of(column)
    return (float(low), float(high)) if column.type == "number" else (max(low, -EXACT), min(high, EXACT))
