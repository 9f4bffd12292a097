"""The token's file and the environment of Ray."""

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from runtime.cluster.free_ports import free_ports
from runtime.cluster.places import MARKER, ClusterPlaces
from runtime.cluster.token import cluster_environment, ensure_token, ray_environment, read_token
from runtime.core.errors import TealError
from tests.cluster_config import cluster_config


def test_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = ensure_token(tmp_path / "run")
    token = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(token) >= 32
    assert ensure_token(tmp_path / "run").read_text() == token == read_token(tmp_path / "run")
    assert ensure_token(tmp_path / "other").read_text() != token


def test_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = ensure_token(tmp_path)
    path.chmod(0o644)
    with pytest.raises(TealError, match=r"mode 0644, others can read it; run `chmod 600"):
        ensure_token(tmp_path)


def test_token_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    ensure_token(tmp_path).write_text("abc")
    with pytest.raises(TealError, match="has 3 characters, need 32"):
        read_token(tmp_path)


def test_reading_a_token_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(TealError, match=r"no cluster token .* `teal up`"):
        read_token(tmp_path)


def test_environment_closes_ray_and_holds_no_secret(tmp_path: Path) -> None:
    config = cluster_config(tmp_path)
    environment = ray_environment(config)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text() == read_token(config.paths.run)
    assert read_token(config.paths.run) not in " ".join(environment.values())


def test_environment_of_two_homes_shares_no_path_and_no_port(tmp_path: Path) -> None:
    first = ray_environment(cluster_config(tmp_path / "a", ports=free_ports()))
    second = ray_environment(cluster_config(tmp_path / "b", ports=free_ports()))
    paths_and_ports = [
        name for name, value in first.items() if "/" in value or (value.isdigit() and int(value) >= 1024)
    ]
    alike = {name for name in paths_and_ports if first[name] == second[name]}
    assert alike == {"RAY_SERVE_HAPROXY_TUNE_BUFSIZE"}


def test_environment_sets_every_port_that_has_no_option_of_ray_start(tmp_path: Path) -> None:
    config = cluster_config(tmp_path, ports=free_ports())
    values = set(ray_environment(config).values())
    ports = asdict(config.cluster.ports)
    named = ("serve_fallback", "haproxy_metrics", "haproxy_stats", "dashboard_metrics", "replica_min", "replica_max")
    assert {str(ports[name]) for name in named} <= values


def test_environment_of_the_cluster_drops_what_would_win_over_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "foreign")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    config = cluster_config(tmp_path)
    environment = cluster_environment(config)
    assert "RAY_ADDRESS" not in environment
    assert "RAY_AUTH_TOKEN" not in environment
    assert environment[MARKER] == str(ClusterPlaces.of(config).temp)
    assert environment["PYTHONPATH"] == os.pathsep.join([str(Path.cwd()), "/somewhere"])
