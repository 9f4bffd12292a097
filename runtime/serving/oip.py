"""The Open Inference Protocol v2's tensors, and what a slot says of itself: one tensor a column. Knows no transport.

What arrives as tensors is answered as if it had arrived as rows: same checks, same faults, same bits.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from runtime.config.schema import ColumnConfig
from runtime.data.contract import feature_names
from runtime.data.encoding import MANY_ROWS
from runtime.serving.codec import Explained, RequestFault, printable, shown
from runtime.serving.scoring import Question, Scorer

SCORE = "score"
ATTRIBUTIONS = "attributions"
BASELINE = "baseline_score"

NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{
        f"{sign}INT{bits}": np.dtype(f"<{'u' if sign else 'i'}{bits // 8}")
        for sign in ("", "U")
        for bits in (8, 16, 32, 64)
    },
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = ("BYTES", *NUMPY_TYPES)
_JSON_KINDS: Mapping[str, frozenset[type]] = {
    "BOOL": frozenset({bool, type(None)}),
    "BYTES": frozenset({str, type(None)}),
    "FP32": frozenset({float, int, type(None)}),
    "FP64": frozenset({float, int, type(None)}),
}
_INTEGERS = frozenset({int, type(None)})
_LISTED_TYPES: Mapping[str, pa.DataType] = {
    "BOOL": pa.bool_(),
    "BYTES": pa.string(),
    "FP32": pa.float64(),
    "FP64": pa.float64(),
}
"""Of columns that were listed; the rest are integers."""


_LENGTH = struct.Struct("<I")


class Tensor(NamedTuple):
    """One column: its values flat, as a list (None for null) or an array."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[Any] | npt.NDArray[Any]


class Outputs(NamedTuple):
    """Which tensors the answer has."""

    names: tuple[str, ...]


def check_tensor(name: str, datatype: str, shape: Sequence[int]) -> int:
    """Number of rows of an [n] or [n, 1] tensor. RequestFault 400 for another shape or an unknown datatype."""
    if datatype not in DATATYPES:
        raise _malformed(f"input {name!r} has datatype {shown(datatype)}; taken are {list(DATATYPES)}", name)
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)) or shape[0] < 0:
        raise _malformed(f"input {name!r} must be of shape [n] or [n, 1] but is {list(shape)[:8]}", name)
    return int(shape[0])


def check_listed(tensor: Tensor, kinds: set[type]) -> None:
    """RequestFault 400 unless the values that JSON or gRPC listed, which are of these types, are of the datatype."""
    if not kinds <= _JSON_KINDS.get(tensor.datatype, _INTEGERS):
        wrong = next(v for v in tensor.values if type(v) not in _JSON_KINDS.get(tensor.datatype, _INTEGERS))
        raise _malformed(f"input {tensor.name!r} is {tensor.datatype} but holds {shown(wrong)}", tensor.name)


def read_raw(name: str, datatype: str, rows: int, content: bytes) -> list[str] | npt.NDArray[Any]:
    """A tensor's little-endian bytes; for BYTES each element after its length in 4. RequestFault 400."""
    if datatype == "BYTES":
        return _read_texts(name, rows, content)
    dtype = NUMPY_TYPES[datatype]
    if len(content) != rows * dtype.itemsize:
        expected = rows * dtype.itemsize
        raise _malformed(f"input {name!r} must have {expected} bytes for its shape but has {len(content)}", name)
    return np.frombuffer(content, dtype=dtype)


def encode_question(tensors: Sequence[Tensor], scorer: Scorer, *, max_rows: int) -> Question:
    """RequestFault 400 if tensors do not fit together, 413 above `max_rows`, 422 where the contract is broken."""
    if not tensors:
        raise _malformed("the request has no inputs; send one tensor for each feature")
    rows = tensors[0].shape[0]
    names = set()
    for tensor in tensors:
        if tensor.name in names:
            raise _malformed(f"input {tensor.name!r} occurs twice", tensor.name)
        names.add(tensor.name)
        if tensor.shape[0] != rows:
            message = f"input {tensor.name!r} has {tensor.shape[0]} rows but {tensors[0].name!r} has {rows}"
            raise _malformed(message, tensor.name)
        if len(tensor.values) != rows:
            message = f"input {tensor.name!r} has {len(tensor.values)} values for shape {list(tensor.shape)}"
            raise _malformed(message, tensor.name)
    if not rows:
        raise RequestFault(422, "contract", "the inputs have no rows; send at least one", "inputs")
    if rows > max_rows:
        raise RequestFault(413, "too_large", f"the inputs have {rows} rows, at most {max_rows} are taken at once")
    if rows >= MANY_ROWS and (question := _encode_columns(tensors, scorer)) is not None:
        return question
    columns = scorer.bundle.columns
    values = [_plain_values(tensor, columns.get(tensor.name)) for tensor in tensors]
    keys = [tensor.name for tensor in tensors]
    return scorer.encode_rows([dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True)])


