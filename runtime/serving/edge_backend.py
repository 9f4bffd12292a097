"""A slot's backends at the edge: the servers that may answer for it, in order of preference. Text in, text out.

Replicas come first, each asked directly on its own port. Where there is none (until the first one is up, while the only
one is replaced, for a slot that scaled to zero) requests wait here in line, and the first replica takes them all. A few
go on to Ray's ingress meanwhile, so that a slot which sleeps is woken. gRPC has no ingress behind it, so there one call
goes to a listener that says nothing and hangs up: it is asked again, and until then the others have a line to be in.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from runtime.config.cluster import ClusterConfig
from runtime.serving.edge_counters import render_grpc_counting
from runtime.serving.edge_keys import COUNT_FAILED_KEYS
from runtime.serving.edge_replies import INTERNAL_ERRORS, grpc_internal_errors, grpc_reply, render_late, reply
from runtime.serving.edge_servers import FEW_PLACES, NO_ADDRESS, PLACE
from runtime.serving.edge_shares import grpc_app, replicas_app
from runtime.store.records import EdgeLimits

RAY_INGRESS = "ray-ingress"
"""Name of the backend that holds its checks. A slot's ends in `-blue` or `-green`."""

MISSING_CALL = "/inference.GRPCInferenceService/IsAlive"
"""There is no such call, so a replica's event loop refuses it before anything is read or computed."""

HOLD_S = 30
"""How long a request waits in line: for a place at a busy replica, or for a replica."""
NUM_HELD = 2048
"""Requests of one slot that wait for a replica; more are answered 429. Half of the connections that the edge takes."""
CATCH_UP_S = 10
"""For which the line may still be so long once there is a replica again."""
INGRESS_REQUESTS = 4
"""That Ray's ingress holds at a time: it is slow to hand them to a new replica, and nobody can take them back."""
CONNECT_MS = 250
"""HAProxy also waits so long after a connection that failed, before it tries another replica."""

NUM_RETRIES = 5
"""Of a request on other replicas; each is a repetition of what may have been computed."""

GRPC_HEADERS = "hdr host teal hdr content-type application/grpc hdr te trailers"


