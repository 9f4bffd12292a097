"""The log of what was asked and answered, and of the labels that came back: its tables, and how they are read."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runtime.config.schema import ColumnConfig
from runtime.core.errors import NotFoundError
from runtime.core.ids import timestamp_ms
from runtime.data.contract import ARROW_TYPES, feature_names
from runtime.data.delta import newest_version, read_table, table_uri
from runtime.serving.codec import Label
from runtime.serving.delta_log import PARTITION
from runtime.serving.payload_files import read_files

MOMENT = pa.timestamp("us", tz="UTC")
HEAD_COLUMNS = (
    ("prediction_id", pa.string()),
    ("row", pa.int32()),
    ("at", MOMENT),
    ("started_at", MOMENT),
    ("slot", pa.string()),
    ("generation", pa.int64()),
    ("model_name", pa.string()),
    ("model_version", pa.int64()),
    ("data_version", pa.string()),
    ("request_id", pa.string()),
    (PARTITION, pa.date32()),
)
TAIL_COLUMNS = (("score", pa.float64()), ("latency_ms", pa.float32()))
FEEDBACK_SCHEMA = pa.schema(
    [("prediction_id", pa.string()), ("row", pa.int32()), ("label", pa.int8()), ("received_at", MOMENT)]
)
DAY_US = 86_400_000_000
RESERVED = {name for name, _ in (*HEAD_COLUMNS, *TAIL_COLUMNS)}


def payload_uri(payload: str, endpoint: str) -> str:
    return table_uri(payload, endpoint)


def feedback_uri(payload: str, endpoint: str) -> str:
    return table_uri(payload, f"{endpoint}_feedback")


def payload_column(feature: str) -> str:
    """A feature's column in the payload log: its own name unless the log has a column of that name."""
    return f"feature_{feature}" if feature in RESERVED else feature


class Answer(NamedTuple):
    """One answered request, as it was asked; a tuple because one is made for every request.

    Times in nanoseconds since 1970.
    """

    prediction_id: str
    at_ns: int
    started_ns: int
    generation: int
    request_id: str
    rows: Sequence[Mapping[str, Any]] | pa.Table
    scores: Sequence[float] | npt.NDArray[np.float64]
    latency_ms: float


class Feedback(NamedTuple):
    labels: Sequence[Label]
    received_ns: int


