"""HAProxy's configuration for the edge, rendered from desired state. Text in, text out.

The split's numbers are not in it: they stand in a map, one string an endpoint, so that a single `set map` changes
share and generation together. What is here changes only when an endpoint or a slot comes or goes.
"""

import json
from collections.abc import Sequence

from runtime.config.schema import ClusterConfig
from runtime.core.errors import ConfigError
from runtime.serving.edge_files import EdgeFiles
from runtime.store.records import FULL_SHARE, SLOTS, EndpointState

HARD_STOP_S = 60
"""How long a worker that was replaced by a reload may finish its connections."""
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


def app_name(endpoint: str, slot: str) -> str:
    """Name of a slot's Serve application, of its route and of its backend."""
    return f"{endpoint}-{slot}"


def share_value(endpoint: EndpointState) -> str:
    """What the map holds: `green share:generation`, one string because one `set map` must change both."""
    return f"{endpoint.green_share}:{endpoint.generation}"


def render_shares(endpoints: Sequence[EndpointState]) -> str:
    """The map file's content."""
    return "".join(f"{endpoint.name} {share_value(endpoint)}\n" for endpoint in endpoints)


def render_config(
    endpoints: Sequence[EndpointState],
    cluster: ClusterConfig,
    *,
    files: EdgeFiles,
    secret: str,
    max_body_bytes: int,
    serve_hosts: Sequence[str] = (),
) -> str:
    """HAProxy's whole configuration. `serve_hosts`: the nodes that run Ray's HAProxy, by default the cluster's host."""
    for text in (str(files.shares), secret, cluster.host):
        if any(character in text for character in " \t\n'\"\\%#"):
            raise ConfigError(f"the edge cannot use {text!r}: blanks, quotes, '%', '#' and backslashes are not allowed")
    hosts = list(serve_hosts) or [cluster.host]
    parts = [
        _render_global(cluster),
        _render_defaults(has_other_nodes=len(hosts) > 1),
        _render_frontend(endpoints, cluster, files=files, secret=secret, max_body_bytes=max_body_bytes),
    ]
    for endpoint in endpoints:
        parts += [_render_backend(app_name(endpoint.name, slot), cluster, hosts) for slot in _filled_slots(endpoint)]
    return "\n".join(parts)


def _filled_slots(endpoint: EndpointState) -> list[str]:
    return [slot for slot in SLOTS if endpoint.slot(slot).model is not None]


def _error(code: str, message: str, field: str | None = None) -> str:
    return json.dumps({"error": {"code": code, "message": message, "field": field}})


def _return(status: int, code: str, message: str, condition: str, *, headers: str = "", formatted: bool = False) -> str:
    kind = "lf-string" if formatted else "string"
    return f"return status {status} content-type {CONTENT_TYPE}{headers} {kind} '{_error(code, message)}' {condition}"


def _render_global(cluster: ClusterConfig) -> str:
    return f"""# Rendered by teal from the control store; changes made here are lost.
global
    nbthread {cluster.edge_threads}
    maxconn 4096
    tune.bufsize 131072
    hard-stop-after {HARD_STOP_S}s
"""


def _render_defaults(*, has_other_nodes: bool) -> str:
    # With other nodes a silent one is given up soon and the request runs again elsewhere, so 4 s must be above the
    # slowest legitimate call. Without any, waiting is all there is: for a replica that is being replaced, say.
    timeout_server, retry_on = ("4s", " response-timeout") if has_other_nodes else ("30s", "")
    errors = "\n".join(
        f"    http-error status {status} content-type {CONTENT_TYPE} string '{_error(code, message)}'"
        for status, (code, message) in INTERNAL_ERRORS.items()
    )
    return f"""defaults
    mode http
    timeout client 40s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout queue 5s
    timeout connect 1s
    timeout server {timeout_server}
    option http-no-delay
    # A client's idle connection outlives a reload until its next answer, so that no request meets a closing socket.
    option idle-close-on-response
    http-reuse always
    option redispatch 1
    retries 5
    # Never 500: Ray's HAProxy turns its own 502, 503 and 504 into it, and so does code that has already run.
    retry-on conn-failure empty-response{retry_on}
{errors}
"""


