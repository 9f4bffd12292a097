"""Rows that the compiled reader takes are those that orjson reads, to the bit; all else it declines, and survives."""

import json
import random
import struct
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.config.schema import ColumnConfig
from runtime.data import json_rows
from runtime.data.columns import ColumnEncoder
from runtime.data.json_rows import Kind, tabulate_document

pytestmark = pytest.mark.skipif(not json_rows.IS_COMPILED, reason="no compiler where teal was installed")

KINDS: dict[str, Kind] = {"speed": "n", "hour": "n", "carrier": "t", "key": "i"}
COLUMNS = {
    "speed": ColumnConfig(type="number", nullable=True),
    "hour": ColumnConfig(type="number", nullable=True),
    "carrier": ColumnConfig(type="category", nullable=True),
    "key": ColumnConfig(type="string", role="key"),
}
ENCODER = ColumnEncoder(COLUMNS, ("speed", "hour"), ("carrier",), {"carrier": {"AA": 2}})

doubles = st.floats(allow_nan=False, allow_infinity=False)
written_numbers = st.one_of(
    doubles.map(repr),
    doubles.map(lambda value: f"{value:.17e}"),
    st.floats(-1e6, 1e6).map(lambda value: f"{value:.19f}"),
    st.integers(-(2**64), 2**64).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "0", "9007199254740991", "9007199254740992", "9007199254740993", "1e400", "1e-400"]),
    st.sampled_from(["01", "1.", ".5", "+1", "-", "1e", "1e+", "0x1", "NaN", "Infinity", "1_0", "1.5.5", "--1"]),
)
written_texts = st.one_of(
    st.text(max_size=8).map(json.dumps), st.text(max_size=8).map(lambda t: orjson.dumps(t).decode())
)
written = st.one_of(
    written_numbers, written_texts, st.sampled_from(["null", "true", "false", "[]", "{}", '{"a":1}', "nul", '"', ""])
)
spaces = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])


def tabulate(body: bytes, *, min_rows: int = 1, max_rows: int = 1000) -> pa.Table | None:
    return tabulate_document(body, KINDS, min_rows=min_rows, max_rows=max_rows)


def check(body: bytes) -> bool:
    """Whether it was taken; then it is what orjson and Arrow make of it."""
    table = tabulate(body)
    if table is None:
        return False
    rows = orjson.loads(body)["instances"]
    by_objects = ENCODER._tabulate(rows)
    assert by_objects is not None
    assert table.schema.equals(by_objects.schema)
    assert table.num_rows == len(rows)
    table.validate(full=True)
    for name in table.column_names:
        found, expected = table[name].to_pylist(), by_objects[name].to_pylist()
        assert list(map(bits, found)) == list(map(bits, expected))
    return True


def bits(value: Any) -> Any:
    return struct.pack("d", value) if isinstance(value, float) else value


def document(rows: list[list[tuple[str, str]]], space: str = "") -> bytes:
    objects = (f",{space}".join(f"{json.dumps(name)}{space}:{space}{value}" for name, value in row) for row in rows)
    inner = f"{space},{space}".join(f"{{{space}{text}{space}}}" for text in objects)
    return f'{space}{{{space}"instances"{space}:{space}[{space}{inner}{space}]{space}}}{space}'.encode()


@settings(max_examples=400, deadline=None)
@given(st.lists(written_numbers, min_size=1, max_size=6), spaces)
def test_numbers_are_read_to_the_bit_or_declined(numbers: list[str], space: str) -> None:
    for number in numbers:
        check(document([[("speed", number)]], space))
    check(document([[("speed", number)] for number in numbers], space))


