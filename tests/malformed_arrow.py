"""Arrow streams that are odd: other types, other structures, other bytes."""

import functools
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from tests.malformed_bytes import mutate_bytes
from tests.serving_example import example_columns, example_row
from tests.serving_protocols import arrow_stream, as_table

TABLE = as_table([example_row(index) for index in range(4)], example_columns())
LENGTHS = (0, 1, 7, 8, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
BOMB_ROWS = 2_000_000
NUMBERS = pa.array([1.0, 2.0, 3.0, 4.0])
WHOLE = pa.array([1, 2, 3, 4])
TEXTS = pa.array(["AA", "B6", "DL", "UA"])
FOUR = pa.array([0, 1, 2, 3, 4], pa.int32())

ODD_COLUMNS: tuple[Callable[[], pa.Array], ...] = (
    lambda: TEXTS.dictionary_encode(),
    lambda: NUMBERS.dictionary_encode(),
    lambda: pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 0], pa.int8()), TEXTS[:2]),
    lambda: pa.ListArray.from_arrays(FOUR, NUMBERS),
    lambda: pa.LargeListArray.from_arrays(FOUR.cast(pa.int64()), NUMBERS),
    lambda: pa.FixedSizeListArray.from_arrays(NUMBERS, 1),
    lambda: pa.StructArray.from_arrays([NUMBERS, TEXTS], ["a", "b"]),
    lambda: pa.MapArray.from_arrays(FOUR, TEXTS, NUMBERS),
    lambda: pa.UnionArray.from_sparse(pa.array([0, 1, 0, 1], pa.int8()), [NUMBERS, TEXTS]),
    lambda: pa.RunEndEncodedArray.from_arrays(pa.array([2, 4], pa.int32()), pa.array([1.0, 2.0])),
    lambda: TEXTS.cast(pa.string_view()),
    lambda: TEXTS.cast(pa.large_string()),
    lambda: TEXTS.cast(pa.binary()),
    lambda: pa.array([b"ab"] * 4, pa.binary(2)),
    lambda: pa.array([b"\xff", b"\xc0\xaf", b"", b"a"]).cast(pa.binary()).view(pa.string()),
    lambda: WHOLE.cast(pa.decimal128(30, 2)),
    lambda: WHOLE.cast(pa.timestamp("ns", tz="Europe/Berlin")),
    lambda: WHOLE.cast(pa.duration("s")),
    lambda: pa.array([1, 2, 3, 4], pa.date32()),
    lambda: pa.nulls(4),
    lambda: pa.nulls(4, pa.float64()),
    lambda: pa.array(np.array([1, 2, 3, 4], np.float16)),
    lambda: pa.array([2**64 - 1, 0, 1, 2**63], pa.uint64()),
    lambda: pa.array([2**63 - 1, -(2**63), 0, 2**53 + 1]),
    lambda: pa.array([float("nan"), float("inf"), -0.0, 1e308]),
    lambda: pa.array([True, False, None, True]),
    lambda: pa.array([1.0, None, 2.0, None]),
    lambda: pa.array([(1, 2, 3)] * 4, pa.month_day_nano_interval()),
    lambda: pa.array([0, 1, 2, 3], pa.int8()),
)


def odd_column(random: Random) -> bytes:
    """One column of another type or another name, one more, one less, or the same one twice."""
    place = random.randrange(TABLE.num_columns)
    name = TABLE.column_names[place]
    way = random.randrange(6)
    if way < 3:
        table = TABLE.set_column(place, name, random.choice(ODD_COLUMNS)())
    elif way == 3:
        table = TABLE.append_column(random.choice((name, "late", "", "other", "\x00")), random.choice(ODD_COLUMNS)())
    elif way == 4:
        table = TABLE.drop_columns([name])
    else:
        table = TABLE.rename_columns([("late" if n == name else n) for n in TABLE.column_names])
    return arrow_stream(table)


def odd_stream(random: Random) -> bytes:
    """Another number of rows or batches, metadata, compression, or no stream at all."""
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: arrow_stream(TABLE.slice(0, 0)),
        lambda: arrow_stream(TABLE.select([])),
        lambda: arrow_stream(pa.concat_tables([TABLE] * random.choice((17, 100)))),
        lambda: arrow_stream(TABLE, compression=random.choice(("lz4", "zstd"))),
        _bomb,
        lambda: _as_file(TABLE),
        lambda: TABLE.schema.serialize().to_pybytes(),
        lambda: arrow_stream(TABLE) * 2,
        lambda: arrow_stream(TABLE)[:-8],
        lambda: arrow_stream(TABLE) + random.randbytes(32),
        lambda: b"",
        lambda: b"\xff" * 64,
        lambda: struct.pack("<iI", -1, 0),
        lambda: _extension(random),
        lambda: arrow_stream(TABLE.replace_schema_metadata({"a": "b" * 10_000, "pandas": "{", "ARROW:schema": "x"})),
        lambda: arrow_stream(TABLE.slice(1, 2)),
        lambda: _with_nulls(random),
    )
    return random.choice(makers)()


def broken_bytes(random: Random) -> bytes:
    """A valid stream with a few bytes of it changed, most often in what describes the rest."""
    stream = bytearray(arrow_stream(TABLE))
    way = random.randrange(4)
    if way == 0:
        return mutate_bytes(random, bytes(stream))
    if way == 1:
        # Any 4 or 8 aligned bytes may be a length, an offset or a number of rows.
        for _ in range(random.choice((1, 1, 2, 3))):
            length = random.choice(LENGTHS)
            size = random.choice((4, 8))
            at = random.randrange(0, len(stream) - size, 4)
            stream[at : at + size] = (length & (1 << 8 * size) - 1).to_bytes(size, "little")
    elif way == 2:
        for _ in range(random.choice((1, 2, 5))):
            stream[random.randrange(len(stream))] = random.randrange(256)
    else:
        at, other = sorted(random.randrange(len(stream)) for _ in range(2))
        stream[at : at + 64], stream[other : other + 64] = stream[other : other + 64], stream[at : at + 64]
    return bytes(stream)


@functools.cache
def _bomb() -> bytes:
    """Two million rows of zeros in some kilobytes."""
    columns = {name: pa.array(np.zeros(BOMB_ROWS)) for name in TABLE.column_names}
    return arrow_stream(pa.table(columns), compression="zstd")


def _as_file(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _extension(random: Random) -> bytes:
    names = ("arrow.py_extension_type", "arrow.uuid", "arrow.json", "pandas.period", "x")
    metadata = {"ARROW:extension:name": random.choice(names), "ARROW:extension:metadata": "\x80\x04."}
    fields = list(TABLE.schema)
    place = random.randrange(len(fields))
    fields[place] = fields[place].with_metadata(metadata)
    return arrow_stream(pa.Table.from_arrays(TABLE.columns, schema=pa.schema(fields)))


def _with_nulls(random: Random) -> bytes:
    rows: list[dict[str, Any]] = [dict(example_row(index)) for index in range(4)]
    for row in rows:
        row[random.choice(list(row))] = None
    return arrow_stream(as_table(rows, example_columns()))
