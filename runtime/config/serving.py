"""Configuration of what is served: the slots' replicas, and the edge before them."""

import ipaddress
from dataclasses import field

from pydantic.dataclasses import dataclass

from runtime.config.strict import STRICT


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ServingConfig:
    """An endpoint and its two slots."""

    endpoint: str
    min_replicas: int = 1
    max_replicas: int = 1
    idle_replicas: int = 1
    """Of a slot without traffic: what a rollback finds running. 0 saves the memory and makes it wait for a start."""
    least_replicas: int = 0
    """Of a slot with any traffic, however little: 2 on several nodes, so that a lost one takes no slot along."""
    cpus_per_replica: float = 0.1
    gpus_per_replica: float = 0.0
    max_ongoing_requests: int = 64
    """That one replica is given at a time."""
    target_ongoing_requests: float = 8.0
    """That each replica should be busy with: more replicas are started above it, fewer kept below."""
    upscale_delay_s: float = 10.0
    """For which more replicas must have been wanted until they are started; a slot at zero is woken at once."""
    downscale_delay_s: float = 300.0
    """For which fewer must have been enough until one is stopped."""
    max_waiting_requests: int = 128
    """Of a slot whose replicas all have that many, in line at the edge; more are answered 429 at once."""
    max_queued_requests: int = 1024
    """In Ray's ingress while no replica is there. Edges give it a few at a time and keep the others in line."""
    answer_timeout_s: float = 10.0
    """After which the edge asks another replica the same, and how long one may be too busy to say that it lives.
    Must be above the slowest legitimate answer with `max_ongoing_requests` at work."""
    num_threads: int = 1
    max_body_bytes: int = 8 * 1024 * 1024
    max_rows_per_request: int = 4096
    payload_flush_s: float = 2.0
    payload_fraction: float = 1.0
    """Of the predictions, chosen by their id, that the payload log keeps: 0 is off. `teal trace` finds only these."""
    hash_pii: bool = False
    """Log keyed hashes of the columns that the contract marks pii, instead of leaving them out."""
    max_batch_rows: int = 0
    """Above 0 a thread runs the model on what gathered while it was busy: for models that take long, or a GPU."""
    max_waiting_rows: int = 8192
    """For such a batch; more are answered 429."""
    shadow_fraction: float = 0.0
    """Of the primary's requests that the other slot is asked too, off the answers' way; differences are recorded."""
    ready_timeout_s: float = 90.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise ValueError(
                f"need 0 <= min_replicas <= max_replicas with at least one at most, but got {self.min_replicas}, "
                f"{self.max_replicas}"
            )
        if not 0 <= self.idle_replicas <= self.max_replicas:
            raise ValueError(f"idle_replicas must be within 0..{self.max_replicas} but got {self.idle_replicas}")
        if not 0 <= self.least_replicas <= self.max_replicas:
            raise ValueError(f"least_replicas must be within 0..{self.max_replicas} but got {self.least_replicas}")
        if self.target_ongoing_requests <= 0:
            raise ValueError(f"target_ongoing_requests must be above 0 but got {self.target_ongoing_requests:g}")
        if self.upscale_delay_s < 0 or self.downscale_delay_s < 0:
            raise ValueError(
                "upscale_delay_s and downscale_delay_s must be at least 0 but got "
                f"{self.upscale_delay_s:g} and {self.downscale_delay_s:g}"
            )
        if not 0.1 <= self.answer_timeout_s <= 3600:
            raise ValueError(f"answer_timeout_s must be within 0.1..3600 but got {self.answer_timeout_s:g}")
        for name in ("payload_fraction", "shadow_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0..1 but got {getattr(self, name):g}")
        if self.max_batch_rows < 0 or self.max_waiting_rows < 1:
            raise ValueError(
                "max_batch_rows must be at least 0 and max_waiting_rows at least 1 but got "
                f"{self.max_batch_rows} and {self.max_waiting_rows}"
            )
        if not self.endpoint.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"endpoint must be letters, digits, '-' and '_' but got {self.endpoint!r}")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class EdgeConfig:
    """Who may ask the edge, in what form, how much. Tokens and their rights stand in the control store."""

    host: str | None = None
    """Address that the edge listens on; None takes `cluster.host`. Beyond loopback it needs tokens and TLS."""
    nodes: list[str] = field(default_factory=list)
    """Addresses of the nodes beside the head that get an edge; none named: all."""
    require_token: bool = False
    """Without it a request that carries no token may predict and give feedback; one with a wrong token never may."""
    anonymous_rate: int = 0
    """Requests a second from one address without a token; 0 is no limit."""
    tls: bool = False
    certificate: str | None = None
    """PEM file of the certificate and its chain; None makes one for development that signs itself."""
    private_key: str | None = None
    """PEM file; None if `certificate` holds the key too."""
    header_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    """For the body's first 128 KiB; the rest of a longer one only has to keep coming."""
    max_url_bytes: int = 4096
    max_header_bytes: int = 16384
    """Of all request headers together."""
    max_headers: int = 64
    access_log: str | None = None
    """HOST:PORT of a syslog receiver (UDP) that gets one JSON line a logged request; None logs nothing."""
    access_log_sample: int = 100
    """One request in so many is logged."""

    def __post_init__(self) -> None:
        for name in ("header_timeout_s", "body_timeout_s", "max_url_bytes", "max_header_bytes", "max_headers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0 but got {getattr(self, name)}")
        if self.max_headers > 100:
            raise ValueError(f"max_headers must be at most 100, HAProxy's own limit, but got {self.max_headers}")
        if self.max_url_bytes + self.max_header_bytes > 65536:
            raise ValueError(
                "max_url_bytes and max_header_bytes together must be at most 65536, as a request's head shares its "
                f"buffer with the body, but got {self.max_url_bytes + self.max_header_bytes}"
            )
        if self.anonymous_rate < 0:
            raise ValueError(f"anonymous_rate must be at least 0 but got {self.anonymous_rate}")
        if self.access_log_sample < 1:
            raise ValueError(f"access_log_sample must be at least 1 but got {self.access_log_sample}")
        if self.access_log is not None and not self.access_log.rpartition(":")[2].isdigit():
            raise ValueError(f"access_log must be HOST:PORT but got {self.access_log!r}")
        if (self.certificate or self.private_key) and not self.tls:
            raise ValueError("certificate and private_key need tls: true")
        if self.private_key is not None and self.certificate is None:
            raise ValueError("private_key needs certificate")
        if self.host is not None and not is_loopback(self.host) and not (self.require_token and self.tls):
            raise ValueError(
                f"host {self.host!r} can be reached by other machines: set edge.require_token=true and edge.tls=true"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`; a name other than localhost counts as reachable."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
