"""Arrow IPC streams in and out: plain columns, checked before Arrow's reader sees them. Knows nothing of HTTP."""

import functools
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runtime.serving.codec import Explained, RequestFault

CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
_EXTENSION_KEY = b"ARROW:extension:name"
_PLAIN = frozenset(
    kind.id
    for kind in (
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.large_string(), pa.null()),
        *(pa.date32(), pa.date64(), pa.time32("s"), pa.time64("us"), pa.timestamp("us"), pa.duration("us")),
    )
)
RECORD_BATCH_TYPE = 3
_SOME_ID = "\x01" * 36
"""As long as an id, and in no other text of an answer."""
_UNTHREADED = pa.ipc.IpcReadOptions(use_threads=False)


def parse_table(body: bytes, *, max_rows: int) -> pa.Table:
    """The rows of a stream. RequestFault 400 if it does not parse, 413 above `max_rows`, 415 for what is not plain.

    Extension types are refused by the bytes that name them: reading a schema already runs their code. So are
    compressed buffers and dictionaries, which can be small here and boundless in memory.
    """
    try:
        _check_messages(body)
        # Arrow's own reader again: its functions for single messages trust what the reader checks.
        with pa.ipc.open_stream(body, options=_UNTHREADED) as reader:
            _check_types(reader.schema)
            table = reader.read_all()
        if table.num_rows > max_rows:
            message = f"the stream has {table.num_rows} rows, at most {max_rows} are taken at once"
            raise RequestFault(413, "too_large", message)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        raise RequestFault(400, "malformed", f"the body is no Arrow IPC stream: {error}") from error
    if not table.num_rows:
        raise RequestFault(422, "contract", "the stream has no rows; send at least one")
    return table


def encode_scores(
    prediction_id: str, model_version: str, scores: npt.NDArray[np.float64], explained: Explained | None = None
) -> bytes:
    """A stream of one batch: score, `attribution_<feature>` where asked for; ids are in the schema's metadata."""
    if explained is None and len(prediction_id) == len(_SOME_ID):
        before, between, after = _answer_around(model_version, len(scores))
        return b"".join((before, prediction_id.encode(), between, scores.tobytes(), after))
    columns = {"score": pa.array(scores)}
    metadata = {"prediction_id": prediction_id, "model_version": model_version}
    if explained is not None:
        metadata["baseline_score"] = repr(explained.baseline_score)
        for index, name in enumerate(explained.features):
            columns[f"attribution_{name}"] = pa.array(np.ascontiguousarray(explained.attributions[:, index]))
    return encode_table(pa.table(columns).replace_schema_metadata(metadata))


@functools.lru_cache(maxsize=256)
def _answer_around(model_version: str, num_rows: int) -> tuple[bytes, bytes, bytes]:
    """What stands before, between and after id and scores: the same in all answers of so many rows.

    Found by writing one, since most of the time that Arrow takes for an answer goes into this.
    """
    scores = np.arange(1, num_rows + 1, dtype=np.float64)
    metadata = {"prediction_id": _SOME_ID, "model_version": model_version}
    written = encode_table(pa.table({"score": scores}).replace_schema_metadata(metadata))
    before, _, rest = written.partition(_SOME_ID.encode())
    between, _, after = rest.rpartition(scores.tobytes())
    return before, between, after


def encode_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _check_types(schema: pa.Schema) -> None:
    for field in schema:
        if field.type.id not in _PLAIN:
            hint = "; cast it to its values' type" if pa.types.is_dictionary(field.type) else ""
            raise _refused(f"column {field.name!r} has type {field.type}, which is not taken{hint}", field.name)


def _check_messages(body: bytes) -> None:
    """Only a schema of no extension, then only uncompressed record batches."""
    reader = pa.ipc.MessageReader.open_stream(body)
    is_first = True
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        metadata = message.metadata.to_pybytes()
        kind, is_compressed = _read_header(metadata)
        if is_compressed:
            raise _refused("the stream's buffers are compressed; send it uncompressed")
        if is_first:
            # Types stand in the first message and, as any after it must be a batch, nowhere else.
            if _EXTENSION_KEY in metadata:
                raise _refused("Arrow extension types are not taken; send plain columns")
            is_first = False
        elif kind != RECORD_BATCH_TYPE:
            raise _refused("the stream holds dictionaries; send plain columns")


def _read_header(metadata: bytes) -> tuple[int, bool]:
    """Kind of the message and whether its body is compressed, out of the flatbuffer (Arrow's Message.fbs).

    struct.error or ValueError where the buffer is none.
    """
    root = _unsigned(metadata, 0)
    kind_at, header_at = _field(metadata, root, 1), _field(metadata, root, 2)
    kind = metadata[kind_at] if kind_at else 0
    if kind != RECORD_BATCH_TYPE or not header_at:
        return kind, False
    return kind, _field(metadata, header_at + _unsigned(metadata, header_at), 3) != 0


def _field(buffer: bytes, table: int, number: int) -> int:
    """Where a table's field stands; 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    if vtable < 0:
        raise ValueError("a table lies outside the message")
    (size,) = struct.unpack_from("<H", buffer, vtable)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", buffer, vtable + 4 + 2 * number)
    return table + int(offset) if offset else 0


def _unsigned(buffer: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", buffer, at)[0])


def _refused(message: str, field: str | None = None) -> RequestFault:
    return RequestFault(415, "content_type", message, field)
