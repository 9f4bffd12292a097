"""Parquet files of plain types: written atomically with their hash and statistics, and checked before they are read."""

import base64
import json
import os
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runtime.core.errors import ContractError
from runtime.core.hashing import sha256_file

_SCHEMA_KEY = b"ARROW:schema"
_EXTENSION_KEY = b"ARROW:extension:name"
ROW_GROUP_ROWS = 128 * 1024


def write_parquet(path: Path, table: pa.Table) -> str:
    """Write the file whole or not at all; returns its sha256. Equal tables give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Without the Arrow schema's copy the reader derives plain types from Parquet's own, and bytes stay stable.
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP_ROWS, store_schema=False)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        digest = sha256_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return digest


def check_plain_file(path: Path) -> None:
    """ContractError if the file names an Arrow extension type: deserialising one can run code (CVE-2026-41486).

    Looks at the footer's bytes itself: even `pyarrow.parquet.read_metadata` deserialises the types it finds there.
    """
    footer = _read_footer(path)
    for found in re.finditer(_SCHEMA_KEY, footer):
        try:
            is_plain = _EXTENSION_KEY not in base64.b64decode(_next_string(footer, found.end()), validate=True)
        except ValueError:
            is_plain = False
        if not is_plain:
            raise ContractError(
                f"file {str(path)!r} has a column of an Arrow extension type; write plain types instead"
            )


def delta_statistics(table: pa.Table, *, without: frozenset[str] = frozenset()) -> str:
    """Delta's statistics as JSON: rows, minima, maxima and nulls; only nulls for the columns in `without`."""
    minima: dict[str, Any] = {}
    maxima: dict[str, Any] = {}
    for name in table.column_names:
        if name in without or table.column(name).null_count == table.num_rows:
            continue
        bounds = pc.min_max(table.column(name)).as_py()
        low, high = _statistic(bounds["min"]), _statistic(bounds["max"], is_upper=True)
        if low is not None and high is not None:
            minima[name], maxima[name] = low, high
    nulls = {name: table.column(name).null_count for name in table.column_names}
    return json.dumps({"numRecords": table.num_rows, "minValues": minima, "maxValues": maxima, "nullCount": nulls})


def _read_footer(path: Path) -> bytes:
    """Thrift bytes of the file's metadata. A file with an encrypted footer ends otherwise and is refused."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
            if magic != b"PAR1" or not 0 < length <= size - 12:
                raise ContractError(f"file {str(path)!r} is no Parquet file")
            file.seek(size - 8 - length)
            return file.read(length)
    except FileNotFoundError as error:
        raise ContractError(f"file {str(path)!r} is gone; restore it or prepare the data again") from error


def _next_string(thrift: bytes, position: int) -> bytes:
    """The string of the field after `position`: in Thrift's compact form a header, a varint of its length, its bytes.

    ValueError if something else is there.
    """
    if thrift[position : position + 1] != b"\x18":
        raise ValueError("no string follows")
    length, shift, byte = 0, 0, 0x80
    while byte & 0x80:
        position += 1
        if position >= len(thrift) or shift > 28:
            raise ValueError("no length follows")
        byte = thrift[position]
        length |= (byte & 0x7F) << shift
        shift += 7
    return thrift[position + 1 : position + 1 + length]


def _statistic(value: Any, *, is_upper: bool = False) -> Any:
    """None where JSON or Delta cannot state the bound truthfully."""
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, datetime):
        # Delta cuts statistics to milliseconds, so an upper bound is rounded up.
        moment = value.astimezone(UTC)
        extra_ms = 1 if is_upper and moment.microsecond % 1000 else 0
        milliseconds = moment.microsecond // 1000 + extra_ms
        if milliseconds == 1000:
            return None
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str) and len(value) > 32:
        return None
    return value
