"""HAProxy's configuration for the edge, rendered from desired state. Text in, text out.

The split's numbers are not in it: they stand in a map, one string an endpoint, so that a single `set map` changes
share and generation together. Nor are the replicas' addresses, which are told at run
time. What is here changes only when an endpoint or a slot comes or goes, or has more replicas than places.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from runtime.config.cluster import ClusterConfig
from runtime.config.serving import EdgeConfig, ServingConfig
from runtime.core.errors import ConfigError
from runtime.serving.edge_backend import NUM_RETRIES, render_backend, render_hold, render_ingress
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_frontend import render_frontend
from runtime.serving.edge_grpc import render_grpc_frontend
from runtime.serving.edge_limits import limits_of
from runtime.serving.edge_replies import internal_errors
from runtime.serving.edge_shares import app_name, filled_slots
from runtime.store.records import EdgeLimits, EndpointState

HARD_STOP_S = 60
"""How long a worker that was replaced by a reload may finish its connections."""


def render_config(
    endpoints: Sequence[EndpointState],
    cluster: ClusterConfig,
    *,
    files: EdgeFiles,
    secret: str,
    serving: ServingConfig,
    limits: Mapping[str, EdgeLimits] = MappingProxyType({}),
    edge: EdgeConfig,
    certificate: str | None = None,
    serve_hosts: Sequence[str] = (),
    num_places: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """HAProxy's whole configuration. `limits`: by endpoint; `serving` has those of endpoints that are not in it.

    `serve_hosts`: the nodes that run Ray's HAProxy, by default the cluster's host. `num_places`: see `count_places`.
    """
    for text in (str(files.shares), secret, cluster.host, edge.host or "", edge.access_log or "", certificate or ""):
        if any(character in text for character in " \t\n'\"\\%#"):
            raise ConfigError(f"the edge cannot use {text!r}: blanks, quotes, '%', '#' and backslashes are not allowed")
    hosts = list(serve_hosts) or [cluster.host]
    parts = [
        _render_global(cluster),
        render_hold(files.hold),
        _render_defaults(),
        render_frontend(
            endpoints,
            cluster,
            files=files,
            secret=secret,
            edge=edge,
            certificate=certificate,
        ),
        render_grpc_frontend(endpoints, cluster, files=files, secret=secret, edge=edge, certificate=certificate),
    ]
    if endpoints:
        parts.append(render_ingress(cluster, hosts))
    parts += [
        render_backend(
            app_name(endpoint.name, slot),
            cluster,
            hosts,
            limits=limits.get(endpoint.name) or limits_of(endpoint.name, serving),
            secret=secret,
            hold=files.hold,
            num_places=num_places,
        )
        for endpoint in endpoints
        for slot in filled_slots(endpoint)
    ]
    return "\n".join(parts)


def _render_global(cluster: ClusterConfig) -> str:
    return f"""# Rendered by teal from the control store; changes made here are lost.
global
    nbthread {cluster.edge_threads}
    maxconn 4096
    tune.bufsize 131072
    hard-stop-after {HARD_STOP_S}s
    # Otherwise all replicas that were told at once are checked at once each second, and requests wait meanwhile.
    spread-checks 20
"""


def _render_defaults() -> str:
    return f"""defaults
    mode http
    timeout client 40s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout queue 5s
    timeout connect 1s
    timeout server 30s
    option http-no-delay
    # A client's idle connection outlives a reload until its next answer, so that no request meets a closing socket.
    option idle-close-on-response
    http-reuse always
    option redispatch 1
    retries {NUM_RETRIES}
    # Never 500: Ray's HAProxy turns its own 502, 503 and 504 into it, and so does code that has already run.
    retry-on conn-failure empty-response
{internal_errors()}
"""
