"""One hash of a table's rows, whatever their order and however they are cut into blocks.

Each row's values are hashed and mixed, and the rows' hashes summed, so parts add up and a repeated row counts twice.
Names and types of the columns count, their order does not. Detects accidents, not forgery: files have a sha256.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runtime.core.errors import ContractError

UInt64s = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MODULUS = 1 << 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    rows: int = 0
    sums: tuple[int, int] = (0, 0)
    """Two sums of row hashes modulo 2^64."""

    def merge(self, other: "Fingerprint") -> "Fingerprint":
        """The fingerprint of both tables' rows together."""
        low, high = ((a + b) % _MODULUS for a, b in zip(self.sums, other.sums, strict=True))
        return Fingerprint(rows=self.rows + other.rows, sums=(low, high))

    @property
    def text(self) -> str:
        return f"{self.sums[0]:016x}{self.sums[1]:016x}-{self.rows}"


def fingerprint_table(table: pa.Table) -> Fingerprint:
    """ContractError for a type other than numbers, text and timestamps."""
    rows = np.zeros(table.num_rows, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in table.column_names:
            array = table.column(name)
            salt = _text_hash(f"{name}\0{array.type}")
            rows += _mix(_value_bits(array, name) ^ salt)
            if array.null_count:
                # Null is told from every value, NaN and 0 included, by a term of its own.
                rows[pc.is_null(array).to_numpy()] += _mix(np.full(1, salt + _GOLDEN, dtype=np.uint64))[0]
        first = _mix(rows)
        second = _mix(rows + _GOLDEN)
        sums = int(first.sum(dtype=np.uint64)), int(second.sum(dtype=np.uint64))
    return Fingerprint(rows=table.num_rows, sums=sums)


def _value_bits(array: pa.ChunkedArray, name: str) -> UInt64s:
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # Zero chunks have no dictionary to combine.
        encoded = pa.chunked_array(array.chunks or [pa.array([], kind)]).combine_chunks().dictionary_encode()
        hashes = np.array([_text_hash(value) for value in ["", *encoded.dictionary.to_pylist()]], dtype=np.uint64)
        bits: UInt64s = hashes[pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False) + 1]
        return bits
    if pa.types.is_floating(kind):
        values: npt.NDArray[np.float64] = pc.fill_null(array.cast(pa.float64()), 0.0).to_numpy().astype(np.float64)
        values[np.isnan(values)] = np.nan  # one NaN, whatever its payload
        return values.view(np.uint64)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        integers: npt.NDArray[np.int64] = pc.fill_null(array.cast(pa.int64()), 0).to_numpy().astype(np.int64)
        return integers.view(np.uint64)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        moments = array.cast(pa.timestamp("us", tz=getattr(kind, "tz", None))).cast(pa.int64())
        microseconds: npt.NDArray[np.int64] = pc.fill_null(moments, 0).to_numpy().astype(np.int64)
        return microseconds.view(np.uint64)
    raise ContractError(f"column {name!r} of type {kind} has no fingerprint; use numbers, text or timestamps")


def _text_hash(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()))


def _mix(values: UInt64s) -> UInt64s:
    """The finaliser of splitmix64 (Steele, Lea & Flood, OOPSLA 2014): a bijection that spreads every bit."""
    mixed: UInt64s = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))
