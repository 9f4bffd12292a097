"""Whether an answered request was valid after all, and its scores right: read again by other code than the replica's.

JSON by Python's own parser, tensors by plain loops, Arrow by its reader; rows checked by the contract's row encoder,
scores by the model alone.
"""

import json
import struct
from typing import Any

import numpy as np
import pyarrow as pa

from runtime.data.contract import feature_names
from runtime.data.rows import RowError
from runtime.models.bundle import Bundle
from runtime.models.predictor import Predictor
from runtime.serving.oip import NUMPY_TYPES
from runtime.serving.oip_proto import inference_pb2 as messages
from tests.malformed_http import ARROW, Ask

Rows = list[dict[str, Any]]
NOT_VALID = (ValueError, KeyError, TypeError, AttributeError, LookupError, struct.error, pa.ArrowException, RowError)


class Oracle:
    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._predictor = Predictor(bundle.model)

    def explain_http(self, ask: Ask, answer: bytes, headers: dict[str, str]) -> str | None:
        """Why the 200 is wrong, None if the request was valid and the answer is what the model says."""
        try:
            if ask.path.endswith(":feedback"):
                labels = _load(ask.body)["labels"]
                return None if json.loads(answer)["accepted"] == len(labels) else "labels are missing"
            rows = self._rows_of(ask)
            found = _scores_of(answer, headers)
        except NOT_VALID as error:
            return f"not valid by the oracle: {error!r}"
        return self._compare(rows, found)

    def explain_grpc(self, message: bytes, answer: bytes) -> str | None:
        try:
            asked = messages.ModelInferRequest.FromString(message)
            rows = _rows_of_message(asked)
            found = messages.ModelInferResponse.FromString(answer)
            output = next(output for output in found.outputs if output.name == "score")
            scores = list(output.contents.fp64_contents)
            if found.raw_output_contents:
                place = list(found.outputs).index(output)
                scores = np.frombuffer(found.raw_output_contents[place], "<f8").tolist()
        except (*NOT_VALID, StopIteration) as error:
            return f"not valid by the oracle: {error!r}"
        return self._compare(rows, scores)

    def _compare(self, rows: Rows, found: list[float]) -> str | None:
        try:
            expected = self.scores(rows)
        except NOT_VALID as error:
            return f"breaks the contract by the oracle: {error}"
        return None if expected == found else f"scores are {found[:4]} but should be {expected[:4]}"

    def scores(self, rows: Rows) -> list[float]:
        """RowError where one breaks the contract."""
        encoded = self._bundle.encoding.encode_rows(rows, self._bundle.columns)
        scores = self._predictor.predict(encoded.numeric, encoded.categorical)
        if not np.isfinite(scores).all():
            again = self._predictor.predict(self._predictor.within_bounds(encoded.numeric), encoded.categorical)
            scores = np.where(np.isfinite(scores), scores, again)
        listed: list[float] = scores.tolist()
        return listed

    def _rows_of(self, ask: Ask) -> Rows:
        content_type = (ask.headers or {}).get("content-type", "")
        if content_type.startswith(ARROW):
            table = pa.ipc.open_stream(ask.body).read_all()
            table.validate(full=True)
            return self._plain(table.to_pylist())
        length = (ask.headers or {}).get("inference-header-content-length")
        head = ask.body if length is None else ask.body[: int(length)]
        document = _load(head)
        if "/v2/" in ask.path:
            return self._plain(_rows_of_tensors(document["inputs"], ask.body[len(head) :]))
        rows: Rows = document["instances"]
        return rows

    def _plain(self, rows: Rows) -> Rows:
        """As JSON rows would be: missing is None where it may be, booleans are numbers."""
        nullable = {name for name in feature_names(self._bundle.columns) if self._bundle.columns[name].nullable}
        return [
            {name: None if name in nullable and value != value else value for name, value in row.items()}
            for row in rows
        ]


def _load(body: bytes) -> Any:
    """RFC 8259 and nothing else."""

    def refuse(token: str) -> Any:
        raise ValueError(f"{token} is no JSON")

    return json.loads(body.decode(), parse_constant=refuse)


def _rows_of_tensors(inputs: list[dict[str, Any]], binary: bytes) -> Rows:
    columns: dict[str, list[Any]] = {}
    for tensor in inputs:
        size = (tensor.get("parameters") or {}).get("binary_data_size")
        shape = tensor["shape"]
        if size is None:
            values = [value[0] if isinstance(value, list) else value for value in tensor["data"]]
        else:
            values, binary = _unpacked(tensor["datatype"], binary[:size]), binary[size:]
        if len(values) != shape[0] or tensor["name"] in columns:
            raise ValueError("a tensor does not fit")
        columns[tensor["name"]] = [int(v) if isinstance(v, bool) else v for v in values]
    if binary:
        raise ValueError("bytes are left")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows_of_message(message: Any) -> Rows:
    columns: dict[str, list[Any]] = {}
    raws = list(message.raw_input_contents)
    for place, tensor in enumerate(message.inputs):
        if raws:
            values = _unpacked(tensor.datatype, raws[place])
        else:
            (listed,) = [list(found) for _, found in tensor.contents.ListFields()]
            values = [value.decode() if isinstance(value, bytes) else value for value in listed]
        if len(values) != tensor.shape[0] or tensor.name in columns:
            raise ValueError("a tensor does not fit")
        columns[tensor.name] = [int(v) if isinstance(v, bool) else v for v in values]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [{n: None if n == "hour" and v != v else v for n, v in row.items()} for row in rows]


def _unpacked(datatype: str, content: bytes) -> list[Any]:
    if datatype != "BYTES":
        values: list[Any] = np.frombuffer(content, NUMPY_TYPES[datatype]).tolist()
        return values
    texts, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        text = content[at + 4 : at + 4 + length]
        if len(text) != length:
            raise ValueError("a text is cut")
        texts.append(text.decode())
        at += 4 + length
    return texts


def _scores_of(answer: bytes, headers: dict[str, str]) -> list[float]:
    if headers["content-type"] == ARROW:
        found: list[float] = pa.ipc.open_stream(answer).read_all()["score"].to_pylist()
        return found
    length = headers.get("inference-header-content-length")
    document = json.loads(answer if length is None else answer[: int(length)])
    if "predictions" in document:
        return [prediction["score"] for prediction in document["predictions"]]
    output = next(output for output in document["outputs"] if output["name"] == "score")
    if length is None:
        return [float(score) for score in output["data"]]
    if len(document["outputs"]) > 1:
        raise ValueError("more outputs than the oracle reads")
    packed: list[float] = np.frombuffer(answer[int(length) :], "<f8").tolist()
    return packed
