"""The Open Inference Protocol v2 over HTTP: JSON tensors, and Triton's binary tensor extension."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson

from runtime.serving.asgi import JSON_TYPE, Header, Reply, Request, integer
from runtime.serving.codec import RequestFault, encode_json, load_json, printable, shown
from runtime.serving.explain import Explainer
from runtime.serving.oip import (
    Tensor,
    check_listed,
    check_outputs,
    check_tensor,
    describe_model,
    encode_question,
    output_array,
    read_raw,
)
from runtime.serving.scoring import Limits, Scorer

HEADER_LENGTH = b"inference-header-content-length"
CONTENT_TYPES = (b"application/json", b"application/octet-stream", b"application/vnd.triton.binary+json")
EXTENSIONS = ["binary_tensor_data"]


class OipHttp:
    def __init__(self, scorer: Scorer, explainer: Explainer, limits: Limits) -> None:
        self._scorer = scorer
        self._explainer = explainer
        self._limits = limits

    def routes(self) -> dict[str, tuple[str, Callable[[Request], Awaitable[Reply]], bool]]:
        """Path to method, handler and whether it predicts."""
        routes: dict[str, tuple[str, Callable[[Request], Awaitable[Reply]], bool]] = {
            "/v2": ("GET", self._server, False)
        }
        identity = self._scorer.identity
        model = f"/v2/models/{identity.endpoint}"
        for path in (model, f"{model}/versions/{identity.model_version}"):
            routes[path] = ("GET", self._model, False)
            routes[f"{path}/ready"] = ("GET", self._ready, False)
            routes[f"{path}/infer"] = ("POST", self._infer, True)
        return routes

    async def _server(self, _request: Request) -> Reply:
        return Reply(200, encode_json({"name": "teal", "version": version("teal-runtime"), "extensions": EXTENSIONS}))

    async def _model(self, _request: Request) -> Reply:
        return Reply(200, encode_json(describe_model(self._scorer)))

    async def _ready(self, _request: Request) -> Reply:
        identity = self._scorer.identity
        return Reply(200, encode_json({"name": identity.endpoint, "ready": True}))

    async def _infer(self, request: Request) -> Reply:
        body = await request.read_body(self._limits.max_body_bytes)
        content_type = request.headers.get(b"content-type")
        if content_type is not None and content_type.partition(b";")[0].strip().lower() not in CONTENT_TYPES:
            message = f"content-type must be application/json or application/octet-stream but got {content_type[:80]!r}"
            raise RequestFault(415, "content_type", message, "content-type")
        document, binary = _split(body, request.headers.get(HEADER_LENGTH))
        tensors = _parse_inputs(document, binary)
        parameters = _parameters(document, "the request")
        call = request.call()
        if _flag(parameters, "explain"):
            call = call._replace(is_explained=True)
        outputs = _parse_outputs(
            document, is_explained=call.is_explained, is_binary=_flag(parameters, "binary_data_output")
        )
        question = encode_question(tensors, self._scorer, max_rows=self._limits.max_rows)
        (prediction_id, scores), explained = await self._explainer.answer(question, call)
        named: dict[str, Any] = {"prediction_id": prediction_id}
        if explained is not None:
            named |= {"baseline_score": explained.baseline_score, "features": ",".join(explained.features)}
        answer: dict[str, Any] = {
            "model_name": self._scorer.identity.endpoint,
            "model_version": str(self._scorer.identity.model_version),
            "parameters": named,
            "outputs": [],
        }
        if (asked_id := document.get("id")) is not None:
            answer["id"] = printable(asked_id)
        chunks = []
        for name, is_binary in outputs:
            array = output_array(name, scores, explained)
            output: dict[str, Any] = {"name": name, "datatype": "FP64", "shape": list(array.shape)}
            if is_binary:
                chunks.append(array.tobytes())
                output["parameters"] = {"binary_data_size": array.nbytes}
            else:
                output["data"] = np.ascontiguousarray(array).ravel()
            answer["outputs"].append(output)
        encoded = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        headers: tuple[Header, ...] = ((b"x-prediction-id", prediction_id.encode()),)
        if not chunks:
            return Reply(200, encoded, (JSON_TYPE, *headers), len(scores))
        headers += ((b"content-type", b"application/octet-stream"), (HEADER_LENGTH, b"%d" % len(encoded)))
        return Reply(200, b"".join([encoded, *chunks]), headers, len(scores))


def _split(body: bytes, header_length: bytes | None) -> tuple[dict[str, Any], bytes]:
    if header_length is None:
        head, binary = body, b""
    else:
        length = integer(header_length)
        if not 0 < length <= len(body):
            shown_length = header_length[:80].decode("latin-1")
            message = f"inference-header-content-length is {shown_length!r} but the body has {len(body)} bytes"
            raise RequestFault(400, "malformed", message, "inference-header-content-length")
        head, binary = body[:length], body[length:]
    document = load_json(head)
    if type(document) is not dict:
        raise RequestFault(400, "malformed", 'the body must be an object {"inputs": [...]}')
    asked_id = document.get("id")
    if asked_id is not None and type(asked_id) is not str:
        raise RequestFault(400, "malformed", f"id must be text but got {shown(asked_id)}", "id")
    return document, binary


def _parse_inputs(document: dict[str, Any], binary: bytes) -> list[Tensor]:
    inputs = document.get("inputs")
    if type(inputs) is not list:
        raise RequestFault(400, "malformed", "the body lacks the list 'inputs'", "inputs")
    tensors = []
    at = 0
    for entry in inputs:
        if type(entry) is not dict:
            raise RequestFault(400, "malformed", f"an input must be an object but got {shown(entry)}", "inputs")
        name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
        if type(name) is not str or type(datatype) is not str or type(shape) is not list:
            raise RequestFault(400, "malformed", f"input {shown(name)} needs name, datatype and shape", "inputs")
        if any(type(size) is not int for size in shape):
            raise RequestFault(400, "malformed", f"input {name!r} must be of shape [n] but is {shown(shape)}", name)
        rows = check_tensor(name, datatype, tuple(shape))
        size = _parameters(entry, f"input {name!r}").get("binary_data_size")
        if size is None:
            data, kinds = _flat(name, entry.get("data"))
            tensor = Tensor(name, datatype, tuple(shape), data)
            check_listed(tensor, kinds)
        else:
            if type(size) is not int or not 0 <= size <= len(binary) - at:
                message = f"input {name!r} has binary_data_size {shown(size)} but {len(binary) - at} bytes are left"
                raise RequestFault(400, "malformed", message, name)
            tensor = Tensor(name, datatype, tuple(shape), read_raw(name, datatype, rows, binary[at : at + size]))
            at += size
        tensors.append(tensor)
    if at != len(binary):
        raise RequestFault(400, "malformed", f"{len(binary) - at} bytes follow the last binary input", "inputs")
    return tensors


def _flat(name: str, data: Any) -> tuple[list[Any], set[type]]:
    """The values of `[a, b]` and of `[[a], [b]]`, and of which types they are."""
    if type(data) is not list:
        raise RequestFault(400, "malformed", f"input {name!r} lacks the list 'data'", name)
    kinds = set(map(type, data))
    if list not in kinds:
        return data, kinds
    if kinds != {list} or set(map(len, data)) != {1}:
        raise RequestFault(400, "malformed", f"the data of input {name!r} must be [n] values or [n] lists of one", name)
    values = [value[0] for value in data]
    return values, set(map(type, values))


def _parse_outputs(document: dict[str, Any], *, is_explained: bool, is_binary: bool) -> list[tuple[str, bool]]:
    """Name of each output to answer with, and whether it goes out as bytes."""
    outputs = document.get("outputs")
    if outputs is None:
        outputs = []
    if type(outputs) is not list or any(type(o) is not dict or type(o.get("name")) is not str for o in outputs):
        raise RequestFault(400, "malformed", "'outputs' must be a list of objects that have a name", "outputs")
    asked = {
        o["name"]: _flag(_parameters(o, f"output {o['name']!r}"), "binary_data", default=is_binary) for o in outputs
    }
    names = check_outputs(list(asked), is_explained=is_explained)
    return [(name, asked.get(name, is_binary)) for name in names]


def _parameters(entry: dict[str, Any], of_what: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise RequestFault(400, "malformed", f"the parameters of {of_what} must be an object", "parameters")
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise RequestFault(400, "malformed", f"parameter {name!r} must be true or false but got {shown(value)}", name)
    return value
