"""What one endpoint takes and answers as an OpenAPI 3.1 document, its columns out of the contract.

It says what callers of an edge see: statuses, errors and headers of the edge as well as those of a replica.
"""

from collections.abc import Mapping
from typing import Any

from runtime.config.schema import ColumnConfig
from runtime.core.ids import UUID7_PATTERN
from runtime.data.contract import feature_names
from runtime.data.rows import bounds_of
from runtime.serving.explain import MAX_ROWS
from runtime.serving.oip import ATTRIBUTIONS, DATATYPES, SCORE, datatype_of
from runtime.serving.openapi_answers import (
    BEFORE_A_REPLICA,
    CALLING,
    EDGE_HEADERS,
    PREDICTION_HEADERS,
    READING,
    SLOT_HEADERS,
    Schema,
    answered,
    asking_headers,
    error_schemas,
    faults,
    header_components,
    ref,
    response_components,
)
from runtime.serving.scoring import Limits, SlotIdentity

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
BINARY = "application/octet-stream"
ANY_BYTES: Schema = {"type": "string", "format": "binary"}
SOME_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def build_openapi(identity: SlotIdentity, columns: Mapping[str, ColumnConfig], limits: Limits) -> Schema:
    model = f"/v1/models/{identity.endpoint}"
    tensors = f"/v2/models/{identity.endpoint}"
    version: Schema = {
        "name": "version",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
    version["example"] = str(identity.model_version)
    paths: Schema = {
        f"{model}:predict": {"post": _predict(columns, limits)},
        f"{model}:feedback": {"post": _feedback(limits)},
        model: {"get": _read("describe", "The model behind the endpoint and its contract.", _description())},
        "/v1/models": {"get": _ask_edge("listModels", "The endpoints of this edge.", _catalog())},
        "/v1/openapi.json": {"get": _read("openapi", "This document.", {"type": "object", "required": ["openapi"]})},
        "/v2": {"get": _ask_edge("serverMetadata", "Open Inference Protocol: the server.", _server(), is_oip=True)},
        "/v2/health/live": {"get": _health("serverLive", "Open Inference Protocol: does the edge run.", "live")},
        "/v2/health/ready": {"get": _health("serverReady", "Open Inference Protocol: can it answer.", "ready")},
    }
    for path, suffix, parameters in ((tensors, "", []), (f"{tensors}/versions/{{version}}", "Version", [version])):
        of_version = {"parameters": parameters} if parameters else {}
        metadata = _read(f"modelMetadata{suffix}", "Open Inference Protocol: the tensors.", _model(), is_oip=True)
        ready = _read(f"modelReady{suffix}", "Open Inference Protocol: can it answer.", _model_ready(), is_oip=True)
        paths[path] = of_version | {"get": metadata}
        paths[f"{path}/ready"] = of_version | {"get": ready}
        paths[f"{path}/infer"] = of_version | {"post": _infer(f"modelInfer{suffix}", columns)}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"teal endpoint {identity.endpoint}", "version": identity.model_label},
        # Whether a token must be sent is each edge's setting.
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "headers": header_components(),
            "responses": response_components(),
            "schemas": {"Row": _row(columns), "Prediction": _prediction(), **error_schemas()},
        },
    }


def _predict(columns: Mapping[str, ColumnConfig], limits: Limits) -> Schema:
    rows = {"type": "array", "items": ref("schemas", "Row"), "minItems": 1, "maxItems": limits.max_rows}
    prediction = _object(
        {
            "prediction_id": {"type": "string", "pattern": UUID7_PATTERN},
            "model_version": _text(),
            "predictions": {"type": "array", "items": ref("schemas", "Prediction"), "minItems": 1},
            "baseline_score": {"type": "number", "description": "Where explained: the score of the baseline row."},
        },
        optional=("baseline_score",),
    )
    question = _object({"instances": rows}, is_closed=True)
    return {
        "operationId": "predict",
        "parameters": [*asking_headers(), _explain()],
        "requestBody": _body(question, {"instances": [_example_row(columns)]}, ARROW),
        "responses": {"200": answered("The scores.", {JSON: prediction, ARROW: ANY_BYTES}, PREDICTION_HEADERS)}
        | faults(CALLING, is_oip=False),
    }