def _encode_columns(tensors: Sequence[Tensor], scorer: Scorer) -> Question | None:
    """Many rows as columns; None where listed values are odd, which are then named as those of rows are."""
    is_packed = all(isinstance(tensor.values, np.ndarray) or tensor.datatype == "BYTES" for tensor in tensors)
    try:
        table = pa.table(
            {
                tensor.name: pa.array(
                    tensor.values,
                    None if isinstance(tensor.values, np.ndarray) else _LISTED_TYPES.get(tensor.datatype, pa.int64()),
                )
                for tensor in tensors
            }
        )
        return scorer.encode_table(table)
    except RequestFault:
        if is_packed:
            raise
    except (pa.ArrowException, ValueError, OverflowError) as error:
        if is_packed:
            raise _malformed(f"the inputs cannot be read: {error}") from error
    return None


def describe_model(scorer: Scorer) -> dict[str, Any]:
    columns = scorer.bundle.columns
    inputs = [{"name": name, "datatype": datatype_of(columns[name]), "shape": [-1]} for name in feature_names(columns)]
    return {
        "name": scorer.identity.endpoint,
        "versions": [str(scorer.identity.model_version)],
        "platform": "teal_torch",
        "inputs": inputs,
        "outputs": [{"name": SCORE, "datatype": "FP64", "shape": [-1]}],
    }


def check_outputs(names: Sequence[str], *, is_explained: bool) -> tuple[str, ...]:
    """The tensors to answer with; all there are if none is named. RequestFault 400 for one there is not."""
    known = (SCORE, ATTRIBUTIONS) if is_explained else (SCORE,)
    for name in names:
        if name not in known:
            hint = "; it needs parameter explain" if name == ATTRIBUTIONS else ""
            raise _malformed(f"there is no output {shown(name)}; outputs are {list(known)}{hint}", "outputs")
    return tuple(names) or known


def output_array(name: str, scores: npt.NDArray[np.float64], explained: Explained | None) -> npt.NDArray[np.float64]:
    if name == ATTRIBUTIONS and explained is not None:
        return explained.attributions
    return scores


def encode_oip_fault(fault: RequestFault) -> bytes:
    """`error` as text, which is what the protocol's clients read; code and field stand beside it."""
    return orjson.dumps({"error": printable(fault.message), "code": fault.code, "field": printable(fault.field)})


def datatype_of(column: ColumnConfig) -> str:
    if column.type == "category":
        return "BYTES"
    # An integer tensor has no way to say that a value is missing.
    return "FP64" if column.type == "number" or column.nullable else "INT64"


def _plain_values(tensor: Tensor, column: ColumnConfig | None) -> list[Any]:
    """As JSON rows would hold them: None for NaN where the column may be missing, 0 and 1 for booleans."""
    values = tensor.values.tolist() if isinstance(tensor.values, np.ndarray) else tensor.values
    if tensor.datatype == "BOOL" and column is not None and column.type == "binary":
        return [None if value is None else int(value) for value in values]
    if tensor.datatype in ("FP32", "FP64") and column is not None and column.nullable:
        return [None if value != value else value for value in values]
    return values


def _read_texts(name: str, rows: int, content: bytes) -> list[str]:
    texts = []
    at = 0
    unpack_length = _LENGTH.unpack_from
    try:
        for _ in range(rows):
            (length,) = unpack_length(content, at)
            at += 4 + length
            if at > len(content):
                raise _malformed(f"input {name!r} ends within an element", name)
            texts.append(content[at - length : at].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise _malformed(
            f"input {name!r} must be {rows} UTF-8 elements, each after its length: {error}", name
        ) from error
    if at != len(content):
        raise _malformed(f"input {name!r} has {len(content) - at} bytes after its {rows} elements", name)
    return texts


def _malformed(message: str, field: str | None = None) -> RequestFault:
    return RequestFault(400, "malformed", message, field)
