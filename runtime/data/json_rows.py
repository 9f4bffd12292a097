"""Many rows of JSON to a table at once, where they are alike. What is declined is read as any other document.

The reader is native code, built where teal is installed and there is a C compiler. Without it the outcome is the same.
"""

import re
from collections.abc import Mapping
from typing import Literal

import orjson
import pyarrow as pa

try:
    from runtime.data import _json_rows
except ImportError:
    _json_rows = None  # type: ignore[assignment]

IS_COMPILED = _json_rows is not None
Kind = Literal["n", "t", "i"]
"""A number, text, or what nobody looks at."""

_SPACE = rb"[ \t\r\n]*"
_HEAD = re.compile(_SPACE.join((b"", rb"\{", rb'"instances"', b":", rb"\[", b"")))
_TAIL = re.compile(_SPACE.join((b"", rb"\}", b"")))


def tabulate_document(body: bytes, kinds: Mapping[str, Kind], *, min_rows: int, max_rows: int) -> pa.Table | None:
    """The numbers and texts of `{"instances": [...]}`, null where they are; None for whatever is not plainly that.

    Rows must all have the first one's keys in its order, each of which `kinds` knows.
    """
    head = _HEAD.match(body)
    if _json_rows is None or head is None:
        return None
    start = head.end()
    names = _first_names(body, start)
    if not names or not kinds.keys() >= set(names) or not _is_utf8(body):
        return None
    of_names = [kinds[name] for name in names]
    keys = tuple(map(orjson.dumps, names))
    found = _json_rows.read_rows(body, start, keys, "".join(of_names).encode(), min_rows, max_rows)
    if found is None:
        return None
    end, num_rows, columns = found
    if _TAIL.fullmatch(body, end) is None:
        return None
    arrays = {}
    for name, column in zip(names, columns, strict=True):
        if column is not None:
            valid, num_nulls, values, characters = column
            kind = pa.float64() if characters is None else pa.string()
            buffers = [part if part is None else pa.py_buffer(part) for part in (valid, values, characters)]
            arrays[name] = pa.Array.from_buffers(kind, num_rows, buffers[: kind.num_buffers], num_nulls)
    return pa.table(arrays) if arrays else None


def _first_names(body: bytes, start: int) -> list[str]:
    """The keys of the first row; none if it is odd."""
    end = body.find(b"}", start)
    try:
        first = orjson.loads(body[start : end + 1])
    except orjson.JSONDecodeError:
        return []
    return list(first) if type(first) is dict else []


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
