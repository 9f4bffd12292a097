"""JSON in, JSON out: requests checked down to the row, faults as one error shape. Knows nothing of HTTP servers."""

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from runtime.core.errors import UsageError
from runtime.core.ids import UUID7_PATTERN
from runtime.data.rows import RowError

SHOWN_CHARACTERS = 80
_UUID7 = re.compile(UUID7_PATTERN)
FEW_SCORES = 16
"""Beyond, an answer is put together of bytes and not of objects."""


class RequestFault(UsageError):
    """A request that is answered with an error: HTTP status, code, message and the field at fault."""

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    @classmethod
    def of_row(cls, error: RowError) -> "RequestFault":
        return cls(422, "contract", f"instances: {error}", error.column or "instances")


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One fed back outcome."""

    prediction_id: str
    row: int
    label: int


class Explained(NamedTuple):
    """What each feature added to each score: a row's attributions add up to its score − baseline score."""

    features: tuple[str, ...]
    attributions: npt.NDArray[np.float64]
    """[rows, features]"""
    baseline_score: float


def parse_instances(body: bytes, content_type: bytes | None, *, max_rows: int) -> list[Any]:
    """The rows of `{"instances": [...]}`, each of which the encoding checks. RequestFault says what is wrong."""
    return _parse_list(body, content_type, member="instances", max_rows=max_rows)


def parse_labels(body: bytes, content_type: bytes | None, *, max_rows: int) -> list[Label]:
    """The entries of `{"labels": [{"prediction_id", "row", "label"}, ...]}`."""
    entries = _parse_list(body, content_type, member="labels", max_rows=max_rows)
    return [_parse_label(index, entry) for index, entry in enumerate(entries)]


def encode_predictions(
    prediction_id: str, model_version: str, scores: npt.NDArray[np.float64], explained: Explained | None = None
) -> bytes:
    """Scores are finite, which makes what is written of them numbers and commas."""
    if explained is None and len(scores) > FEW_SCORES:
        head = orjson.dumps({"prediction_id": prediction_id, "model_version": model_version})
        numbers = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)
        parts = (head[:-1], b',"predictions":[{"score":', numbers[1:-1].replace(b",", b'},{"score":'), b"}]}")
        return b"".join(parts)
    answer: dict[str, Any] = {
        "prediction_id": prediction_id,
        "model_version": model_version,
        "predictions": [{"score": score} for score in scores.tolist()],
    }
    if explained is not None:
        for prediction, attributions in zip(answer["predictions"], explained.attributions.tolist(), strict=True):
            prediction["attributions"] = dict(zip(explained.features, attributions, strict=True))
        answer["baseline_score"] = explained.baseline_score
    return orjson.dumps(answer)


def encode_fault(fault: RequestFault) -> bytes:
    error = {"code": fault.code, "message": printable(fault.message), "field": printable(fault.field)}
    return orjson.dumps({"error": error})


def encode_json(value: Any) -> bytes:
    return orjson.dumps(value)


def _parse_list(body: bytes, content_type: bytes | None, *, member: str, max_rows: int) -> list[Any]:
    if content_type is not None and content_type.partition(b";")[0].strip().lower() != b"application/json":
        found = content_type[:SHOWN_CHARACTERS].decode("latin-1")
        raise RequestFault(
            415, "content_type", f"content-type must be application/json but got {found!r}", "content-type"
        )
    document = load_json(body)
    if type(document) is not dict:
        raise RequestFault(
            422, "contract", f'the body must be an object {{"{member}": [...]}} but is {_kind(document)}'
        )
    for name in document:
        if name != member:
            raise RequestFault(422, "contract", f"unknown member {shown(name)}; the body has {member!r} only", name)
    if member not in document:
        raise RequestFault(422, "contract", f"the body lacks {member!r}", member)
    rows = document[member]
    if type(rows) is not list:
        raise RequestFault(422, "contract", f"{member!r} must be a list but is {_kind(rows)}", member)
    if not rows:
        raise RequestFault(422, "contract", f"{member!r} is empty; send at least one row", member)
    if len(rows) > max_rows:
        raise RequestFault(
            413, "too_large", f"{member!r} has {len(rows)} rows, at most {max_rows} are taken at once", member
        )
    return rows


def load_json(body: bytes) -> Any:
    """RequestFault 400 unless it is JSON; NaN and Infinity are let through."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        fault = RequestFault(400, "malformed", f"the body is not JSON: {error}")
    # NaN and Infinity are no JSON, but common: read on, so that the answer names the row and column they stand in.
    if b"NaN" in body or b"Infinity" in body:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            pass
    raise fault


def _parse_label(index: int, entry: Any) -> Label:
    where = f"labels[{index}]"
    if type(entry) is not dict:
        raise RequestFault(422, "contract", f"{where} must be an object but is {_kind(entry)}", "labels")
    for name in entry:
        if name not in ("prediction_id", "row", "label"):
            raise RequestFault(422, "contract", f"{where} has an unknown member {shown(name)}", name)
    prediction_id, row, label = entry.get("prediction_id"), entry.get("row", 0), entry.get("label")
    if type(prediction_id) is not str or not _UUID7.fullmatch(prediction_id):
        message = f"{where}: prediction_id must be one that an answer gave, but got {shown(prediction_id)}"
        raise RequestFault(422, "contract", message, "prediction_id")
    # JSON knows one kind of number: 1.0 is the integer 1.
    if type(row) not in (int, float) or not 0 <= row < 1 << 31 or row % 1:
        raise RequestFault(422, "contract", f"{where}: row must be an integer from 0 but got {shown(row)}", "row")
    if type(label) not in (int, float) or label not in (0, 1):
        raise RequestFault(422, "contract", f"{where}: label must be 0 or 1 but got {shown(label)}", "label")
    return Label(prediction_id=prediction_id, row=int(row), label=int(label))


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def printable(text: str | None) -> str | None:
    """Without lone surrogates, which the lenient parser lets through and UTF-8 cannot hold."""
    return None if text is None else text[:2000].encode(errors="replace").decode()
