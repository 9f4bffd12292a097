"""Configuration of the machine's part: Ray, ports, addresses."""

import ipaddress
from dataclasses import field

from pydantic.dataclasses import dataclass

from runtime.config.strict import STRICT


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class PortsConfig:
    """Every TCP port that `teal up` binds: below 32768, as outgoing connections take theirs from above."""

    edge: int = 8080
    edge_grpc: int = 9080
    serve: int = 8000
    serve_fallback: int = 8500
    serve_fallback_grpc: int = 9500
    haproxy_metrics: int = 9101
    haproxy_stats: int = 8404
    monitor_metrics: int = 9464
    alerts_metrics: int = 9465
    gcs: int = 6379
    dashboard: int = 8265
    dashboard_metrics: int = 8266
    dashboard_agent: int = 8267
    dashboard_agent_grpc: int = 8268
    runtime_env_agent: int = 8269
    node_manager: int = 8270
    object_manager: int = 8271
    ray_metrics: int = 8272
    ray_client: int = 10001
    listener_min: int = 29000
    listener_max: int = 29999
    replica_min: int = 30000
    replica_max: int = 31000
    replica_grpc_min: int = 31001
    replica_grpc_max: int = 32000
    worker_min: int = 20002
    worker_max: int = 20999

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            port = getattr(self, name)
            if not 1024 <= port <= 65535:
                raise ValueError(f"{name} must be within 1024..65535 but got {port}")
            if name.endswith("_min") and port > getattr(self, f"{name.removesuffix('min')}max"):
                raise ValueError(f"{name} {port} is above {name.removesuffix('min')}max")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ClusterConfig:
    """The machine's part: Ray, the edge, the addresses."""

    host: str = "127.0.0.1"
    """Where this machine's own programs reach one another."""
    address: str | None = None
    """Of this machine for others that join the cluster; None: none can. Whoever reaches it reaches Ray, which speaks no
    TLS: the network must be the cluster's alone."""
    autoscaling_config: str | None = None
    """The file by which Ray's monitor starts workers: `ray up` leaves it on the head."""
    num_cpus: int = 8
    """Logical CPUs that Ray may hand out; actors of teal ask for a tenth each."""
    object_store_bytes: int = 512 * 1024 * 1024
    edge_poll_s: float = 0.25
    edge_threads: int = 1
    start_timeout_s: float = 120.0
    stop_grace_s: float = 5.0
    """How long `stop` waits before it kills."""
    temp_root: str = "/tmp"
    """Ray's session is in `<temp_root>/teal-<hash of home>`: short, as a unix socket's path has at most 107 bytes."""
    ports: PortsConfig = field(default_factory=PortsConfig)

    def __post_init__(self) -> None:
        if self.address is None:
            return
        try:
            address = ipaddress.ip_address(self.address)
        except ValueError:
            raise ValueError(f"address must be an IP address of this machine but got {self.address!r}") from None
        if address.is_loopback or address.is_unspecified:
            raise ValueError(f"address {self.address} is none that other machines reach; leave it out for one machine")

    @property
    def ray_address(self) -> str:
        """host:port of Ray's control service."""
        return f"{self.address or '127.0.0.1'}:{self.ports.gcs}"

    @property
    def serve_host(self) -> str:
        """What Ray's ingress listens on: on each node, and one reaches replicas of the others."""
        return self.host if self.address is None else "0.0.0.0"
