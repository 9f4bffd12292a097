import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.errors import ContractError
from runtime.data.fingerprint import Fingerprint, fingerprint_table

SCHEMA = pa.schema(
    [("x", pa.float64()), ("n", pa.int64()), ("s", pa.string()), ("t", pa.timestamp("us", tz="UTC")), ("b", pa.int8())]
)
row = st.fixed_dictionaries(
    {
        "x": st.none() | st.floats(),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "s": st.none() | st.text(max_size=3),
        "t": st.none() | st.integers(0, 2**50),
        "b": st.none() | st.integers(0, 1),
    }
)


def text(values: list[dict[str, object]]) -> str:
    return fingerprint_table(pa.Table.from_pylist(values, SCHEMA)).text


def one(kind: pa.DataType, values: list[object], name: str = "x") -> str:
    return fingerprint_table(pa.table({name: pa.array(values, kind)})).text


@given(st.lists(row, max_size=8), st.randoms(), st.integers(0, 8))
def test_order_and_blocks_do_not_count(values: list[dict[str, object]], random: object, cut: int) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert text(values) == text(shuffled)
    table = pa.Table.from_pylist(values, SCHEMA)
    parts = fingerprint_table(table.slice(0, cut)).merge(fingerprint_table(table.slice(cut)))
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert parts.text == fingerprint_table(chunked).text == text(values)


def test_the_order_of_columns_does_not_count_but_names_and_types_do() -> None:
    table = pa.table({"a": [1, 2], "b": [3, 4]})
    assert fingerprint_table(table) == fingerprint_table(table.select(["b", "a"]))
    assert fingerprint_table(table) != fingerprint_table(table.rename_columns(["b", "a"]))
    assert one(pa.int64(), [1]) != one(pa.int8(), [1])


@pytest.mark.parametrize(
    ("kind", "left", "right"),
    [
        (pa.float64(), [None], [float("nan")]),
        (pa.float64(), [None], [0.0]),
        (pa.float64(), [0.0], [-0.0]),
        (pa.int64(), [None], [0]),
        (pa.string(), [None], [""]),
        (pa.string(), ["a", "b"], ["a", "a"]),
        (pa.int64(), [1, 1], [1]),
        (pa.int64(), [1, 4], [2, 3]),
        (pa.timestamp("us", tz="UTC"), [1], [2]),
    ],
)
def test_other_values_give_another_hash(kind: pa.DataType, left: list[object], right: list[object]) -> None:
    assert one(kind, left) != one(kind, right)


def test_values_may_not_swap_rows() -> None:
    left = pa.table({"a": [1, 2], "b": [1, 2]})
    right = pa.table({"a": [1, 2], "b": [2, 1]})
    assert fingerprint_table(left) != fingerprint_table(right)


def test_it_is_the_same_for_ever() -> None:
    # Recorded versions are compared by it: a change of the hash must be a decision.
    assert text([{"x": 1.5, "n": 2, "s": "a", "t": 3, "b": None}]) == "5aad6f2d364aa2de39ddc0fe4f19c546-1"


def test_empty_tables_and_refused_types() -> None:
    assert text([]) == Fingerprint().text
    with pytest.raises(ContractError, match="column 'x' of type list"):
        one(pa.list_(pa.int64()), [[1]])
