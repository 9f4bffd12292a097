"""Parts of the OpenAPI document: what an endpoint can answer besides what was asked for, by status and by header."""

from typing import Any

from runtime.core.ids import UUID7_PATTERN
from runtime.serving.asgi import MAX_TIMEOUT_MS

Schema = dict[str, Any]

FAULTS = {
    400: "It cannot be read.",
    401: "No bearer token where one is asked for, or an unknown one.",
    403: "The token does not allow it.",
    404: "No such endpoint, slot or version.",
    408: "The request's deadline passed before it was computed, or it did not arrive in time.",
    413: "Too many bytes or rows.",
    414: "The URL is too long.",
    415: "The content type or encoding is not taken.",
    422: "A value breaks the contract; `field` names the column.",
    429: "Too much waits, or too many requests of one caller.",
    431: "The headers are too many or too long.",
    500: "The model or the replica failed.",
    502: "No replica gave a valid answer.",
    503: "No replica can answer.",
    504: "No replica answered in time.",
}
BEFORE_A_REPLICA = (401, 414, 429, 431)
"""What the edge itself may answer where no endpoint is asked."""
READING = (400, 401, 403, 404, 408, 414, 429, 431, 500, 502, 503, 504)
CALLING = tuple(FAULTS)
FAULT_HEADERS = {401: {"www-authenticate": "WwwAuthenticate"}, 429: {"retry-after": "RetryAfter"}}
FAULT_HEADERS[503] = FAULT_HEADERS[429]

EDGE_HEADERS = {"x-request-id": "RequestId", "traceparent": "Traceparent"}
SLOT_HEADERS = EDGE_HEADERS | {
    "x-slot": "Slot",
    "x-generation": "Generation",
    "x-model-version": "ModelVersion",
    "x-data-version": "DataVersion",
}
PREDICTION_HEADERS = SLOT_HEADERS | {"x-prediction-id": "PredictionId"}


def header_components() -> Schema:
    return {
        "RequestId": _answered("The request's name, in logs too.", pattern="^[A-Za-z0-9._:-]{1,128}$"),
        "Traceparent": _answered("W3C trace context.", pattern="^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"),
        "Slot": _answered("Which slot answered.", enum=["blue", "green"]),
        "Generation": _answered("By which state of the endpoint the slot was chosen.", pattern="^[0-9]+$"),
        "ModelVersion": _answered("NAME:VERSION of the model."),
        "DataVersion": _answered("TABLE@VERSION that the model was trained on."),
        "PredictionId": _answered("For feedback, and for `teal trace`.", pattern=UUID7_PATTERN),
        "RetryAfter": _answered("Seconds.", is_required=False, pattern="^[0-9]+$"),
        "WwwAuthenticate": _answered("Bearer."),
    }


def response_components() -> Schema:
    """One response a status and form of error: an object under /v1, text under /v2."""
    return {
        _fault_name(status, form): answered(
            words, {"application/json": ref("schemas", form)}, EDGE_HEADERS | FAULT_HEADERS.get(status, {})
        )
        for status, words in FAULTS.items()
        for form in ("Error", "InferError")
    }


def faults(statuses: tuple[int, ...], *, is_oip: bool) -> Schema:
    form = "InferError" if is_oip else "Error"
    return {str(status): ref("responses", _fault_name(status, form)) for status in statuses}


def answered(words: str, content: Schema, headers: dict[str, str]) -> Schema:
    """A response. `content`: media type to schema; `headers`: name to that of its component."""
    return {
        "description": words,
        "headers": {name: ref("headers", component) for name, component in headers.items()},
        "content": {media_type: {"schema": schema} for media_type, schema in content.items()},
    }


def asking_headers() -> list[Schema]:
    """Parameters of every request that a replica computes something for."""
    text = {"type": "string"}
    timeout = {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS}
    return [
        _asked("x-routing-key", text, "Requests with one key go to one slot."),
        _asked("x-request-id", text, "Comes back, and stands in the payload log; of another form it is replaced."),
        _asked("traceparent", text, "W3C trace context; what is malformed is replaced."),
        _asked("x-timeout-ms", timeout, "After that long nobody waits for the answer."),
        _asked("x-slot", text, "blue or green, for those who may choose; ignored from others."),
    ]


def error_schemas() -> Schema:
    text = {"type": "string"}
    field = {"type": ["string", "null"], "description": "What is at fault: a column, a member, a header."}
    fault = {
        "type": "object",
        "required": ["code", "message", "field"],
        "properties": {"code": text, "message": text, "field": field},
    }
    return {
        "Error": {"type": "object", "required": ["error"], "properties": {"error": fault}},
        "InferError": {
            "type": "object",
            "required": ["error", "code", "field"],
            "properties": {"error": text, "code": text, "field": field},
        },
    }


def ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _fault_name(status: int, form: str) -> str:
    return f"{form}{status}"


def _answered(words: str, *, is_required: bool = True, **schema: Any) -> Schema:
    return {"description": words, "required": is_required, "schema": {"type": "string"} | schema}


def _asked(name: str, schema: Schema, words: str) -> Schema:
    return {"name": name, "in": "header", "schema": schema, "description": words}
