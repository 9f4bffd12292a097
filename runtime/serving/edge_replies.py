"""What the edge itself answers, in HAProxy's words: JSON errors over HTTP, a status without a message over gRPC."""

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

GRPC_STATUS = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 413: 8, 414: 3, 429: 8, 431: 3, 500: 13}
"""HTTP status to gRPC's; what is missing here is 14, unavailable."""
GRPC_UNAVAILABLE = 14


def error_body(code: str, message: str, field: str | None = None) -> str:
    return json.dumps({"error": {"code": code, "message": message, "field": field}})


def reply(status: int, code: str, message: str, condition: str, *, headers: str = "", formatted: bool = False) -> str:
    """What follows `http-request` or `http-response` to answer at once. `formatted`: the message has %[expressions]."""
    kind = "lf-string" if formatted else "string"
    return (
        f"return status {status} content-type {CONTENT_TYPE}{headers} {kind} '{error_body(code, message)}' {condition}"
    )


def grpc_reply(
    status: int, code: str, message: str, condition: str, *, headers: str = "", formatted: bool = False
) -> str:
    """The same for a gRPC client, to whom every answer is an HTTP 200. HAProxy expands expressions in either case."""
    if not formatted:
        message = message.replace("%", "%%")
    return (
        f"return status 200 hdr grpc-status {GRPC_STATUS.get(status, GRPC_UNAVAILABLE)} "
        f"hdr grpc-message '{code}: {message}'{headers} {condition}"
    )


def internal_errors() -> str:
    """What HAProxy says where it fails by itself, as JSON."""
    return "\n".join(
        f"    http-error status {status} content-type {CONTENT_TYPE} string '{error_body(code, message)}'"
        for status, (code, message) in INTERNAL_ERRORS.items()
    )


def grpc_internal_errors() -> str:
    """The same for gRPC. A proxy's own win over its defaults', so every gRPC frontend and backend needs them."""
    return "\n".join(
        f"    http-error status {status} hdr grpc-status {GRPC_STATUS.get(status, GRPC_UNAVAILABLE)} "
        f"hdr grpc-message '{code}: {message}'"
        for status, (code, message) in INTERNAL_ERRORS.items()
    )
