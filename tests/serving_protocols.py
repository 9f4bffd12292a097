"""One question in every protocol's words, and the scores out of every protocol's answer."""

import struct
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from runtime.config.schema import ColumnConfig
from runtime.data.contract import ARROW_TYPES, feature_names

Rows = list[dict[str, Any]]


def row_json(rows: Rows) -> bytes:
    return orjson.dumps({"instances": rows})


def as_table(rows: Rows, columns: dict[str, ColumnConfig]) -> pa.Table:
    names = feature_names(columns)
    schema = pa.schema([(name, ARROW_TYPES[columns[name].type]) for name in names])
    return pa.Table.from_pylist(rows, schema=schema)


def arrow_stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def arrow_scores(body: bytes) -> list[float]:
    scores: list[float] = pa.ipc.open_stream(body).read_all()["score"].to_pylist()
    return scores


def oip_json(rows: Rows, columns: dict[str, ColumnConfig]) -> bytes:
    inputs = [
        {
            "name": name,
            "datatype": "BYTES" if columns[name].type == "category" else "FP64",
            "shape": [len(rows)],
            "data": [row[name] for row in rows],
        }
        for name in feature_names(columns)
    ]
    return orjson.dumps({"inputs": inputs})


def raw_tensor(rows: Rows, name: str, column: ColumnConfig) -> bytes:
    if column.type == "category":
        return b"".join(struct.pack("<I", len(t)) + t for t in (row[name].encode() for row in rows))
    return np.array([row[name] for row in rows], dtype="<f8").tobytes()


def oip_binary(rows: Rows, columns: dict[str, ColumnConfig]) -> tuple[bytes, dict[str, str]]:
    """The body, and the header that says where its JSON ends."""
    inputs, contents = [], []
    for name in feature_names(columns):
        content = raw_tensor(rows, name, columns[name])
        contents.append(content)
        datatype = "BYTES" if columns[name].type == "category" else "FP64"
        parameters = {"binary_data_size": len(content)}
        inputs.append({"name": name, "datatype": datatype, "shape": [len(rows), 1], "parameters": parameters})
    head = orjson.dumps({"id": "q", "parameters": {"binary_data_output": True}, "inputs": inputs})
    return head + b"".join(contents), {"inference_header_content_length": str(len(head))}


def oip_binary_scores(body: bytes, headers: dict[str, str]) -> list[float]:
    length = int(headers["inference-header-content-length"])
    (output,) = orjson.loads(body[:length])["outputs"]
    assert output["parameters"]["binary_data_size"] == len(body) - length
    scores: list[float] = np.frombuffer(body[length:], dtype="<f8").tolist()
    return scores
