"""The configuration's text, checked by HAProxy itself."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.config.cluster import ClusterConfig
from runtime.config.serving import EdgeConfig, ServingConfig
from runtime.core.errors import ConfigError
from runtime.serving.edge_config import render_config
from runtime.serving.edge_files import MAX_SOCKET_PATH, EdgeFiles
from runtime.serving.edge_limits import complete_limits, limits_of, limits_value
from runtime.serving.edge_process import haproxy_binary
from runtime.serving.edge_shares import share_value
from runtime.store.records import EndpointState, ModelVersion, SlotState

MODEL = ModelVersion(name="m", version=1, run_id="", bundle_uri="", bundle_sha256="", lineage={}, created_at="")
BOTH = EndpointState(
    name="flights",
    generation=17,
    primary="blue",
    share=1000,
    blue=SlotState(slot="blue", model=MODEL),
    green=SlotState(slot="green", model=MODEL),
)
SECRET = "s" * 32


def render(endpoints: list[EndpointState], directory: Path, **arguments: object) -> str:
    files = EdgeFiles(directory=directory)
    given: dict[str, object] = {"files": files, "secret": SECRET, "serving": ServingConfig(endpoint="e")}
    values = given | {"edge": EdgeConfig()} | arguments
    return render_config(endpoints, ClusterConfig(), **values)  # type: ignore[arg-type]


def test_share_and_generation_are_one_value() -> None:
    assert share_value(BOTH) == "1000:17"
    assert share_value(replace(BOTH, primary="green")) == "9000:17"


def test_a_share_changes_nothing_in_the_configuration(tmp_path: Path) -> None:
    later = replace(BOTH, share=5000, generation=18)
    assert render([BOTH], tmp_path) == render([later], tmp_path)


def test_only_filled_slots_have_a_backend(tmp_path: Path) -> None:
    text = render([replace(BOTH, green=SlotState(slot="green", model=None))], tmp_path)
    assert "backend flights-blue" in text
    assert "flights-green" not in text


@pytest.mark.parametrize("hosts", [[], ["10.0.0.1", "10.0.0.2"]])
@pytest.mark.parametrize("endpoints", [[], [BOTH], [BOTH, replace(BOTH, name="other-1_x")]])
def test_haproxy_accepts_it(tmp_path: Path, endpoints: list[EndpointState], hosts: list[str]) -> None:
    (tmp_path / "shares.map").write_text("")
    (tmp_path / "grants.map").write_text("")
    (tmp_path / "limits.map").write_text("")
    path = tmp_path / "haproxy.cfg"
    path.write_text(render(endpoints, tmp_path, serve_hosts=hosts))
    check = subprocess.run([haproxy_binary(), "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    assert "WARNING" not in check.stderr


def test_each_endpoint_has_its_own_limits_and_those_untold_the_common_ones(tmp_path: Path) -> None:
    other = replace(BOTH, name="other")
    told = replace(limits_of("other", ServingConfig(endpoint="other")), answer_timeout_s=1.5, max_ongoing_requests=7)
    text = render([BOTH, other], tmp_path, limits={"other": told})
    common, own = text[text.index("backend flights-blue") :].split("backend other-blue\n")
    assert "timeout server 10000ms" in common
    assert "timeout server 1500ms" in own
    assert "maxconn 7 " in own
    assert "maxconn 7 " not in common


def test_the_map_holds_what_requests_are_asked_of(tmp_path: Path) -> None:
    sleepy = ServingConfig(endpoint="e", min_replicas=0, max_body_bytes=5)
    assert limits_value(limits_of("e", sleepy)) == "5:sleeps"
    assert limits_value(limits_of("e", replace(sleepy, min_replicas=1))) == "5:up"
    assert complete_limits([BOTH], [limits_of("gone", sleepy)], sleepy) == {"flights": limits_of("flights", sleepy)}


@pytest.mark.parametrize("secret", ["with blank", "quote'", "percent%", "line\nbreak", "back\\slash"])
def test_what_would_become_syntax_is_refused(tmp_path: Path, secret: str) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        render([BOTH], tmp_path, secret=secret)


def test_a_socket_path_stays_within_the_kernels_limit(tmp_path: Path) -> None:
    deep = EdgeFiles(directory=tmp_path / ("d" * 80) / ("e" * 40))
    assert len(str(deep.socket)) <= MAX_SOCKET_PATH
    assert deep.socket == EdgeFiles(directory=deep.directory).socket
    assert deep.socket != EdgeFiles(directory=deep.directory / "x").socket
