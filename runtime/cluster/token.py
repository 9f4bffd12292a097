"""The cluster's token, and the environment that Ray's processes and every driver must share."""

import os
import secrets
import stat
from pathlib import Path

from runtime.cluster.haproxy_program import HAPROXY_VARIABLE
from runtime.cluster.places import MARKER, ClusterPlaces
from runtime.config.schema import Config
from runtime.core.errors import TealError
from runtime.core.files import write_atomic

TOKEN_FILE = "ray_token"
MIN_TOKEN_CHARACTERS = 32

OVERRIDING_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAY_NAMESPACE", "RAY_TMPDIR", "RAY_API_SERVER_ADDRESS")
"""Variables of the caller that would win over ours."""


def ensure_token(run_dir: str | Path) -> Path:
    """Path of the token's file (mode 0600), created by the first call. TealError if others can read it."""
    path = Path(run_dir).absolute() / TOKEN_FILE
    if not path.exists():
        write_atomic(path, secrets.token_hex(32), mode=0o600)
    read_token(run_dir)
    return path


def read_token(run_dir: str | Path) -> str:
    """The token. TealError if there is none, if it is too short, or if others can read it."""
    path = Path(run_dir).absolute() / TOKEN_FILE
    try:
        mode, token = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except FileNotFoundError:
        raise TealError(f"there is no cluster token at {path}; start a cluster with `teal up`") from None
    if mode & 0o077:
        raise TealError(f"the cluster token {path} has mode {mode:04o}, others can read it; run `chmod 600 {path}`")
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise TealError(
            f"the cluster token {path} has {len(token)} characters, need {MIN_TOKEN_CHARACTERS}; "
            "run `teal down`, remove the file and run `teal up`"
        )
    return token


def ray_environment(config: Config) -> dict[str, str]:
    """Variables for Ray's processes and for drivers, the same for all. Creates the token if there is none."""
    places, ports = ClusterPlaces.of(config), config.cluster.ports
    return {
        "TEAL_HOME": str(Path(config.paths.home).absolute()),
        # A file, since a token in the environment can be read in every process listing of this user.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(ensure_token(config.paths.run)),
        # Despite its name it works everywhere: Ray keeps 127.0.0.1 as the node's address, and then every server of
        # Ray binds to loopback. Otherwise `ray start` replaces 127.0.0.1 by the machine's public address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if config.cluster.address is None else "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        # Each call of an actor is noted, an idle platform's too; by default Ray's control service keeps 100,000.
        "RAY_task_events_max_num_task_in_gcs": "500",
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.serve_fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.serve_fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replica_min),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replica_max),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replica_grpc_min),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replica_grpc_max),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        # A Python actor would read one log line of every request, on the cores of the replicas; the edge counts them.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(places.haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(places.haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(places.haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(places.haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(places.haproxy / "server-state"),
        # Ray's HAProxy drops a leaving replica within a second; the default of 30 s is for balancers outside, and would
        # make a deployment over an idle slot wait as long.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    }


def cluster_environment(config: Config) -> dict[str, str]:
    """The whole environment of Ray's own processes: the caller's, ours, and the marker by which `stop` knows them."""
    inherited = {name: value for name, value in os.environ.items() if name not in OVERRIDING_VARIABLES}
    places = ClusterPlaces.of(config)
    # Replicas and trials import the user's own modules from where `teal` was called.
    search_path = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **inherited,
        **ray_environment(config),
        HAPROXY_VARIABLE: str(places.haproxy_program),
        MARKER: str(places.temp),
        "PYTHONPATH": os.pathsep.join(search_path),
    }
