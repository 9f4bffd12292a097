"""The log of what was asked and answered, and of the labels that came back: its tables, and how they are read."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

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
PART_ANSWERS = 128
"""Answers whose rows share dictionaries: a writer looks at the whole dictionary for each table that was asked."""
FEW_ROWS = 256
"""Tables that hold fewer on average are put together before they are written."""
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
        self._nullable = {name for name in self._features if columns[name].nullable}
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
        """One row of the log for each row asked: `schema`, with what an answer's rows share as dictionaries.

        Mostly few calls into Arrow for many answers, since Python here holds up those to come.
        """
        tables = [answer for answer in answers if isinstance(answer.rows, pa.Table)]
        listed = [answer for answer in answers if not isinstance(answer.rows, pa.Table)]
        rows = [row for answer in listed for row in answer.rows]
        parts = [self._build_part(listed, self._of_rows(rows))]
        for start in range(0, len(tables), PART_ANSWERS):
            part = tables[start : start + PART_ANSWERS]
            parts.append(self._build_part(part, self._of_tables([answer.rows for answer in part])))
        return pa.concat_tables([part for part in parts if part.num_rows] or parts[:1])

    def _build_part(self, answers: Sequence[Answer], features: Sequence[pa.ChunkedArray]) -> pa.Table:
        lengths = np.fromiter((len(answer.scores) for answer in answers), dtype=np.int64, count=len(answers))
        num_rows = int(lengths.sum())
        owners = np.repeat(np.arange(len(answers), dtype=np.int32), lengths)
        owner_places, no_places = pa.array(owners), pa.array(np.zeros(num_rows, dtype=np.int32))
        firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        of_answers: dict[str, list[Any]] = {
            "prediction_id": [answer.prediction_id for answer in answers],
            "at": [answer.at_ns // 1000 for answer in answers],
            "started_at": [answer.started_ns // 1000 for answer in answers],
            "generation": [answer.generation for answer in answers],
            "request_id": [answer.request_id for answer in answers],
            "latency_ms": [answer.latency_ms for answer in answers],
        }
        types = {field.name: field.type for field in self.schema}
        columns = {
            name: pa.DictionaryArray.from_arrays(owner_places, pa.array(values, types[name]))
            for name, values in of_answers.items()
        }
        for name, value in self._constants.items():
            columns[name] = pa.DictionaryArray.from_arrays(no_places, pa.array([value], types[name]))
        days = np.array(of_answers["at"], dtype=np.int64) // DAY_US
        columns[PARTITION] = pa.array(days[owners].astype(np.int32), types[PARTITION])
        columns["row"] = pa.array((np.arange(num_rows) - firsts).astype(np.int32), types["row"])
        columns["score"] = pa.array(np.concatenate([np.zeros(0), *(answer.scores for answer in answers)]))
        for field, values in zip(self._row_type, features, strict=True):
            columns[payload_column(field.name)] = self._hash(values) if field.name in self._hashed else values
        return pa.table({field.name: columns[field.name] for field in self.schema})

    def _of_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[pa.ChunkedArray]:
        try:
            arrays: list[pa.Array] = pa.array(rows, self._row_type).flatten()
        except pa.ArrowInvalid:
            # An integer that a double cannot hold exactly is legal in a request.
            arrays = [_rounded([row.get(field.name) for row in rows], field.type) for field in self._row_type]
        return [pa.chunked_array([array]) for array in arrays]

    def _of_tables(self, tables: Sequence[pa.Table]) -> list[pa.ChunkedArray]:
        """The features of tables as they were asked: columns in any order and of any type that the contract takes."""
        alike: list[list[pa.Table]] = []
        for table in tables:
            if alike and alike[-1][0].schema.equals(table.schema):
                alike[-1].append(table)
            else:
                alike.append([table])
        chunks: list[list[pa.Array]] = [[] for _ in self._row_type]
        for group in alike:
            together = pa.concat_tables(group)
            if together.num_rows < FEW_ROWS * len(group):
                together = together.combine_chunks()
            for field, of_feature in zip(self._row_type, chunks, strict=True):
                of_feature.extend(self._of_table(together, field).chunks)
        return [
            pa.chunked_array(of_feature, field.type) for field, of_feature in zip(self._row_type, chunks, strict=True)
        ]

    def _of_table(self, table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
        if field.name not in table.column_names:
            return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        values = table.column(field.name)
        if field.name in self._nullable and pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        return values if values.type == field.type else values.cast(field.type, safe=False)

    def _hash(self, values: pa.ChunkedArray) -> pa.DictionaryArray:
        """Each different value once: there are few among many rows."""
        encoded = values.combine_chunks().dictionary_encode()
        hashes = [None if v is None else self._keyed_hash(v) for v in encoded.dictionary.to_pylist()]
        return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(hashes, pa.string()))

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
    # Not newest_version: to open a log of thousands of files is a third of a look-up.
    if not DeltaTable.is_deltatable(uri):
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
