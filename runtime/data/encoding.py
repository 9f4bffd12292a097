"""Rows as arrays, one way for tables and requests. Knows nothing of scaling or imputation: a model owns those."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runtime.config.schema import ColumnConfig
from runtime.core.errors import ContractError
from runtime.data.columns import ColumnEncoder
from runtime.data.contract import categorical_names, numeric_names
from runtime.data.rows import RowEncoder

MISSING_INDEX = 0
OTHER_INDEX = 1
FIRST_INDEX = 2
MANY_ROWS = 64
"""From here on a request's rows are encoded column by column."""
MAX_VOCABULARY = 1000
"""An open category keeps its most frequent values; the rest count as other."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    numeric: npt.NDArray[np.float32]
    """[rows, numeric features]; NaN is missing."""
    categorical: npt.NDArray[np.int64]
    """[rows, categorical features]; 0 missing, 1 other, 2.. the vocabulary."""

    def __len__(self) -> int:
        return len(self.numeric)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """Which column is where, and which category is which index."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    vocabularies: dict[str, tuple[str, ...]]
    """Category to its known values, sorted."""
    _encoders: dict[int, tuple[Mapping[str, ColumnConfig], RowEncoder, ColumnEncoder]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def cardinalities(self) -> list[int]:
        """Number of indices of each category, missing and other included."""
        return [len(self.vocabularies[name]) + FIRST_INDEX for name in self.categorical]

    @classmethod
    def fit(cls, table: pa.Table, columns: Mapping[str, ColumnConfig]) -> "Encoding":
        """Vocabularies of the values in `table`, or of the closed set where the contract names one."""
        vocabularies = {}
        for name in categorical_names(columns):
            allowed = columns[name].allowed
            vocabularies[name] = tuple(sorted(set(allowed))) if allowed else _frequent_values(table.column(name))
        return cls(numeric=numeric_names(columns), categorical=tuple(vocabularies), vocabularies=vocabularies)

    def encode_table(self, table: pa.Table) -> Encoded:
        """ContractError if a feature's column is absent. Values are taken as they are: check the contract first."""
        for name in (*self.numeric, *self.categorical):
            if name not in table.column_names:
                raise ContractError(f"feature {name!r} is missing; the table has {table.column_names}")
        numeric = np.empty((table.num_rows, len(self.numeric)), dtype=np.float32)
        for position, name in enumerate(self.numeric):
            numeric[:, position] = table.column(name).cast(pa.float64(), safe=False).to_numpy()
        categorical = np.empty((table.num_rows, len(self.categorical)), dtype=np.int64)
        for position, name in enumerate(self.categorical):
            categorical[:, position] = self._category_indices(table.column(name), name)
        return Encoded(numeric=numeric, categorical=categorical)

    def encode_rows(self, rows: Sequence[Any], columns: Mapping[str, ColumnConfig]) -> Encoded:
        """Encode a request's rows and check each against the contract; RowError names the first fault.

        The plan for `columns` is kept, so pass the same mapping each time.
        """
        _, one, many = self._encoders_for(columns)
        numeric, categorical = one.encode(rows) if len(rows) < MANY_ROWS else many.encode_rows(rows)
        return Encoded(numeric=numeric, categorical=categorical)

    def encode_listed(
        self, rows: Sequence[Any], columns: Mapping[str, ColumnConfig]
    ) -> tuple[Encoded, pa.Table | None]:
        """As `encode_rows`, of many rows: with their features as a table, or None where the rows are not alike."""
        (numeric, categorical), table = self._encoders_for(columns)[2].encode_listed(rows)
        return Encoded(numeric=numeric, categorical=categorical), table

    def encode_document(
        self, body: bytes, columns: Mapping[str, ColumnConfig], *, max_rows: int
    ) -> tuple[Encoded, pa.Table] | None:
        """As `encode_listed`, of a JSON document of MANY_ROWS or more; None where it must be read row by row."""
        found = self._encoders_for(columns)[2].encode_document(body, min_rows=MANY_ROWS, max_rows=max_rows)
        if found is None:
            return None
        (numeric, categorical), table = found
        return Encoded(numeric=numeric, categorical=categorical), table

    def encode_request_table(self, table: pa.Table, columns: Mapping[str, ColumnConfig]) -> Encoded:
        """As `encode_rows`, of a table of numbers, booleans and text; null and NaN are missing values.

        RowError names the first value at fault, ContractError a column of another type.
        """
        numeric, categorical = self._encoders_for(columns)[2].encode_table(table)
        return Encoded(numeric=numeric, categorical=categorical)

    def to_json(self) -> dict[str, Any]:
        return {
            "numeric": list(self.numeric),
            "categorical": list(self.categorical),
            "vocabularies": {name: list(values) for name, values in self.vocabularies.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Encoding":
        """ContractError if the value is no encoding."""
        try:
            return cls(
                numeric=tuple(value["numeric"]),
                categorical=tuple(value["categorical"]),
                vocabularies={name: tuple(value["vocabularies"][name]) for name in value["categorical"]},
            )
        except (KeyError, TypeError) as error:
            raise ContractError(f"not an encoding: {error!r}") from error

    def _encoders_for(
        self, columns: Mapping[str, ColumnConfig]
    ) -> tuple[Mapping[str, ColumnConfig], RowEncoder, ColumnEncoder]:
        kept = self._encoders.get(id(columns))
        if kept is None:
            plan = (columns, self.numeric, self.categorical, self._category_maps())
            # Holding the mapping keeps its id from being used again.
            kept = self._encoders[id(columns)] = (columns, RowEncoder(*plan), ColumnEncoder(*plan))
        return kept

    def _category_indices(self, array: pa.ChunkedArray, name: str) -> npt.NDArray[np.int64]:
        vocabulary = pa.array(self.vocabularies[name], pa.string())
        found = pc.fill_null(pc.index_in(array, value_set=vocabulary, skip_nulls=True), OTHER_INDEX - FIRST_INDEX)
        indices: npt.NDArray[np.int64] = found.to_numpy().astype(np.int64) + FIRST_INDEX
        if array.null_count:
            indices[pc.is_null(array).to_numpy()] = MISSING_INDEX
        return indices

    def _category_maps(self) -> dict[str, dict[str, int]]:
        return {
            name: {value: index for index, value in enumerate(values, start=FIRST_INDEX)}
            for name, values in self.vocabularies.items()
        }


def _frequent_values(array: pa.ChunkedArray) -> tuple[str, ...]:
    counted = [(item["values"], item["counts"]) for item in pc.value_counts(array.drop_null()).to_pylist()]
    counted.sort(key=lambda item: (-item[1], item[0]))
    return tuple(sorted(value for value, _ in counted[:MAX_VOCABULARY]))