def render_backend(
    app: str,
    cluster: ClusterConfig,
    hosts: Sequence[str],
    *,
    limits: EdgeLimits,
    secret: str,
    hold: Path,
    num_places: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """The backends that get the traffic, by HTTP and by gRPC, and one that counts replicas.

    `num_places`: of a backend, where they are not FEW_PLACES. Each replica is given `max_ongoing_requests` at a time;
    `max_waiting_requests` of the slot wait here, and beyond it the answer is 429 at once. While there is no replica
    NUM_HELD may wait.
    """
    tracking = [
        f"    server {name} {address} track {RAY_INGRESS}/{name} maxconn {INGRESS_REQUESTS} backup"
        for name, address in _ingresses(cluster, hosts)
    ]
    places = num_places.get(app, FEW_PLACES)
    has_replica = "\n".join(f"    acl has_replica srv_is_up({app}/{PLACE}{number})" for number in range(1, places + 1))
    # Unchecked: where every check fails, trying is better than refusing. No balancing ever takes it.
    tracking.append(f"    server last {hosts[0]}:{cluster.ports.serve} weight 0 backup")
    # One error takes a replica out, so that the retry goes elsewhere; a check brings it back within the second.
    observed = "observe layer4 error-limit 1 on-error mark-down"
    place = f"maxconn {limits.max_ongoing_requests} check inter 1s fall 1 rise 1 {observed}"
    # One event loop answers both ways, so this way is asked less often while it is well: its checks cost the most.
    grpc_place = place.replace("inter 1s", "inter 3s fastinter 1s downinter 1s")
    grpc, grpc_places = grpc_app(app), num_places.get(grpc_app(app), FEW_PLACES)
    counted = "\n".join(
        f"    server {PLACE}{number} {NO_ADDRESS} track {grpc}/{PLACE}{number}" for number in range(1, grpc_places + 1)
    )
    answer_ms = round(limits.answer_timeout_s * 1000)
    # A check is answered by the event loop that answers requests. A model at work for seconds keeps it from that, so a
    # check waits as long as a request does.
    alive = f"""    option httpchk
    timeout check {answer_ms}ms"""
    has_deadline = f"{{ req.fhdr(x-timeout-ms) -m int 1:{answer_ms} }}"
    waits = f"""    timeout connect {CONNECT_MS}ms
    timeout server {answer_ms}ms
    http-request set-timeout server req.fhdr(x-timeout-ms) if {has_deadline}
    retry-on conn-failure empty-response response-timeout"""
    # Who asks whether a model is ready shall be told so now.
    absent = grpc_reply(503, *INTERNAL_ERRORS[503], "if !has_replica !{ path_end /ModelInfer }")
    return f"""backend {app}
    balance leastconn
{waits}
{render_late(has_deadline)}
{COUNT_FAILED_KEYS}
{alive}
    http-check send meth GET uri /v2/health/live hdr x-teal-edge {secret} hdr x-teal-arrived %[hostname]/%[date(0,ms)]
    http-check expect status 200
{has_replica}
{_render_line(app, limits, reply)}
    use-server last if {{ nbsrv({app}) eq 0 }}
    server-template {PLACE} 1-{places} {NO_ADDRESS} disabled {place}
{chr(10).join(tracking)}

backend {grpc}
    balance leastconn
{waits}
{alive}
    http-check send meth POST uri {MISSING_CALL} ver HTTP/2 {GRPC_HEADERS}
    http-check expect status 200
{grpc_internal_errors()}
{render_late(has_deadline)}
{render_grpc_counting()}
    acl has_replica nbsrv({replicas_app(app)}) gt 0
    http-request {absent}
{_render_line(grpc, limits, grpc_reply)}
    server-template {PLACE} 1-{grpc_places} {NO_ADDRESS} disabled proto h2 check-proto h2 {grpc_place}
    server hold unix@{hold} proto h2 maxconn 1 backup

backend {replicas_app(app)}
{counted}
"""


def render_hold(hold: Path) -> str:
    """The listener behind gRPC's lines. Stands before the defaults, which are HTTP's."""
    return f"""listen hold
    mode tcp
    timeout client {HOLD_S}s
    bind unix@{hold} mode 600
    tcp-request inspect-delay {HOLD_S // (NUM_RETRIES + 1)}s
    tcp-request content reject if WAIT_END
"""


def _render_line(backend: str, limits: EdgeLimits, refuse: Callable[..., str]) -> str:
    """Who may wait, and for how long. The backend's ACL has_replica says whether for a place or for a replica."""
    held_at = f"proc.held.{backend.replace('-', '.')}"
    # A line that is as long as it is because there was no replica refuses nobody who comes when there is one.
    overloaded, crowded = (
        refuse(
            429, *INTERNAL_ERRORS[429], f"if {{ queue({backend}) gt {number} }}{unless}", headers=" hdr retry-after 1"
        )
        for number, unless in ((limits.max_waiting_requests, " has_replica !catches_up"), (NUM_HELD, ""))
    )
    return f"""    option allbackups
    timeout queue {HOLD_S}s
    acl catches_up date,sub({held_at}) -m int lt {CATCH_UP_S}
    http-request set-var({held_at}) date if !has_replica {{ queue({backend}) gt 0 }}
    http-request {overloaded}
    http-request {crowded}"""


def render_ingress(cluster: ClusterConfig, hosts: Sequence[str]) -> str:
    """The health checks of Ray's ingress, which the servers of every slot's backend track: as many as there are hosts.

    It gets all its routes at once, so one route tells that it knows the others too.
    """
    check = "check inter 2s fastinter 500ms downinter 500ms fall 3 rise 2"
    checked = [f"    server {name} {address} {check}" for name, address in _ingresses(cluster, hosts)]
    # Both steps: a fresh HAProxy of Ray answers 404 before it has routes, and its health is 200 without any backend.
    return f"""backend {RAY_INGRESS}
    option httpchk
    http-check connect
    http-check send meth GET uri /-/healthz
    http-check expect status 200
    http-check connect
    http-check send meth GET uri /-/routes
    http-check expect string '"/'
{chr(10).join(checked)}
"""


def _ingresses(cluster: ClusterConfig, hosts: Sequence[str]) -> list[tuple[str, str]]:
    """Name and address of Ray's HAProxy on each host, and of its fallback, which only the first one has."""
    found = [(f"ray{index}", f"{host}:{cluster.ports.serve}") for index, host in enumerate(hosts)]
    return [*found, ("fallback", f"{hosts[0]}:{cluster.ports.serve_fallback}")]
