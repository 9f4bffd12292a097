"""The edge's frontend for HTTP: which paths there are, who may ask, which slot answers. Text in, text out.

Rules stand in the order in which a request may be refused: its form, its sender, its path, its rights, its body.
"""

import json
from collections.abc import Sequence

from runtime.config.cluster import ClusterConfig
from runtime.config.serving import EdgeConfig
from runtime.serving.edge_access import (
    render_access,
    render_access_log,
    render_answer_headers,
    render_arrival,
    render_identity,
    render_limits_table,
    render_request_headers,
    render_rights,
    render_size_limits,
    render_split,
)
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_limits import MAY_SLEEP
from runtime.serving.edge_replies import CONTENT_TYPE, render_error_form, reply
from runtime.serving.edge_shares import app_name, filled_slots, replicas_app
from runtime.store.records import FULL_SHARE, EndpointState

LOCAL_BACKEND = "edge-local"
REPLAYED_BYTES = 100_000
"""Of a body that fits the edge's buffer beside a head as long as is usual."""
NAME = "[A-Za-z0-9_-]+"
ENDPOINT_PATHS = f"^/(v1/models/{NAME}(:predict|:feedback)?|v2/models/{NAME}(/versions/[0-9]+)?(/ready|/infer)?)$"
OPENAPI_PATH = "/v1/openapi.json"
CATALOG_PATHS = ("/v2", "/v2/", "/v1/models")


