"""The calls of the data plane as requests: checked here as far as the caller's own words go, the rest by the server."""

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from runtime.client.answers import Description, Prediction, read_accepted, read_description, read_prediction
from runtime.client.exchange import ARROW, JSON, RawAnswer, Request
from runtime.core.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Answered = TypeVar("Answered")

ENDPOINT = re.compile(r"[A-Za-z0-9_-]{1,128}")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """What came true for one row of an earlier prediction."""

    prediction_id: str
    label: int
    row: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[Answered]):
    """One request, and how to read its answer."""

    request: Request
    read: Callable[[RawAnswer], Answered]
    rows: Sequence[Any] = ()
    """What was sent, to show the value at fault."""


def predict(endpoint: str, rows: Any, *, routing_key: str | None, explain: bool) -> Call[Prediction]:
    path = f"/v1/models/{_checked('endpoint', endpoint, ENDPOINT)}:predict{'?explain=true' if explain else ''}"
    headers = {} if routing_key is None else {"x-routing-key": _check_routing_key(routing_key)}
    table = _find_table(rows)
    if table is not None:
        request = Request(method="POST", path=path, body=_encode_table(table), headers=headers | _typed(ARROW))
        return Call(request=request, read=lambda answer: read_prediction(answer, table.num_rows))
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Sequence):
        raise UsageError(
            f"rows must be a list of mappings from column to value, or an Arrow table, but got {type(rows).__name__}"
        )
    request = Request(method="POST", path=path, body=_encode_json({"instances": rows}), headers=headers | _typed(JSON))
    return Call(request=request, read=lambda answer: read_prediction(answer, len(rows)), rows=rows)


def feedback(endpoint: str, labels: Iterable[Label | Mapping[str, Any]]) -> Call[int]:
    if isinstance(labels, Label | Mapping):
        raise UsageError("labels must be a list of labels but got a single one")
    entries = [asdict(label) if isinstance(label, Label) else label for label in labels]
    path = f"/v1/models/{_checked('endpoint', endpoint, ENDPOINT)}:feedback"
    request = Request(method="POST", path=path, body=_encode_json({"labels": entries}), headers=_typed(JSON))
    return Call(request=request, read=read_accepted, rows=entries)


def describe(endpoint: str) -> Call[Description]:
    path = f"/v1/models/{_checked('endpoint', endpoint, ENDPOINT)}"
    return Call(request=Request(method="GET", path=path), read=read_description)


def ready() -> Call[bool]:
    return Call(request=Request(method="GET", path="/v2/health/ready"), read=lambda _answer: True)


def with_trace(request: Request, *, request_id: str, traceparent: str | None) -> Request:
    """The request with what its logs and traces are found by; the same on every attempt."""
    headers = request.headers | {"x-request-id": _checked("request_id", request_id, REQUEST_ID)}
    if traceparent is not None:
        headers["traceparent"] = _checked("traceparent", traceparent, TRACEPARENT)
    return replace(request, headers=headers)


def check_header(name: str, value: str) -> str:
    """The value, which may stand in a header: printable, so that nobody's input starts a header of its own."""
    if not value or value != value.strip() or not value.isprintable():
        raise UsageError(f"{name} must be printable text without spaces around it")
    return value


def _typed(content_type: str) -> dict[str, str]:
    return {"content-type": content_type, "accept": content_type}


def _check_routing_key(key: str) -> str:
    if type(key) is not str:
        raise UsageError(f"routing_key must be text but got {key!r}")
    return check_header(f"routing_key {key[:80]!r}", key)


def _checked(name: str, value: str, pattern: re.Pattern[str]) -> str:
    if type(value) is not str or not pattern.fullmatch(value):
        raise UsageError(f"{name} must match {pattern.pattern} but got {value!r}")
    return value


def _find_table(rows: Any) -> "pa.Table | None":
    """The rows as a table if they are Arrow. Whoever has a table has imported Arrow, so nobody else needs to."""
    pa = sys.modules.get("pyarrow")
    if pa is None or not isinstance(rows, pa.Table | pa.RecordBatch):
        return None
    return rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])


def _encode_table(table: "pa.Table") -> bytes:
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            # Not taken by the server, but what a category of pandas becomes.
            plain = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, plain)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _encode_json(document: Any) -> bytes:
    # NaN goes out as it is: the server's answer names its row and column, where null would pass for "missing".
    try:
        return json.dumps(document, default=_plain, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the rows cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if getattr(value, "shape", None) == ():
        return value.item()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} has no JSON form")
