"""A slot's backend at the edge: the servers that may answer for it, in order of preference. Text in, text out."""

from collections.abc import Sequence

from runtime.config.schema import ClusterConfig


def render_backend(app: str, cluster: ClusterConfig, hosts: Sequence[str]) -> str:
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
