"""Start, stop and reach this home's Ray: a head node with a token, and Serve behind Ray's HAProxy.

It is on loopback unless `cluster.address` opens it to other nodes, which join by `ray start` (docs/nodes.md).

Knows nothing of endpoints, models or the edge: their actors are ended with the cluster, as its processes.
"""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from runtime.cluster.haproxy_program import write_haproxy_program
from runtime.cluster.places import ClusterPlaces, check_private
from runtime.cluster.ports import check_free, port_owner, single_ports
from runtime.cluster.processes import Process, end_processes, find_processes
from runtime.cluster.state import VITAL_COMMANDS, ClusterState, cluster_lock, read_state, write_state
from runtime.cluster.token import OVERRIDING_VARIABLES, cluster_environment, ray_environment
from runtime.config.schema import Config
from runtime.core.clock import utc_now
from runtime.core.errors import ConfigError, TealError, UnreachableError

__all__ = ["ClusterState", "check_host", "connect", "disconnect", "ray_start_command", "read_state", "start", "stop"]

LOOPBACK = ("127.0.0.1", "localhost")
NAMESPACE = "teal"
Progress = Callable[[str], None]


def start(config: Config, on_progress: Progress | None = None) -> ClusterState:
    """Start Ray and Serve, unless they run. This process is connected to them afterwards.

    Raises ConfigError for a host that is not loopback and where the running cluster has other ports, TealError where
    a port is in use. What is left of a start that was interrupted is ended first; an interrupted start ends its own.
    """
    report = on_progress or (lambda _: None)
    check_host(config)
    _check_not_elsewhere(config)
    places = ClusterPlaces.of(config)
    with cluster_lock(places, config.cluster.start_timeout_s):
        state = _running_state(config)
        if state is not None:
            connect(config)
            if port_owner(config.cluster.ports.serve) is None:
                report("starting Serve")
                _start_serve(config)
            return state
        _clear(config, places, grace_s=0.0)
        check_free(single_ports(config.cluster.ports))
        places.create()
        write_haproxy_program(places.haproxy_program, places.temp)
        try:
            return _start_new(config, places, report)
        except BaseException:
            _clear(config, places, grace_s=0.0)
            raise


def stop(config: Config) -> bool:
    """End every process that this home's cluster started and remove its session. False if there was nothing."""
    places = ClusterPlaces.of(config)
    with cluster_lock(places, config.cluster.start_timeout_s):
        return _clear(config, places, grace_s=config.cluster.stop_grace_s)


def connect(config: Config) -> None:
    """Connect this process to this home's Ray, namespace "teal", unless it is. UnreachableError if none runs."""
    state = read_state(config.paths.run)
    if state is None:
        raise UnreachableError(
            f"no cluster is running for {Path(config.paths.home).absolute()}; start it with `teal up`"
        )
    _check_not_elsewhere(config)
    if connected_address() is not None:
        return
    apply_environment(config)
    import ray

    try:
        ray.init(address=state.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, OSError) as error:
        raise UnreachableError(
            f"Ray at {state.address} does not answer ({error}); run `teal down` and `teal up`, "
            f"its logs are in {state.session_dir}/logs"
        ) from error


def connected_address() -> str | None:
    """host:port of the Ray that this process is connected to."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    return str(ray.get_runtime_context().gcs_address)


def disconnect() -> None:
    """Disconnect this process from Ray, if it is connected."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def check_host(config: Config) -> None:
    """ConfigError unless the host is loopback: Ray's own servers have no TLS. Other machines come in by the edge."""
    if config.cluster.host not in LOOPBACK:
        raise ConfigError(
            f"cluster.host {config.cluster.host!r} is reachable by other machines, and Ray's own servers speak no TLS; "
            "leave it at 127.0.0.1 and let others in by the edge alone: edge.host, edge.tls and edge.require_token; "
            "for nodes of this cluster, on a network of its own, set cluster.address"
        )


def _check_not_elsewhere(config: Config) -> None:
    address = connected_address()
    if address not in (None, config.cluster.ray_address):
        raise TealError(
            f"this process is connected to Ray at {address}, not to {config.cluster.ray_address}; "
            "call disconnect() first"
        )


def ray_start_command(config: Config, places: ClusterPlaces) -> list[str]:
    cluster, ports = config.cluster, config.cluster.ports
    options = {
        "node-ip-address": cluster.address or "127.0.0.1",
        "port": ports.gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports.dashboard,
        "dashboard-agent-listen-port": ports.dashboard_agent,
        "dashboard-agent-grpc-port": ports.dashboard_agent_grpc,
        "runtime-env-agent-port": ports.runtime_env_agent,
        "node-manager-port": ports.node_manager,
        "object-manager-port": ports.object_manager,
        "metrics-export-port": ports.ray_metrics,
        "ray-client-server-port": ports.ray_client,
        "min-worker-port": ports.worker_min,
        "max-worker-port": ports.worker_max,
        "num-cpus": cluster.num_cpus,
        "object-store-memory": cluster.object_store_bytes,
        "temp-dir": places.ray,
        # Its only reader is a driver that prints the workers' output.
        "include-log-monitor": "false",
    }
    if cluster.autoscaling_config is not None:
        options["autoscaling-config"] = cluster.autoscaling_config
    arguments = [f"--{name}={value}" for name, value in options.items()]
    # -P: a file of the caller's directory must not stand in for a module of Ray.
    program = [sys.executable, "-P", "-m", "ray.scripts.scripts"]
    return [
        *program,
        "start",
        "--head",
        "--include-dashboard=true",
        "--disable-usage-stats",
        *(["--no-monitor"] if cluster.autoscaling_config is None else []),
        *arguments,
    ]


