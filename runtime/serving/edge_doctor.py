"""What the doctor says of the edge: who can come in, and how long its certificate is valid. Changes nothing."""

from datetime import UTC, datetime
from pathlib import Path

from runtime.cluster.doctor import Finding
from runtime.config.schema import Config
from runtime.config.serving import EdgeConfig, is_loopback
from runtime.core.clock import utc_now
from runtime.core.errors import TealError, UnreachableError
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_tls import CertificateFacts, read_certificate
from runtime.store.control import ControlStore

MIN_DAYS_LEFT = 21


def examine_edge(config: Config) -> list[Finding]:
    findings = [examine_doors(config.edge, config.cluster.host, _count_valid_tokens(config))]
    path = Path(config.edge.certificate or EdgeFiles.of(config.paths).tls / "development.pem")
    if config.edge.tls and (config.edge.certificate or path.exists()):
        is_open = not is_loopback(config.edge.host or config.cluster.host)
        try:
            findings.append(examine_certificate(read_certificate(path), now=datetime.now(UTC), is_open=is_open))
        except TealError as error:
            findings.append(
                Finding(
                    name="certificate", status="error", detail=str(error), remedy="set edge.certificate to a PEM file"
                )
            )
    return findings


def examine_doors(edge: EdgeConfig, cluster_host: str, num_valid_tokens: int) -> Finding:
    host = edge.host or cluster_host
    detail = f"listens on {host} {'with' if edge.tls else 'without'} TLS, {num_valid_tokens} valid tokens"
    if not is_loopback(host) and not (edge.require_token and edge.tls):
        return Finding(
            name="edge",
            status="error",
            detail=f"{detail}; other machines reach it without a token or unencrypted",
            remedy="set edge.require_token=true and edge.tls=true, or edge.host=127.0.0.1",
        )
    if edge.require_token and not num_valid_tokens:
        return Finding(
            name="edge",
            status="warning",
            detail=f"{detail}; it asks for one, so every request is refused",
            remedy="teal token create NAME",
        )
    needed = "a token is needed" if edge.require_token else "no token is needed on this machine"
    return Finding(name="edge", status="ok", detail=f"{detail}; {needed}")


def examine_certificate(facts: CertificateFacts, *, now: datetime, is_open: bool) -> Finding:
    days = facts.days_left(now)
    detail = f"{facts.path} is valid until {facts.not_after:%Y-%m-%d}"
    if days <= 0:
        return Finding(name="certificate", status="error", detail=f"{detail}: it has ended", remedy="renew the file")
    if days < MIN_DAYS_LEFT:
        return Finding(
            name="certificate",
            status="warning",
            detail=f"{detail}: {days:.0f} days left",
            remedy="renew the file; the edge takes the new one by itself",
        )
    if facts.signs_itself and is_open:
        return Finding(
            name="certificate",
            status="warning",
            detail=f"{detail} and signs itself, so clients cannot tell it from another's",
            remedy="set edge.certificate and edge.private_key to those of an authority",
        )
    return Finding(name="certificate", status="ok", detail=detail)


def _count_valid_tokens(config: Config) -> int:
    """0 where there is no store yet."""
    try:
        grants = ControlStore.of(config.paths).grants()
    except UnreachableError:
        return 0
    now = utc_now()
    return sum(1 for grant in grants if grant.expires_at is None or grant.expires_at > now)
