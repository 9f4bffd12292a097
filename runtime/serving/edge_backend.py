"""A slot's backends at the edge: the servers that may answer for it, in order of preference. Text in, text out.

Replicas come first, each asked directly on its own port. Behind them stands Ray's ingress, which holds a request while
there is no replica: until the first one is up, while the only one is replaced, or for a slot that scaled to zero.
gRPC goes to the replicas alone.
"""

from collections.abc import Sequence

from runtime.config.cluster import ClusterConfig
from runtime.serving.edge_grpc import grpc_app
from runtime.serving.edge_replies import INTERNAL_ERRORS, grpc_internal_errors, grpc_reply, reply
from runtime.serving.edge_servers import NO_ADDRESS, NUM_PLACES, PLACE


def render_backend(app: str, cluster: ClusterConfig, hosts: Sequence[str], *, max_ongoing: int, max_queued: int) -> str:
    """The backend that gets the traffic, and one for the health checks of Ray's ingress, whose servers it tracks.

    `max_ongoing`: requests that one replica is given at a time. `max_queued`: of the slot, waiting here; beyond it the
    answer is 429 at once.
    """
    port, fallback = cluster.ports.serve, cluster.ports.serve_fallback
    ingresses = [(f"ray{index}", f"{host}:{port}") for index, host in enumerate(hosts)]
    ingresses.append(("fallback", f"{hosts[0]}:{fallback}"))
    tracking = [f"    server {name} {address} track {app}.ray/{name} backup" for name, address in ingresses]
    is_full, is_grpc_full = (f"if {{ queue({name}) gt {max_queued} }}" for name in (app, grpc_app(app)))
    overloaded = reply(429, *INTERNAL_ERRORS[429], is_full, headers=" hdr retry-after 1")
    grpc_overloaded = grpc_reply(429, *INTERNAL_ERRORS[429], is_grpc_full)
    # Unchecked: where every check fails, trying is better than refusing.
    tracking += [f"    server last{index} {host}:{port} backup" for index, host in enumerate(hosts)]
    check = "check inter 2s fastinter 500ms downinter 500ms fall 3 rise 2"
    checked = [f"    server {name} {address} {check}" for name, address in ingresses]
    # One error takes a replica out, so that the retry goes elsewhere; a check brings it back within the second. The
    # check only connects: a model at work for seconds keeps the replica's event loop from answering anything.
    place = "check inter 1s fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down"
    # Both steps: a fresh HAProxy of Ray answers 404 before it has routes, and its health is 200 without any backend.
    return f"""backend {app}
    balance leastconn
    http-request {overloaded}
    server-template {PLACE} 1-{NUM_PLACES} {NO_ADDRESS} disabled maxconn {max_ongoing} {place}
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
{grpc_internal_errors()}
    http-request {grpc_overloaded}
    server-template {PLACE} 1-{NUM_PLACES} {NO_ADDRESS} disabled proto h2 maxconn {max_ongoing} {place}
"""