def _running_state(config: Config) -> ClusterState | None:
    try:
        state = read_state(config.paths.run)
    except TealError:
        return None
    if state is None:
        return None
    wanted = asdict(config.cluster.ports)
    different = {name: port for name, port in state.ports.items() if wanted.get(name) != port}
    if different:
        name, port = next(iter(different.items()))
        raise ConfigError(
            f"the running cluster has cluster.ports.{name}={port} but the configuration says {wanted.get(name)}; "
            "run `teal down` before changing ports"
        )
    return state


def _start_new(config: Config, places: ClusterPlaces, report: Progress) -> ClusterState:
    started = time.monotonic()
    report("starting Ray")
    apply_environment(config)
    with places.log.open("wb") as log:
        process = subprocess.Popen(
            ray_start_command(config, places),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=cluster_environment(config),
            # An interrupt of the terminal is for this process alone: it decides what happens to Ray.
            start_new_session=True,
        )
        # Importing takes a second, which Ray's start needs anyway.
        import ray.serve  # noqa: F401

        try:
            exit_code = process.wait(config.cluster.start_timeout_s)
        except subprocess.TimeoutExpired:
            raise TealError(
                f"Ray did not start within cluster.start_timeout_s={config.cluster.start_timeout_s:g}; see {places.log}"
            ) from None
    if exit_code != 0:
        raise TealError(f"`ray start` failed with exit code {exit_code}: {_last_lines(places.log)}; see {places.log}")
    state = _describe(config, places, started)
    write_state(places.state, state)
    report("starting Serve")
    connect(config)
    _start_serve(config)
    state = _describe(config, places, started)
    write_state(places.state, state)
    return state


def _describe(config: Config, places: ClusterPlaces, started: float) -> ClusterState:
    ports = config.cluster.ports
    vital = [process for process in find_processes(places.temp) if _program(process) in VITAL_COMMANDS]
    missing = set(VITAL_COMMANDS) - {_program(process) for process in vital}
    if missing:
        raise TealError(
            f"Ray started but {', '.join(sorted(missing))} ended at once; see {places.ray}/session_latest/logs"
        )
    return ClusterState(
        address=config.cluster.ray_address,
        dashboard_url=f"http://127.0.0.1:{ports.dashboard}",
        serve_url=f"http://127.0.0.1:{ports.serve}",
        session_dir=str((places.ray / "session_latest").resolve()),
        temp_dir=str(places.temp),
        ports=asdict(ports),
        vital=vital,
        started_at=utc_now(),
        start_duration_s=round(time.monotonic() - started, 3),
    )


def _raylets(places: ClusterPlaces) -> list[Process]:
    return [process for process in find_processes(places.temp) if _program(process) == "raylet"]


def _program(process: Process) -> str:
    return Path(process.command.split(" ", 1)[0]).name


def _start_serve(config: Config) -> None:
    """Serve's controller and Ray's HAProxy. They keep the options of the first start until the cluster ends."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": config.cluster.serve_host, "port": config.cluster.ports.serve},
            logging_config={"enable_access_log": False},
        )
    except (RuntimeError, TimeoutError) as error:
        raise TealError(f"Serve did not start: {error}") from error


def apply_environment(config: Config) -> None:
    """Make this process a driver of this home's cluster. Ray caches the mode and the token of an earlier one."""
    environment = ray_environment(config)
    is_changed = any(os.environ.get(name) != value for name, value in environment.items())
    os.environ.update(environment)
    for name in OVERRIDING_VARIABLES:
        os.environ.pop(name, None)
    if is_changed and "ray" in sys.modules:
        from ray import _raylet as native
        from ray._private import ray_constants

        # Read at import: otherwise a driver takes 127.0.0.1 for the machine's public address.
        ray_constants.ENABLE_RAY_CLUSTER = config.cluster.address is not None

        native.Config.initialize("")  # type: ignore[attr-defined]
        native.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def _clear(config: Config, places: ClusterPlaces, *, grace_s: float) -> bool:
    """End the cluster's processes and remove its files. True if there was any."""
    if places.temp.exists():
        check_private(places.temp)
    ended: list[Process] = []
    if find_processes(places.temp):
        # A driver dies with the raylet that it is connected to.
        if connected_address() == config.cluster.ray_address:
            disconnect()
        # The raylet takes its workers along. Without it first they would not end at a SIGTERM, or be replaced.
        ended += end_processes(lambda: _raylets(places), grace_s=grace_s)
        ended += end_processes(lambda: find_processes(places.temp), grace_s=grace_s)
    was_there = bool(ended) or places.state.exists() or places.temp.exists()
    shutil.rmtree(places.temp, ignore_errors=True)
    places.state.unlink(missing_ok=True)
    return was_there


def _last_lines(path: Path, num_lines: int = 3) -> str:
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-num_lines:])
    return "no output"
