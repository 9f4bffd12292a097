"""The edge's frontend for gRPC: the same access and the same split, with gRPC's words for a refusal. Text in, text out.

The endpoint is the metadata `x-endpoint`, else the name in the message itself: field 1 of every request of the Open
Inference Protocol. That is readable where the message is not compressed.
"""

from collections.abc import Sequence

from runtime.config.cluster import ClusterConfig
from runtime.config.serving import EdgeConfig
from runtime.serving.edge_access import (
    render_access,
    render_access_log,
    render_answer_headers,
    render_arrival,
    render_identity,
    render_request_headers,
    render_rights,
    render_size_limits,
    render_split,
)
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_frontend import bind_address
from runtime.serving.edge_limits import MAY_SLEEP
from runtime.serving.edge_replies import grpc_internal_errors, grpc_reply
from runtime.serving.edge_shares import grpc_app, replicas_app
from runtime.store.records import EndpointState

SERVICE = "/inference.GRPCInferenceService/"
SERVER_CALLS = tuple(SERVICE + name for name in ("ServerLive", "ServerReady", "ServerMetadata"))
MODEL_CALLS = tuple(SERVICE + name for name in ("ModelReady", "ModelMetadata", "ModelInfer"))


def render_grpc_frontend(
    endpoints: Sequence[EndpointState],
    cluster: ClusterConfig,
    *,
    files: EdgeFiles,
    secret: str,
    edge: EdgeConfig,
    certificate: str | None = None,
) -> str:
    no_grpc = grpc_reply(
        415, "unsupported", "this port speaks gRPC only", "if !{ req.fhdr(content-type) -m beg application/grpc }"
    )
    no_path = grpc_reply(404, "not_found", f"the only service is {SERVICE.strip('/')}", f"if !{{ path_beg {SERVICE} }}")
    not_there = grpc_reply(
        501,
        "unimplemented",
        "the calls of the Open Inference Protocol are ModelInfer, ModelMetadata, ModelReady, ServerLive, ServerReady "
        "and ServerMetadata",
        f"if !{{ path {' '.join((*SERVER_CALLS, *MODEL_CALLS))} }}",
    )
    unnamed = grpc_reply(
        400,
        "bad_request",
        "the message names no model that can be read; send its name as metadata x-endpoint",
        "if !{ var(txn.endpoint) -m found } || { var(txn.endpoint) -m len 0 }",
    )
    unknown = grpc_reply(
        404,
        "not_found",
        "no endpoint %[var(txn.endpoint),url_enc]",
        "if !{ var(txn.state) -m found }",
        formatted=True,
    )
    woken = grpc_reply(
        503, "unavailable", "this slot had no replica and was woken; repeat the request", "if is_asleep { status 200 }"
    )
    not_woken = grpc_reply(
        503, "unavailable", "this slot has no replica and none has come up yet; repeat the request", "if is_asleep"
    )
    address = bind_address(cluster, edge, cluster.ports.edge_grpc)
    tls = f"ssl crt {certificate} alpn h2 ssl-min-ver TLSv1.2" if certificate else "proto h2"
    first = endpoints[0].name if endpoints else "none"
    return f"""frontend edge-grpc
    bind {address} {tls}
    timeout http-request {round(edge.header_timeout_s * 1000)}ms
{grpc_internal_errors()}
{render_access_log(edge)}{render_identity()}
{render_arrival()}
{render_size_limits(edge, grpc_reply)}
    http-request {no_grpc}
{render_access(files, grpc_reply)}
    http-request {no_path}
    http-request {not_there}
    http-request set-var(txn.endpoint) req.fhdr(x-endpoint)
    http-request set-var(txn.endpoint) str({first}) if {{ path {" ".join(SERVER_CALLS)} }}
    http-request wait-for-body time {round(edge.body_timeout_s * 1000)}ms if !{{ var(txn.endpoint) -m found }}
    # Not ungrpc(1): that wants the whole message in the buffer. The name stands in front, behind 5 bytes of gRPC.
    http-request set-var(txn.endpoint) req.body,bytes(5),protobuf(1) if !{{ var(txn.endpoint) -m found }}
    http-request {unnamed}
    http-request set-var(txn.state) var(txn.endpoint),map({files.shares})
    http-request {unknown}
    acl is_prediction path_end /ModelInfer
{render_rights(files, grpc_reply, predicts="is_prediction", gives_feedback="")}
{render_split(grpc_reply)}
    # By which Ray's own ingress finds the application.
    http-request set-header application %[var(txn.app)]
{render_request_headers(secret)}
    # A slot may sleep that gets no request: Ray's ingress wakes it for one over HTTP, and holds that until it answers.
    http-request set-var(txn.sleeps) var(txn.endpoint),map({files.limits}),field(2,:)
    http-request set-var-fmt(txn.direct) {grpc_app("%[var(txn.app)]")}
    http-request set-var-fmt(txn.replicas) {replicas_app("%[var(txn.app)]")}
    acl is_asleep var(txn.asleep) -m bool
    http-request set-var(txn.asleep) bool(true) if {{ var(txn.sleeps) -m str {MAY_SLEEP} }} !{{ var(txn.replicas),nbsrv gt 0 }}
    http-request set-method GET if is_asleep
    http-request set-path /%[var(txn.app)]/v2/health/ready if is_asleep
    use_backend %[var(txn.app)] if is_asleep
    use_backend %[var(txn.direct)]
    http-response {woken}
    http-response {not_woken}
    http-after-response set-status 200
    http-after-response set-header content-type application/grpc if !{{ res.hdr(content-type) -m beg application/grpc }}
{render_answer_headers()}
"""  # noqa: E501
