"""What the edge itself answers: JSON errors, in HAProxy's words."""

import json

CONTENT_TYPE = "application/json"

INTERNAL_ERRORS = {
    400: ("bad_request", "the request is not valid HTTP"),
    403: ("forbidden", "not allowed"),
    405: ("method_not_allowed", "this path does not take that method"),
    408: ("timeout", "the request did not arrive in time"),
    413: ("too_large", "the request body is too large"),
    429: ("too_many_requests", "too many requests; repeat later"),
    500: ("internal", "the edge failed"),
    502: ("unavailable", "no replica gave a valid answer; repeat the request"),
    503: ("unavailable", "no replica can be reached; repeat the request"),
    504: ("unavailable", "no replica answered in time; repeat the request"),
}


def error_body(code: str, message: str, field: str | None = None) -> str:
    return json.dumps({"error": {"code": code, "message": message, "field": field}})


def reply(status: int, code: str, message: str, condition: str, *, headers: str = "", formatted: bool = False) -> str:
    kind = "lf-string" if formatted else "string"
    return (
        f"return status {status} content-type {CONTENT_TYPE}{headers} {kind} '{error_body(code, message)}' {condition}"
    )
