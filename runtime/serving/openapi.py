"""What one endpoint takes and answers as an OpenAPI 3.1 document, its columns out of the contract."""

from collections.abc import Mapping
from typing import Any

from runtime.config.schema import ColumnConfig
from runtime.data.contract import feature_names
from runtime.data.rows import bounds_of
from runtime.serving.explain import MAX_ROWS
from runtime.serving.scoring import Limits, SlotIdentity

Schema = dict[str, Any]

UUID7 = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
FAULTS = {
    "400": "The body cannot be read.",
    "401": "No bearer token, or an unknown one.",
    "403": "The token does not allow it, or the request did not come through the edge.",
    "404": "No such endpoint or path.",
    "408": "The request's deadline passed before it was computed.",
    "413": "Too many bytes or rows.",
    "415": "The content type is not taken.",
    "422": "A value breaks the contract; `field` names the column.",
    "429": "Too much waits, or too many requests of one caller; see Retry-After.",
    "503": "No replica can answer.",
}


def build_openapi(identity: SlotIdentity, columns: Mapping[str, ColumnConfig], limits: Limits) -> Schema:
    model = f"/v1/models/{identity.endpoint}"
    tensors = f"/v2/models/{identity.endpoint}"
    return {
        "openapi": "3.1.0",
        "info": {"title": f"teal endpoint {identity.endpoint}", "version": identity.model_label},
        "security": [{}, {"token": []}],
        "paths": {
            f"{model}:predict": {"post": _predict(limits)},
            f"{model}:feedback": {"post": _feedback()},
            model: {"get": _get("describe", "The model behind the endpoint and its contract.")},
            "/v2": {"get": _get("serverMetadata", "Open Inference Protocol: the server.")},
            "/v2/health/live": {"get": _get("serverLive", "Open Inference Protocol: is it alive.")},
            "/v2/health/ready": {"get": _get("serverReady", "Open Inference Protocol: can it answer.")},
            tensors: {"get": _get("modelMetadata", "Open Inference Protocol: the model's tensors.")},
            f"{tensors}/ready": {"get": _get("modelReady", "Open Inference Protocol: can the model answer.")},
            f"{tensors}/infer": {"post": _infer()},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Row": _row(columns),
                "Prediction": _prediction(),
                "Error": _error(),
                "InferError": _infer_error(),
            },
        },
    }


def _predict(limits: Limits) -> Schema:
    rows = {"type": "array", "items": _ref("Row"), "minItems": 1, "maxItems": limits.max_rows}
    prediction = {
        "type": "object",
        "required": ["prediction_id", "model_version", "predictions"],
        "properties": {
            "prediction_id": {"type": "string", "pattern": UUID7},
            "model_version": {"type": "string"},
            "predictions": {"type": "array", "items": _ref("Prediction")},
            "baseline_score": {"type": "number", "description": "Where explained: the score of the baseline row."},
        },
    }
    arrow = {"application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}}}
    operation = _post("predict", _closed_object({"instances": rows}), prediction)
    operation["requestBody"]["content"] |= arrow
    operation["responses"]["200"]["content"] |= arrow
    operation["parameters"] = [
        _header("x-routing-key", {"type": "string"}, "Requests with one key go to one slot."),
        _header("x-request-id", {"type": "string"}, "Comes back, and stands in the payload log."),
        _header("x-timeout-ms", {"type": "integer", "minimum": 1}, "After that long nobody waits for the answer."),
        {
            "name": "explain",
            "in": "query",
            "schema": {"type": "boolean"},
            "description": f"What each feature added to the score, for at most {MAX_ROWS} rows.",
        },
    ]
    return operation


def _feedback() -> Schema:
    label = _closed_object(
        {
            "prediction_id": {"type": "string", "pattern": UUID7},
            "row": {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1},
            "label": {"type": "integer", "enum": [0, 1]},
        },
        optional=("row",),
    )
    accepted = {"type": "object", "required": ["accepted"], "properties": {"accepted": {"type": "integer"}}}
    return _post("feedback", _closed_object({"labels": {"type": "array", "items": label, "minItems": 1}}), accepted)


def _infer() -> Schema:
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    }
    tensors = {"type": "array", "items": tensor}
    question = {"type": "object", "required": ["inputs"], "properties": {"id": {"type": "string"}, "inputs": tensors}}
    answer = {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": tensors,
        },
    }
    operation = _post("modelInfer", question, answer)
    operation["responses"]["default"] = _json("An error of the Open Inference Protocol.", _ref("InferError"))
    return {
        **operation,
        "responses": {code: r for code, r in operation["responses"].items() if code in ("200", "default")},
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


def _prediction() -> Schema:
    return {
        "type": "object",
        "required": ["score"],
        "properties": {
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "attributions": {"type": "object", "additionalProperties": {"type": "number"}},
        },
    }


def _error() -> Schema:
    text = {"type": "string"}
    fault = {
        "type": "object",
        "required": ["code", "message", "field"],
        "properties": {"code": text, "message": text, "field": {"type": ["string", "null"]}},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": fault}}


def _infer_error() -> Schema:
    return {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def _post(name: str, question: Schema, answer: Schema) -> Schema:
    return {
        "operationId": name,
        "requestBody": {"required": True, "content": {"application/json": {"schema": question}}},
        "responses": {"200": _json("The answer.", answer)}
        | {code: _json(words, _ref("Error")) for code, words in FAULTS.items()},
    }


def _get(name: str, words: str) -> Schema:
    return {"operationId": name, "summary": words, "responses": {"200": _json(words, {"type": "object"})}}


def _json(words: str, schema: Schema) -> Schema:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _closed_object(properties: Schema, *, optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _header(name: str, schema: Schema, words: str) -> Schema:
    return {"name": name, "in": "header", "schema": schema, "description": words}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
