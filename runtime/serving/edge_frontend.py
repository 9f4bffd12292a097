"""The edge's frontend: who may ask, which endpoint and slot answers, what stands in the headers. Text in, text out."""

import json
from collections.abc import Sequence

from runtime.config.schema import ClusterConfig
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_replies import CONTENT_TYPE, reply
from runtime.serving.edge_shares import app_name, filled_slots
from runtime.store.records import FULL_SHARE, EndpointState


def render_frontend(
    endpoints: Sequence[EndpointState], cluster: ClusterConfig, *, files: EdgeFiles, secret: str, max_body_bytes: int
) -> str:
    too_large = reply(
        413,
        "too_large",
        f"the request body is larger than {max_body_bytes} bytes",
        f"if {{ req.hdr(content-length) -m int gt {max_body_bytes} }}",
    )
    unknown = reply(
        404,
        "not_found",
        "no endpoint %[var(txn.endpoint),json(utf8s)]; `teal status` lists them",
        "if !{ var(txn.state) -m found }",
        formatted=True,
    )
    no_path = reply(
        404,
        "not_found",
        "no such path; use /v1/models/ENDPOINT:predict or /v1/models/ENDPOINT:feedback",
        "if !{ path_reg ^/v1/models/[A-Za-z0-9_-]+(:predict|:feedback)?$ }",
    )
    needs_post = reply(
        405, "method_not_allowed", "use POST", "if { path_sub : } !{ method POST }", headers=" hdr allow POST"
    )
    needs_get = reply(
        405, "method_not_allowed", "use GET", "if !{ path_sub : } !{ method GET }", headers=" hdr allow GET"
    )
    unavailable = reply(
        503,
        "unavailable",
        "no replica of this slot can answer; repeat the request",
        "if { status ge 400 } !{ status 429 } !{ res.hdr(x-model-version) -m found }",
        headers=" hdr retry-after 1",
    )
    overloaded = reply(
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
        filled = [app_name(endpoint.name, slot) for slot in filled_slots(endpoint)]
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