def _render_frontend(
    endpoints: Sequence[EndpointState], cluster: ClusterConfig, *, files: EdgeFiles, secret: str, max_body_bytes: int
) -> str:
    too_large = _return(
        413,
        "too_large",
        f"the request body is larger than {max_body_bytes} bytes",
        f"if {{ req.hdr(content-length) -m int gt {max_body_bytes} }}",
    )
    unknown = _return(
        404,
        "not_found",
        "no endpoint %[var(txn.endpoint),json(utf8s)]; `teal status` lists them",
        "if !{ var(txn.state) -m found }",
        formatted=True,
    )
    no_path = _return(
        404,
        "not_found",
        "no such path; use /v1/models/ENDPOINT:predict or /v1/models/ENDPOINT:feedback",
        "if !{ path_reg ^/v1/models/[A-Za-z0-9_-]+(:predict|:feedback)?$ }",
    )
    needs_post = _return(
        405, "method_not_allowed", "use POST", "if { path_sub : } !{ method POST }", headers=" hdr allow POST"
    )
    needs_get = _return(
        405, "method_not_allowed", "use GET", "if !{ path_sub : } !{ method GET }", headers=" hdr allow GET"
    )
    unavailable = _return(
        503,
        "unavailable",
        "no replica of this slot can answer; repeat the request",
        "if { status ge 400 } !{ status 429 } !{ res.hdr(x-model-version) -m found }",
        headers=" hdr retry-after 1",
    )
    overloaded = _return(
        429,
        "too_many_requests",
        "too many requests are waiting; repeat later",
        "if { status 429 } !{ res.hdr(x-model-version) -m found }",
        headers=" hdr retry-after 1",
    )
    return f"""frontend edge
    bind {cluster.host}:{cluster.ports.edge}
    acl sane_id req.fhdr(x-request-id) -m reg ^[A-Za-z0-9._:-]{{1,128}}$
    http-request set-var(txn.request_id) req.fhdr(x-request-id) if sane_id
    http-request set-var(txn.request_id) uuid() if !{{ var(txn.request_id) -m found }}
    http-request del-header x-slot
    http-request del-header x-teal-edge
    http-request del-header x-generation
    http-request use-service prometheus-exporter if {{ path /-/metrics }} {{ src 127.0.0.0/8 ::1 }}
    http-request return status 200 content-type {CONTENT_TYPE} string '{{"live": true}}' if {{ path /v2/health/live }}
{_render_ready(endpoints)}
    http-request {no_path}
    http-request set-var(txn.endpoint) path,field(4,/),field(1,:)
    http-request set-var(txn.state) var(txn.endpoint),map({files.shares})
    http-request {unknown}
    http-request {needs_post}
    http-request {needs_get}
    http-request {too_large}
    # Whole before a replica is asked, so that a slow sender keeps none busy; larger ones up to the buffer.
    http-request wait-for-body time 10s if METH_POST
    http-request set-var(txn.share) var(txn.state),field(1,:),add(0)
    http-request set-var(txn.generation) var(txn.state),field(2,:)
    http-request set-var(txn.key) req.fhdr(x-routing-key) if {{ req.fhdr(x-routing-key) -m found }}
    http-request set-var(txn.key) uuid() if !{{ var(txn.key) -m found }}
    # xxh32, since mod() of the signed xxh64 sends half of the keys below zero.
    http-request set-var(txn.distance) var(txn.key),xxh32,mod({FULL_SHARE}),sub(txn.share)
    http-request set-var(txn.slot) str(blue)
    http-request set-var(txn.slot) str(green) if {{ var(txn.distance) -m int lt 0 }}
    http-request set-var-fmt(txn.app) %[var(txn.endpoint)]-%[var(txn.slot)]
    http-request set-path /%[var(txn.app)]%[path]
    http-request set-header x-teal-edge {secret}
    http-request set-header x-slot %[var(txn.slot)]
    http-request set-header x-generation %[var(txn.generation)]
    http-request set-header x-request-id %[var(txn.request_id)]
    # Spares the replica one task a request; an answer takes milliseconds, so nobody waits to cancel it.
    http-request set-header x-request-disconnect-disabled ?1
    http-request del-header x-request-timeout-seconds
    use_backend %[var(txn.app)]
    http-response {overloaded}
    http-response {unavailable}
    http-after-response set-header x-request-id %[var(txn.request_id)] if {{ var(txn.request_id) -m found }}
    http-after-response set-header x-slot %[var(txn.slot)] if {{ var(txn.slot) -m found }}
    http-after-response set-header x-generation %[var(txn.generation)] if {{ var(txn.generation) -m found }}
"""


def _render_ready(endpoints: Sequence[EndpointState]) -> str:
    """Ready once every endpoint has a slot whose health checks pass."""
    lines = []
    for endpoint in endpoints:
        filled = [app_name(endpoint.name, slot) for slot in _filled_slots(endpoint)]
        checks = [f"!{{ srv_is_up({app}/{server}) }}" for app in filled for server in ("ray0", "fallback")]
        body = json.dumps({"ready": False, "endpoint": endpoint.name})
        lines.append(
            f"    http-request return status 503 content-type {CONTENT_TYPE} string '{body}' "
            f"if {{ path /v2/health/ready }} {' '.join(checks)}"
        )
    lines.append(
        f"    http-request return status 200 content-type {CONTENT_TYPE} string '{{\"ready\": true}}' "
        "if { path /v2/health/ready }"
    )
    return "\n".join(lines)


def _render_backend(app: str, cluster: ClusterConfig, hosts: Sequence[str]) -> str:
    check = (
        "check inter 2s fastinter 500ms downinter 500ms fall 3 rise 2 observe layer4 error-limit 3 on-error mark-down"
    )
    port, fallback = cluster.ports.serve, cluster.ports.serve_fallback
    servers = [f"    server ray{index} {host}:{port} {check}" for index, host in enumerate(hosts)]
    servers.append(f"    server fallback {hosts[0]}:{fallback} {check} backup")
    # Unchecked: where every check fails, trying is better than refusing.
    servers += [f"    server last{index} {host}:{port} backup" for index, host in enumerate(hosts)]
    joined = "\n".join(servers)
    # Both steps: a fresh HAProxy of Ray answers 404 before it has routes, and its health is 200 without any backend.
    return f"""backend {app}
    option httpchk
    http-check connect
    http-check send meth GET uri /-/healthz
    http-check expect status 200
    http-check connect
    http-check send meth GET uri /-/routes
    http-check expect string '"/{app}"'
{joined}
"""
