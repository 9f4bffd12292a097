"""What the edge itself answers, in HAProxy's words: JSON errors over HTTP, a status without a message over gRPC.

JSON has two forms: an object under /v1, and the Open Inference Protocol's text under /v2, whose clients fail on
anything else. One reply serves both: what differs are two variables, which requests under /v2 set to a blank.
"""

import json

CONTENT_TYPE = "application/json"

LATE, GRPC_LATE = "txn.late", "txn.grpc_late"
"""Set where the caller's own deadline bounds the wait for a replica: code and gRPC status of what then is no 504."""

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
    504: (f"%[var({LATE},unavailable)]", "no replica answered in time; repeat the request"),
}

GRPC_STATUS = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 413: 8, 414: 3, 429: 8, 431: 3, 500: 13, 501: 12}
"""HTTP status to gRPC's; what is missing here is 14, unavailable."""
GRPC_UNAVAILABLE = 14

OPENING, CLOSING = "txn.opening", "txn.closing"
_ERROR_OPENING = rf"%[var({OPENING},{{\"message\": )]"
_ERROR_CLOSING = f"%[var({CLOSING},}})]"


def render_error_form() -> str:
    """Rules that set the form of every error that follows. Without them it is /v1's."""
    # A blank, since HAProxy dies of empty formats.
    return f"""    acl is_oip path_beg /v2
    http-request set-var-fmt({OPENING}) " " if is_oip
    http-request set-var-fmt({CLOSING}) " " if is_oip"""


def error_body(code: str, message: str, field: str | None = None) -> str:
    """A log format: `message` may hold HAProxy's %[expressions]. What it is to say literally must be doubled: %%."""
    fields = f'{json.dumps(message)}, "code": {json.dumps(code)}, "field": {json.dumps(field)}'
    return f'{{"error": {_ERROR_OPENING}{fields}{_ERROR_CLOSING}}}'


def reply(status: int, code: str, message: str, condition: str, *, headers: str = "", formatted: bool = False) -> str:
    """What follows `http-request` or `http-response` to answer at once. `formatted`: the message has %[expressions]."""
    body = error_body(code, message if formatted else message.replace("%", "%%"))
    return f"return status {status} content-type {CONTENT_TYPE}{headers} lf-string '{body}' {condition}"


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
        f"    http-error status {status} content-type {CONTENT_TYPE} lf-string '{error_body(code, message)}'"
        for status, (code, message) in INTERNAL_ERRORS.items()
    )


def render_late(deadline: str) -> str:
    """Rules of a backend by which a wait that the caller limited ends as a 408, the caller's. Takes an ACL's condition.

    A 504 counts against the model, and whoever gives it a millisecond must not end its rollout.
    """
    return f"""    http-request set-var({LATE}) str(deadline) if {deadline}
    http-request set-var({GRPC_LATE}) int({GRPC_STATUS[408]}) if {deadline}
    http-after-response set-status 408 if {{ status 504 }} {{ var({LATE}) -m found }}"""


def grpc_internal_errors() -> str:
    """The same for gRPC. A proxy's own win over its defaults', so every gRPC frontend and backend needs them."""
    statuses = {status: str(GRPC_STATUS.get(status, GRPC_UNAVAILABLE)) for status in INTERNAL_ERRORS}
    statuses[504] = f"%[var({GRPC_LATE},{GRPC_UNAVAILABLE})]"
    return "\n".join(
        f"    http-error status {status} hdr grpc-status {statuses[status]} hdr grpc-message '{code}: {message}'"
        for status, (code, message) in INTERNAL_ERRORS.items()
    )