class PayloadTable:
    """Turns answers of one model in one slot into rows of the log.

    Values of columns marked as personal never reach it: the columns are left out, or, where there is a `pii_key`, hold
    keyed hashes. Equal values then have equal hashes, and nobody without the key can try values out.
    """

    def __init__(
        self,
        columns: Mapping[str, ColumnConfig],
        *,
        slot: str,
        model_name: str,
        model_version: int,
        data_version: str,
        pii_key: bytes | None = None,
    ) -> None:
        self._features = [name for name in feature_names(columns) if pii_key is not None or not columns[name].pii]
        self._hashed = {name for name in self._features if columns[name].pii}
        self._pii_key = pii_key or b""
        self._row_type = pa.struct([(name, ARROW_TYPES[columns[name].type]) for name in self._features])
        self._constants: dict[str, str | int] = {
            "slot": slot,
            "model_name": model_name,
            "model_version": model_version,
            "data_version": data_version,
        }
        logged = [(f.name, pa.string() if f.name in self._hashed else f.type) for f in self._row_type]
        self.schema = pa.schema(
            [*HEAD_COLUMNS, *((payload_column(name), kind) for name, kind in logged), *TAIL_COLUMNS]
        )

    def build(self, answers: Sequence[Answer]) -> pa.Table:
        """One row of the log for each row asked. Mostly one call into Arrow: Python here holds up the answers."""
        tables = [answer for answer in answers if isinstance(answer.rows, pa.Table)]
        answers = [*(answer for answer in answers if not isinstance(answer.rows, pa.Table)), *tables]
        rows = [row for answer in answers[: len(answers) - len(tables)] for row in answer.rows]
        lengths = np.fromiter((len(answer.scores) for answer in answers), dtype=np.int64, count=len(answers))
        num_rows = int(lengths.sum())
        owners = np.repeat(np.arange(len(answers)), lengths)
        firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        at_us = [answer.at_ns // 1000 for answer in answers]
        of_answers: dict[str, list[Any]] = {
            "prediction_id": [answer.prediction_id for answer in answers],
            "at": at_us,
            "started_at": [answer.started_ns // 1000 for answer in answers],
            "generation": [answer.generation for answer in answers],
            "request_id": [answer.request_id for answer in answers],
            "latency_ms": [answer.latency_ms for answer in answers],
            PARTITION: [at // DAY_US for at in at_us],
        }
        types = {field.name: field.type for field in self.schema}
        columns = {name: pa.array(values, types[name]).take(pa.array(owners)) for name, values in of_answers.items()}
        columns["row"] = pa.array(np.arange(num_rows) - firsts).cast(types["row"])
        scores = np.concatenate([np.zeros(0), *(np.asarray(answer.scores, dtype=np.float64) for answer in answers)])
        columns["score"] = pa.array(scores, types["score"])
        columns |= {name: pa.repeat(value, num_rows).cast(types[name]) for name, value in self._constants.items()}
        parts = [self._of_rows(rows), *(self._of_table(answer.rows) for answer in tables)]
        for name, arrays in zip(self._features, zip(*parts, strict=True), strict=True):
            values = pa.chunked_array(arrays, self._row_type.field(name).type)
            columns[payload_column(name)] = self._hash(values) if name in self._hashed else values
        return pa.table([columns[field.name] for field in self.schema], schema=self.schema)

    def _of_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[pa.Array]:
        try:
            arrays: list[pa.Array] = pa.array(rows, self._row_type).flatten()
        except pa.ArrowInvalid:
            # An integer that a double cannot hold exactly is legal in a request.
            arrays = [_rounded([row.get(field.name) for row in rows], field.type) for field in self._row_type]
        return arrays

    def _of_table(self, table: pa.Table) -> list[pa.Array]:
        arrays = []
        for field in self._row_type:
            if field.name not in table.column_names:
                arrays.append(pa.nulls(table.num_rows, field.type))
                continue
            values = table.column(field.name).combine_chunks()
            if pa.types.is_floating(values.type):
                values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            arrays.append(values.cast(field.type, safe=False))
        return arrays

    def _hash(self, values: pa.ChunkedArray) -> pa.Array:
        return pa.array([None if v is None else self._keyed_hash(v) for v in values.to_pylist()], pa.string())

    def _keyed_hash(self, value: Any) -> str:
        text = value if isinstance(value, str) else repr(value)
        return hashlib.blake2b(text.encode(), key=self._pii_key, digest_size=16).hexdigest()


def build_feedback(batches: Sequence[Feedback]) -> pa.Table:
    rows = [(label, batch.received_ns) for batch in batches for label in batch.labels]
    values: list[list[Any]] = [
        [label.prediction_id for label, _ in rows],
        [label.row for label, _ in rows],
        [label.label for label, _ in rows],
        [received_ns // 1000 for _, received_ns in rows],
    ]
    columns = [pa.array(column, field.type) for column, field in zip(values, FEEDBACK_SCHEMA, strict=True)]
    return pa.table(columns, schema=FEEDBACK_SCHEMA)


def read_payload(
    uri: str,
    *,
    columns: Sequence[str] | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
) -> pa.Table:
    """Logged rows, `since` <= at < `until`, ordered by time. NotFoundError if nothing was logged yet."""
    _check_exists(uri)
    wanted = None if columns is None else list(dict.fromkeys([*columns, "at"]))
    table = read_table(uri, None, wanted, since, until, "at").sort_by("at")
    return table if columns is None else table.select(list(columns))


def find_prediction(uri: str, prediction_id: str) -> pa.Table:
    """The logged rows of one prediction, in the request's order. NotFoundError if there are none.

    Ids begin with the time, so the files' own lowest and highest ids leave only those of that moment to be read.
    """
    try:
        at = datetime.fromtimestamp(timestamp_ms(prediction_id) / 1000, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise NotFoundError(
            f"{prediction_id!r} is no prediction id; the answer's header x-prediction-id holds one"
        ) from error
    _check_exists(uri)
    found = read_files(uri, column="prediction_id", value=prediction_id).sort_by("row")
    if not found.num_rows:
        raise NotFoundError(
            f"prediction {prediction_id} of {at.isoformat()} is not in the log {uri!r}; answers reach it some seconds "
            "later, those buffered in a replica that was killed never do, nor those that a sampled log leaves out"
        )
    return found


def _check_exists(uri: str) -> None:
    if newest_version(uri) is None:
        raise NotFoundError(f"no payload log at {uri!r}; it starts with the endpoint's first answer")


def read_feedback(uri: str, *, since: datetime | str | None = None, until: datetime | str | None = None) -> pa.Table:
    """Labels by the time they came, one a prediction and row: the last one sent. Empty if none came yet."""
    if newest_version(uri) is None:
        return FEEDBACK_SCHEMA.empty_table()
    table = read_table(uri, None, None, since, until, "received_at").sort_by("received_at")
    numbered = table.append_column("position", pa.array(range(table.num_rows), pa.int64()))
    last = numbered.group_by(["prediction_id", "row"]).aggregate([("position", "max")])["position_max"]
    return table.take(last.combine_chunks().sort())


def _rounded(values: list[Any], data_type: pa.DataType) -> pa.Array:
    if pa.types.is_floating(data_type):
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, type=data_type)
