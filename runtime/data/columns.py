"""Many rows at once as arrays: a column at a time, and what that finds odd goes to the row encoder to be named.

So what is accepted, what it becomes and which fault is told first are the row encoder's to say, at whatever size.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError
from runtime.data.json_rows import Kind, tabulate_document
from runtime.data.rows import OTHER, RowEncoder, RowError, bounds_of

EXACT = float(1 << 53)
"""Up to here a double holds every integer, and comparing it is comparing the integer."""
MISSING = 0
FEW_ROWS = 32
"""Below, columns cost more than they save."""
KEPT_LAYOUTS = 8
"""Whoever asks sends the same columns again and again."""

_INDEX_IN = pc.get_function("index_in")

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""[rows, numeric] and [rows, categorical], each laid out column by column where there are many rows."""
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Layout(NamedTuple):
    """Where a table of one schema has what the encoding wants; found once and used for all tables like it."""

    schema: pa.Schema
    numeric: tuple[int | None, ...]
    """For each numeric feature its column, None where the table has none."""
    categorical: tuple[int | None, ...]
    has_oddity: bool
    """A name is unknown, or a feature that must not be missing is: the row encoder shall say so of the first row."""


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
        self._taken = self._features.union(name for name, column in columns.items() if column.role != "label")
        bounds = [_exact_bounds(columns[name]) for name in numeric]
        limits = np.array(bounds, dtype=np.float64).reshape(-1, 2)
        self._low, self._high = limits[:, :1], limits[:, 1:]
        self._whole = np.flatnonzero([columns[name].type != "number" for name in numeric])
        self._nullable = np.array([columns[name].nullable for name in numeric], dtype=np.bool_)
        self._maps: dict[str, dict[Any, int]] = {name: {**category_maps[name], None: MISSING} for name in categorical}
        self._accepted = {name: frozenset(columns[name].allowed or ()) for name in categorical}
        self._vocabularies: dict[str, tuple[pc.SetLookupOptions, Integers]] = {}
        for name, mapped in category_maps.items():
            # The index of each known value in its place; the last place is for any other.
            indices = np.array([*mapped.values(), OTHER], dtype=np.int64)
            self._vocabularies[name] = (pc.SetLookupOptions(value_set=pa.array(list(mapped), pa.string())), indices)
        self._layouts: deque[Layout] = deque(maxlen=KEPT_LAYOUTS)
        self._kinds: dict[str, Kind] = {
            name: "t" if name in self._maps else "n" if name in self._features else "i" for name in self._taken
        }

    def encode_rows(self, rows: Sequence[Any]) -> Arrays:
        """As RowEncoder.encode, faster for many rows. RowError names the first fault."""
        return self.encode_listed(rows)[0]

    def encode_listed(self, rows: Sequence[Any]) -> tuple[Arrays, pa.Table | None]:
        """As `encode_rows`, and the rows' features as a table; None where the rows are not alike."""
        table = self._tabulate(rows)
        if table is not None:
            layout = self._layout_of(table)
            encoded, odd = self._encode(table, layout)
            if odd is None and not layout.has_oddity:
                return encoded, table
        return self._rows.encode(rows), None

    def encode_document(self, body: bytes, *, min_rows: int, max_rows: int) -> tuple[Arrays, pa.Table] | None:
        """As `encode_listed` of a JSON document's `instances`; None unless they are many, alike and without a fault."""
        table = tabulate_document(body, self._kinds, min_rows=min_rows, max_rows=max_rows)
        if table is None:
            return None
        layout = self._layout_of(table)
        encoded, odd = self._encode(table, layout)
        return None if layout.has_oddity or odd is not None else (encoded, table)

    def encode_table(self, table: pa.Table) -> Arrays:
        """Columns of numbers (for `binary` also of booleans) and text; null and NaN are missing values.

        RowError names the first value that breaks the contract, ContractError a column of another type. Columns
        that are no feature are looked at by name only, as the row encoder does.
        """
        layout = self._layout_of(table)
        if table.num_rows < FEW_ROWS:
            names = table.column_names
            lists = [self._plain_values(name, table.column(name)) for name in names]
            # A table without columns may have rows all the same.
            rows = zip(*lists, strict=True) if lists else [()] * table.num_rows
            return self._rows.encode([dict(zip(names, row, strict=True)) for row in rows])
        encoded, odd = self._encode(table, layout)
        if layout.has_oddity:
            self._confirm(table, 0)
        if odd is not None:
            for row in np.flatnonzero(odd):
                self._confirm(table, int(row))
        return encoded

    def _layout_of(self, table: pa.Table) -> Layout:
        """ContractError if a column occurs twice or is of a type that is not taken."""
        schema: pa.Schema = table.schema
        for kept in self._layouts:
            if kept.schema.equals(schema):
                return kept
        names = schema.names
        present = {name: position for position, name in enumerate(names)}
        if len(present) != len(names):
            raise ContractError(f"a column occurs twice: {sorted({name for name in names if names.count(name) > 1})}")
        for name in names:
            if name in self._features:
                self._check_type(name, schema.field(name).type)
        is_lacking = any(not self._columns[name].nullable for name in self._features - present.keys())
        layout = Layout(
            schema=schema,
            numeric=tuple(present.get(name) for name in self._numeric),
            categorical=tuple(present.get(name) for name in self._categorical),
            has_oddity=is_lacking or not present.keys() <= self._taken,
        )
        self._layouts.append(layout)
        return layout

    def _encode(self, table: pa.Table, layout: Layout) -> tuple[Arrays, Flags | None]:
        """The arrays, and which rows look odd (None: no row does)."""
        num_rows = table.num_rows
        values = np.empty((len(self._numeric), num_rows))
        for index, position in enumerate(layout.numeric):
            values[index] = np.nan if position is None else _numbers(table.column(position))
        with np.errstate(over="ignore", invalid="ignore"):
            odd = self._odd_numbers(values)
            numeric = values.astype(np.float32)
        categorical = np.empty((len(self._categorical), num_rows), dtype=np.int64)
        for index, (name, position) in enumerate(zip(self._categorical, layout.categorical, strict=True)):
            if position is None:
                categorical[index] = MISSING
                continue
            categorical[index], is_odd = self._indices(table.column(position), name)
            if is_odd is not None:
                odd = is_odd if odd is None else odd | is_odd
        return (numeric.T, categorical.T), odd

    def _tabulate(self, rows: Sequence[Any]) -> pa.Table | None:
        """The features of rows that all have the first one's keys and values of the right kinds; else None."""
        if set(map(type, rows)) != {dict}:
            return None
        names: list[str] = list(rows[0])
        if set(map(len, rows)) != {len(names)} or not self._taken.issuperset(names):
            return None
        arrays = {}
        try:
            for name in names:
                values = list(map(itemgetter(name), rows))
                if name in self._maps:
                    arrays[name] = pa.array(values, pa.string())
                elif name in self._features:
                    array = arrays[name] = pa.array(values, pa.float64())
                    if _has_no_number(values, array):
                        return None
        except (KeyError, pa.ArrowException, ValueError, OverflowError):
            return None
        return pa.table(arrays) if arrays else None

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

    def _odd_numbers(self, values: Doubles) -> Flags | None:
        """Which rows of the [numeric, rows] values the row encoder should look at (None: no row)."""
        if not values.size:
            return None
        # Lowest and highest of each feature tell nearly always enough; a NaN among them is both.
        is_within = (values.min(axis=1) >= self._low[:, 0]).all() and (values.max(axis=1) <= self._high[:, 0]).all()
        whole = values[self._whole]
        if is_within and (np.floor(whole) == whole).all():
            return None
        odd: Flags = ~((values >= self._low) & (values <= self._high))
        odd[self._whole] |= whole != np.floor(whole)
        odd[self._nullable] &= ~np.isnan(values[self._nullable])
        rows: Flags = np.logical_or.reduce(odd, axis=0)
        return rows if rows.any() else None

    def _indices(self, array: pa.ChunkedArray, name: str) -> tuple[Integers, Flags | None]:
        """[rows] of indices, and which rows look odd (None: no row does)."""
        column = self._columns[name]
        kind = array.type
        if pa.types.is_null(kind):
            return np.zeros(len(array), dtype=np.int64), None if column.nullable else np.ones(len(array), np.bool_)
        values = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
        if pa.types.is_string(kind):
            options, known = self._vocabularies[name]
            found = _INDEX_IN.call([values], options)
            if found.null_count and column.allowed is None and not values.null_count:
                found = pc.fill_null(found, len(known) - 1)
            if not found.null_count:
                return known[found.to_numpy()], None
        encoded = values.dictionary_encode()
        different = encoded.dictionary.to_pylist()
        mapped = self._maps[name]
        # Each different value is looked up once; the last place is for null.
        table = np.array([*(mapped.get(value, OTHER) for value in different), MISSING], dtype=np.int64)
        at = pc.fill_null(encoded.indices, len(different)).to_numpy()
        odd = [not self._is_accepted(value, name, column) for value in different]
        odd.append(not column.nullable)
        if not (any(odd[:-1]) or (odd[-1] and array.null_count)):
            return table[at], None
        return table[at], np.array(odd)[at]

    def _confirm(self, table: pa.Table, row: int) -> None:
        """Let the row encoder say whether the row breaks the contract."""
        one = table.slice(row, 1)
        values = {name: self._plain_values(name, one.column(name))[0] for name in table.column_names}
        try:
            self._rows.encode([values])
        except RowError as error:
            raise RowError(row=row, column=error.column, value=error.value, reason=error.reason) from None


def _numbers(array: pa.ChunkedArray) -> Doubles:
    """[rows] with NaN for missing."""
    if pa.types.is_null(array.type):
        return np.full(len(array), np.nan)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    values: Doubles = array.to_numpy()
    return values


def _has_no_number(values: Sequence[Any], array: pa.Array) -> bool:
    """Whether there are booleans, which Arrow takes for 0 and 1, or a NaN, which is no null in rows."""
    numbers = array.to_numpy(zero_copy_only=False)
    if np.count_nonzero(numbers != numbers) != array.null_count:
        return True
    is_boolean_possible = bool(((numbers == 0) | (numbers == 1)).any())
    return is_boolean_possible and bool in set(map(type, values))


def _exact_bounds(column: ColumnConfig) -> tuple[float, float]:
    """Within what the double of a value surely tells enough."""
    low, high = bounds_of(column)
    return (float(low), float(high)) if column.type == "number" else (max(low, -EXACT), min(high, EXACT))