def bind_address(cluster: ClusterConfig, edge: EdgeConfig, port: int) -> str:
    host = edge.host or cluster.host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def render_frontend(
    endpoints: Sequence[EndpointState],
    cluster: ClusterConfig,
    *,
    files: EdgeFiles,
    secret: str,
    edge: EdgeConfig,
    certificate: str | None = None,
) -> str:
    """`certificate`: path of a PEM file with certificate and key, where the edge speaks TLS."""
    too_large = reply(
        413,
        "too_large",
        "the request body is larger than %[var(txn.max_body)] bytes",
        "if { var(txn.excess_body) -m int gt 0 }",
        formatted=True,
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
        "no such path; use /v1/models/ENDPOINT:predict, /v1/models/ENDPOINT:feedback or /v2/models/ENDPOINT/infer",
        "if !is_openapi !{ path -m reg " + ENDPOINT_PATHS + " }",
    )
    needs_post = reply(405, "method_not_allowed", "use POST", "if is_call !{ method POST }", headers=" hdr allow POST")
    needs_get = reply(405, "method_not_allowed", "use GET", "if !is_call !{ method GET }", headers=" hdr allow GET")
    only_read = reply(
        405,
        "method_not_allowed",
        "use GET",
        "if is_health !METH_GET || is_catalog !METH_GET || is_open_here !METH_GET",
        headers=" hdr allow GET,HEAD",
    )
    no_metrics = reply(
        403,
        "forbidden",
        "metrics are for this machine, operators and admins",
        "if { path /-/metrics } !is_from_here !{ var(txn.rights) -m sub ,metrics, }",
    )
    not_ready = reply(
        503, "unavailable", "no replica of this slot can answer now", "if is_ready !{ var(txn.replicas),nbsrv gt 0 }"
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
    address = bind_address(cluster, edge, cluster.ports.edge)
    tls = f" ssl crt {certificate} alpn h2,http/1.1 ssl-min-ver TLSv1.2" if certificate else ""
    first = endpoints[0].name if endpoints else "none"
    return f"""frontend edge
    bind {address}{tls}
    timeout http-request {_milliseconds(edge.header_timeout_s)}
{render_error_form()}
{render_access_log(edge)}{render_identity()}
{render_arrival("{ req.fhdr(x-timeout-ms) -m found }")}
    # An answer before the end of the body resets the stream, over which some HTTP/2 clients lose the answer.
    http-request wait-for-body time {_milliseconds(edge.body_timeout_s)} if {{ fc_http_major 2 }} METH_POST {{ req.hdr(content-length) -m int le {REPLAYED_BYTES} }}
{render_size_limits(edge, reply)}
    acl is_from_here src 127.0.0.0/8 ::1
    acl is_health path_beg /v2/health/
    acl is_open_here path /-/metrics
    acl is_catalog path {" ".join(CATALOG_PATHS)}
    # Which is GET and HEAD: some who look after an edge's health want no body.
    http-request {only_read}
    http-request allow if is_health
    http-request allow if is_open_here is_from_here
{render_access(files, reply)}
    http-request {no_metrics}
    http-request allow if is_catalog || is_open_here
    acl is_openapi path {OPENAPI_PATH}
    http-request {no_path}
    http-request set-var(txn.endpoint) path,field(4,/),field(1,:)
    http-request set-var(txn.endpoint) str({first}) if is_openapi
    http-request set-var(txn.state) var(txn.endpoint),map({files.shares})
    http-request {unknown}
    acl is_feedback path_end :feedback
    acl is_prediction path_end :predict /infer
    acl is_call path_end :predict :feedback /infer
{render_rights(files, reply, predicts="is_prediction", gives_feedback="is_feedback")}
    http-request {needs_post}
    http-request {needs_get}
    http-request set-var(txn.max_body) var(txn.endpoint),map({files.limits}),field(1,:) if is_call
    http-request set-var(txn.excess_body) req.hdr(content-length),sub(txn.max_body) if is_call
    http-request {too_large}
    # Whole before a replica is asked, so that a slow sender keeps none busy; larger ones up to the buffer.
    http-request wait-for-body time {_milliseconds(edge.body_timeout_s)} if METH_POST
{render_split(reply)}
    acl is_ready path_end /ready
    http-request set-var-fmt(txn.replicas) {replicas_app("%[var(txn.app)]")} if is_ready
    http-request {not_ready}
    http-request set-path /%[var(txn.app)]%[path]
{render_request_headers(secret)}
    use_backend {LOCAL_BACKEND} if is_health || is_catalog || is_open_here
    use_backend %[var(txn.app)]
    http-response {overloaded}
    http-response {unavailable}
{render_answer_headers()}

{_render_local(endpoints, files)}
{render_limits_table()}"""  # noqa: E501


def _render_local(endpoints: Sequence[EndpointState], files: EdgeFiles) -> str:
    """What the edge answers by itself. In a backend, so that many endpoints cost the others' requests nothing."""
    catalog = json.dumps({"models": [{"name": endpoint.name} for endpoint in endpoints]})
    server = json.dumps({"name": "teal", "version": "2", "extensions": ["binary_tensor_data"]})
    answers = "\n".join(
        f"    http-request return status 200 content-type {CONTENT_TYPE} string '{body}' if {{ path {path} }}"
        for path, body in (("/v2/health/live", '{"live": true}'), ("/v1/models", catalog), ("/v2 /v2/", server))
    )
    no_path = reply(404, "not_found", "no such path; use /v2/health/live or /v2/health/ready", "")
    return f"""backend {LOCAL_BACKEND}
    # Most places for replicas are empty, and each would have sixty lines.
    http-request set-query no-maint if {{ path /-/metrics }} !{{ query -m found }}
    http-request use-service prometheus-exporter if {{ path /-/metrics }}
{answers}
{_render_ready(endpoints, files)}
    http-request {no_path}
"""


def _render_ready(endpoints: Sequence[EndpointState], files: EdgeFiles) -> str:
    """Ready once each slot that gets traffic has a replica that can answer, but for those that may sleep.

    Replicas are counted by their gRPC ports, as behind the others stands Ray's ingress.
    """
    lines = []
    for endpoint in endpoints:
        body = json.dumps({"ready": False, "endpoint": endpoint.name})
        for slot in filled_slots(endpoint):
            share_of_none = FULL_SHARE if slot == "blue" else 0
            lines.append(
                f"    http-request return status 503 content-type {CONTENT_TYPE} string '{body}' if is_ready "
                f"!{{ nbsrv({replicas_app(app_name(endpoint.name, slot))}) gt 0 }} "
                f"!{{ str({endpoint.name}),map({files.shares}),field(1,:) -m str {share_of_none} }} "
                f"!{{ str({endpoint.name}),map({files.limits}),field(2,:) -m str {MAY_SLEEP} }}"
            )
    if lines:
        lines.insert(0, "    acl is_ready path /v2/health/ready")
    lines.append(
        f"    http-request return status 200 content-type {CONTENT_TYPE} string '{{\"ready\": true}}' "
        "if { path /v2/health/ready }"
    )
    return "\n".join(lines)


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