def _feedback(limits: Limits) -> Schema:
    label = _object(
        {
            "prediction_id": {"type": "string", "pattern": UUID7_PATTERN},
            "row": {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1},
            "label": {"type": "integer", "enum": [0, 1]},
        },
        optional=("row",),
        is_closed=True,
    )
    labels = {"type": "array", "items": label, "minItems": 1, "maxItems": limits.max_rows}
    accepted = _object({"accepted": {"type": "integer", "minimum": 1}})
    return {
        "operationId": "feedback",
        "requestBody": _body(
            _object({"labels": labels}, is_closed=True),
            {"labels": [{"prediction_id": SOME_ID, "row": 0, "label": 1}]},
        ),
        "responses": {"200": answered("They are taken.", {JSON: accepted}, SLOT_HEADERS)}
        | faults(CALLING, is_oip=False),
    }


def _infer(name: str, columns: Mapping[str, ColumnConfig]) -> Schema:
    flag = {"type": "boolean"}
    row = _example_row(columns)
    given = _object(
        {
            "name": {"enum": [column for column, declared in columns.items() if declared.role != "label"]},
            "datatype": {"enum": list(DATATYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 2},
            "data": {"type": "array", "description": "[n] values or [n] lists of one."},
            "parameters": _parameters({"binary_data_size": {"type": "integer", "minimum": 0}}),
        },
        optional=("data", "parameters"),
    )
    wanted = _object(
        {"name": {"enum": [SCORE, ATTRIBUTIONS]}, "parameters": _parameters({"binary_data": flag})},
        optional=("parameters",),
    )
    question = _object(
        {
            "id": {"type": ["string", "null"]},
            "inputs": {"type": "array", "items": given, "minItems": 1},
            "outputs": {"type": ["array", "null"], "items": wanted},
            "parameters": _parameters({"explain": flag, "binary_data_output": flag}),
        },
        optional=("id", "outputs", "parameters"),
    )
    shape = {"type": "array", "items": {"type": "integer"}}
    tensor = _object(
        {
            "name": _text(),
            "datatype": {"enum": ["FP64"]},
            "shape": shape,
            "data": {"type": "array", "items": {"type": "number"}},
            "parameters": {"type": "object"},
        },
        optional=("data", "parameters"),
    )
    answer = _object(
        {
            "id": _text(),
            "model_name": _text(),
            "model_version": _text(),
            "parameters": _object({"prediction_id": {"type": "string", "pattern": UUID7_PATTERN}}),
            "outputs": {"type": "array", "items": tensor, "minItems": 1},
        },
        optional=("id",),
    )
    example = {
        "inputs": [
            {"name": column, "datatype": datatype_of(columns[column]), "shape": [1], "data": [value]}
            for column, value in row.items()
        ]
    }
    length = {
        "name": "inference-header-content-length",
        "in": "header",
        "schema": {"type": "integer", "minimum": 1},
        "description": "Bytes of JSON, behind which binary tensors stand.",
    }
    return {
        "operationId": name,
        "parameters": [*asking_headers(), _explain(), length],
        "requestBody": _body(question, example, BINARY),
        "responses": {"200": answered("The scores.", {JSON: answer, BINARY: ANY_BYTES}, PREDICTION_HEADERS)}
        | faults(CALLING, is_oip=True),
    }


def _row(columns: Mapping[str, ColumnConfig]) -> Schema:
    features = feature_names(columns)
    declared: Schema = {name: {} for name, column in columns.items() if column.role not in ("feature", "label")}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in features if not columns[name].nullable],
        "properties": {name: _value(columns[name]) for name in features} | declared,
    }


