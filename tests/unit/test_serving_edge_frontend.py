"""Rights as a map's entries, the frontends' text as HAProxy takes it, certificates, what the doctor says of them."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.cluster.doctor import Status
from runtime.config.cluster import ClusterConfig
from runtime.config.serving import EdgeConfig, ServingConfig
from runtime.core.errors import ConfigError, TealError
from runtime.serving import edge_tls
from runtime.serving.edge_config import render_config
from runtime.serving.edge_doctor import examine_certificate, examine_doors
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_frontend import bind_address
from runtime.serving.edge_policy import EdgePolicy, parse_map, render_map
from runtime.serving.edge_process import haproxy_binary
from runtime.serving.edge_tls import CertificateFacts, Certificates, ensure_development_certificate, read_certificate
from runtime.store.principals import ROLES, Grant
from runtime.store.records import EndpointState, ModelVersion, SlotState

MODEL = ModelVersion(name="m", version=1, run_id="", bundle_uri="", bundle_sha256="", lineage={}, created_at="")
ENDPOINT = EndpointState(
    name="flights",
    generation=1,
    primary="blue",
    share=0,
    blue=SlotState(slot="blue", model=MODEL),
    green=SlotState(slot="green", model=None),
)
NOW = "2030-01-01T00:00:00.000000+00:00"
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,20}", fullmatch=True).filter(lambda name: name != "anonymous")
ENDPOINTS = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
GRANTS = st.builds(
    Grant,
    token_sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    principal=NAMES,
    roles=st.lists(st.sampled_from(ROLES), min_size=1, unique=True).map(tuple),
    endpoints=st.none() | st.lists(ENDPOINTS, min_size=1, unique=True).map(tuple),
    rate=st.none() | st.integers(1, 1_000_000),
    expires_at=st.sampled_from([None, "2029-12-31T23:59:59.999999+00:00", NOW, "2030-01-01T00:00:00.000001+00:00"]),
)


# -- rights ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(grants=st.lists(GRANTS, max_size=6, unique_by=lambda grant: grant.token_sha256), require_token=st.booleans())
def test_a_map_gives_every_valid_token_its_rights_and_nobody_else_any(grants: list[Grant], require_token: bool) -> None:
    policy = EdgePolicy(grants=tuple(grants), require_token=require_token)
    entries = parse_map(render_map(policy.entries(NOW)))
    assert entries == policy.entries(NOW)
    valid = {grant.token_sha256: grant for grant in grants if grant.expires_at is None or grant.expires_at > NOW}
    whose = {key for key in entries if "/" not in key}
    assert whose == set(valid) | (set() if require_token else {"anonymous"})
    for key, grant in valid.items():
        principal, rate, everywhere = entries[key].split(":")
        assert (principal, int(rate)) == (grant.principal, grant.rate or 0)
        scoped = {name.partition("/")[2] for name in entries if name.startswith(f"{key}/")}
        if grant.endpoints is None or "admin" in grant.roles:
            assert (everywhere != "none", scoped) == (True, set())
        else:
            assert (everywhere, scoped) == ("none", set(grant.endpoints))
        rights = entries.get(f"{key}/{next(iter(scoped), '')}", everywhere)
        assert (",slot," in rights) == bool({"operator", "admin"} & set(grant.roles))
        assert (",predict," in rights) == (set(grant.roles) != {"feedback"})


def test_who_needs_no_token_may_predict_and_give_feedback_only() -> None:
    assert EdgePolicy(anonymous_rate=7).entries(NOW) == {"anonymous": "anonymous:7:,feedback,predict,"}
    assert EdgePolicy(require_token=True).entries(NOW) == {}


# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"host": "0.0.0.0"}, "edge.require_token=true and edge.tls=true"),
        ({"host": "10.0.0.1", "tls": True}, "require_token"),
        ({"host": "example.org", "require_token": True}, "tls"),
        ({"certificate": "x.pem"}, "tls: true"),
        ({"private_key": "x.pem", "tls": True}, "needs certificate"),
        ({"access_log": "nowhere"}, "HOST:PORT"),
        ({"max_headers": 200}, "100"),
        ({"max_url_bytes": 60_000}, "65536"),
        ({"header_timeout_s": 0}, "header_timeout_s"),
    ],
)
def test_what_would_be_open_or_wrong_is_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(named)):
        EdgeConfig(**values)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", None])
def test_loopback_needs_neither_token_nor_tls(host: str | None) -> None:
    assert EdgeConfig(host=host).host == host


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert bind_address(ClusterConfig(), EdgeConfig(host="::1"), 80) == "[::1]:80"
    assert bind_address(ClusterConfig(), EdgeConfig(), 80) == "127.0.0.1:80"


@pytest.mark.parametrize("num_endpoints", [0, 200])
@pytest.mark.parametrize("tls", [False, True])
def test_haproxy_takes_everything_at_once(tmp_path: Path, tls: bool, num_endpoints: int) -> None:
    files = EdgeFiles(directory=tmp_path)
    edge = EdgeConfig(host="::1", require_token=True, anonymous_rate=3, tls=tls, access_log="127.0.0.1:5140")
    endpoints = [_named(f"endpoint-{index}") for index in range(num_endpoints)]
    text = render_config(
        endpoints,
        ClusterConfig(),
        files=files,
        secret="s" * 32,
        serving=ServingConfig(endpoint="e"),
        edge=edge,
        certificate=Certificates(edge, files).current(),
    )
    for path in (files.shares, files.grants, files.limits):
        path.write_text("")
    files.config.write_text(text)
    command = [haproxy_binary(), "-c", "-f", str(files.config)]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    assert "WARNING" not in check.stderr
    assert (" ssl crt " in text) == tls
    # What many endpoints add must not be asked of each request.
    frontends = text[text.index("frontend edge") : text.index("backend edge-local")]
    assert frontends.count("endpoint-") <= 1


def _named(name: str) -> EndpointState:
    return EndpointState(name=name, generation=1, primary="blue", share=0, blue=ENDPOINT.blue, green=ENDPOINT.green)


# -- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_cryptography", [True, False])
def test_a_certificate_for_development_is_made_once_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_cryptography: bool
) -> None:
    if not with_cryptography:
        monkeypatch.setattr(edge_tls, "_make_with_cryptography", lambda _names: None)
        monkeypatch.setattr(edge_tls, "_read_with_cryptography", lambda _der: None)
    files = EdgeFiles(directory=tmp_path)
    path = ensure_development_certificate(files, [])
    before = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    facts = read_certificate(path)
    assert facts.signs_itself
    assert 360 < facts.days_left(datetime.now(UTC)) <= 365
    assert ensure_development_certificate(files, []).read_bytes() == before
    assert ensure_development_certificate(files, ["10.0.0.9"]).read_bytes() != before


def test_both_ways_of_reading_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ensure_development_certificate(EdgeFiles(directory=tmp_path), [])
    facts = read_certificate(path)
    monkeypatch.setattr(edge_tls, "_read_with_cryptography", lambda _der: None)
    assert read_certificate(path) == facts


def test_a_configured_pair_is_copied_and_a_wrong_one_named(tmp_path: Path) -> None:
    made = ensure_development_certificate(EdgeFiles(directory=tmp_path / "other"), []).read_text()
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    start = made.index("-----BEGIN CERTIFICATE")
    key.write_text(made[:start])
    certificate.write_text(made[start:])
    edge = EdgeConfig(tls=True, certificate=str(certificate), private_key=str(key))
    files = EdgeFiles(directory=tmp_path / "edge")
    certificates = Certificates(edge, files)
    first = certificates.current()
    assert first is not None
    assert Path(first).stat().st_mode & 0o777 == 0o600
    assert certificates.current() == first

    other = ensure_development_certificate(EdgeFiles(directory=tmp_path / "third"), ["10.0.0.9"]).read_text()
    key.write_text(other[: other.index("-----BEGIN CERTIFICATE")])
    assert certificates.current() == first
    assert certificates.error is not None
    assert "key.pem" in certificates.error
    with pytest.raises(TealError, match="certificate with its own key"):
        Certificates(edge, files).current()
    certificate.write_text(other[other.index("-----BEGIN CERTIFICATE") :])
    assert certificates.current() not in (None, first)
    assert certificates.error is None


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    edge = EdgeConfig(tls=True, certificate=str(tmp_path / "nowhere.pem"))
    with pytest.raises(TealError, match=r"nowhere\.pem"):
        Certificates(edge, EdgeFiles(directory=tmp_path)).current()
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match=r"empty\.pem"):
        read_certificate(empty)


# -- the doctor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "status"), [(400, "ok"), (20, "warning"), (-1, "error")])
def test_the_doctor_says_when_a_certificate_ends(days: float, status: Status) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    facts = CertificateFacts(
        path="x.pem", subject="x", not_after=now + timedelta(days=days), sha256="", signs_itself=False
    )
    finding = examine_certificate(facts, now=now, is_open=False)
    assert (finding.status, bool(finding.remedy)) == (status, status != "ok")


@pytest.mark.parametrize(
    ("edge", "num_valid", "status"),
    [
        (EdgeConfig(), 0, "ok"),
        (EdgeConfig(require_token=True), 0, "warning"),
        (EdgeConfig(require_token=True), 2, "ok"),
        (EdgeConfig(host="0.0.0.0", require_token=True, tls=True), 1, "ok"),
    ],
)
def test_the_doctor_says_who_can_come_in(edge: EdgeConfig, num_valid: int, status: Status) -> None:
    finding = examine_doors(edge, "127.0.0.1", num_valid)
    assert (finding.status, bool(finding.remedy)) == (status, status != "ok")


def test_the_doctor_finds_an_edge_that_is_open_without_tokens() -> None:
    """A file edited by hand, or the cluster's own host: the configuration would not have let it through."""
    assert examine_doors(EdgeConfig(), "10.0.0.1", 0).status == "error"