def test_hundred_thousand_numbers_as_they_are_written() -> None:
    """Every one is taken, and rounded as it should be: shortest, 17 digits, and halfway between two doubles."""
    generator = random.Random(7)
    values = [struct.unpack("d", generator.randbytes(8))[0] for _ in range(30_000)]
    texts = [repr(value) for value in values if value == value and abs(value) != float("inf")]
    texts += [repr(generator.gauss(0, 1)) for _ in range(40_000)]
    texts += [f"{generator.uniform(-1e5, 1e5):.{generator.randint(1, 13)}f}" for _ in range(20_000)]
    for _ in range(20_000):
        whole = generator.randrange(2**53, 2**60) | 1
        decimals = generator.randint(1, 18)
        digits = str(whole).rjust(decimals + 1, "0")
        texts.append(f"{digits[:-decimals]}.{digits[-decimals:]}")
    body = document([[("speed", text)] for text in texts])
    table = tabulate_document(body, KINDS, min_rows=1, max_rows=200_000)
    assert table is not None
    assert struct.pack(f"{len(texts)}d", *table["speed"].to_pylist()) == struct.pack(
        f"{len(texts)}d", *map(float, texts)
    )


@settings(max_examples=300, deadline=None)
@given(
    st.permutations(list(KINDS)),
    st.integers(1, 4),
    st.lists(st.lists(st.tuples(st.integers(0, 4), written), max_size=2), min_size=1, max_size=5),
    spaces,
)
def test_whatever_stands_in_a_row(
    names: list[str], num_names: int, changes: list[list[tuple[int, str]]], space: str
) -> None:
    good = {"speed": "1.25", "hour": "7", "carrier": '"AA"', "key": "null"}
    rows = []
    for of_row in changes:
        row = [(name, good[name]) for name in names[:num_names]]
        for at, value in of_row:
            if at < len(row):
                row[at] = (row[at][0], value)
        rows.append(row)
    check(document(rows, space))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_befalls_a_document(data: st.DataObject) -> None:
    """Bytes changed, cut out and put in: it is taken only if orjson makes the same of it."""
    rows = [[("speed", "-0.5"), ("carrier", '"é"'), ("key", "true"), ("hour", "null")] for _ in range(3)]
    body = bytearray(document(rows))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "put in", "repeat"]))
        if how == "change":
            body[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(list(b'{}[]",:\\0nt'))))
        elif how == "cut":
            del body[at : at + data.draw(st.integers(1, 40))]
        elif how == "put in":
            body[at:at] = data.draw(st.binary(max_size=4))
        else:
            body[at:at] = body[at : at + data.draw(st.integers(1, 60))]
        if not body:
            break
    check(bytes(body))


def test_every_beginning_and_every_end_of_a_document_is_survived() -> None:
    body = document([[("speed", "1.5e3"), ("carrier", '"AA"'), ("key", "12"), ("hour", "null")]] * 3, " ")
    assert check(body)
    assert not [end for end in range(len(body.rstrip())) if check(body[:end])]
    assert not [start for start in range(2, len(body)) if check(body[start:])]


@pytest.mark.parametrize(
    ("body", "is_taken"),
    [
        (b'{"instances":[{"speed":1,"carrier":null,"key":"k"},{"speed":null,"carrier":"x","key":7}]}', True),
        (b'{"instances":[{"speed":1},{"speed":2,"hour":3}]}', False),
        (b'{"instances":[{"speed":1,"hour":3},{"hour":2,"speed":3}]}', False),
        (b'{"instances":[{"speed":1,"speed":2}]}', False),
        (b'{"instances":[{"unknown":1}]}', False),
        (b'{"instances":[{"key":1}]}', False),
        (b'{"instances":[{"carrier":"{"}]}', False),
        (b'{"instances":[{"carrier":"\\u0041"}]}', False),
        (b'{"instances":[{"carrier":"\xff"}]}', False),
        (b'{"instances":[{"speed":true}]}', False),
        (b'{"instances":[{"speed":1}],"more":1}', False),
        (b'{"more":1,"instances":[{"speed":1}]}', False),
        (b'{"instances":[]}', False),
        (b'{"instances":[{}]}', False),
        (b'{"instances":[{"speed":1}', False),
        (b"", False),
        (b'{"instances":[{"speed":1}]}\0', False),
    ],
)
def test_what_is_taken(body: bytes, is_taken: bool) -> None:
    assert check(body) is is_taken


def test_too_few_and_too_many_rows_are_declined() -> None:
    body = document([[("speed", "1")]] * 5)
    assert tabulate(body, min_rows=5, max_rows=5) is not None
    assert tabulate(body, min_rows=6) is None
    assert tabulate(body, max_rows=4) is None
