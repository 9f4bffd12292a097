"""A slot's backends at the edge: the servers that may answer for it, in order of preference. Text in, text out.

Replicas come first, each asked directly on its own port. Behind them stands Ray's ingress, which holds a request while
there is no replica: until the first one is up, while the only one is replaced, or for a slot that scaled to zero.
gRPC goes to the replicas alone.
"""

from collections.abc import Sequence

from runtime.config.cluster import ClusterConfig
from runtime.serving.edge_counters import render_grpc_counting
from runtime.serving.edge_keys import COUNT_FAILED_KEYS
from runtime.serving.edge_replies import INTERNAL_ERRORS, grpc_internal_errors, grpc_reply, reply
from runtime.serving.edge_servers import NO_ADDRESS, NUM_PLACES, PLACE
from runtime.serving.edge_shares import grpc_app
from runtime.store.records import EdgeLimits

MISSING_CALL = "/inference.GRPCInferenceService/IsAlive"
"""There is no such call, so a replica's event loop refuses it before anything is read or computed."""

GRPC_HEADERS = "hdr host teal hdr content-type application/grpc hdr te trailers"


def render_backend(app: str, cluster: ClusterConfig, hosts: Sequence[str], *, limits: EdgeLimits, secret: str) -> str:
    """The backend that gets the traffic, and one for the health checks of Ray's ingress, whose servers it tracks.

    Each replica is given `max_ongoing_requests` at a time; `max_waiting_requests` of the slot wait here, and beyond it
    the answer is 429 at once.
    """
    port, fallback = cluster.ports.serve, cluster.ports.serve_fallback
    ingresses = [(f"ray{index}", f"{host}:{port}") for index, host in enumerate(hosts)]
    ingresses.append(("fallback", f"{hosts[0]}:{fallback}"))
    tracking = [f"    server {name} {address} track {app}.ray/{name} backup" for name, address in ingresses]
    is_full, is_grpc_full = (
        f"if {{ queue({name}) gt {limits.max_waiting_requests} }}" for name in (app, grpc_app(app))
    )
    overloaded = reply(429, *INTERNAL_ERRORS[429], is_full, headers=" hdr retry-after 1")
    grpc_overloaded = grpc_reply(429, *INTERNAL_ERRORS[429], is_grpc_full)
    # Unchecked: where every check fails, trying is better than refusing.
    tracking += [f"    server last{index} {host}:{port} backup" for index, host in enumerate(hosts)]
    check = "check inter 2s fastinter 500ms downinter 500ms fall 3 rise 2"
    checked = [f"    server {name} {address} {check}" for name, address in ingresses]
    # One error takes a replica out, so that the retry goes elsewhere; a check brings it back within the second.
    observed = "observe layer4 error-limit 1 on-error mark-down"
    place = f"maxconn {limits.max_ongoing_requests} check inter 1s fall 1 rise 1 {observed}"
    answer_ms = round(limits.answer_timeout_s * 1000)
    # A check is answered by the event loop that answers requests. A model at work for seconds keeps it from that, so a
    # check waits as long as a request does.
    alive = f"""    option httpchk
    timeout check {answer_ms}ms"""
    waits = f"""    timeout server {answer_ms}ms
    http-request set-timeout server req.fhdr(x-timeout-ms) if {{ req.fhdr(x-timeout-ms) -m int 1:{answer_ms} }}
    retry-on conn-failure empty-response response-timeout"""
    # Both steps: a fresh HAProxy of Ray answers 404 before it has routes, and its health is 200 without any backend.
    return f"""backend {app}
    balance leastconn
{COUNT_FAILED_KEYS}
{waits}
{alive}
    http-check send meth GET uri /v2/health/live hdr x-teal-edge {secret} hdr x-teal-arrived %[hostname]/%[date(0,ms)]
    http-check expect status 200
    http-request {overloaded}
    server-template {PLACE} 1-{NUM_PLACES} {NO_ADDRESS} disabled {place}
{chr(10).join(tracking)}

backend {app}.ray
    option httpchk
    http-check connect
    http-check send meth GET uri /-/healthz
    http-check expect status 200
    http-check connect
    http-check send meth GET uri /-/routes
    http-check expect string '"/{app}"'
{chr(10).join(checked)}

backend {grpc_app(app)}
    balance leastconn
{waits}
{alive}
    http-check send meth POST uri {MISSING_CALL} ver HTTP/2 {GRPC_HEADERS}
    http-check expect status 200
{grpc_internal_errors()}
{render_grpc_counting()}
    http-request {grpc_overloaded}
    server-template {PLACE} 1-{NUM_PLACES} {NO_ADDRESS} disabled proto h2 check-proto h2 {place}
"""