def _value(column: ColumnConfig) -> Schema:
    schema: Schema = {"type": "string"}
    if column.type == "category":
        if column.allowed is not None:
            schema["enum"] = [*column.allowed, *([None] if column.nullable else [])]
    else:
        low, high = bounds_of(column)
        schema = {"type": "number" if column.type == "number" else "integer", "minimum": low, "maximum": high}
    if column.nullable:
        schema["type"] = [schema["type"], "null"]
    if column.pii:
        schema["x-pii"] = True
    return schema


def _example_row(columns: Mapping[str, ColumnConfig]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in feature_names(columns):
        column = columns[name]
        if column.type == "category":
            row[name] = column.allowed[0] if column.allowed else "some"
            continue
        low, high = bounds_of(column)
        value = min(max(0, low), high)
        row[name] = value if column.type == "number" else int(value)
    return row


def _prediction() -> Schema:
    score = {"type": "number", "minimum": 0, "maximum": 1}
    attributions = {"type": "object", "additionalProperties": {"type": "number"}}
    return _object({"score": score, "attributions": attributions}, optional=("attributions",))


def _description() -> Schema:
    properties = {name: _text() for name in ("endpoint", "slot", "model_version", "data_version")}
    return _object(properties | {"columns": {"type": "object"}})


def _catalog() -> Schema:
    return _object({"models": {"type": "array", "items": _object({"name": _text()})}})


def _server() -> Schema:
    return _object({"name": _text(), "version": _text(), "extensions": {"type": "array", "items": _text()}})


def _model() -> Schema:
    tensor = _object({"name": _text(), "datatype": _text(), "shape": {"type": "array", "items": {"type": "integer"}}})
    tensors = {"type": "array", "items": tensor, "minItems": 1}
    versions = {"type": "array", "items": _text()}
    return _object({"name": _text(), "versions": versions, "platform": _text(), "inputs": tensors, "outputs": tensors})


def _model_ready() -> Schema:
    return _object({"name": _text(), "ready": {"type": "boolean"}})


def _read(name: str, words: str, answer: Schema, *, is_oip: bool = False) -> Schema:
    """A GET that a replica answers."""
    return _get(name, words, answered(words, {JSON: answer}, SLOT_HEADERS), faults(READING, is_oip=is_oip))


def _ask_edge(name: str, words: str, answer: Schema, *, is_oip: bool = False) -> Schema:
    return _get(name, words, answered(words, {JSON: answer}, EDGE_HEADERS), faults(BEFORE_A_REPLICA, is_oip=is_oip))


def _health(name: str, words: str, member: str) -> Schema:
    """Asked without a token."""
    state = _object({member: {"type": "boolean"}, "endpoint": _text()}, optional=("endpoint",))
    responses = faults((414, 431), is_oip=True)
    if member == "ready":
        responses["503"] = answered("An endpoint has no replica that can answer.", {JSON: state}, EDGE_HEADERS)
    return _get(name, words, answered(words, {JSON: state}, EDGE_HEADERS), responses) | {"security": []}


def _get(name: str, words: str, answer: Schema, others: Schema) -> Schema:
    return {"operationId": name, "summary": words, "responses": {"200": answer} | others}


def _body(question: Schema, example: Any, *others: str) -> Schema:
    """JSON, or bytes of these other media types."""
    content: Schema = {JSON: {"schema": question, "example": example}}
    return {"required": True, "content": content | {media_type: {"schema": ANY_BYTES} for media_type in others}}


def _explain() -> Schema:
    words = f"What each feature added to the score, for at most {MAX_ROWS} rows."
    return {"name": "explain", "in": "query", "schema": {"type": "boolean"}, "description": words}


def _object(properties: Schema, *, optional: tuple[str, ...] = (), is_closed: bool = False) -> Schema:
    required = [name for name in properties if name not in optional]
    closed = {"additionalProperties": False} if is_closed else {}
    return {"type": "object", **closed, "required": required, "properties": properties}


def _parameters(properties: Schema) -> Schema:
    return {"type": ["object", "null"], "properties": properties}


def _text() -> Schema:
    return {"type": "string"}
